"""A server as an operator meets it: a process, its signals, its exit codes, its messages."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.process import ROOT, ServerProcess
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ECHO = str(ROOT / "examples" / "echo_tcp.py")

# A grace period is 300 s by default: an end within these seconds is not one that waited for it.
AT_ONCE = 60.0


def echo(*arguments: str) -> ServerProcess:
    return ServerProcess(ECHO, "--listen", "127.0.0.1:0", *arguments)


class Client:
    """A connection to the echo server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def echoes(self, data: bytes) -> bool:
        self._writer.write(data)
        return await asyncio.wait_for(self._reader.readexactly(len(data)), 30) == data

    async def is_ended(self) -> bool:
        try:
            return await asyncio.wait_for(self._reader.read(), 30) == b""
        except ConnectionResetError:
            return True


@asynccontextmanager
async def connected(address: tuple[str, int]) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection(*address)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


def accepts(address: tuple[str, int]) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(address) == 0


async def ended_at_once(server: ServerProcess) -> int:
    began = time.monotonic()
    code = await server.wait()
    assert time.monotonic() - began < AT_ONCE, server.lines
    return code


# ------------------------------------------------------------------------------------- signals


async def test_sigterm_drains_and_exits_when_the_last_connection_is_done() -> None:
    """Listeners close at once; what is in flight ends; then the process does, with 0."""
    async with echo() as server:
        address = await server.running()
        async with connected(address) as busy:
            assert await busy.echoes(b"first half,")

            server.send(signal.SIGTERM)
            await server.line_with("phase ShutdownGracePeriod")

            await eventually(lambda: not accepts(address), "the end of the listener")
            assert await busy.echoes(b" second half\n")
            assert await busy.is_ended()
            assert await ended_at_once(server) == 0
    assert server.lines[-1] == "phase Terminated"


async def test_idle_connections_do_not_delay_the_exit() -> None:
    """A connection between two lines is closed when the shutdown begins."""
    async with echo() as server, connected(await server.running()) as idle:
        assert await idle.echoes(b"line\n")

        server.send(signal.SIGTERM)

        assert await idle.is_ended()
        assert await ended_at_once(server) == 0


async def test_with_nothing_in_flight_the_stop_is_immediate() -> None:
    """A graceful stop costs nothing when there is nothing to wait for."""
    async with echo() as server:
        await server.running()

        server.send(signal.SIGTERM)

        assert await ended_at_once(server) == 0


async def test_sigint_breaks_everything_off() -> None:
    """The fast shutdown does not wait for what is in flight."""
    async with echo() as server, connected(await server.running()) as busy:
        assert await busy.echoes(b"first half,")

        server.send(signal.SIGINT)

        assert await busy.is_ended()
        assert await ended_at_once(server) == 0
    assert "phase ShutdownGracePeriod" not in server.lines


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_a_second_signal_forces(second: signal.Signals) -> None:
    """Whoever asks twice gets the end of the process without the rest of the grace period."""
    async with echo() as server, connected(await server.running()) as busy:
        assert await busy.echoes(b"first half,")
        server.send(signal.SIGTERM)
        await server.line_with("phase ShutdownGracePeriod")

        server.send(second)

        assert await busy.is_ended()
        assert await ended_at_once(server) == 0
    assert "breaking off what is still in flight in: echo" in server.lines


async def test_the_grace_period_is_a_limit(tmp_path: Path) -> None:
    """A connection that does not end is cut off when the configured time is over."""
    conf = tmp_path / "conf.yaml"
    conf.write_text("grace_period_seconds: 0.2\n")
    async with echo("-c", str(conf)) as server, connected(await server.running()) as busy:
        assert await busy.echoes(b"first half,")

        server.send(signal.SIGTERM)

        assert await busy.is_ended()
        assert await ended_at_once(server) == 0


async def test_sigquit_does_not_stop_a_server_that_cannot_hand_over(tmp_path: Path) -> None:
    """An upgrade that is not possible leaves the server serving."""
    conf = tmp_path / "conf.yaml"
    sock = tmp_path / "upgrade.sock"
    conf.write_text(f"upgrade_sock: {sock}\nupgrade_sock_connect_accept_max_retries: 0\n")
    async with echo("-c", str(conf)) as server:
        address = await server.running()

        server.send(signal.SIGQUIT)
        await server.line_with("GracefulUpgrade failed, the server goes on as it was: ")

        async with connected(address) as client:
            assert await client.echoes(b"line\n")
        server.send(signal.SIGTERM)
        assert await ended_at_once(server) == 0


