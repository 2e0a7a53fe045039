"""Addresses as hashing selections see them: in a fixed order, and as text."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, TypeAlias

from pingora_core.protocols.address import HostAddress, InetAddress, UnixAddress

if TYPE_CHECKING:
    from pingora_core.upstreams.peer import PeerAddress

__all__ = ["AddressOrder", "address_identity", "address_order", "host_and_port"]

AddressOrder: TypeAlias = tuple[int, bytes, int, int]


def address_order(addr: PeerAddress) -> AddressOrder:
    """Make a key that sorts addresses like the original does, by number and not by text.

    Args:
        addr: The address.

    Returns:
        What to sort by: IPv4, then IPv6, then names and Unix sockets.
    """
    if isinstance(addr, InetAddress):
        kind = int(addr.is_ipv6)
        return (kind, socket.inet_pton(addr.family, addr.host), addr.port, addr.scope)
    if isinstance(addr, HostAddress):
        return (2, addr.host.encode(), addr.port, 0)
    return (3, os.fsencode(addr.path), 0, 0)


def host_and_port(addr: PeerAddress) -> tuple[str, str]:
    """Split an address like nginx does before it hashes it.

    Args:
        addr: The address.

    Returns:
        The text of the host or the path, and the text of the port, empty if there is none.
    """
    if isinstance(addr, UnixAddress):
        return (addr.path, "")
    scope = addr.scope if isinstance(addr, InetAddress) else 0
    return (f"{addr.host}%{scope}" if scope else addr.host, str(addr.port))


def address_identity(addr: PeerAddress) -> bytes:
    """Make the bytes that stand for an address where it is hashed.

    Args:
        addr: The address.

    Returns:
        Its host or path and its port, with a NUL in between.
    """
    host, port = host_and_port(addr)
    return b"%b\0%b" % (os.fsencode(host), port.encode())
