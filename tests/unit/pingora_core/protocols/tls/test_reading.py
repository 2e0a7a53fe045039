from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

import pytest

from pingora_core.protocols.tls import TlsStream, _engine, _incoming
from pingora_error import Error, ErrorType
from tests.support.waiting import eventually
from tests.unit.pingora_core.protocols.tls.forger import HANDSHAKE, KeyLog
from tests.unit.pingora_core.protocols.tls.rig import (
    Wire,
    client_connection,
    server_connection,
    shake_hands,
    tls_pair,
    wired_pair,
)

if TYPE_CHECKING:
    from tests.support.certificates import IssuedCertificate
    from tests.unit.pingora_core.protocols.tls.forger import Forger

pytestmark = pytest.mark.usefixtures("no_leaks")


# ------------------------------------------------------------- records and reads


async def test_records_and_reads_need_not_agree(server_certificate: IssuedCertificate) -> None:
    """Several records and the beginning of one in a read, and a record in many reads."""
    async with wired_pair(server_certificate) as (client, wire, server, far):
        wire.deliver(far.take_sent())
        sent: list[bytes] = []
        for data in (b"one", b"two", b"three"):
            server.write(data)
            sent.append(far.take_sent())
        third = sent.pop()
        wire.deliver(b"".join(sent) + third[:7])
        assert client.buffered == 6
        assert client.take() == b"onetwo"
        assert client.buffered == 0
        task = asyncio.ensure_future(client.fill(5.0))
        for position in range(7, len(third)):
            await asyncio.sleep(0)
            assert not task.done()
            wire.deliver(third[position : position + 1])

        assert await task
        assert client.buffered == 5
        assert client.take() == b"three"


async def as_client(certificate: IssuedCertificate) -> tuple[TlsStream, Wire, Forger]:
    """A server that has had no record without data yet, and a client in the test's hands."""
    log, wire = KeyLog(), Wire()
    server = TlsStream(wire, server_connection(certificate, keylog=log))
    await shake_hands(TlsStream(Wire(), client_connection()), server)
    return server, wire, log.client()


