"""Datagrams over a UDP socket: received in batches, answered from where they were sent to.

Theory of operation. The event loop says that the socket is readable; then up to a batch of datagrams
is read and handed over one by one, and the loop goes on with the others. The transports of asyncio
and uvloop cost the same per datagram but do not tell which of the machine's addresses a datagram was
sent to. On a socket that is bound to all of them that matters, because the kernel would choose the
address of the answer by the route, and a client drops what does not come from where it has asked.
So there, and only there, the kernel is asked for that address with each datagram (IP_PKTINFO).

A datagram is sent at once. When the send buffer of the socket is full, as many bytes as the options
say wait for room; what is beyond is dropped and counted, as any router on the way would do.

Errors that the network reports (ICMP) are those of one peer, and no reason to stop: they are counted.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from pingora_core.protocols.address import InetAddress, socket_address_from_sockname
from pingora_core.protocols.l4._pktinfo import CONTROL_SIZE, answering_control, ask_for_destination
from pingora_core.protocols.l4.datagram import Datagram, DatagramCounts, DatagramOptions
from pingora_core.runtime.log_limit import LogLimit

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.protocols.l4._pktinfo import Control
    from pingora_core.protocols.l4.datagram import SockAddr

__all__ = ["DatagramEndpoint"]

_logger = logging.getLogger(__name__)

# asm-generic/socket.h; absent from the socket module.
_SO_MEMINFO: Final = 55
# linux/sock_diag.h: of the nine numbers the last one counts what found no room.
_MEMINFO: Final = struct.Struct("=9I")
# A machine has few addresses, but an attacker may have a whole network of them routed to it.
_MAX_CONTROLS: Final = 1024
# What a queued datagram takes in the kernel's receive buffer at least, bytes.
_LEAST_QUEUED: Final = 512


class DatagramEndpoint:
    """A UDP socket in an event loop.

    Args:
        sock: The socket, non-blocking, bound or connected; owned from now on.
        on_datagram: Called with each datagram; what it raises is logged.
        options: How; None for the defaults.
        on_error: Called with what the network reports or refuses; None to count it only.

    Raises:
        Error: ``SOCKET_ERROR`` if the system refuses to tell where datagrams were sent to.

    Attributes:
        address: What the socket is bound to.
        counts: What it has done so far.
    """

    __slots__ = (
        "_controls",
        "_fd",
        "_has_failed",
        "_is_closed",
        "_is_connected",
        "_is_paused",
        "_is_reading",
        "_log_limit",
        "_loop",
        "_on_datagram",
        "_on_error",
        "_options",
        "_queue",
        "_queued",
        "_sock",
        "_tells_destination",
        "_waiters",
        "address",
        "counts",
    )

    def __init__(
        self,
        sock: socket.socket,
        on_datagram: Callable[[Datagram], None],
        options: DatagramOptions | None = None,
        *,
        on_error: Callable[[OSError], None] | None = None,
    ) -> None:
        address = socket_address_from_sockname(sock.getsockname())
        assert isinstance(address, InetAddress)
        self.address: InetAddress = address
        self.counts: DatagramCounts = DatagramCounts()
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._fd = sock.fileno()
        self._on_datagram = on_datagram
        self._on_error = on_error
        self._options = DatagramOptions() if options is None else options
        self._tells_destination = address.host in {"0.0.0.0", "::"}  # noqa: S104 - is it?
        if self._tells_destination:
            ask_for_destination(sock)
        self._controls: dict[bytes, Control | None] = {}
        self._queue: deque[tuple[bytes, SockAddr | None, Control | None]] = deque()
        self._queued = 0
        self._waiters: list[asyncio.Future[None]] = []
        self._is_reading = False
        self._is_paused = False
        self._is_closed = False
        self._is_connected = _is_connected(sock)
        # Whether the event loop may have stopped to watch the socket.
        self._has_failed = False
        self._log_limit = LogLimit()

    # ---------------------------------------------------------------- receiving

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    @property
    def kernel_drops(self) -> int:
        """How many datagrams the kernel has dropped because too many were waiting to be read.

        Counted for the socket, whoever shares it. 0 where the system does not say.
        """
        try:
            raw = self._sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        except OSError:
            return 0
        drops: int = _MEMINFO.unpack(raw)[8] if len(raw) == _MEMINFO.size else 0
        return drops

    @property
    def most_waiting(self) -> int:
        """How many datagrams may at most wait in the receive buffer of the socket."""
        size = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        return size // _LEAST_QUEUED + 1

    def start_reading(self) -> None:
        """Begin to receive."""
        if not (self._is_reading or self._is_closed):
            self._is_reading = True
            if not self._is_paused:
                self._loop.add_reader(self._fd, self._on_readable)

    def stop_reading(self) -> None:
        """Leave in the socket what comes from now on; sending goes on."""
        if self._is_reading:
            self._is_reading = False
            if not self._is_paused:
                self._loop.remove_reader(self._fd)

    def pause_reading(self) -> None:
        """Let datagrams wait in the socket; the kernel drops those for which it has no room."""
        if not self._is_paused:
            self._is_paused = True
            if self._is_reading:
                self._loop.remove_reader(self._fd)

    def resume_reading(self) -> None:
        """End a pause."""
        if self._is_paused:
            self._is_paused = False
            if self._is_reading:
                self._loop.add_reader(self._fd, self._on_readable)

    def read_waiting(self, most: int) -> int:
        """Receive what waits in the socket, unless reading is paused.

        Args:
            most: How many datagrams at most.

        Returns:
            How many there were.
        """
        receive = self._receive_with_destination if self._tells_destination else self._receive
        size = self._options.max_size + 1
        taken = 0
        while taken < most and not (self._is_paused or self._is_closed):
            try:
                receive(size)
            except BlockingIOError:
                break
            except OSError as error:
                self._failed(error)
            taken += 1
        return taken

    def _on_readable(self) -> None:
        taken = self.read_waiting(self._options.batch)
        # On a connected socket the error may have been told to a call that came in between; no
        # other has errors unless asked for (udp(7)), and is found empty when others share it.
        if self._has_failed or (not taken and self._is_connected):
            self._watch_again()

    def _watch_again(self) -> None:
        # libuv stops to watch a socket on which it has seen an error (unix/poll.c), and does not
        # say so.
        self._has_failed = False
        if self._is_reading and not self._is_paused:
            self._loop.remove_reader(self._fd)
            self._loop.add_reader(self._fd, self._on_readable)
        if self._queue:
            self._loop.remove_writer(self._fd)
            self._loop.add_writer(self._fd, self._on_writable)

    def _receive(self, size: int) -> None:
        # HOT. With one byte more than is allowed the cut tail of a datagram shows.
        data, sender = self._sock.recvfrom(size)
        self._deliver(data, sender, None)

    def _receive_with_destination(self, size: int) -> None:
        data, control, _, sender = self._sock.recvmsg(size, CONTROL_SIZE)
        self._deliver(data, sender, control)

    def _deliver(self, data: bytes, sender: SockAddr, control: Control | None) -> None:
        counts = self.counts
        if len(data) > self._options.max_size:
            counts.oversized += 1
            return
        counts.received += 1
        try:
            self._on_datagram(Datagram(data, sender, self, control))
        except Exception:
            # Strangers decide how often this happens, so it is not they who fill the disk.
            suppressed = self._log_limit.admit(time.monotonic())
            if suppressed is not None:
                more = f" (and {suppressed} more that were not logged)" if suppressed else ""
                _logger.exception("datagram from %s failed%s", sender, more)

    # ------------------------------------------------------------------ sending

    def send(self, data: bytes, to: SockAddr | None = None, control: Control | None = None) -> bool:
        """Send a datagram. HOT.

        Args:
            data: What it holds; kept by reference, so it must not change.
            to: Where to; None if the socket is connected.
            control: What says where it comes from, as `reply_control` makes it; None to let the
                kernel choose.

        Returns:
            False if it was dropped.
        """
        if self._queue or self._is_closed:
            return self._enqueue(data, to, control)
        try:
            self._send_now(data, to, control)
        except BlockingIOError:
            return self._enqueue(data, to, control)
        except OSError as error:
            self._failed(error)
            return False
        self.counts.sent += 1
        return True

    def reply_control(self, control: Control) -> Control | None:
        """Turn what came with a datagram into what makes its answer leave from the same address.

        Args:
            control: As it was received.

        Returns:
            What to send with the answer; None to let the kernel choose.
        """
        if not control:
            return None
        # Only what was asked for is there, which is one message.
        level, kind, data = control[0]
        try:
            return self._controls[data]
        except KeyError:
            if len(self._controls) >= _MAX_CONTROLS:
                self._controls.clear()
            answering = self._controls[data] = answering_control(level, kind, data)
            return answering

    async def flush(self, timeout: float) -> bool:
        """Wait until what waits to be sent is sent.

        Args:
            timeout: Longest wait, seconds.

        Returns:
            Whether nothing waits any more.
        """
        if self._queue:
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            await asyncio.wait((waiter,), timeout=timeout)
            # Done already, or of no more interest.
            waiter.cancel()
        return not self._queue

    def close(self) -> None:
        """Close the socket; what waits to be sent is dropped and counted."""
        if self._is_closed:
            return
        self.stop_reading()
        self._is_closed = True
        if self._queue:
            self._loop.remove_writer(self._fd)
            self.counts.unsent += len(self._queue)
            self._queue.clear()
            self._all_sent()
        self._sock.close()

    def _send_now(self, data: bytes, to: SockAddr | None, control: Control | None) -> None:
        if control is not None:
            self._sock.sendmsg((data,), control, 0, to)
        elif to is not None:
            self._sock.sendto(data, to)
        else:
            self._sock.send(data)

    def _enqueue(self, data: bytes, to: SockAddr | None, control: Control | None) -> bool:
        if self._is_closed or self._queued + len(data) > self._options.send_queue:
            self.counts.unsent += 1
            return False
        if not self._queue:
            self._loop.add_writer(self._fd, self._on_writable)
        self._queue.append((data, to, control))
        self._queued += len(data)
        return True

    def _on_writable(self) -> None:
        queue = self._queue
        for _ in range(min(len(queue), self._options.batch)):
            data, to, control = queue[0]
            try:
                self._send_now(data, to, control)
                self.counts.sent += 1
            except BlockingIOError:
                break
            except OSError as error:
                self._failed(error)
            # Whoever was told of the error may have closed this.
            if self._is_closed:
                return
            queue.popleft()
            self._queued -= len(data)
        if not queue:
            self._loop.remove_writer(self._fd)
            self._all_sent()
        if self._has_failed:
            self._watch_again()

    def _all_sent(self) -> None:
        self._queued = 0
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    def _failed(self, error: OSError) -> None:
        self._has_failed = True
        self.counts.errors += 1
        _logger.debug("datagrams on %s: %s", self.address, error)
        if self._on_error is not None:
            self._on_error(error)


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
