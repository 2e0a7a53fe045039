from __future__ import annotations

import asyncio
import gc
import os
import socket
import time
import weakref
from contextlib import suppress
from functools import partial

import pytest

from pingora_core.protocols.address import InetAddress
from pingora_core.protocols.l4 import L4Stream
from pingora_error import Error, ErrorType
from tests.support.waiting import eventually
from tests.unit.pingora_core.protocols.l4.rig import tcp_pair, unix_pair

pytestmark = pytest.mark.usefixtures("no_leaks")

KIB = 1024


def write_until_full(stream: L4Stream) -> None:
    """Write until the stream asks for a drain."""
    while not stream.needs_drain:
        stream.write(b"x" * 64 * KIB)


async def test_bytes_arrive_and_are_taken() -> None:
    """A fill waits for bytes, a take hands them all over and leaves nothing."""
    async with tcp_pair() as (stream, peer):
        await peer.send(b"hello")

        filled = await stream.fill()

        assert filled
        assert stream.buffered == 5
        assert stream.take() == b"hello"
        assert stream.buffered == 0
        assert stream.take() == b""


async def test_fill_waits_for_more_than_is_there() -> None:
    """Bytes that are buffered already do not satisfy it."""
    async with tcp_pair() as (stream, peer):
        await peer.send(b"a")
        await stream.fill()

        task = asyncio.ensure_future(stream.fill())
        await asyncio.sleep(0.01)
        waiting = not task.done()
        await peer.send(b"b")
        await task

        assert waiting
        assert stream.take() == b"ab"


async def test_read_returns_what_is_there_or_waits() -> None:
    """Buffered bytes come at once; at the end it returns nothing, again and again."""
    async with tcp_pair() as (stream, peer):
        stream.unread(b"early")
        early = await stream.read()
        await peer.send(b"late")
        late = await stream.read(timeout=1)
        peer.end()

        assert early == b"early"
        assert late == b"late"
        assert await stream.read() == b""
        assert await stream.read() == b""


async def test_peek_leaves_the_bytes() -> None:
    """It waits until enough is there, and the next take returns the same bytes."""
    async with tcp_pair() as (stream, peer):
        await peer.send(b"abc")
        task = asyncio.create_task(stream.peek(5))
        await asyncio.sleep(0.005)
        await peer.send(b"defg")

        seen = await task

        assert seen == b"abcdefg"
        assert stream.take() == b"abcdefg"


async def test_peek_at_the_end_returns_less() -> None:
    """The end of the stream is not an error; what is there is returned."""
    async with tcp_pair() as (stream, peer):
        await peer.send(b"ab")
        peer.end()

        assert await stream.peek(5) == b"ab"
        assert stream.take() == b"ab"
        assert await stream.peek(5) == b""


async def test_unread_puts_bytes_in_front() -> None:
    """What is put back comes before what has arrived since."""
    async with tcp_pair() as (stream, peer):
        await peer.send(b"two")
        await stream.fill()

        stream.unread(b"one")

        assert stream.take() == b"onetwo"


async def test_a_timeout_interrupts_only_the_wait() -> None:
    """READ_TIMEDOUT is raised in time, and the stream goes on working."""
    async with tcp_pair() as (stream, peer):
        start = time.monotonic()

        with pytest.raises(Error) as caught:
            await stream.fill(timeout=0.02)

        assert caught.value.etype is ErrorType.READ_TIMEDOUT
        assert 0.02 <= time.monotonic() - start < 0.5
        await peer.send(b"x")
        assert await stream.read(timeout=1) == b"x"


async def test_the_deadline_of_one_fill_does_not_strike_the_next() -> None:
    """A fill without a limit that follows one with a limit waits as long as it takes."""
    async with tcp_pair() as (stream, peer):
        await peer.send(b"a")
        await stream.fill(timeout=0.02)

        task = asyncio.ensure_future(stream.fill())
        await asyncio.sleep(0.05)
        waiting = not task.done()
        await peer.send(b"b")

        assert await task
        assert waiting


async def test_a_second_reader_is_refused() -> None:
    """Two tasks reading one stream is a mistake of the programmer; the first goes on."""
    async with tcp_pair() as (stream, peer):
        first = asyncio.ensure_future(stream.fill())

        with pytest.raises(RuntimeError, match="already reading"):
            await stream.fill()

        await peer.send(b"x")
        assert await first


