"""What is known about a connection, for filters and logs: times, addresses, TLS, proxy."""

from __future__ import annotations

import socket
import struct
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pingora_core.protocols.address import InetAddress, socket_address_from_sockname
from pingora_core.protocols.ssl_digest import CertificateFacts, SslDigest

if TYPE_CHECKING:
    import asyncio

    from pingora_core.protocols.address import SocketAddress
    from pingora_core.protocols.proxy_protocol.header import ProxyHeader
    from pingora_http import ResponseHeader

__all__ = [
    "CertificateFacts",
    "Digest",
    "ProxyDigest",
    "SocketDigest",
    "SslDigest",
    "TcpInfo",
    "TimingDigest",
]

# linux/netfilter_ipv4.h, linux/netfilter_ipv6/ip6_tables.h
_SO_ORIGINAL_DST: Final = 80
# linux/tcp.h, struct tcp_info: eight one-byte fields, then 24 of four bytes.
_TCP_INFO: Final = struct.Struct("=8B24I")


@dataclass(frozen=True, slots=True)
class TimingDigest:
    """When one layer of the connection was ready.

    Attributes:
        established_ts: Seconds since the epoch (wall clock).
    """

    established_ts: float


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """A sample of what the kernel knows about a TCP connection (tcp(7), TCP_INFO).

    Attributes:
        state: Number of the TCP state; 1 is ESTABLISHED.
        retransmits: Timeouts in a row that are not yet answered.
        rto: Retransmission timeout, seconds.
        snd_mss: Largest segment that is sent, bytes.
        rcv_mss: Largest segment received so far, bytes.
        unacked: Segments in flight.
        lost: Segments thought to be lost.
        retrans: Segments retransmitted and not yet acknowledged.
        pmtu: Path MTU, bytes.
        rtt: Smoothed round trip time, seconds.
        rtt_var: Its mean deviation, seconds.
        snd_cwnd: Congestion window, segments.
        rcv_rtt: Round trip time as the receiver estimates it, seconds.
        total_retrans: Segments retransmitted since the connection began.
    """

    state: int
    retransmits: int
    rto: float
    snd_mss: int
    rcv_mss: int
    unacked: int
    lost: int
    retrans: int
    pmtu: int
    rtt: float
    rtt_var: float
    snd_cwnd: int
    rcv_rtt: float
    total_retrans: int

    @classmethod
    def from_bytes(cls, raw: bytes) -> TcpInfo:
        """Read the kernel's ``struct tcp_info``.

        Args:
            raw: At least 104 bytes in the machine's byte order.

        Returns:
            The sample.

        Raises:
            ValueError: If there are fewer bytes.
        """
        if len(raw) < _TCP_INFO.size:
            raise ValueError(f"struct tcp_info has {_TCP_INFO.size} bytes, not {len(raw)}")
        values = _TCP_INFO.unpack_from(raw)
        words: tuple[int, ...] = values[8:]
        return cls(
            state=values[0],
            retransmits=values[2],
            rto=words[0] / 1e6,
            snd_mss=words[2],
            rcv_mss=words[3],
            unacked=words[4],
            lost=words[6],
            retrans=words[7],
            pmtu=words[13],
            rtt=words[15] / 1e6,
            rtt_var=words[16] / 1e6,
            snd_cwnd=words[18],
            rcv_rtt=words[20] / 1e6,
            total_retrans=words[23],
        )


