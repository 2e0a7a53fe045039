from __future__ import annotations

import asyncio
import gc
import weakref
from typing import TYPE_CHECKING

import pytest

from pingora_core.protocols.tls import TlsStream
from pingora_error import Error, ErrorType
from tests.support.waiting import eventually
from tests.unit.pingora_core.protocols.tls.rig import (
    Wire,
    client_connection,
    tls_pair,
    wired_pair,
)

if TYPE_CHECKING:
    from tests.support.certificates import IssuedCertificate

pytestmark = pytest.mark.usefixtures("no_leaks")


async def test_close_notify_is_the_end(server_certificate: IssuedCertificate) -> None:
    """What was sent before it is read; then the end is told again and again."""
    async with tls_pair(server_certificate) as (client, server, _):
        ends: list[str] = []
        client.set_on_disconnect(lambda: ends.append("end"))
        server.write(b"bye")
        server.close()

        assert await client.read(5.0) == b"bye"
        assert await client.read(5.0) == b""
        assert not await client.fill(5.0)
        assert client.at_eof
        assert ends == ["end"]


async def test_a_waiting_reader_sees_close_notify(server_certificate: IssuedCertificate) -> None:
    """The wait ends with False."""
    async with tls_pair(server_certificate) as (client, server, _):
        task = asyncio.ensure_future(client.fill(5.0))
        await asyncio.sleep(0)
        server.close()

        assert not await task


async def test_an_end_without_close_notify_is_a_failure(
    server_certificate: IssuedCertificate,
) -> None:
    """Data may have been cut off: what came is readable, the end is an error."""
    async with tls_pair(server_certificate) as (client, server, inner):
        server.write(b"part")
        server.flush_writes()
        inner.close()
        await eventually(lambda: client.at_eof, "the end")

        assert client.take() == b"part"
        for _ in range(2):
            with pytest.raises(Error, match="close_notify") as caught:
                await client.fill(5.0)
            assert caught.value.etype is ErrorType.CONNECTION_CLOSED


async def test_a_waiting_reader_sees_the_truncation(server_certificate: IssuedCertificate) -> None:
    """The same while somebody waits."""
    async with tls_pair(server_certificate) as (client, _, inner):
        task = asyncio.ensure_future(client.fill(5.0))
        await asyncio.sleep(0)
        inner.close()

        with pytest.raises(Error, match="close_notify"):
            await task


async def test_a_reset_is_a_read_error(server_certificate: IssuedCertificate) -> None:
    """The stream below knows, and its error is passed on; ends are told once."""
    async with wired_pair(server_certificate) as (client, wire, _, _far):
        ends: list[str] = []
        client.set_on_disconnect(lambda: ends.append("end"))
        wire.end(reset=True)
        wire.end(reset=True)

        assert ends == ["end"]
        assert client.is_closed
        with pytest.raises(Error) as caught:
            await client.fill()
        assert caught.value.etype is ErrorType.READ_ERROR
        with pytest.raises(Error) as caught:
            client.write(b"x")
        assert caught.value.etype is ErrorType.WRITE_ERROR
        client.close()
        assert wire.ends == ["close"]


async def test_bytes_that_came_with_the_end_are_read(
    server_certificate: IssuedCertificate,
) -> None:
    """Also when the buffer was full and they had stayed below."""
    async with wired_pair(server_certificate, read_buffer=10) as (client, wire, server, far):
        wire.deliver(far.take_sent())
        for _ in range(2):
            server.write(b"x" * 10)
            wire.deliver(far.take_sent())
        wire.end()

        assert client.take() == b"x" * 20
        await asyncio.sleep(0)
        assert client.at_eof


async def test_on_disconnect_is_called_at_once_after_the_fact(
    server_certificate: IssuedCertificate,
) -> None:
    """Whoever comes late is told before the call returns; None is told nothing."""
    async with wired_pair(server_certificate) as (client, wire, _, _far):
        wire.end()
        ends: list[str] = []
        client.set_on_disconnect(None)
        client.set_on_disconnect(lambda: ends.append("end"))

        assert ends == ["end"]


async def test_closing_says_close_notify(server_certificate: IssuedCertificate) -> None:
    """And closes the stream below; closing twice does nothing more."""
    async with wired_pair(server_certificate) as (client, wire, server, far):
        wire.deliver(far.take_sent())
        client.close(discard_input=True)
        client.close()
        far.deliver(wire.take_sent())

        assert server.at_eof
        assert not await server.fill()
        assert wire.ends == ["discard"]
        assert client.is_closed
        await client.wait_closed()
        assert wire.ends[-1] == "waited"


