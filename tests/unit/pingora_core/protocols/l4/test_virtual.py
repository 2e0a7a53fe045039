from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pingora_core.protocols.l4 import (
    KeepAlive,
    NoDelay,
    TcpKeepalive,
    VirtualSocketStream,
)
from pingora_error import Error, ErrorType
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pingora_core.protocols.l4 import VirtualSocketOption

pytestmark = pytest.mark.usefixtures("no_leaks")

KIB = 1024


class Pipe:
    """A virtual socket: the test feeds what is read, and sees what is written."""

    def __init__(self, *, window: int = 1 << 30) -> None:
        self.incoming: asyncio.Queue[bytes | Exception] = asyncio.Queue()
        self.written = bytearray()
        self.window = window
        self.grown = asyncio.Event()
        self.options: list[VirtualSocketOption] = []
        self.calls: list[str] = []
        self.fails: Exception | None = None

    async def read(self, size: int, /) -> bytes:
        item = await self.incoming.get()
        if isinstance(item, Exception):
            raise item
        assert len(item) <= size
        return item

    async def write(self, data: bytes, /) -> None:
        if self.fails is not None:
            raise self.fails
        while len(self.written) + len(data) > self.window:
            self.grown.clear()
            await self.grown.wait()
        self.written += data

    async def shutdown(self) -> None:
        self.calls.append("shutdown")

    def close(self) -> None:
        self.calls.append("close")

    def set_socket_option(self, option: VirtualSocketOption, /) -> None:
        self.options.append(option)

    def grow(self, size: int) -> None:
        self.window += size
        self.grown.set()


async def test_bytes_go_both_ways() -> None:
    """It is read and written like any stream, and closing releases the object once."""
    pipe = Pipe()
    stream = VirtualSocketStream(pipe)

    pipe.incoming.put_nowait(b"ping")
    data = await stream.read(timeout=1)
    stream.write(b"po")
    stream.write(bytearray(b"ng"))
    stream.write(b"")
    stream.close()
    await stream.wait_closed()

    assert data == b"ping"
    assert pipe.written == b"pong"
    assert pipe.calls == ["close"]
    assert stream.is_closed


async def test_it_has_no_descriptor_and_no_addresses() -> None:
    """Its id is -1 and the digest says None."""
    stream = VirtualSocketStream(Pipe())

    assert stream.id == -1
    assert stream.digest.socket_digest is not None
    assert stream.digest.socket_digest.peer_addr is None
    assert stream.digest.socket_digest.original_dst is None
    assert stream.digest.socket_digest.get_recv_buf() is None
    stream.abort()
    await stream.wait_closed()


async def test_options_are_handed_on() -> None:
    """What they mean is up to the object."""
    pipe = Pipe()
    stream = VirtualSocketStream(pipe)

    stream.set_nodelay()
    stream.set_keepalive(idle=3, interval=2, count=1)

    assert pipe.options == [NoDelay(), KeepAlive(TcpKeepalive(3, 2, 1))]
    stream.abort()
    await stream.wait_closed()


async def test_the_end_of_one_direction() -> None:
    """Both sides can end theirs and go on with the other."""
    pipe = Pipe()
    stream = VirtualSocketStream(pipe)

    pipe.incoming.put_nowait(b"")
    assert await stream.read() == b""
    stream.write(b"answer")
    stream.write_eof()
    await eventually(lambda: pipe.calls)

    assert pipe.written == b"answer"
    assert pipe.calls == ["shutdown"]
    stream.close()
    await stream.wait_closed()
    assert pipe.calls == ["shutdown", "close"]


async def test_a_slow_object_holds_the_writer_back() -> None:
    """needs_drain is raised, and drain returns when the object has taken enough."""
    pipe = Pipe(window=0)
    stream = VirtualSocketStream(pipe)
    for _ in range(10):
        stream.write(b"x" * 10 * KIB)
    task = asyncio.create_task(stream.drain(timeout=30))
    await asyncio.sleep(0.005)
    waiting = not task.done() and stream.needs_drain

    pipe.grow(90 * KIB)
    await task

    assert waiting
    assert len(pipe.written) == 90 * KIB
    pipe.grow(90 * KIB)
    stream.close()
    await stream.wait_closed()
    assert len(pipe.written) == 100 * KIB


async def test_an_unread_stream_stops_reading() -> None:
    """The object is not read any further while the buffer is full."""
    pipe = Pipe()
    stream = VirtualSocketStream(pipe)
    for _ in range(10):
        pipe.incoming.put_nowait(b"x" * 32 * KIB)

    await asyncio.sleep(0.005)
    held = stream.buffered
    received = 0
    while received < 320 * KIB:
        received += len(await stream.read(timeout=1))

    assert 64 * KIB <= held <= 96 * KIB
    stream.abort()
    await stream.wait_closed()


async def test_a_failing_read_is_a_read_error() -> None:
    """Its exception is the cause, and the object is closed."""
    pipe = Pipe()
    stream = VirtualSocketStream(pipe)
    pipe.incoming.put_nowait(OSError("unplugged"))

    with pytest.raises(Error) as caught:
        await stream.fill()

    assert caught.value.etype is ErrorType.READ_ERROR
    assert str(caught.value.cause) == "unplugged"
    assert pipe.calls == ["close"]


async def test_a_failing_write_is_a_write_error() -> None:
    """Everybody who writes or waits later is told."""
    pipe = Pipe()
    pipe.fails = OSError("unplugged")
    stream = VirtualSocketStream(pipe)

    stream.write(b"x")
    await eventually(lambda: stream.is_closed)

    with pytest.raises(Error) as caught:
        stream.write(b"y")
    assert caught.value.etype is ErrorType.WRITE_ERROR
    assert str(caught.value.cause) == "unplugged"
    assert pipe.calls == ["close"]


async def test_abort_drops_what_is_unsent() -> None:
    """A write in progress is cancelled, then the object is closed."""
    pipe = Pipe(window=0)
    stream = VirtualSocketStream(pipe)
    stream.write(b"x")
    await asyncio.sleep(0)

    stream.abort()
    await stream.wait_closed()

    assert pipe.written == b""
    assert pipe.calls == ["close"]


async def test_closing_with_discarded_input_waits_for_the_other_side() -> None:
    """What still comes is dropped until it ends its direction."""
    pipe = Pipe()
    stream = VirtualSocketStream(pipe)
    stream.write(b"bye")

    stream.close(discard_input=True)
    pipe.incoming.put_nowait(b"never read")
    await eventually(lambda: pipe.calls)
    waiting = pipe.calls == ["shutdown"]
    pipe.incoming.put_nowait(b"")
    await stream.wait_closed()

    assert waiting
    assert pipe.written == b"bye"
    assert pipe.calls == ["shutdown", "close"]


async def test_an_object_whose_close_fails_is_gone_all_the_same() -> None:
    """The stream is told of the end; the exception reaches the loop's handler."""
    handled: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: handled.append(context["exception"]))

    class Broken(Pipe):
        def close(self) -> None:
            raise ValueError("broken close")

    stream = VirtualSocketStream(Broken())
    stream.abort()
    await stream.wait_closed()

    assert [str(error) for error in handled] == ["broken close"]
