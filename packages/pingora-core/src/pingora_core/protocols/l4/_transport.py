"""The half of a socket stream that goes out: writing, options, identity and digest."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

from pingora_core.protocols.digest import Digest, SocketDigest, TimingDigest
from pingora_core.protocols.interfaces import Stream
from pingora_core.protocols.l4 import sockopt
from pingora_core.protocols.l4._batch import BATCH_LIMIT, get_batch
from pingora_core.runtime.timers import Deadline, get_timers
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    import asyncio

__all__ = ["TransportStream"]

_INET: Final = (socket.AF_INET, socket.AF_INET6)


class TransportStream(Stream):
    """The half of a stream that goes out: bytes written, options set, questions asked.

    Whoever derives from it feeds in what comes back: it sets ``_transport`` and
    ``_established_ts`` (seconds since the epoch) when the connection is made, and ``_closed``,
    ``_lost``, ``_unwritable`` and ``_failure`` when their time has come.

    Args:
        loop: The running event loop.
    """

    __slots__ = (
        "_batch",
        "_closed",
        "_digest",
        "_drain_waiter",
        "_established_ts",
        "_failure",
        "_id",
        "_loop",
        "_lost",
        "_lost_cause",
        "_outgoing",
        "_outgoing_size",
        "_transport",
        "_unwritable",
        "_write_deadline",
        "_wrote_eof",
        "needs_drain",
    )

    _transport: asyncio.Transport
    needs_drain: bool

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._batch = get_batch(loop)
        # What was written in this turn and goes out at its end.
        self._outgoing: list[bytes | bytearray | memoryview] = []
        self._outgoing_size = 0
        self._established_ts = 0.0
        self._id: int | None = None
        self._digest: Digest | None = None
        self._drain_waiter: asyncio.Future[None] | None = None
        self._write_deadline: Deadline | None = None
        self._failure: Error | None = None
        self._lost_cause: Exception | None = None
        # True once any of _closed, _lost, _wrote_eof is: what the hot path looks at.
        self._unwritable = False
        self._wrote_eof = False
        self._closed = False
        self._lost = False
        self.needs_drain = False

    # --------------------------------------------------------------- identity

    @property
    def id(self) -> int:
        """The file descriptor, the same even after closing; -1 if asked only then."""
        if self._id is None:
            sock = self._socket()
            if sock is None:
                return -1
            self._id = sock.fileno()
        return self._id

    @property
    def digest(self) -> Digest:
        """What is known about the connection, built when first asked for."""
        if self._digest is None:
            timing = TimingDigest(self._established_ts)
            self._digest = Digest(
                timing_digest=[timing], socket_digest=SocketDigest(self._transport)
            )
        return self._digest

    # ----------------------------------------------------------------- tuning

    def set_nodelay(self, *, enabled: bool = True) -> None:
        """Send small segments at once; ignored on Unix sockets.

        Args:
            enabled: False lets the kernel collect small writes.
        """
        sock = self._inet_socket()
        if sock is not None:
            sockopt.set_nodelay(sock, enabled=enabled)

    def set_keepalive(
        self, *, idle: float, interval: float, count: int, user_timeout: float = 0
    ) -> None:
        """Probe an idle connection; ignored on Unix sockets.

        Args:
            idle: Silence before the first probe, whole seconds.
            interval: Time between probes, whole seconds.
            count: Unanswered probes after which the connection is dead.
            user_timeout: How long sent bytes may stay unacknowledged, seconds; 0 for the
                system's own limit.
        """
        keepalive = sockopt.TcpKeepalive(idle, interval, count, user_timeout)
        sock = self._inet_socket()
        if sock is not None:
            sockopt.set_keepalive(sock, keepalive)

    def apply_options(self, options: sockopt.TcpSocketOptions) -> None:
        """Set what a listener's options say about accepted connections; not on Unix sockets.

        Args:
            options: The listener's.
        """
        sock = self._inet_socket()
        if sock is not None:
            sockopt.apply_accepted_options(sock, options)

    # ---------------------------------------------------------------- writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, without waiting: small ones at the end of this turn of the loop.

        Args:
            data: What to send; kept by reference, so it must not change afterwards.
        """
        if self._unwritable:
            raise self._write_failure()
        size = self._outgoing_size + len(data)
        if size >= BATCH_LIMIT:
            self.flush_writes()
            self._transport.write(data)
            return
        if not self._outgoing:
            waiting = self._batch.waiting
            if waiting:
                waiting.append(self)  # as `add` does; a call less per write (2026-11)
            else:
                self._batch.add(self)
        self._outgoing.append(data)
        self._outgoing_size = size

    def flush_writes(self) -> None:
        """Hand over to the transport what was held back; the end of the turn calls this."""
        outgoing = self._outgoing
        if not outgoing:
            return
        data = outgoing[0] if len(outgoing) == 1 else b"".join(outgoing)
        outgoing.clear()
        self._outgoing_size = 0
        if not self._lost:
            self._transport.write(data)

    def write_through(self, data: bytes) -> None:
        """Send bytes, without waiting for the end of the turn.

        For a layer above that has waited for it already.

        Args:
            data: What to send.
        """
        if self._unwritable:
            raise self._write_failure()
        if self._outgoing:
            self.flush_writes()
        self._transport.write(data)

    async def drain(self, timeout: float | None = None) -> None:
        """Wait until less is unsent than the low-water mark; see `Stream.drain`.

        Args:
            timeout: Longest wait, seconds; None for no limit.

        Raises:
            RuntimeError: If somebody else is already draining.
        """
        if self._failure is not None:
            raise self._failure
        if self._closed or self._lost:
            raise self._write_failure()
        if not self.needs_drain:
            return
        waiter = self._drain_waiter
        if waiter is not None and not waiter.done():
            raise RuntimeError("another task is already draining this stream")
        self._drain_waiter = waiter = self._loop.create_future()
        if timeout is not None:
            self._set_write_deadline(timeout)
        elif self._write_deadline is not None:
            self._write_deadline.clear()
        await waiter

    @property
    def can_write_eof(self) -> bool:
        """Always true: TCP and Unix sockets end each direction alone."""
        return True

    def write_eof(self) -> None:
        """End this side's direction once everything written is sent; reading goes on.

        Raises:
            Error: ``WRITE_ERROR`` or ``CONNECTION_CLOSED`` as `write` does.
        """
        if self._closed or self._lost:
            raise self._write_failure()
        if self._wrote_eof:
            return
        self._wrote_eof = self._unwritable = True
        self.flush_writes()
        try:
            self._transport.write_eof()
        except OSError as error:
            raise Error(ErrorType.WRITE_ERROR, self._describe_peer(), cause=error) from error

    def pause_writing(self) -> None:
        """Ask the owner to drain; the event loop calls this."""
        self.needs_drain = True

    def resume_writing(self) -> None:
        """Wake the drainer; the event loop calls this."""
        self.needs_drain = False
        waiter = self._drain_waiter
        if waiter is not None:
            self._drain_waiter = None
            if self._write_deadline is not None and not self._closed:
                self._write_deadline.clear()
            if not waiter.done():
                waiter.set_result(None)

    # ---------------------------------------------------------------- private

    def _write_failure(self) -> Error:
        if self._closed:
            return Error(ErrorType.CONNECTION_CLOSED, "writing after close")
        if self._lost:
            return Error(ErrorType.WRITE_ERROR, self._describe_peer(), cause=self._lost_cause)
        return Error(ErrorType.CONNECTION_CLOSED, "writing after write_eof")

    def _set_write_deadline(self, seconds: float) -> None:
        if self._write_deadline is None:
            self._write_deadline = Deadline(get_timers(), self._write_expired)
        self._write_deadline.set(seconds)

    def _write_expired(self) -> None:
        if self._closed:
            self.abort()
            return
        waiter = self._drain_waiter
        if waiter is not None and not waiter.done():
            self._drain_waiter = None
            waiter.set_exception(Error(ErrorType.WRITE_TIMEDOUT, self._describe_peer()))

    def _socket(self) -> socket.socket | None:
        if self._lost:
            return None
        sock: socket.socket | None = self._transport.get_extra_info("socket")
        return sock

    def _inet_socket(self) -> socket.socket | None:
        sock = self._socket()
        return sock if sock is not None and sock.family in _INET else None

    def _reset_on_close(self) -> None:
        sock = self._inet_socket()
        if sock is not None:
            try:
                sockopt.set_reset_on_close(sock)
            except Error:
                # The connection is broken already, which is all that was wanted.
                return

    def _read_remaining(self, size: int) -> bytes:
        # Both event loops close the descriptor only after connection_lost, and stop reading
        # before it: what the peer sent ahead of its reset is still in the kernel.
        sock: socket.socket | None = self._transport.get_extra_info("socket")
        pieces: list[bytes] = []
        while sock is not None and size > 0:
            try:
                piece = os.read(sock.fileno(), size)
            except OSError:
                break
            if not piece:
                break
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def _describe_peer(self) -> str:
        digest = self.digest.socket_digest
        address = None if digest is None else digest.peer_addr
        return "peer unknown" if address is None else f"peer {address}"
