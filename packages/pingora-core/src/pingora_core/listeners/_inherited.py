"""Sockets that another process has made: what they are, where they are bound, taking them over."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final, assert_never

from pingora_core.listeners._sockets import BACKLOG
from pingora_core.listeners.l4 import (
    DEFAULT_UDS_PERMISSIONS,
    TcpServerAddress,
    UdpServerAddress,
    UdsServerAddress,
)
from pingora_core.protocols.address import InetAddress, UnixAddress, socket_address_from_sockname
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pingora_core.listeners.l4 import ServerAddress
    from pingora_core.protocols.address import SocketAddress

__all__ = ["adopt", "apply_permissions", "is_bound_to", "is_fit"]

_logger = logging.getLogger(__name__)

_INET: Final = (socket.AF_INET, socket.AF_INET6)


def is_fit(sock: socket.socket, address: ServerAddress) -> bool:
    """Decide whether a socket is of the kind that an address needs.

    Args:
        sock: The socket.
        address: The address.

    Returns:
        Whether it is, wherever it is bound.
    """
    if isinstance(address, TcpServerAddress):
        return sock.family in _INET and sock.type == socket.SOCK_STREAM
    if isinstance(address, UdpServerAddress):
        return sock.family in _INET and sock.type == socket.SOCK_DGRAM
    if isinstance(address, UdsServerAddress):
        return sock.family == socket.AF_UNIX and sock.type == socket.SOCK_STREAM
    assert_never(address)


def is_bound_to(sock: socket.socket, places: Iterable[SocketAddress]) -> bool:
    """Decide whether a socket is bound to one of some addresses.

    Args:
        sock: The socket.
        places: The addresses. One with port 0 stands for none: whatever port the socket has, it
            is not the one that the kernel would choose.

    Returns:
        Whether it is.
    """
    bound = _comparable(socket_address_from_sockname(sock.getsockname()))
    return bound is not None and any(_comparable(place) == bound for place in places)


def _comparable(place: SocketAddress | None) -> tuple[object, ...] | None:
    match place:
        case InetAddress(host, port, _, scope):
            return (ipaddress.ip_address(host), port, scope) if port else None
        case UnixAddress(path):
            is_file = path and not path.startswith("\0")
            return (os.path.abspath(path) if is_file else path,)  # noqa: PTH100 - links stay
        case None:
            return None


def adopt(sock: socket.socket, address: ServerAddress, *, is_shared: bool) -> None:
    """Make an inherited socket ready to be used for an address; its options stay as they are.

    Args:
        sock: The socket.
        address: What it is to be used for.
        is_shared: Whether somebody else keeps it, who has set its permissions then, unless the
            address asks for others.

    Raises:
        Error: ``BIND_ERROR`` if it is of another kind, or cannot be used.
    """
    if not is_fit(sock, address):
        msg = f"listen on {address.key}: the inherited socket is {_describe(sock)}"
        raise Error(ErrorType.BIND_ERROR, msg)
    try:
        sock.settimeout(0)
        if not isinstance(address, UdpServerAddress):
            # The other process may have had another backlog, or left this to us.
            sock.listen(BACKLOG)
        if isinstance(address, UdsServerAddress):
            apply_permissions(sock, address, is_shared=is_shared)
    except OSError as error:
        msg = f"listen on {address.key} with the inherited socket"
        raise Error(ErrorType.BIND_ERROR, msg, cause=error) from error


def apply_permissions(sock: socket.socket, address: UdsServerAddress, *, is_shared: bool) -> None:
    """Give the file of a Unix socket its mode, if it has another.

    Args:
        sock: The socket.
        address: Tells the mode.
        is_shared: As for `adopt`.

    Raises:
        PermissionError: If it is somebody else's and more open than it should be.
    """
    path = sock.getsockname()
    if not isinstance(path, str) or not path or (is_shared and address.permissions is None):
        return
    mode = DEFAULT_UDS_PERMISSIONS if address.permissions is None else address.permissions
    try:
        found = stat.S_IMODE(os.lstat(path).st_mode)
    except FileNotFoundError:
        # Nobody can connect, and nobody can be kept from it either.
        _logger.warning("%s: the file of the socket is gone", address.key)
        return
    if found == mode:
        return
    try:
        Path(path).chmod(mode)
    except PermissionError:
        if found & ~mode:
            raise
        _logger.warning("%s: the mode stays %#o, not %#o: it is not ours", address.key, found, mode)


def _describe(sock: socket.socket) -> str:
    kind = {socket.SOCK_STREAM: "stream", socket.SOCK_DGRAM: "datagram"}.get(
        sock.type, f"type {sock.type}"
    )
    family = "a Unix" if sock.family == socket.AF_UNIX else "an IP"
    where = socket_address_from_sockname(sock.getsockname())
    return f"{family} {kind} socket, bound to {where}"
