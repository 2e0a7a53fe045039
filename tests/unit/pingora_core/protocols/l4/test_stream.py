from __future__ import annotations

import asyncio
import os
import socket
import time
from functools import partial

import pytest

from pingora_core.protocols.address import InetAddress
from pingora_core.protocols.l4 import L4Stream
from pingora_error import Error, ErrorType
from tests.support.ports import needs_ipv6
from tests.support.waiting import eventually
from tests.unit.pingora_core.protocols.l4.rig import KIB, tcp_pair, unix_pair, write_until_full

pytestmark = pytest.mark.usefixtures("no_leaks")


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
        assert time.monotonic() - start < 10
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


async def test_small_writes_of_one_turn_leave_together_and_in_order() -> None:
    """They go out at the end of the turn; a large one takes those before it along at once."""
    async with tcp_pair() as (stream, peer):
        stream.write(b"small ")
        stream.write(bytearray(b"and "))
        stream.write(memoryview(b"small, "))
        with pytest.raises(BlockingIOError):
            peer.sock.recv(1)
        first = await peer.recv()
        stream.write(b"x")
        stream.write(b"y" * 20 * KIB)
        second = peer.sock.recv(30 * KIB)

    assert first == b"small and small, "
    assert second.startswith(b"xyyy")


async def test_closing_sends_what_was_held_back_and_aborting_drops_it() -> None:
    """A close in the turn of a write loses nothing; an abort sends nothing that was not sent."""
    async with tcp_pair() as (closed, at_closed), tcp_pair() as (aborted, at_aborted):
        closed.write(b"bye")
        closed.close()
        aborted.write(b"secret")
        aborted.abort()
        received = await at_closed.recv_all()
        with pytest.raises(ConnectionResetError):
            await at_aborted.recv()

    assert received == b"bye"


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
            received += len(await stream.read(timeout=30))
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

        data = await stream.peek(4 * KIB, timeout=30)

        assert held == 2 * KIB
        assert len(data) == 4 * KIB


async def test_a_slow_reader_asks_for_a_drain() -> None:
    """What cannot be sent raises needs_drain; drain returns when it is sent."""
    async with tcp_pair(buffers=16 * KIB) as (stream, peer):
        before = stream.needs_drain
        write_until_full(stream)
        task = asyncio.create_task(stream.drain(timeout=30))
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


@needs_ipv6
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
