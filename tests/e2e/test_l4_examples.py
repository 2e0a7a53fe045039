"""The examples for raw TCP and for datagrams do what their first lines say, as operators run them."""

from __future__ import annotations

import asyncio
import signal
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self, cast

import pytest

from tests.support.ports import free_address
from tests.support.process import ROOT, ServerProcess
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

LIMIT = 60.0


def example(name: str, *arguments: str) -> ServerProcess:
    script = str(ROOT / "examples" / name)
    return ServerProcess(script, "--listen", "127.0.0.1:0", *arguments)


async def port_of(server: ServerProcess) -> int:
    _, port = await server.running()
    return port


async def stop(server: ServerProcess) -> None:
    server.send(signal.SIGTERM)
    assert await server.wait() == 0


@asynccontextmanager
async def shouting() -> AsyncIterator[str]:
    """Run a server that answers everything at once, when the client has ended."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def ask(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        writer.write_eof()
        return await asyncio.wait_for(reader.read(), LIMIT)
    except ConnectionError:
        return b""
    finally:
        writer.close()


# ---------------------------------------------------------------------------------- l4_proxy


async def test_l4_proxy_takes_the_upstream_that_answers() -> None:
    """An upstream that refuses is passed over; the log has a line for the connection."""
    async with shouting() as upstream, example("l4_proxy.py", free_address(), upstream) as server:
        port = await port_of(server)
        assert await ask(port, b"hello") == b"HELLO"
        line = await server.line_with("completed")
        await stop(server)

    assert f"to {upstream} in clear: completed after" in line
    assert line.endswith("5 bytes up, 5 down, attempts: 2")


async def test_l4_proxy_refuses() -> None:
    """A client of a denied network is closed without a word, and logged."""
    arguments = (free_address(), "--deny", "127.0.0.0/8")
    async with example("l4_proxy.py", *arguments) as server:
        port = await port_of(server)
        assert await ask(port, b"hello") == b""
        await server.line_with("nowhere in clear: refused")
        await stop(server)


async def test_l4_proxy_announces() -> None:
    """The upstream is told who the client is, ahead of what the client says."""
    async with shouting() as upstream, example("l4_proxy.py", upstream, "--announce") as server:
        port = await port_of(server)
        answer = await ask(port, b"hello")
        await stop(server)

    assert answer.startswith(b"\r\n\r\n\0\r\nQUIT\n")
    assert answer.endswith(b"HELLO")


async def test_l4_proxy_ends_what_has_no_end(tmp_path: Path) -> None:
    """At a stop a connection goes on until the drain deadline, and then ends, with an answer."""
    conf = tmp_path / "conf.yaml"
    conf.write_text("stream_drain_seconds: 1.5\ngrace_period_seconds: 30\n", encoding="utf-8")
    async with (
        shouting() as upstream,
        example("l4_proxy.py", upstream, "-c", str(conf)) as server,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", await port_of(server))
        writer.write(b"hello, ")
        server.send(signal.SIGTERM)
        await server.line_with("ShutdownGracePeriod")
        writer.write(b"still here")
        assert await asyncio.wait_for(reader.read(), LIMIT) == b"HELLO, STILL HERE"
        writer.close()
        assert await server.wait() == 0
        assert any("in clear: shutdown after" in line for line in server.lines)


# ---------------------------------------------------------------------------------- datagrams


class Asker:
    """A client for datagrams; as an async context manager.

    Args:
        port: Of the server.
    """

    def __init__(self, port: int) -> None:
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.setblocking(False)
        self._sock.connect(("127.0.0.1", port))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._sock.close()

    def send(self, data: bytes) -> None:
        self._sock.send(data)

    async def receive(self) -> bytes:
        async with asyncio.timeout(LIMIT):
            return await asyncio.get_running_loop().sock_recv(self._sock, 70000)

    async def ask(self, data: bytes) -> bytes:
        self.send(data)
        return await self.receive()


@pytest.mark.parametrize("workers", [1, 2])
async def test_udp_echo(tmp_path: Path, workers: int) -> None:
    """Every datagram comes back, whichever worker reads it; the end is clean."""
    conf = tmp_path / "conf.yaml"
    conf.write_text(f"workers: {workers}\n", encoding="utf-8")
    async with example("udp_echo.py", "-c", str(conf)) as server:
        async with Asker(await port_of(server)) as client:
            for number in range(50):
                assert await client.ask(b"%d" % number) == b"%d" % number
        await stop(server)


async def test_udp_echo_that_waits() -> None:
    """A slow answer does not hold up others, and is sent before the server ends."""
    async with example("udp_echo.py", "--async") as server:
        async with Asker(await port_of(server)) as client:
            client.send(b"slow")
            assert await client.ask(b"quick") == b"quick"
            server.send(signal.SIGTERM)
            assert await client.receive() == b"slow"
        assert await server.wait() == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_udp_is_handed_over(tmp_path: Path, workers: int) -> None:
    """Not one datagram is lost while a new server takes the place of the old one."""
    conf = tmp_path / "conf.yaml"
    conf.write_text(
        f"workers: {workers}\nupgrade_sock: {tmp_path / 'upgrade.sock'}\n"
        "upgrade_sock_connect_accept_max_retries: 60\n",
        encoding="utf-8",
    )
    async with example("udp_echo.py", "-c", str(conf)) as old:
        port = await port_of(old)
        listen = ("--listen", f"127.0.0.1:{port}")
        async with (
            Asker(port) as client,
            example("udp_echo.py", "-u", "-c", str(conf), *listen) as new,
        ):
            answered = 0
            is_over = False

            async def ask_on() -> None:
                nonlocal answered
                while not is_over:
                    assert await client.ask(b"%d" % answered) == b"%d" % answered
                    answered += 1

            asking = asyncio.create_task(ask_on())
            old.send(signal.SIGQUIT)
            await new.running()
            assert await old.wait() == 0
            before = answered
            await eventually(lambda: answered > before + 50 or asking.done())
            is_over = True
            await asyncio.wait_for(asking, LIMIT)
            await stop(new)


@asynccontextmanager
async def whispering() -> AsyncIterator[str]:
    """Run a server for datagrams that answers with the port of who asks, and what was said."""

    class Protocol(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            # A cast: uvloop's transports do not derive from asyncio's.
            self.transport = cast("asyncio.DatagramTransport", transport)

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            self.transport.sendto(b"%d %s" % (addr[1], data), addr)

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Protocol, ("127.0.0.1", 0))
    try:
        yield f"127.0.0.1:{transport.get_extra_info('sockname')[1]}"
    finally:
        transport.close()


async def test_udp_proxy() -> None:
    """Each client has a way of its own to the upstream, and back; there are not too many."""
    async with (
        whispering() as upstream,
        example("udp_proxy.py", upstream, "--max-sessions", "2") as server,
    ):
        port = await port_of(server)
        async with Asker(port) as one, Asker(port) as two, Asker(port) as three:
            first = await one.ask(b"a")
            second = await two.ask(b"b")
            assert first.split()[0] != second.split()[0]
            assert await one.ask(b"a") == first
            # There is no room for the third: its datagram is before the next one's.
            three.send(b"c")
            assert await two.ask(b"b") == second
        await stop(server)

    assert sum("sent" in line for line in server.lines) == 2


async def test_udp_proxy_forgets() -> None:
    """A session that is silent for long enough makes room for another one."""
    async with whispering() as upstream:
        arguments = (upstream, "--max-sessions", "1", "--idle-timeout", "0.05")
        async with example("udp_proxy.py", *arguments) as server:
            port = await port_of(server)
            async with Asker(port) as one, Asker(port) as two:
                await one.ask(b"a")
                await server.line_with("1 sent, 1 received")
                assert (await two.ask(b"b")).endswith(b" b")
            await stop(server)


async def test_udp_proxy_outlives_its_upstream() -> None:
    """While nobody listens at the upstream, the proxy goes on; then its clients are served again."""
    nobody = free_address()
    async with example("udp_proxy.py", nobody) as server:
        async with Asker(await port_of(server)) as client:
            for _ in range(3):
                client.send(b"anybody?")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as upstream:
                upstream.bind(("127.0.0.1", int(nobody.rpartition(":")[2])))
                upstream.setblocking(False)
                loop = asyncio.get_running_loop()
                client.send(b"hello")
                async with asyncio.timeout(LIMIT):
                    data, sender = await loop.sock_recvfrom(upstream, 100)
                await loop.sock_sendto(upstream, data + b"!", sender)
                assert (await client.receive()).endswith(b"!")
        await stop(server)
