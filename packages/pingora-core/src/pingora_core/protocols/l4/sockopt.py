"""Options of sockets: what can be asked of the kernel, checked, and set in one place.

Source: pingora-core/src/protocols/l4/ext.rs, listeners/l4.rs, connectors/l4.rs.
"""

from __future__ import annotations

import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from pingora_core.protocols.address import InetAddress

__all__ = [
    "BindTo",
    "SocketOptionsTarget",
    "TcpKeepalive",
    "TcpSocketOptions",
    "apply_accepted_options",
    "apply_listener_options",
    "set_bind_address_no_port",
    "set_dscp",
    "set_fastopen_connect",
    "set_keepalive",
    "set_local_port_range",
    "set_nodelay",
    "set_recv_buf",
    "set_reset_on_close",
    "set_snd_buf",
]

# Absent from the socket module of Python 3.11; linux/in.h and linux/tcp.h.
_IP_BIND_ADDRESS_NO_PORT: Final = 24
_IP_LOCAL_PORT_RANGE: Final = 51
_TCP_FASTOPEN_CONNECT: Final = 30
_LINGER_ZERO: Final = (1).to_bytes(4, sys.byteorder) + (0).to_bytes(4, sys.byteorder)


class SocketOptionsTarget(Protocol):
    """What has options: a socket, or a transport's view of one."""

    @property
    def family(self) -> int:
        """The address family."""

    def setsockopt(self, level: int, option: int, value: int | bytes, /) -> None:
        """Set an option.

        Args:
            level: Such as ``SOL_SOCKET``.
            option: Number of the option.
            value: Its value.
        """