async def test_the_end_of_a_record_may_look_like_a_record(
    server_certificate: IssuedCertificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows the beginning of a record belongs to it, whatever it is; the library gets all."""
    server, wire, _ = await as_client(server_certificate)
    fed: list[bytes] = []
    with monkeypatch.context() as patch:
        patch.setattr(_engine, "_BIO_write", lambda _, data, size: fed.append(data[:size]))
        inside = b"\x17\x03\x03\x00\x28" + b"x" * 40
        wire.deliver(b"\x17\x03\x03\x00\x32" + b"y" * 5)
        wire.deliver(inside)

    assert fed == [b"\x17\x03\x03\x00\x32" + b"y" * 5 + inside]
    server.abort()


async def test_a_wait_for_more_keeps_what_is_there(server_certificate: IssuedCertificate) -> None:
    """Plaintext is added to what lies unread; taking and closing leave nothing."""
    server, wire, forger = await as_client(server_certificate)
    waiter = server.fill(5.0)
    wire.deliver(forger.record(b"one"))
    assert await waiter
    assert server.buffered == 3
    assert server.take() == b"one"
    wire.deliver(forger.record(b"two"))
    waiter = server.fill(5.0)
    wire.deliver(forger.record(b"three"))

    assert await waiter
    assert server.buffered == 8
    assert server.take() == b"twothree"
    wire.deliver(forger.record(b"four"))
    sizes = [server.buffered]
    server.close()
    sizes.append(server.buffered)
    assert sizes == [4, 0]


async def test_key_updates_between_waits(server_certificate: IssuedCertificate) -> None:
    """A record with data makes up for one without, also for whoever waits for it."""
    server, wire, forger = await as_client(server_certificate)
    for _ in range(100):
        waiter = server.fill(5.0)
        wire.deliver(forger.key_update(requested=False))
        wire.deliver(forger.record(b"x"))
        assert await waiter
        assert server.take() == b"x"
    server.abort()


async def test_a_record_without_data_wakes_nobody(server_certificate: IssuedCertificate) -> None:
    """Who waits goes on waiting over a key update; the next record has the new keys."""
    server, wire, forger = await as_client(server_certificate)
    task = asyncio.ensure_future(server.fill(5.0))
    await asyncio.sleep(0)
    wire.deliver(forger.key_update(requested=False))
    await asyncio.sleep(0)
    waiting = not task.done()
    wire.deliver(forger.record(b"data"))

    assert await task
    assert waiting
    assert server.take() == b"data"
    server.abort()


async def test_data_and_close_notify_in_one_read(server_certificate: IssuedCertificate) -> None:
    """The data first, then the end, for whoever waits."""
    async with wired_pair(server_certificate) as (client, wire, server, far):
        wire.deliver(far.take_sent())
        task = asyncio.ensure_future(client.fill(5.0))
        await asyncio.sleep(0)
        server.write(b"bye")
        server.close()
        wire.deliver(far.take_sent())

        assert await task
        assert client.take() == b"bye"
        assert not await client.fill(5.0)
        assert client.at_eof


@pytest.mark.parametrize("header", [b"\x17\x03\x03", b"\x17\x02\x03", b"\x19\x03\x03"])
@pytest.mark.parametrize("size", [20_000, 40])
async def test_whole_records_that_are_none(
    server_certificate: IssuedCertificate, header: bytes, size: int
) -> None:
    """Too long, of another version or type, or not made with the keys: an alert and the end."""
    async with wired_pair(server_certificate) as (client, wire, _, _far):
        task = asyncio.ensure_future(client.fill(5.0))
        await asyncio.sleep(0)
        client_sent = len(wire.sent)
        wire.deliver(header + size.to_bytes(2, "big") + b"x" * size)

        with pytest.raises(Error) as caught:
            await task
        assert caught.value.etype is ErrorType.READ_ERROR
        assert len(wire.sent) > client_sent
        assert client.at_eof


async def test_a_long_record_without_data_is_no_reason_to_keep_memory(
    server_certificate: IssuedCertificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The buffers that it has made grow are given up like those of data."""
    monkeypatch.setattr(_incoming, "_SHRINK_DELAY", 0.01)
    log, wire = KeyLog(), Wire()
    client = TlsStream(wire, client_connection(keylog=log))
    await shake_hands(client, TlsStream(Wire(), server_connection(server_certificate)))
    body = b"\0\0\x0e\x10" + b"\0\0\0\0" + b"\x01\0" + b"\x10\0" + b"t" * 4096 + b"\0\0"
    ticket = b"\x04" + len(body).to_bytes(3, "big") + body
    wire.deliver(log.server().record(ticket, HANDSHAKE))
    grown = client._engine.has_grown
    await eventually(lambda: not client._engine.has_grown, "smaller buffers")

    assert grown
    assert not client.at_eof
    client.abort()


async def test_nothing_to_send_is_not_what_others_have_left(
    server_certificate: IssuedCertificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory that all connections of a thread share is copied as far as the library wrote."""
    async with wired_pair(server_certificate) as (_, _wire, server, _far):
        engine = server._engine
        with monkeypatch.context() as patch:
            patch.setattr(_engine, "_BIO_read", lambda *_: -1)
            nothing = [engine.encrypt(b"x"), engine.take_output()]
            nothing.append(engine.encrypt_long(b"x" * 20_000, 0)[0])

        assert nothing == [b""] * 3


# ----------------------------------------------------------------- back-pressure


async def test_who_does_not_read_is_not_sent_everything(
    server_certificate: IssuedCertificate,
) -> None:
    """The buffers fill up and reading stops down to the socket; then all of it comes."""
    async with tls_pair(server_certificate) as (client, server, inner):
        size = 8 << 20
        server.write(b"x" * size)
        await eventually(lambda: client.buffered >= 65536, "a full buffer")
        for _ in range(20):
            await asyncio.sleep(0)
        held = client.buffered + client.pending_input()
        assert held < size // 2
        assert inner.needs_drain
        received = 0
        while received < size:
            received += len(await client.read(5.0))

        assert received == size
        await server.drain(5.0)


async def test_a_wait_that_was_cancelled_is_no_wait(
    server_certificate: IssuedCertificate,
) -> None:
    """It neither lets more in than the buffer holds nor keeps the idle callback from being called."""
    async with wired_pair(server_certificate, read_buffer=1000) as (client, wire, server, far):
        wire.deliver(far.take_sent())
        calls: list[int] = []
        client.on_data = lambda: calls.append(client.buffered)
        sizes: list[tuple[int, bool]] = []
        for _ in range(2):
            client.fill(5.0).cancel()
            server.write(b"x" * 1000)
            wire.deliver(far.take_sent())
            sizes.append((client.buffered, wire.buffered > 0))

        assert calls == [1000]
        assert sizes == [(1000, False), (1000, True)]
        assert await client.fill(5.0)
        assert client.buffered == 2000


# ------------------------------------------------------------------------- ends


async def test_a_waiting_reader_sees_a_reset(server_certificate: IssuedCertificate) -> None:
    """The error of the stream below, not that of a missing close_notify."""
    async with wired_pair(server_certificate) as (client, wire, _, _far):
        task = asyncio.ensure_future(client.fill(5.0))
        await asyncio.sleep(0)
        wire.end(reset=True)

        with pytest.raises(Error, match="reset") as caught:
            await task
        assert caught.value.etype is ErrorType.READ_ERROR


async def test_tls_in_tls(server_certificate: IssuedCertificate) -> None:
    """One connection carries another, and its end is the end of both."""
    async with tls_pair(server_certificate) as (below, far_below, _):
        client = TlsStream(below, client_connection())
        server = TlsStream(far_below, server_connection(server_certificate))
        await asyncio.gather(client.handshake(5.0), server.handshake(5.0))
        server.write(b"deep")
        assert await client.read(5.0) == b"deep"
        assert client.id == below.id
        task = asyncio.ensure_future(client.fill(5.0))
        await asyncio.sleep(0)
        far_below.abort()

        with pytest.raises(Error, match="close_notify") as caught:
            await task
        assert caught.value.etype is ErrorType.CONNECTION_CLOSED
        for each in (client, server):
            each.abort()
            await each.wait_closed()
            assert each.at_eof


async def test_who_is_cancelled_with_the_end_is_no_news(
    server_certificate: IssuedCertificate,
) -> None:
    """A failure that nobody looks at any more does not reach the event loop's log."""
    async with wired_pair(server_certificate) as (client, wire, _, _far):
        reports: list[object] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reports.append(context))
        task = asyncio.ensure_future(client.read(5.0))
        await asyncio.sleep(0)
        wire.end()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        del task
        gc.collect()
        await asyncio.sleep(0)
        loop.set_exception_handler(None)

        assert reports == []


async def test_who_is_told_of_the_end_may_say_why(server_certificate: IssuedCertificate) -> None:
    """The error of a callback that calls `fail` is what the waiting reader gets."""
    async with wired_pair(server_certificate) as (client, wire, _, _far):
        why = Error(ErrorType.INTERNAL_ERROR, "why")
        client.set_on_disconnect(lambda: client.fail(why))
        task = asyncio.ensure_future(client.fill(5.0))
        await asyncio.sleep(0)
        wire.end()

        with pytest.raises(Error) as caught:
            await task
        assert caught.value is why


async def test_a_callback_that_raises_keeps_nobody_waiting(
    server_certificate: IssuedCertificate,
) -> None:
    """The waiting reader is told of the end all the same."""
    async with wired_pair(server_certificate) as (client, wire, _, _far):

        def fault() -> None:
            raise ValueError("a fault")

        client.set_on_disconnect(fault)
        task = asyncio.ensure_future(client.fill(5.0))
        await asyncio.sleep(0)
        with pytest.raises(ValueError, match="a fault"):
            wire.end()

        with pytest.raises(Error, match="close_notify"):
            await task