# ------------------------------------------------------------------------------- what is wrong


async def only_line_of(*arguments: str) -> tuple[int, str]:
    """Run a program to its end; return its exit code and the one line it has written."""
    async with ServerProcess(*arguments) as server:
        code = await server.wait()
    assert len(server.lines) == 1, server.lines
    return code, server.lines[0]


async def test_a_bad_configuration_file_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    """File, key, value and what is allowed."""
    conf = tmp_path / "conf.yaml"
    conf.write_text("threads: several\n")

    code, line = await only_line_of(ECHO, "-c", str(conf))

    allowed = "a whole number from 1 to 1024, or auto"
    assert line == f"echo_tcp.py: error: {conf}: threads: got 'several', allowed: {allowed}"
    assert code == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-c", "/nowhere.yaml"], "/nowhere.yaml: cannot be read: No such file or directory"),
        (["--sideways"], "unrecognized arguments: --sideways"),
    ],
)
async def test_a_bad_option_is_one_line_and_exit_code_2(arguments: list[str], said: str) -> None:
    """Options are refused as configuration files are."""
    code, line = await only_line_of(ECHO, *arguments)

    assert said in line
    assert code == 2


async def test_a_bad_address_is_one_line_and_exit_code_2() -> None:
    """An address that makes no sense is refused like a bad configuration."""
    async with ServerProcess(ECHO, "--listen", "127.0.0.1:99999") as server:
        assert await server.wait() == 2

    said = "echo_tcp.py: error: service 'echo': address: got '127.0.0.1:99999', allowed: IP:PORT"
    assert server.lines[-1].startswith(said)


async def test_an_address_that_cannot_be_bound_is_exit_code_1() -> None:
    """A service that cannot start stops the server with its reason; no traceback."""
    async with ServerProcess(ECHO, "--listen", "192.0.2.1:1") as server:
        assert await server.wait() == 1

    assert server.lines[-1].startswith("echo_tcp.py: error: BindError context: service 'echo'")
    assert "192.0.2.1:1" in server.lines[-1]
    assert not [line for line in server.lines if "Traceback" in line]


async def test_the_test_option_exits_without_serving(tmp_path: Path) -> None:
    """-t says that the configuration is good: exit code 0; or what is wrong: 2."""
    conf = tmp_path / "conf.yaml"
    conf.write_text("grace_period_seconds: 1\n")
    async with ServerProcess(ECHO, "-t", "-c", str(conf)) as server:
        assert await server.wait() == 0
    assert server.lines[-1] == f"echo_tcp.py: configuration is valid: {conf}"

    conf.write_text("grace_period_seconds: soon\n")
    code, line = await only_line_of(ECHO, "-t", "-c", str(conf))
    assert f"{conf}: grace_period_seconds: got 'soon', allowed: seconds" in line
    assert code == 2


# ------------------------------------------------------------------------------- other programs

UNIX_SOCKET = """
import logging, sys
from pingora_core.apps import ServerApp
from pingora_core.server import Server
from pingora_core.services.listening import Service

class App(ServerApp):
    async def process_new(self, stream, shutdown):
        return None

logging.basicConfig(level=logging.INFO, format="%(message)s")
service = Service("unix", App())
service.add_uds(sys.argv[1])
server = Server()
server.add_service(service)
server.run_forever()
"""

FAILING_WORK = """
import asyncio, logging
from pingora_core.server import Server
from pingora_core.services import BackgroundService, background_service

class Work(BackgroundService):
    async def start(self, shutdown):
        await asyncio.sleep(0.05)
        raise KeyError("work")

logging.basicConfig(level=logging.INFO, format="%(message)s")
server = Server()
server.add_service(background_service("work", Work()))
server.run_forever()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_the_file_of_a_unix_socket_is_removed(tmp_path: Path, number: signal.Signals) -> None:
    """However the server is stopped, it leaves no stale path behind."""
    path = tmp_path / "server.sock"
    async with ServerProcess("-c", UNIX_SOCKET, str(path)) as server:
        await server.line_with("phase Running")
        assert path.is_socket()

        server.send(number)

        assert await ended_at_once(server) == 0
    assert not path.exists()


async def test_background_work_that_fails_is_not_silent() -> None:
    """By default it stops the server: logged with its traceback, exit code 1."""
    async with ServerProcess("-c", FAILING_WORK) as server:
        assert await ended_at_once(server) == 1

    assert "phase Running" in server.lines
    assert "KeyError: 'work'" in server.lines
    assert "Traceback (most recent call last):" in server.lines
    assert "service 'BG work' failed" in server.lines[-1]