class SocketDigest:
    """The addresses of a connection, read when first asked for, and live kernel facts.

    Addresses outlive the connection; what only an open socket can tell is None afterwards. Where
    the PROXY protocol has announced a client, its addresses stand in for those of the socket.

    Args:
        transport: The transport of the connection.
    """

    __slots__ = ("_announced", "_local_addr", "_original_dst", "_peer_addr", "_transport")

    def __init__(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._announced: tuple[SocketAddress, SocketAddress] | None = None
        self._peer_addr: SocketAddress | None = None
        self._local_addr: SocketAddress | None = None
        self._original_dst: SocketAddress | None = None

    @property
    def peer_addr(self) -> SocketAddress | None:
        """The address of the other side: the client that was announced, or the socket's peer."""
        return self.transport_peer_addr if self._announced is None else self._announced[0]

    @property
    def local_addr(self) -> SocketAddress | None:
        """The address of this side: the one that was announced, or the socket's own."""
        return self.transport_local_addr if self._announced is None else self._announced[1]

    @property
    def transport_peer_addr(self) -> SocketAddress | None:
        """The address that the socket is connected to, whoever was announced."""
        if self._peer_addr is None:
            self._peer_addr = self._address("peername")
        return self._peer_addr

    @property
    def transport_local_addr(self) -> SocketAddress | None:
        """The address that the socket itself has, whoever was announced."""
        if self._local_addr is None:
            self._local_addr = self._address("sockname")
        return self._local_addr

    def announce(self, peer: SocketAddress, local: SocketAddress) -> None:
        """Let other addresses stand in for those of the socket.

        Args:
            peer: Of the client, as a trusted proxy says.
            local: What the client connected to.
        """
        self._announced = (peer, local)

    @property
    def original_dst(self) -> SocketAddress | None:
        """Where the client wanted to go before a firewall redirected it (SO_ORIGINAL_DST).

        None if nothing was redirected or the system does not say.
        """
        if self._original_dst is None:
            local = self.transport_local_addr
            if not isinstance(local, InetAddress):
                return None
            # Both options answer with the sockaddr of the family they belong to.
            if local.is_ipv6:
                raw = self._getsockopt_bytes(socket.IPPROTO_IPV6, _SO_ORIGINAL_DST, 28)
            else:
                raw = self._getsockopt_bytes(socket.IPPROTO_IP, _SO_ORIGINAL_DST, 16)
            self._original_dst = _address_from_sockaddr(raw)
        return self._original_dst

    def tcp_info(self) -> TcpInfo | None:
        """Sample the kernel's view of the connection.

        Returns:
            The sample, or None if this is no TCP connection or it is closed.
        """
        raw = self._getsockopt_bytes(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        return TcpInfo.from_bytes(raw) if raw and len(raw) >= _TCP_INFO.size else None

    def get_recv_buf(self) -> int | None:
        """Ask for the size of the receive buffer.

        Returns:
            Bytes (the kernel counts its overhead too), or None if the socket is closed.
        """
        return self._getsockopt_int(socket.SOL_SOCKET, socket.SO_RCVBUF)

    def get_snd_buf(self) -> int | None:
        """Ask for the size of the send buffer.

        Returns:
            Bytes (the kernel counts its overhead too), or None if the socket is closed.
        """
        return self._getsockopt_int(socket.SOL_SOCKET, socket.SO_SNDBUF)

    def _address(self, which: str) -> SocketAddress | None:
        try:
            name: object = self._transport.get_extra_info(which)
        except (AttributeError, OSError, ValueError):
            # uvloop asks the socket, which a closed transport does not have any more: None for
            # a Unix connection (handles/basetransport.pyx), descriptor -1 for one that was
            # accepted as a socket of its own (pseudosock.pyx).
            return None
        return socket_address_from_sockname(name)

    def _socket(self) -> socket.socket | None:
        # A closing transport may have closed its descriptor already, and the number may belong
        # to another connection by now.
        if self._transport.is_closing():
            return None
        sock: socket.socket | None = self._transport.get_extra_info("socket")
        return sock

    def _getsockopt_bytes(self, level: int, option: int, size: int) -> bytes | None:
        sock = self._socket()
        if sock is None:
            return None
        try:
            return sock.getsockopt(level, option, size)
        except OSError:
            return None

    def _getsockopt_int(self, level: int, option: int) -> int | None:
        sock = self._socket()
        if sock is None:
            return None
        try:
            return sock.getsockopt(level, option)
        except OSError:
            return None


@dataclass(slots=True)
class ProxyDigest:
    """What the proxy answered to the CONNECT that this connection went through.

    Attributes:
        response: Its response head.
        user_data: What the user's hook derived from the exchange; None without a hook.
    """

    response: ResponseHeader
    user_data: object | None = None


@dataclass(slots=True)
class Digest:
    """Everything known about a connection.

    Attributes:
        ssl_digest: Facts of the TLS layer; None without TLS.
        timing_digest: When each layer was ready, lowest first: TCP or Unix, then TLS.
        proxy_digest: Facts of the CONNECT proxy in between; None without one.
        socket_digest: Addresses and kernel facts; None without a socket.
        proxy_protocol: The header of the PROXY protocol that the connection began with; None
            without one.
    """

    ssl_digest: SslDigest | None = None
    timing_digest: list[TimingDigest | None] = field(default_factory=list)
    proxy_digest: ProxyDigest | None = None
    socket_digest: SocketDigest | None = None
    proxy_protocol: ProxyHeader | None = None


def _address_from_sockaddr(raw: bytes | None) -> InetAddress | None:
    if raw is None or len(raw) < 8:
        return None
    family = int.from_bytes(raw[:2], sys.byteorder)
    port = int.from_bytes(raw[2:4], "big")
    if family == socket.AF_INET:
        return InetAddress(socket.inet_ntop(socket.AF_INET, raw[4:8]), port)
    if family == socket.AF_INET6 and len(raw) >= 28:
        scope = int.from_bytes(raw[24:28], sys.byteorder)
        return InetAddress(socket.inet_ntop(socket.AF_INET6, raw[8:24]), port, 0, scope)
    return None
