"""Streams over an object of the user's instead of a socket: a tunnel, a test's script, a device.

The object reads and writes with coroutines; `VirtualTransport` turns that into the callbacks a
stream lives on. So a virtual stream is an `L4Stream` like any other, with the same buffers, limits,
deadlines and errors.

Source: pingora-core/src/protocols/l4/virt.rs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, final

from pingora_core.protocols.l4.sockopt import TcpKeepalive
from pingora_core.protocols.l4.stream import L4Stream

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = [
    "KeepAlive",
    "NoDelay",
    "VirtualSocket",
    "VirtualSocketOption",
    "VirtualSocketStream",
    "VirtualTransport",
]

_READ_SIZE: Final = 65536


@dataclass(frozen=True, slots=True)
class NoDelay:
    """Send small segments at once.

    Attributes:
        enabled: False lets small writes be collected.
    """

    enabled: bool = True


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Probe an idle connection.

    Attributes:
        keepalive: When and how often.
    """

    keepalive: TcpKeepalive


VirtualSocketOption: TypeAlias = NoDelay | KeepAlive


class VirtualSocket(Protocol):
    """What the user implements. Whatever a method raises breaks the connection off."""

    async def read(self, size: int, /) -> bytes:
        """Wait for bytes; never called again before it has returned.

        Cancelled when the stream is closed.

        Args:
            size: How many at most.

        Returns:
            At least one byte, or ``b""`` when the other side has ended its direction.
        """

    async def write(self, data: bytes, /) -> None:
        """Send bytes; never called again before it has returned.

        Taking its time is what holds the writer back. Cancelled when the stream is aborted.

        Args:
            data: All of it is to be sent.
        """

    async def shutdown(self) -> None:
        """End this side's direction; everything was written. Called at most once."""

    def close(self) -> None:
        """Release everything; no other method is called afterwards. Called once."""

    def set_socket_option(self, option: VirtualSocketOption, /) -> None:
        """Set an option, or ignore it.

        Args:
            option: What is asked for.
        """


@final
class VirtualTransport(asyncio.Transport):
    """The transport of a virtual stream: one task that reads, and one while there is to write.

    Args:
        socket: The user's object.
        stream: What is called back; `start` begins with that.
    """

    def __init__(self, socket: VirtualSocket, stream: L4Stream) -> None:
        super().__init__()
        self._socket = socket
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._pieces: deque[bytes] = deque()
        self._unsent = 0
        self._high = self._low = 0
        self._is_paused = False
        self._wants_eof = False
        self._closing = False
        # Set when there will be no more callbacks but the last one, and when that was called.
        self._is_over = False
        self._is_finished = False
        self._cause: Exception | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._reader: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Connect the stream and begin to read."""
        self._stream.connection_made(self)
        self._reader = self._spawn(self._read())

    # ---------------------------------------------------------------- reading

    def pause_reading(self) -> None:
        """Do not read more; what is being read still arrives."""
        self._may_read.clear()

    def resume_reading(self) -> None:
        """Read on."""
        self._may_read.set()

    async def _read(self) -> None:
        while True:
            await self._may_read.wait()
            data = await self._socket.read(_READ_SIZE)
            if not data:
                break
            self._stream.data_received(data)
        if not self._stream.eof_received():
            self.close()

    # ---------------------------------------------------------------- writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queue bytes.

        Args:
            data: What to send.
        """
        if self._is_over or not data:
            return
        self._pieces.append(bytes(data))
        self._unsent += len(data)
        if self._unsent > self._high and not self._is_paused:
            self._is_paused = True
            self._stream.pause_writing()
        self._write_on()

    def write_eof(self) -> None:
        """End this side's direction once everything is sent."""
        self._wants_eof = True
        self._write_on()

    def can_write_eof(self) -> bool:
        """Tell that it can.

        Returns:
            True.
        """
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set where the writer is asked to wait and where to go on.

        Args:
            high: Unsent bytes above which it waits.
            low: Unsent bytes up to which it does not; None for a quarter.
        """
        self._high = high or 0
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        """Tell how much is unsent.

        Returns:
            Bytes.
        """
        return self._unsent

    def _write_on(self) -> None:
        if self._writer is None and not self._is_over:
            self._writer = self._spawn(self._write())

    async def _write(self) -> None:
        while self._pieces:
            data = self._pieces[0]
            await self._socket.write(data)
            self._pieces.popleft()
            self._unsent -= len(data)
            if self._is_paused and self._unsent <= self._low:
                self._is_paused = False
                self._stream.resume_writing()
        if self._wants_eof:
            self._wants_eof = False
            await self._socket.shutdown()
        self._writer = None
        if self._closing:
            self._end(None)

    # ---------------------------------------------------------------- closing

    def is_closing(self) -> bool:
        """Tell whether it is closed or being closed.

        Returns:
            True from the first call of `close` or `abort`, or from a loss, on.
        """
        return self._closing or self._is_over

    def close(self) -> None:
        """Close once everything is sent."""
        self._closing = True
        if self._writer is None:
            self._end(None)

    def abort(self) -> None:
        """Close at once."""
        self._end(None)

    def _spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            error = task.exception()
            if isinstance(error, Exception):
                self._end(error)
        if self._is_over and not self._tasks:
            self._finish()

    def _end(self, cause: Exception | None) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._cause = cause
        self._pieces.clear()
        self._unsent = 0
        for task in self._tasks:
            task.cancel()
        if not self._tasks:
            self._loop.call_soon(self._finish)

    def _finish(self) -> None:
        # Only when the object's methods have all returned, so that nothing runs after close().
        if self._is_finished:
            return
        self._is_finished = True
        try:
            self._socket.close()
        finally:
            self._stream.connection_lost(self._cause)


@final
class VirtualSocketStream(L4Stream):
    """A stream over a `VirtualSocket`; its `id` is -1, and its digest knows no addresses.

    Args:
        socket: The user's object, connected; the stream's from now on.
    """

    __slots__ = ("_virtual",)

    def __init__(self, socket: VirtualSocket) -> None:
        super().__init__(asyncio.get_running_loop())
        self._virtual = socket
        VirtualTransport(socket, self).start()

    def set_nodelay(self, *, enabled: bool = True) -> None:
        """Hand the option to the user's object.

        Args:
            enabled: False lets small writes be collected.
        """
        self._virtual.set_socket_option(NoDelay(enabled))

    def set_keepalive(
        self, *, idle: float, interval: float, count: int, user_timeout: float = 0
    ) -> None:
        """Hand the option to the user's object.

        Args:
            idle: Silence before the first probe, whole seconds.
            interval: Time between probes, whole seconds.
            count: Unanswered probes after which the connection is dead.
            user_timeout: How long sent bytes may stay unacknowledged, seconds.
        """
        keepalive = TcpKeepalive(idle, interval, count, user_timeout)
        self._virtual.set_socket_option(KeepAlive(keepalive))
