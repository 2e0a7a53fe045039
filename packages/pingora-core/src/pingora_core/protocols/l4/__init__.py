"""Streams over TCP, Unix sockets and user objects, datagrams, and their socket options."""

from pingora_core.protocols.l4.datagram import Datagram, DatagramCounts, DatagramOptions
from pingora_core.protocols.l4.datagram_endpoint import DatagramEndpoint
from pingora_core.protocols.l4.sockopt import BindTo, TcpKeepalive, TcpSocketOptions
from pingora_core.protocols.l4.stream import L4Stream
from pingora_core.protocols.l4.virtual import (
    KeepAlive,
    NoDelay,
    VirtualSocket,
    VirtualSocketOption,
    VirtualSocketStream,
)

__all__ = [
    "BindTo",
    "Datagram",
    "DatagramCounts",
    "DatagramEndpoint",
    "DatagramOptions",
    "KeepAlive",
    "L4Stream",
    "NoDelay",
    "TcpKeepalive",
    "TcpSocketOptions",
    "VirtualSocket",
    "VirtualSocketOption",
    "VirtualSocketStream",
]