async def test_nothing_works_after_closing(server_certificate: IssuedCertificate) -> None:
    """Reading and writing are CONNECTION_CLOSED, also for whoever was waiting."""
    async with wired_pair(server_certificate) as (client, wire, server, far):
        task = asyncio.ensure_future(client.fill(5.0))
        await asyncio.sleep(0)
        client.close()
        server.write(b"late")
        wire.deliver(far.take_sent())

        assert client.buffered == 0
        for attempt in (task, client.fill()):
            with pytest.raises(Error) as caught:
                await attempt
            assert caught.value.etype is ErrorType.CONNECTION_CLOSED
        with pytest.raises(Error) as caught:
            client.write(b"x")
        assert caught.value.etype is ErrorType.CONNECTION_CLOSED


async def test_closing_before_the_handshake() -> None:
    """There is nothing to say good-bye to."""
    wire = Wire()
    stream = TlsStream(wire, client_connection())
    stream.close()

    assert wire.ends == ["close"]


async def test_closing_while_data_is_withheld(server_certificate: IssuedCertificate) -> None:
    """What was promised for later does not happen."""
    async with wired_pair(server_certificate, read_buffer=10) as (client, wire, server, far):
        wire.deliver(far.take_sent())
        for _ in range(2):
            server.write(b"x" * 10)
            wire.deliver(far.take_sent())
        client.take()
        client.close()
        await asyncio.sleep(0)

        assert client.buffered == 0


async def test_aborting_says_nothing(server_certificate: IssuedCertificate) -> None:
    """The stream below is aborted, without close_notify."""
    async with wired_pair(server_certificate) as (client, wire, _, _far):
        wire.take_sent()
        client.abort()

        assert wire.sent == []
        assert wire.ends == ["abort"]


async def test_fail_interrupts_a_wait(server_certificate: IssuedCertificate) -> None:
    """One task can end the wait of another with an error of its choice; buffered bytes stay."""
    async with tls_pair(server_certificate) as (client, server, _):
        server.write(b"data")
        await client.fill(5.0)
        task = asyncio.ensure_future(client.fill())
        await asyncio.sleep(0)
        error = Error(ErrorType.INTERNAL_ERROR, "enough")
        client.fail(error)

        for attempt in (task, client.fill(), client.drain()):
            with pytest.raises(Error) as caught:
                await attempt
            assert caught.value is error
        assert client.take() == b"data"


async def test_fail_without_a_wait(server_certificate: IssuedCertificate) -> None:
    """The next wait fails; an end that comes later is still told."""
    async with wired_pair(server_certificate) as (client, wire, _, _far):
        error = Error(ErrorType.INTERNAL_ERROR, "enough")
        ends: list[str] = []
        client.set_on_disconnect(lambda: ends.append("end"))
        client.fail(error)
        wire.end()

        with pytest.raises(Error) as caught:
            await client.fill()
        assert caught.value is error
        assert ends == ["end"]


async def test_a_closed_pair_is_freed_by_reference_counting(
    server_certificate: IssuedCertificate,
) -> None:
    """No circle of references waits for the garbage collector."""
    gc.disable()
    try:
        async with tls_pair(server_certificate) as (client, server, _):
            references = [weakref.ref(client), weakref.ref(server)]
            server.write(b"x")
            await client.read(5.0)
        del client, server, _
        await eventually(lambda: not any(reference() for reference in references), "freedom")
    finally:
        gc.enable()


async def test_a_broken_stream_is_freed_by_reference_counting(
    server_certificate: IssuedCertificate,
) -> None:
    """The error that it keeps does not keep it."""
    gc.disable()
    try:
        async with wired_pair(server_certificate) as (client, wire, _, _):
            wire.deliver(b"\x17\x03\x03\x00\x20" + b"x" * 32)
            with pytest.raises(Error):
                await client.fill(1.0)
            client.close()
            wire.above = None
            reference = weakref.ref(client)
        del client, wire
        await eventually(lambda: reference() is None, "freedom")
    finally:
        gc.enable()


# -------------------------------------------------------- passed to the stream below


async def test_half_close_is_refused(server_certificate: IssuedCertificate) -> None:
    """TLS cannot do it in a way that peers understand."""
    async with wired_pair(server_certificate) as (client, _, _server, _far):
        assert not client.can_write_eof
        with pytest.raises(Error) as caught:
            client.write_eof()
        assert caught.value.etype is ErrorType.WRITE_ERROR


async def test_tuning_and_draining_reach_the_socket(server_certificate: IssuedCertificate) -> None:
    """What concerns the transport is passed down."""
    async with wired_pair(server_certificate) as (client, wire, _, _far):
        client.set_nodelay(enabled=False)
        client.set_keepalive(idle=60, interval=5, count=3, user_timeout=1)
        await client.drain(2.0)
        wire.full = True

        assert wire.tuning == [False, (60, 5, 3, 1), ("drain", 2.0)]
        assert client.needs_drain
        assert not client.is_closed
