"""Streams over TCP, Unix sockets and user objects, with their socket options."""

from pingora_core.protocols.l4.sockopt import BindTo, TcpKeepalive, TcpSocketOptions
from pingora_core.protocols.l4.stream import L4Stream

__all__ = ["BindTo", "L4Stream", "TcpKeepalive", "TcpSocketOptions"]
