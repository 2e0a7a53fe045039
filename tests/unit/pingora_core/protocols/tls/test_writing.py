from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pingora_core.protocols.l4 import L4Stream
from pingora_core.protocols.tls import TlsStream, _engine, _incoming
from pingora_error import Error, ErrorType
from tests.support.nginx import require_program
from tests.support.waiting import eventually
from tests.unit.pingora_core.protocols.tls.rig import server_connection, tls_pair, wired_pair

if TYPE_CHECKING:
    from tests.support.certificates import IssuedCertificate

pytestmark = pytest.mark.usefixtures("no_leaks")


def records(ciphertext: bytes) -> list[int]:
    """The lengths of the records in some ciphertext."""
    lengths: list[int] = []
    while ciphertext:
        lengths.append(int.from_bytes(ciphertext[3:5], "big"))
        ciphertext = ciphertext[5 + lengths[-1] :]
    return lengths


# ---------------------------------------------------------------------- batching


async def test_the_writes_of_a_turn_are_one_record(server_certificate: IssuedCertificate) -> None:
    """A head and its body cost one encryption; they leave at the end of the turn by themselves."""
    async with wired_pair(server_certificate) as (client, wire, server, far):
        wire.deliver(far.take_sent())
        server.write(b"head ")
        server.write(bytearray(b"body "))
        server.write(memoryview(b"trailers"))
        assert far.sent == []
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        (sent,) = far.sent

        assert records(sent) == [5 + 5 + 8 + 1 + 16]
        wire.deliver(sent)
        assert client.take() == b"head body trailers"


async def test_what_does_not_fit_into_a_record_is_not_held_back(
    server_certificate: IssuedCertificate,
) -> None:
    """Order is kept; full records are made of large writes; nothing is sent twice."""
    async with wired_pair(server_certificate) as (client, wire, server, far):
        wire.deliver(far.take_sent())
        server.write(b"h" * 100)
        server.write(b"b" * 40_000)
        direct = b"".join(far.sent)
        server.write(b"t" * 10)
        sent = far.take_sent()

        assert [size - 17 for size in records(direct)] == [100, 16384, 16384, 7232]
        assert [size - 17 for size in records(sent)][4:] == [10]
        wire.deliver(sent)
        assert client.take() == b"h" * 100 + b"b" * 40_000 + b"t" * 10


async def test_exactly_one_record(server_certificate: IssuedCertificate) -> None:
    """The boundary: what fills a record waits, one byte more does not."""
    async with wired_pair(server_certificate) as (client, wire, server, far):
        wire.deliver(far.take_sent())
        server.write(b"x" * 10_000)
        server.write(b"y" * 6384)
        assert far.sent == []
        server.write(b"z")
        assert [size - 17 for size in records(b"".join(far.sent))] == [16384]
        sent = far.take_sent()
        assert [size - 17 for size in records(sent)] == [16384, 1]
        wire.deliver(sent)

        assert client.take() == b"x" * 10_000 + b"y" * 6384 + b"z"


async def test_empty_writes_send_nothing(server_certificate: IssuedCertificate) -> None:
    """An empty record would only be suspicious."""
    async with wired_pair(server_certificate) as (_, _, server, far):
        far.take_sent()
        server.write(b"")
        server.write(b"")

        assert far.take_sent() == b""


async def test_closing_sends_what_was_held_back(server_certificate: IssuedCertificate) -> None:
    """And then close_notify; aborting does neither."""
    async with tls_pair(server_certificate) as (client, server, _):
        server.write(b"last words")
        server.close()

        assert await client.read(5.0) == b"last words"
        assert await client.fill(5.0) is False
    async with wired_pair(server_certificate) as (_, _, server, far):
        far.take_sent()
        server.write(b"never")
        server.abort()
        await asyncio.sleep(0)
        assert far.sent == []


async def test_a_connection_that_is_lost_before_the_end_of_the_turn(
    server_certificate: IssuedCertificate,
) -> None:
    """What was written is lost with it, quietly; the next write is told."""
    async with wired_pair(server_certificate) as (_, _, server, far):
        server.write(b"lost")
        far.end(reset=True)
        server.flush_writes()
        with pytest.raises(Error) as caught:
            server.write(b"x")
        assert caught.value.etype is ErrorType.WRITE_ERROR


async def test_writing_after_the_peer_has_finished(server_certificate: IssuedCertificate) -> None:
    """TLS 1.3 lets one side go on after the other's close_notify."""
    async with wired_pair(server_certificate) as (client, wire, server, far):
        client.close()
        far.deliver(wire.take_sent())
        assert server.at_eof
        far.take_sent()
        server.write(b"more")
        assert far.take_sent()


async def test_writing_when_the_library_is_broken(server_certificate: IssuedCertificate) -> None:
    """A failure inside the turn is told by the next write, and by reading."""
    async with wired_pair(server_certificate) as (_, _, server, far):
        # The library refuses to write after its close_notify.
        server.connection.shutdown()
        server.write(b"x")
        far.take_sent()
        for size in (1, 20_000):
            with pytest.raises(Error) as caught:
                server.write(b"x" * size)
            assert caught.value.etype is ErrorType.WRITE_ERROR
        with pytest.raises(Error) as caught:
            await server.fill(1.0)
        assert caught.value.etype is ErrorType.READ_ERROR