async def test_a_cancelled_reader_makes_room_for_another() -> None:
    """Bytes that arrive between the two are not lost."""
    async with tcp_pair() as (stream, peer):
        task = asyncio.create_task(stream.read())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

        await peer.send(b"x")

        assert await stream.read() == b"x"


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
        task = asyncio.ensure_future(stream.fill(timeout=5))
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


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_every_kind_of_bytes_can_be_written(
    kind: type[bytes | bytearray | memoryview],
) -> None:
    """Bytes, a bytearray and a memoryview arrive alike."""
    async with tcp_pair() as (stream, peer):
        stream.write(kind(b"abc"))
        stream.write(kind(b""))
        stream.close()

        assert await peer.recv_all() == b"abc"


async def test_a_fast_sender_is_held_back() -> None:
    """A peer that sends more than anyone reads fills the buffer a little and then waits."""
    async with tcp_pair(partial(L4Stream, read_buffer=16 * KIB), buffers=16 * KIB) as (
        stream,
        peer,
    ):
        total = 4096 * KIB
        sender = asyncio.create_task(peer.send(b"x" * total))
        sizes: list[int] = []
        for _ in range(10):
            await asyncio.sleep(0.002)
            sizes.append(stream.buffered)
        held_back = not sender.done()
        received = 0
        while received < total:
            received += len(await stream.read(timeout=5))
        await sender

        assert held_back
        assert 0 < max(sizes) <= (16 + 2 * 256) * KIB
        assert sizes[-1] == sizes[-2]
        assert received == total


async def test_fill_goes_on_although_the_buffer_is_full() -> None:
    """Who asks for more than the buffer holds gets more: the limit is the asker's business."""
    async with tcp_pair(partial(L4Stream, read_buffer=1 * KIB)) as (stream, peer):
        for _ in range(2):
            await peer.send(b"x" * 2 * KIB)
            await asyncio.sleep(0.005)
        held = stream.buffered

        data = await stream.peek(4 * KIB, timeout=5)

        assert held == 2 * KIB
        assert len(data) == 4 * KIB


async def test_a_slow_reader_asks_for_a_drain() -> None:
    """What cannot be sent raises needs_drain; drain returns when it is sent."""
    async with tcp_pair(buffers=16 * KIB) as (stream, peer):
        before = stream.needs_drain
        write_until_full(stream)
        task = asyncio.create_task(stream.drain(timeout=5))
        await asyncio.sleep(0.005)
        waiting = not task.done()
        while not task.done():
            await peer.recv()
            await asyncio.sleep(0)
        await task

        assert before is False
        assert waiting
        assert not stream.needs_drain
        await stream.drain()


async def test_a_drain_without_progress_times_out() -> None:
    """WRITE_TIMEDOUT, and the next drain may wait again."""
    async with tcp_pair(buffers=16 * KIB) as (stream, _):
        write_until_full(stream)

        for _attempt in range(2):
            with pytest.raises(Error) as caught:
                await stream.drain(timeout=0.02)
            assert caught.value.etype is ErrorType.WRITE_TIMEDOUT


async def test_a_second_drainer_is_refused() -> None:
    """Like a second reader."""
    async with tcp_pair(buffers=16 * KIB) as (stream, peer):
        write_until_full(stream)
        first = asyncio.create_task(stream.drain())
        await asyncio.sleep(0)

        with pytest.raises(RuntimeError, match="already draining"):
            await stream.drain()

        peer.reset()
        with pytest.raises(Error) as caught:
            await first
        assert caught.value.etype is ErrorType.WRITE_ERROR


async def test_a_drain_without_limit_ignores_an_earlier_limit() -> None:
    """The deadline of a drain that was cancelled does not strike the next one."""
    async with tcp_pair(buffers=16 * KIB) as (stream, peer):
        write_until_full(stream)
        first = asyncio.create_task(stream.drain(timeout=0.02))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        second = asyncio.create_task(stream.drain())
        await asyncio.sleep(0.04)
        waiting = not second.done()
        while not second.done():
            await peer.recv()

        await second
        assert waiting


