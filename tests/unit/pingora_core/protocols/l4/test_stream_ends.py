from __future__ import annotations

import asyncio
import gc
import socket
import time
import weakref
from contextlib import suppress
from functools import partial

import pytest

from pingora_core.protocols.l4 import L4Stream
from pingora_error import Error, ErrorType
from tests.support.waiting import eventually
from tests.unit.pingora_core.protocols.l4.rig import KIB, tcp_pair, unix_pair, write_until_full

pytestmark = pytest.mark.usefixtures("no_leaks")


async def test_fin_is_the_end_and_writing_goes_on() -> None:
    """Bytes before the end are read first; after it the other direction still works."""
    async with tcp_pair() as (stream, peer):
        await peer.send(b"last")
        peer.end()
        await eventually(lambda: stream.at_eof)

        stream.write(b"answer")

        assert await stream.read() == b"last"
        assert await stream.fill() is False
        assert not stream.is_closed
        stream.close()
        assert await peer.recv_all() == b"answer"


async def test_fin_wakes_a_waiting_reader() -> None:
    """A fill that waits is told that nothing more will come."""
    async with tcp_pair() as (stream, peer):
        task = asyncio.ensure_future(stream.fill(timeout=30))
        await asyncio.sleep(0)

        peer.end()

        assert await task is False


async def test_write_eof_ends_one_direction() -> None:
    """The peer sees the end after all bytes; its answer is still read; writing is refused."""
    async with tcp_pair() as (stream, peer):
        stream.write(b"question")
        stream.write_eof()
        stream.write_eof()

        assert stream.can_write_eof
        assert await peer.recv_all() == b"question"
        await peer.send(b"answer")
        assert await stream.read() == b"answer"
        with pytest.raises(Error) as caught:
            stream.write(b"more")
        assert caught.value.etype is ErrorType.CONNECTION_CLOSED


async def test_a_reset_is_a_read_error_with_its_cause() -> None:
    """The waiting reader gets it, and so does everybody who asks later."""
    async with tcp_pair() as (stream, peer):
        task = asyncio.ensure_future(stream.fill())
        await asyncio.sleep(0)

        peer.reset()

        with pytest.raises(Error) as caught:
            await task
        assert caught.value.etype is ErrorType.READ_ERROR
        assert isinstance(caught.value.cause, ConnectionResetError)
        assert stream.at_eof
        assert stream.is_closed
        with pytest.raises(Error) as again:
            await stream.read()
        assert again.value.etype is ErrorType.READ_ERROR


async def test_bytes_before_a_reset_stay_readable() -> None:
    """The error comes after them, not instead of them."""
    async with tcp_pair() as (stream, peer):
        await peer.send(b"partial")
        await eventually(lambda: stream.buffered == 7)

        peer.reset()
        await eventually(lambda: stream.is_closed)

        assert await stream.read() == b"partial"
        with pytest.raises(Error):
            await stream.read()


async def test_an_early_answer_survives_the_reset_that_our_writing_meets() -> None:
    """What the peer sent before it closed is read although a write fails first."""
    async with tcp_pair() as (stream, peer):
        stream.write(b"x" * 10)
        await asyncio.sleep(0.01)
        await peer.send(b"413 too large")
        peer.close()  # ten bytes unread: a reset follows the answer
        time.sleep(0.01)  # noqa: ASYNC251 - both are in the kernel before the loop looks again
        stream.write(b"x")
        await eventually(lambda: stream.at_eof)

        assert await stream.read() == b"413 too large"
        with pytest.raises(Error):
            await stream.read()


async def test_writing_after_a_loss_is_an_error() -> None:
    """Write, drain and write_eof say that the connection is gone, with the cause."""
    async with tcp_pair() as (stream, peer):
        peer.reset()
        await eventually(lambda: stream.is_closed)

        for act in (partial(stream.write, b"x"), stream.write_eof):
            with pytest.raises(Error) as caught:
                act()
            assert caught.value.etype is ErrorType.WRITE_ERROR
            assert caught.value.cause is not None
        with pytest.raises(Error) as drained:
            await stream.drain()
        assert drained.value.etype is ErrorType.WRITE_ERROR


@pytest.mark.parametrize("discard_input", [False, True])
async def test_ending_a_connection_that_was_just_reset(discard_input: bool) -> None:
    """Before the loop has seen the reset, ending is an Error or nothing; closing is nothing."""
    async with tcp_pair() as (stream, peer):
        peer.reset()
        time.sleep(0.005)  # noqa: ASYNC251 - it is in the kernel, the loop must not see it yet

        if discard_input:
            stream.close(discard_input=True)
        else:
            with suppress(Error):
                stream.write_eof()

        await stream.wait_closed()
        assert stream.is_closed