async def test_a_large_write_that_the_library_refuses(
    server_certificate: IssuedCertificate,
) -> None:
    """It is told at once, because it is encrypted at once."""
    async with wired_pair(server_certificate) as (_, _, server, _):
        server.connection.shutdown()
        with pytest.raises(Error) as caught:
            server.write(b"x" * 20_000)
        assert caught.value.etype is ErrorType.WRITE_ERROR


# --------------------------------------------------------------- small fragments


@pytest.mark.parametrize("partial_write", [False, True])
async def test_a_peer_that_wants_small_records(
    server_certificate: IssuedCertificate, partial_write: bool
) -> None:
    """Maximum fragment length 512 (RFC 6066): everything arrives, in whatever steps it is made."""
    loop = asyncio.get_running_loop()
    expected = bytes(range(256)) * 400
    tasks: list[asyncio.Task[None]] = []

    async def serve(inner: L4Stream) -> None:
        stream = TlsStream(
            inner, server_connection(server_certificate, partial_write=partial_write)
        )
        await stream.handshake(10.0)
        stream.write(expected[:5000])
        await asyncio.sleep(0)
        stream.write(expected[5000:])
        stream.close()
        await stream.wait_closed()

    def accept(inner: L4Stream) -> None:
        tasks.append(loop.create_task(serve(inner)))

    server = await loop.create_server(lambda: L4Stream(loop, on_connected=accept), "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    program = require_program("openssl")
    process = await asyncio.create_subprocess_exec(
        program, "s_client", "-connect", f"127.0.0.1:{port}", "-maxfraglen", "512", "-quiet",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    received, _ = await process.communicate()
    server.close()
    await server.wait_closed()
    await asyncio.gather(*tasks)

    assert received == expected


# --------------------------------------------------------------------- shrinking


def has_shrunk(stream: TlsStream) -> bool:
    return not stream._engine.has_grown


async def test_buffers_that_have_grown_are_given_up(
    server_certificate: IssuedCertificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A while after large transfers, in both directions; data flows on as before."""
    monkeypatch.setattr(_incoming, "_SHRINK_DELAY", 0.02)
    async with tls_pair(server_certificate) as (client, server, _):
        for large in (16_000, 300_000):
            server.write(b"x" * large)
            received = 0
            while received < large:
                received += len(await client.read(5.0))
            assert client._engine.has_grown
            for stream in (client, server):
                await eventually(partial(has_shrunk, stream), "smaller buffers")
            client.write(b"thanks")
            assert await server.read(5.0) == b"thanks"


async def test_buffers_in_use_are_kept(server_certificate: IssuedCertificate) -> None:
    """What lies in them is not lost."""
    async with wired_pair(server_certificate) as (client, wire, server, far):
        wire.deliver(far.take_sent())
        server.write(b"x" * 5000)
        far_sent = far.take_sent()
        client._engine.feed(far_sent[:3000])
        client._engine.shrink()
        assert client._engine.has_grown
        client._engine.feed(far_sent[3000:])

        assert client._engine.read() == b"x" * 5000
        client._engine.shrink()
        assert not client._engine.has_grown


async def test_a_closed_stream_does_not_shrink(server_certificate: IssuedCertificate) -> None:
    """Nothing is left behind that would fire later."""
    async with wired_pair(server_certificate) as (_, _, server, _):
        server.write(b"x" * 40_000)
        pending = [server._shrink_deadline is not None]
        server.close()
        pending.append(server._shrink_deadline is not None)
        server._shrink_later()
        pending.append(server._shrink_deadline is not None)

        assert pending == [True, False, False]


# ---------------------------------------------------------------------- failures


async def test_no_memory_for_smaller_buffers(
    server_certificate: IssuedCertificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the big ones stay."""
    async with wired_pair(server_certificate) as (client, wire, server, far):
        server.write(b"x" * 5000)
        wire.deliver(far.take_sent())
        monkeypatch.setattr(_engine._lib, "BIO_new", lambda _: _engine._ffi.NULL)
        client._engine.shrink()
        assert client._engine.has_grown
        server.write(b"y")
        wire.deliver(far.take_sent())
        assert client.take() == b"x" * 5000 + b"y"


def write_twice(stream: TlsStream, data: bytes) -> None:
    stream.write(data)
    stream.flush_writes()
    stream.write(b"more")


@pytest.mark.parametrize("size", [5000, 20_000])
async def test_a_failure_between_small_records(
    server_certificate: IssuedCertificate, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """It counts as much as a failure at the first one, whenever it comes."""
    for results in ([100, -1], [-1]):
        async with wired_pair(server_certificate) as (_, _, server, _):
            left = list(results)
            with monkeypatch.context() as patch:
                patch.setattr(_engine, "_SSL_write", lambda *_, left=left: left.pop(0))
                with pytest.raises(Error) as caught:
                    write_twice(server, b"x" * size)
            assert caught.value.etype is ErrorType.WRITE_ERROR


async def test_a_failure_without_a_reason(server_certificate: IssuedCertificate) -> None:
    """Should the wrapper find nothing wrong with a failed call, it is an error all the same."""
    async with wired_pair(server_certificate) as (client, _, _, _):
        connection = client._engine.connection
        connection._raise_ssl_error = lambda *_: None  # type: ignore[method-assign]
        with pytest.raises(Error) as caught:
            client._engine.read()
        assert caught.value.etype is ErrorType.INTERNAL_ERROR