async def test_fail_interrupts_reader_and_drainer() -> None:
    """Both get the error, later ones too; buffered bytes and writing stay."""
    async with tcp_pair(buffers=16 * KIB) as (stream, peer):
        await peer.send(b"kept")
        await stream.fill()
        write_until_full(stream)
        reader = asyncio.ensure_future(stream.fill())
        drainer = asyncio.create_task(stream.drain())
        await asyncio.sleep(0)
        error = Error(ErrorType.INTERNAL_ERROR, "interrupted")

        stream.fail(error)

        for waiter in (reader, drainer):
            with pytest.raises(Error) as caught:
                await waiter
            assert caught.value is error
        assert stream.take() == b"kept"
        stream.write(b"y")
        with pytest.raises(Error):
            await stream.fill()
        with pytest.raises(Error):
            await stream.drain()


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

        assert 0.02 <= time.monotonic() - start < 1
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


async def test_discarding_input_ends_with_the_linger_time() -> None:
    """A peer that never ends its direction is reset."""
    async with tcp_pair(partial(L4Stream, linger=0.02)) as (stream, peer):
        stream.close(discard_input=True)

        await stream.wait_closed()

        assert await peer.recv() == b""
        with pytest.raises(ConnectionError):
            await peer.send(b"into the void")


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

        await asyncio.wait_for(called.wait(), 1)


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


async def test_on_data_is_called_when_nobody_waits() -> None:
    """An idle connection notices bytes; a reader that waits gets them silently."""
    async with tcp_pair() as (stream, peer):
        calls: list[int] = []
        stream.on_data = lambda: calls.append(stream.buffered)
        task = asyncio.ensure_future(stream.fill())
        await peer.send(b"expected")
        await task
        silent = list(calls)
        stream.take()

        await peer.send(b"unexpected")
        await eventually(lambda: calls)

        assert silent == []
        assert calls == [10]


async def test_digest_names_both_ends() -> None:
    """Addresses and time are known, and stay known after the end."""
    async with tcp_pair() as (stream, peer):
        host, port = peer.sock.getsockname()
        stream.close()
        await stream.wait_closed()

        digest = stream.digest

        assert digest is stream.digest
        assert digest.socket_digest is not None
        assert digest.socket_digest.peer_addr == InetAddress(host, port)
        assert digest.socket_digest.local_addr == InetAddress(*peer.sock.getpeername())
        assert digest.timing_digest[0] is not None
        assert abs(digest.timing_digest[0].established_ts - time.time()) < 5
        assert digest.ssl_digest is None
        assert digest.proxy_digest is None


async def test_ipv6_works_like_ipv4() -> None:
    """Bytes go both ways and the digest holds IPv6 addresses."""
    async with tcp_pair(host="::1") as (stream, peer):
        await peer.send(b"six")

        assert await stream.read() == b"six"
        assert stream.digest.socket_digest is not None
        assert stream.digest.socket_digest.peer_addr == InetAddress(
            "::1", peer.sock.getsockname()[1]
        )


async def test_a_unix_socket_works_like_tcp() -> None:
    """Bytes both ways, the end, and options that mean nothing there are ignored."""
    async with unix_pair() as (stream, peer):
        stream.set_nodelay()
        stream.set_keepalive(idle=1, interval=1, count=1)
        await peer.send(b"ping")
        data = await stream.read()
        stream.write(b"pong")
        peer.end()

        assert data == b"ping"
        assert await peer.recv() == b"pong"
        assert await stream.read() == b""
        assert stream.digest.socket_digest is not None
        assert stream.digest.socket_digest.tcp_info() is None


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


async def test_id_is_the_descriptor_and_stays() -> None:
    """A pool files the stream under it, so it must not change when the stream is closed."""
    async with tcp_pair() as (stream, _):
        before = stream.id
        stream.close()
        await stream.wait_closed()

        assert before > 2
        assert stream.id == before


async def test_id_asked_too_late_is_minus_one() -> None:
    """A descriptor that is closed may already be somebody else's."""
    async with tcp_pair() as (stream, _):
        stream.close()
        await stream.wait_closed()

        assert stream.id == -1


async def test_options_reach_the_socket() -> None:
    """Nodelay and keep-alive are read back from the kernel."""
    async with tcp_pair() as (stream, _):
        sock = socket.socket(fileno=os.dup(stream.id))
        stream.set_nodelay(enabled=False)
        off = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        stream.set_nodelay()
        stream.set_keepalive(idle=7, interval=3, count=2, user_timeout=1.5)

        with sock:
            assert off == 0
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 7
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 3
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 2
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1500


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
        await eventually(lambda: gone() is None, timeout=1)
    finally:
        gc.enable()
