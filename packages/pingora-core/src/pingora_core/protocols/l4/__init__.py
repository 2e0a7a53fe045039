"""Streams over TCP, Unix sockets and user objects, with their socket options."""

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
    "KeepAlive",
    "L4Stream",
    "NoDelay",
    "TcpKeepalive",
    "TcpSocketOptions",
    "VirtualSocket",
    "VirtualSocketOption",
    "VirtualSocketStream",
]
