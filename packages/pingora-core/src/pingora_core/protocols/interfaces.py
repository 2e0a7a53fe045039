"""The seams of the protocol layer: what a byte stream promises to everything above it.

Rules for whoever implements `Stream`:

- One reader and one drainer at a time; a second concurrent one is a programming error.
- Nothing here blocks the loop, and nothing buffers without bound.
- Bytes that arrived before an end or a failure stay readable after it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pingora_core.protocols.digest import Digest
    from pingora_error import Error

__all__ = ["Stream"]


class Stream(ABC):
    """Bytes both ways, whatever carries them: TCP, a Unix socket, TLS or a user's object.

    Reading has two halves so that the common case costs no coroutine: `take` hands over what has
    arrived, `fill` waits for more. Writing never waits either; `needs_drain` says when `drain`
    should be awaited before more is written.
    """

    __slots__ = ()

    # ------------------------------------------------------------ identity

    @property
    @abstractmethod
    def id(self) -> int:
        """A number unique among open streams: the file descriptor, or -1 when there is none."""

    @property
    @abstractmethod
    def digest(self) -> Digest:
        """What is known about the connection: addresses, times, TLS and proxy facts."""

    # ------------------------------------------------------------- reading

    @property
    @abstractmethod
    def buffered(self) -> int:
        """How many bytes `take` would return now."""

    @property
    @abstractmethod
    def at_eof(self) -> bool:
        """Whether the peer ended its direction or the connection is gone.

        Bytes may still be buffered. Once true it stays true.
        """

    def pending_input(self) -> int:
        """Tell how much has arrived that was not taken, in all layers below, the kernel included.

        For whoever is about to close and must not cut off what the peer has sent already; it asks
        the system, so it is not for every request.

        Returns:
            Bytes, of which there may be less for `take`: layers have overhead. 0 for none.
        """
        return self.buffered

    @abstractmethod
    def take(self) -> bytes:
        """Hand over everything that is buffered, without waiting.

        Reading is resumed if it was paused because the buffer had filled up.

        Returns:
            The bytes, empty if there are none; the buffer is empty afterwards.
        """

    @abstractmethod
    def unread(self, data: bytes) -> None:
        """Put bytes back in front of the buffer (rewind).

        Args:
            data: Bytes the next `take` returns first.
        """

    @abstractmethod
    def fill(self, timeout: float | None = None) -> Awaitable[bool]:
        """Wait until more bytes are buffered than at the time of the call.

        To be awaited at once. On cancellation nothing is lost: what arrives stays buffered.

        Args:
            timeout: Longest wait, seconds; None for no limit.

        Returns:
            An awaitable of True when bytes have arrived, False when the peer has ended its
            direction. It raises `Error`: ``READ_TIMEDOUT``, ``READ_ERROR`` after a reset,
            ``CONNECTION_CLOSED`` after a local close, or what was given to `fail`.

        Raises:
            RuntimeError: If somebody else is already waiting.
        """

    async def read(self, timeout: float | None = None) -> bytes:
        """Return what is buffered, waiting for it if there is nothing.

        Args:
            timeout: Longest wait, seconds; None for no limit.

        Returns:
            At least one byte, or ``b""`` at the end of the stream.

        Raises:
            Error: As `fill` does.
        """
        if not self.buffered:
            await self.fill(timeout)
        return self.take()

    async def peek(self, size: int, timeout: float | None = None) -> bytes:
        """Look at what comes next without consuming it.

        Args:
            size: How many bytes are wanted, at least 1.
            timeout: Longest wait for each further piece, seconds; None for no limit.

        Returns:
            Everything buffered: at least ``size`` bytes unless the stream ends before.

        Raises:
            Error: As `fill` does; bytes that had arrived stay buffered.
        """
        while self.buffered < size and await self.fill(timeout):
            pass
        data = self.take()
        self.unread(data)
        return data

    # ------------------------------------------------------------- writing

    @property
    @abstractmethod
    def needs_drain(self) -> bool:
        """Whether more is waiting to be sent than is good; await `drain` before writing more."""

    @abstractmethod
    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, without waiting.

        Args:
            data: What to send; may be kept by reference, so it must not change afterwards.

        Raises:
            Error: ``WRITE_ERROR`` if the connection is lost, ``CONNECTION_CLOSED`` if this side
                has closed it or ended its direction.
        """

    @abstractmethod
    async def drain(self, timeout: float | None = None) -> None:
        """Wait until what is waiting to be sent has shrunk below the low-water mark.

        Args:
            timeout: Longest wait, seconds; None for no limit.

        Raises:
            Error: ``WRITE_TIMEDOUT``, ``WRITE_ERROR`` if the connection is lost, or what was
                given to `fail`.
            RuntimeError: If somebody else is already draining.
        """

    @property
    @abstractmethod
    def can_write_eof(self) -> bool:
        """Whether this side's direction can be ended alone, as TCP can and TLS cannot."""

    @abstractmethod
    def write_eof(self) -> None:
        """End this side's direction once everything written is sent; reading goes on.

        Raises:
            Error: ``WRITE_ERROR`` or ``CONNECTION_CLOSED`` as `write` does.
        """

    # ------------------------------------------------------------- closing

    @abstractmethod
    def close(self, *, discard_input: bool = False, linger: float | None = None) -> None:
        """Send what was written, then close; after a linger deadline, abort.

        Calling it again, or after a loss, does nothing.

        Args:
            discard_input: End this side's direction, and read and drop what the peer still
                sends until it ends too or the deadline passes. Closing while unread bytes are
                in the socket resets the connection and may destroy the last bytes sent, such
                as an error response to a body that is still being uploaded.
            linger: Longest time that all this may take, seconds; None for the stream's own.
        """

    @abstractmethod
    def abort(self) -> None:
        """Drop the connection at once, with a reset where there is such a thing."""

    @abstractmethod
    async def wait_closed(self) -> None:
        """Wait until the connection is gone after `close`, `abort` or a loss."""

    @property
    @abstractmethod
    def is_closed(self) -> bool:
        """Whether `close` or `abort` was called or the connection is lost: no more writing."""

    # ------------------------------------------------------- being watched

    @abstractmethod
    def fail(self, error: Error) -> None:
        """Make the current and all later `fill` and `drain` calls raise an error.

        How one task interrupts another one's wait. Buffered bytes stay, writing stays possible.

        Args:
            error: What they raise.
        """

    @abstractmethod
    def set_on_disconnect(self, callback: Callable[[], None] | None) -> None:
        """Be told once when the peer ends its direction or the connection is lost.

        Args:
            callback: Called with no arguments; at once, before this returns, if it has already
                happened. None removes the one that is set.
        """

    @property
    @abstractmethod
    def on_data(self) -> Callable[[], None] | None:
        """Called when bytes arrive while nobody waits for them; None when unset.

        How an idle connection in a pool notices unexpected data. It may be set at any time.
        """

    # A property, because mypy lets nobody assign to a plain attribute of a class with empty
    # __slots__. Implementations have a slot, or a class attribute, in its place.
    @on_data.setter
    @abstractmethod
    def on_data(self, callback: Callable[[], None] | None) -> None: ...

    # -------------------------------------------------------------- tuning

    @abstractmethod
    def set_nodelay(self, *, enabled: bool = True) -> None:
        """Send small segments at once (TCP_NODELAY); ignored where it means nothing.

        Args:
            enabled: False lets the kernel collect small writes.

        Raises:
            Error: ``SOCKET_ERROR`` if the system refuses.
        """

    @abstractmethod
    def set_keepalive(
        self, *, idle: float, interval: float, count: int, user_timeout: float = 0
    ) -> None:
        """Probe an idle connection (SO_KEEPALIVE); ignored where it means nothing.

        Args:
            idle: Silence before the first probe, whole seconds.
            interval: Time between probes, whole seconds.
            count: Unanswered probes after which the connection is dead.
            user_timeout: How long sent bytes may stay unacknowledged, seconds with millisecond
                precision; 0 for the system's own limit.

        Raises:
            Error: ``SOCKET_ERROR`` if the system refuses.
        """