async def test_a_reset_with_a_full_buffer() -> None:
    """No more is kept than the buffer may hold."""
    async with tcp_pair(partial(L4Stream, read_buffer=4)) as (stream, peer):
        await peer.send(b"12345")
        await eventually(lambda: stream.buffered)
        await peer.send(b"678")

        stream.write(b"x")
        peer.reset()
        time.sleep(0.005)  # noqa: ASYNC251 - it is in the kernel when the next write meets it
        stream.write(b"x")
        stream.write(b"x")
        await eventually(lambda: stream.is_closed)

        assert stream.take() == b"12345"


async def test_close_sends_what_was_written() -> None:
    """Even much more than the kernel takes at once arrives whole, then the end."""
    async with tcp_pair(buffers=16 * KIB) as (stream, peer):
        data = b"x" * 1000 * KIB
        stream.write(data)
        stream.close()
        stream.close()

        assert stream.is_closed
        assert len(await peer.recv_all()) == len(data)
        await stream.wait_closed()


async def test_close_gives_a_stuck_peer_up() -> None:
    """After the linger time the connection is reset instead of kept for ever."""
    async with tcp_pair(partial(L4Stream, linger=0.02), buffers=16 * KIB) as (stream, peer):
        write_until_full(stream)
        start = time.monotonic()

        stream.close()
        await stream.wait_closed()

        assert time.monotonic() - start < 10
        with pytest.raises(ConnectionResetError):
            await peer.recv_all()


async def test_after_close_nothing_is_read_or_written() -> None:
    """A waiting reader is told, and everything later raises CONNECTION_CLOSED."""
    async with tcp_pair() as (stream, _):
        stream.unread(b"dropped")
        reader = asyncio.ensure_future(stream.fill())
        await asyncio.sleep(0)

        stream.close()

        with pytest.raises(Error) as caught:
            await reader
        assert caught.value.etype is ErrorType.CONNECTION_CLOSED
        assert stream.take() == b""
        for act in (partial(stream.write, b"x"), stream.write_eof):
            with pytest.raises(Error) as refused:
                act()
            assert refused.value.etype is ErrorType.CONNECTION_CLOSED
        for wait in (stream.fill, stream.drain):
            with pytest.raises(Error) as waited:
                await wait()
            assert waited.value.etype is ErrorType.CONNECTION_CLOSED


async def test_closing_with_unread_input_keeps_the_last_answer() -> None:
    """With discard_input the peer reads the answer although its upload was not read."""
    async with tcp_pair(buffers=16 * KIB) as (stream, peer):
        upload = asyncio.create_task(peer.send(b"x" * 2048 * KIB))
        await stream.fill()

        stream.write(b"413")
        stream.close(discard_input=True)

        await upload
        assert await peer.recv_all() == b"413"
        peer.close()
        await stream.wait_closed()


@pytest.mark.parametrize("own", [False, True])
async def test_discarding_input_ends_with_the_linger_time(*, own: bool) -> None:
    """A peer that never ends its direction keeps nothing; it is reset only if it goes on sending."""
    async with tcp_pair(partial(L4Stream, linger=60.0 if own else 0.02)) as (stream, peer):
        stream.close(discard_input=True, linger=0.02 if own else None)

        await stream.wait_closed()

        assert await peer.recv() == b""
        assert peer.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        await peer.send(b"into the void")
        with pytest.raises(ConnectionError):
            await peer.send(b"into the void")


async def test_discarding_input_gives_a_stuck_peer_up() -> None:
    """What cannot be sent within the linger time is dropped, and the peer sees that."""
    async with tcp_pair(partial(L4Stream, linger=0.02), buffers=16 * KIB) as (stream, peer):
        write_until_full(stream)

        stream.close(discard_input=True)
        await stream.wait_closed()

        with pytest.raises(ConnectionResetError):
            await peer.recv_all()


async def test_pending_input_counts_what_nobody_has_read_yet() -> None:
    """Bytes in the kernel count, which the loop has not seen, and so do those in the buffer."""
    async with tcp_pair() as (stream, peer):
        before = stream.pending_input()
        peer.sock.send(b"12345")
        in_kernel = (stream.pending_input(), stream.buffered)
        await stream.fill()
        peer.sock.send(b"678")
        in_both = (stream.pending_input(), stream.buffered)
        stream.take()
        await stream.fill()
        peer.end()
        await eventually(lambda: stream.at_eof)
        at_the_end = stream.pending_input()
        stream.close()

        assert (before, in_kernel, in_both) == (0, (5, 0), (8, 5))
        assert (at_the_end, stream.pending_input()) == (3, 0)