@dataclass(frozen=True, slots=True)
class TcpKeepalive:
    """When the kernel probes an idle connection and when it gives it up.

    Attributes:
        idle: Silence before the first probe, whole seconds, at least 1.
        interval: Time between probes, whole seconds, at least 1.
        count: Unanswered probes after which the connection is dead, 1 to 127.
        user_timeout: How long sent bytes may stay unacknowledged, seconds with millisecond
            precision; 0 for the system's own limit.
    """

    idle: float
    interval: float
    count: int
    user_timeout: float = 0

    def __post_init__(self) -> None:
        if not (self.idle >= 1 and self.interval >= 1):
            raise ValueError("keepalive idle and interval must be at least 1 second")
        if not 1 <= self.count <= 127:
            raise ValueError(f"keepalive count must be in 1..127, not {self.count}")
        if self.user_timeout < 0:
            raise ValueError(f"keepalive user_timeout must not be negative: {self.user_timeout}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpSocketOptions:
    """Options of a listening TCP socket and of the connections it accepts; None leaves one alone.

    Attributes:
        ipv6_only: Whether an IPv6 listener refuses IPv4 clients (IPV6_V6ONLY).
        tcp_fastopen: How many connections may carry data before the handshake is done
            (TCP_FASTOPEN queue length), at least 0.
        so_reuseport: Whether several sockets may listen on the address (SO_REUSEPORT).
        dscp: Differentiated services code point of outgoing packets, 0 to 63.
        tcp_keepalive: Probing of accepted connections.
        tcp_snd_buf: Send buffer of accepted connections (SO_SNDBUF), bytes.
        tcp_recv_buf: Receive buffer of accepted connections (SO_RCVBUF), bytes.
    """

    ipv6_only: bool | None = None
    tcp_fastopen: int | None = None
    so_reuseport: bool | None = None
    dscp: int | None = None
    tcp_keepalive: TcpKeepalive | None = None
    tcp_snd_buf: int | None = None
    tcp_recv_buf: int | None = None

    def __post_init__(self) -> None:
        if self.tcp_fastopen is not None and self.tcp_fastopen < 0:
            raise ValueError(f"tcp_fastopen must not be negative: {self.tcp_fastopen}")
        if self.dscp is not None:
            _check_dscp(self.dscp)
        for name, size in (("tcp_snd_buf", self.tcp_snd_buf), ("tcp_recv_buf", self.tcp_recv_buf)):
            if size is not None and size <= 0:
                raise ValueError(f"{name} must be positive: {size}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BindTo:
    """The local end of outgoing connections.

    Attributes:
        addr: Local address; its port is normally 0. None lets the kernel choose.
        port_range: Lowest and highest local port (IP_LOCAL_PORT_RANGE, Linux 6.3 or later);
            None for the system's range.
        fallback: Whether to try once more without the range when all its ports are taken.
    """

    addr: InetAddress | None = None
    port_range: tuple[int, int] | None = None
    fallback: bool = False

    def __post_init__(self) -> None:
        if self.port_range is not None:
            low, high = self.port_range
            if not 0 < low <= high <= 65535:
                raise ValueError(f"port range {low}-{high} is not within 1..65535")


def apply_listener_options(sock: SocketOptionsTarget, options: TcpSocketOptions) -> None:
    """Set what belongs on a TCP socket before it is bound.

    Buffer sizes are set here too: Linux hands them down to accepted sockets, and only a size
    known before the handshake is in the window scale it announces (tcp(7)).

    Args:
        sock: The socket, not bound yet.
        options: What to set.

    Raises:
        Error: ``SOCKET_ERROR`` naming the option that was refused.
    """
    if options.ipv6_only is not None and sock.family == socket.AF_INET6:
        _set(sock, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(options.ipv6_only), "IPV6_V6ONLY")
    if options.so_reuseport is not None:
        _set(
            sock, socket.SOL_SOCKET, socket.SO_REUSEPORT, int(options.so_reuseport), "SO_REUSEPORT"
        )
    if options.tcp_fastopen is not None:
        _set(sock, socket.IPPROTO_TCP, socket.TCP_FASTOPEN, options.tcp_fastopen, "TCP_FASTOPEN")
    if options.dscp is not None:
        set_dscp(sock, options.dscp)
    if options.tcp_snd_buf is not None:
        set_snd_buf(sock, options.tcp_snd_buf)
    if options.tcp_recv_buf is not None:
        set_recv_buf(sock, options.tcp_recv_buf)


def apply_accepted_options(sock: SocketOptionsTarget, options: TcpSocketOptions) -> None:
    """Set what belongs on an accepted TCP socket.

    Args:
        sock: The socket.
        options: What to set.

    Raises:
        Error: ``SOCKET_ERROR`` naming the option that was refused.
    """
    if options.dscp is not None:
        set_dscp(sock, options.dscp)
    if options.tcp_keepalive is not None:
        set_keepalive(sock, options.tcp_keepalive)
    if options.tcp_snd_buf is not None:
        set_snd_buf(sock, options.tcp_snd_buf)
    if options.tcp_recv_buf is not None:
        set_recv_buf(sock, options.tcp_recv_buf)


def set_nodelay(sock: SocketOptionsTarget, *, enabled: bool = True) -> None:
    """Send small segments at once.

    Args:
        sock: A TCP socket.
        enabled: False lets the kernel collect small writes.

    Raises:
        Error: ``SOCKET_ERROR`` if the system refuses.
    """
    _set(sock, socket.IPPROTO_TCP, socket.TCP_NODELAY, int(enabled), "TCP_NODELAY")


def set_keepalive(sock: SocketOptionsTarget, keepalive: TcpKeepalive) -> None:
    """Have an idle connection probed.

    Args:
        sock: A TCP socket.
        keepalive: When and how often.

    Raises:
        Error: ``SOCKET_ERROR`` naming the option that was refused.
    """
    tcp = socket.IPPROTO_TCP
    _set(sock, socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1, "SO_KEEPALIVE")
    _set(sock, tcp, socket.TCP_KEEPIDLE, int(keepalive.idle), "TCP_KEEPIDLE")
    _set(sock, tcp, socket.TCP_KEEPINTVL, int(keepalive.interval), "TCP_KEEPINTVL")
    _set(sock, tcp, socket.TCP_KEEPCNT, keepalive.count, "TCP_KEEPCNT")
    if keepalive.user_timeout:
        milliseconds = round(keepalive.user_timeout * 1000)
        _set(sock, tcp, socket.TCP_USER_TIMEOUT, milliseconds, "TCP_USER_TIMEOUT")


def set_dscp(sock: SocketOptionsTarget, dscp: int) -> None:
    """Mark outgoing packets with a differentiated services code point (RFC 2474).

    Args:
        sock: An IP socket.
        dscp: 0 to 63.

    Raises:
        Error: ``SOCKET_ERROR`` if the system refuses.
    """
    _check_dscp(dscp)
    value = dscp << 2
    if sock.family == socket.AF_INET6:
        _set(sock, socket.IPPROTO_IPV6, socket.IPV6_TCLASS, value, "IPV6_TCLASS")
    else:
        _set(sock, socket.IPPROTO_IP, socket.IP_TOS, value, "IP_TOS")


def set_recv_buf(sock: SocketOptionsTarget, size: int) -> None:
    """Fix the size of the receive buffer, which ends its automatic growth.

    Args:
        sock: The socket; before connect or listen, so that the window can grow to the size.
        size: Bytes; the kernel doubles it for its overhead.

    Raises:
        Error: ``SOCKET_ERROR`` if the system refuses.
    """
    _set(sock, socket.SOL_SOCKET, socket.SO_RCVBUF, size, "SO_RCVBUF")


def set_snd_buf(sock: SocketOptionsTarget, size: int) -> None:
    """Fix the size of the send buffer, which ends its automatic growth.

    Args:
        sock: The socket.
        size: Bytes; the kernel doubles it for its overhead.

    Raises:
        Error: ``SOCKET_ERROR`` if the system refuses.
    """
    _set(sock, socket.SOL_SOCKET, socket.SO_SNDBUF, size, "SO_SNDBUF")


def set_fastopen_connect(sock: SocketOptionsTarget) -> None:
    """Let the first write travel with the SYN of an outgoing connection.

    Args:
        sock: A TCP socket, not connected yet.

    Raises:
        Error: ``SOCKET_ERROR`` if the system refuses.
    """
    _set(sock, socket.IPPROTO_TCP, _TCP_FASTOPEN_CONNECT, 1, "TCP_FASTOPEN_CONNECT")


def set_bind_address_no_port(sock: SocketOptionsTarget) -> None:
    """Let the kernel choose the local port at connect, so that ports are shared by destination.

    Args:
        sock: A TCP socket, not bound yet.

    Raises:
        Error: ``SOCKET_ERROR`` if the system refuses.
    """
    _set(sock, socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1, "IP_BIND_ADDRESS_NO_PORT")


def set_local_port_range(sock: SocketOptionsTarget, low: int, high: int) -> None:
    """Restrict the local ports the kernel may choose for this socket (Linux 6.3 or later).

    Args:
        sock: A TCP socket, not bound yet.
        low: Lowest port.
        high: Highest port.

    Raises:
        Error: ``SOCKET_ERROR`` if the system refuses.
    """
    value = (low | high << 16).to_bytes(4, sys.byteorder)
    _set(sock, socket.IPPROTO_IP, _IP_LOCAL_PORT_RANGE, value, "IP_LOCAL_PORT_RANGE")


def set_reset_on_close(sock: SocketOptionsTarget) -> None:
    """Make closing the socket drop what is unsent and reset the connection (SO_LINGER of 0 s).

    Args:
        sock: A TCP socket.

    Raises:
        Error: ``SOCKET_ERROR`` if the system refuses.
    """
    _set(sock, socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO, "SO_LINGER")


def _check_dscp(dscp: int) -> None:
    if not 0 <= dscp <= 63:
        raise ValueError(f"dscp must be in 0..63, not {dscp}")


def _set(  # noqa: PLR0917  # setsockopt's own order, and its name
    sock: SocketOptionsTarget, level: int, option: int, value: int | bytes, name: str
) -> None:
    try:
        sock.setsockopt(level, option, value)
    except OSError as error:
        raise Error(ErrorType.SOCKET_ERROR, f"setting {name} to {value!r}", cause=error) from error
