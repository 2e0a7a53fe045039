"""Which of the machine's addresses a datagram was sent to, and answering from there."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final, TypeAlias

from pingora_core.protocols.address import InetAddress
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["CONTROL_SIZE", "Control", "answering_control", "ask_for_destination", "destination_of"]

Control: TypeAlias = list[tuple[int, int, bytes]]

CONTROL_SIZE: Final = 128
"""Bytes that are enough for what is asked for."""

# linux/in.h; absent from the socket module.
_IP_PKTINFO: Final = 8
_KIND4: Final = (socket.IPPROTO_IP, _IP_PKTINFO)
_KIND6: Final = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO)
# struct in_pktinfo: interface, local address, destination; struct in6_pktinfo: address, interface.
_PKTINFO4: Final = struct.Struct("=I4s4s")
_PKTINFO6: Final = struct.Struct("=16sI")


def ask_for_destination(sock: socket.socket) -> None:
    """Have the kernel tell with each datagram where it was sent to.

    Args:
        sock: A UDP socket.

    Raises:
        Error: ``SOCKET_ERROR`` if the system refuses.
    """
    try:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    except OSError as error:
        raise Error(ErrorType.SOCKET_ERROR, "setting IP_PKTINFO", cause=error) from error


def destination_of(control: Iterable[tuple[int, int, bytes]], port: int) -> InetAddress | None:
    """Read where a datagram was sent to.

    Args:
        control: What came with it.
        port: The port of the socket, which is not told.

    Returns:
        The address, which may be that of a group; None if it is not told.
    """
    for level, kind, data in control:
        if (level, kind) == _KIND4 and len(data) >= _PKTINFO4.size:
            return InetAddress(socket.inet_ntop(socket.AF_INET, data[8:12]), port)
        if (level, kind) == _KIND6 and len(data) >= _PKTINFO6.size:
            return InetAddress(socket.inet_ntop(socket.AF_INET6, data[:16]), port)
    return None


def answering_control(level: int, kind: int, data: bytes) -> Control | None:
    """Turn what came with a datagram into what makes its answer leave from the same address.

    Args:
        level: Of one control message.
        kind: Its kind.
        data: What it says.

    Returns:
        What to send with the answer; None to let the kernel choose.
    """
    if (level, kind) == _KIND4 and len(data) >= _PKTINFO4.size:
        # Of what was sent to a group, the local address is the one to answer from.
        _, local, _ = _PKTINFO4.unpack_from(data)
        return [(level, kind, _PKTINFO4.pack(0, local, bytes(4)))]
    if (level, kind) == _KIND6 and len(data) >= _PKTINFO6.size:
        local, interface = _PKTINFO6.unpack_from(data)
        if local[0] == 0xFF:
            return None
        if local[0] != 0xFE:
            # Only an address of a link needs to be told which link.
            interface = 0
        return [(level, kind, _PKTINFO6.pack(local, interface))]
    return None