async def test_discarding_input_after_the_peers_end_is_a_plain_close() -> None:
    """There is nothing to discard any more."""
    async with tcp_pair() as (stream, peer):
        peer.end()
        await stream.fill()

        stream.write(b"bye")
        stream.close(discard_input=True)
        await stream.wait_closed()

        assert await peer.recv_all() == b"bye"


async def test_abort_resets_the_connection() -> None:
    """The peer sees a reset, not an orderly end; pending waiters are told."""
    async with tcp_pair() as (stream, peer):
        reader = asyncio.ensure_future(stream.fill())
        await asyncio.sleep(0)

        stream.abort()
        await stream.wait_closed()
        stream.abort()
        stream.close()

        with pytest.raises(ConnectionResetError):
            await peer.recv()
        with pytest.raises(Error) as caught:
            await reader
        assert caught.value.etype is ErrorType.CONNECTION_CLOSED


async def test_wait_closed_serves_several() -> None:
    """One that is cancelled does not take the others with it."""
    async with tcp_pair() as (stream, _):
        tasks = [asyncio.create_task(stream.wait_closed()) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.sleep(0)

        stream.close()
        await asyncio.gather(*tasks[1:])
        await stream.wait_closed()

        assert tasks[0].cancelled()


async def test_on_disconnect_is_called_at_the_peers_end() -> None:
    """Once, even if the connection is lost later."""
    async with tcp_pair() as (stream, peer):
        calls: list[bool] = []
        stream.set_on_disconnect(lambda: calls.append(stream.at_eof))

        peer.end()
        await eventually(lambda: calls)
        peer.reset()
        stream.write(b"x")
        await asyncio.sleep(0.01)

        assert calls == [True]


async def test_on_disconnect_is_called_at_a_reset() -> None:
    """Without anybody reading."""
    async with tcp_pair() as (stream, peer):
        called = asyncio.Event()
        stream.set_on_disconnect(called.set)

        peer.reset()

        await asyncio.wait_for(called.wait(), 30)


async def test_on_disconnect_set_too_late_is_called_at_once() -> None:
    """Who asks after the fact is told before the call returns."""
    async with tcp_pair() as (stream, peer):
        peer.end()
        await eventually(lambda: stream.at_eof)
        calls: list[bool] = []

        stream.set_on_disconnect(lambda: calls.append(True))

        assert calls == [True]


async def test_on_disconnect_is_not_called_for_our_own_close() -> None:
    """Nor after it was taken back."""
    calls: list[bool] = []
    async with tcp_pair() as (stream, _):
        stream.set_on_disconnect(lambda: calls.append(True))
        stream.close()
        await stream.wait_closed()
    async with tcp_pair() as (stream, peer):
        stream.set_on_disconnect(lambda: calls.append(True))
        stream.set_on_disconnect(None)
        peer.end()
        await eventually(lambda: stream.at_eof)

    assert calls == []


async def test_a_failing_disconnect_callback_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The stream works on."""

    def fail() -> None:
        raise ValueError("broken callback")

    async with tcp_pair() as (stream, peer):
        stream.set_on_disconnect(fail)
        peer.end()

        assert await stream.fill() is False
        await eventually(lambda: "broken callback" in caplog.text)


async def test_a_unix_socket_that_is_lost_says_so() -> None:
    """Writing after the peer has gone raises; making the message works without an address."""
    async with unix_pair() as (stream, peer):
        peer.close()
        await stream.fill()
        stream.write(b"x")
        await eventually(lambda: stream.is_closed)

        with pytest.raises(Error) as caught:
            stream.write(b"y")
        assert caught.value.etype is ErrorType.WRITE_ERROR
        assert isinstance(caught.value.cause, BrokenPipeError)


async def test_a_closed_stream_is_freed_without_the_garbage_collector() -> None:
    """Deadlines, transport and waiters leave no circle behind, so memory does not pile up."""
    gc.collect()
    gc.disable()
    try:
        async with tcp_pair() as (stream, peer):
            gone = weakref.ref(stream)
            await peer.send(b"x")
            await stream.fill(timeout=60)
            with pytest.raises(Error):
                await stream.fill(timeout=0.01)
            stream.close()
            await stream.wait_closed()
        del stream
        await eventually(lambda: gone() is None)
    finally:
        gc.enable()
