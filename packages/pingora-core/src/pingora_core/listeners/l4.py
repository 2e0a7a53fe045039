"""Listening sockets: where, with which options, and how they are made.

What can wait here, for a name or for an address in use, has a form for the event loop and one that
blocks, which is for the time before there is a loop: as root, and before a process forks.

Source: pingora-core/src/listeners/l4.rs.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias, assert_never

from pingora_core.listeners._sockets import bind_udp, listen_tcp, listen_unix
from pingora_core.protocols.address import (
    HostAddress,
    InetAddress,
    UnixAddress,
    parse_address,
    socket_address_from_sockname,
)
from pingora_core.protocols.l4.sockopt import TcpSocketOptions
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pingora_core.protocols.address import SocketAddress

__all__ = [
    "DEFAULT_RETRY",
    "DEFAULT_UDS_PERMISSIONS",
    "NO_OPTIONS",
    "BindRetry",
    "ServerAddress",
    "TcpServerAddress",
    "UdpServerAddress",
    "UdsServerAddress",
    "bind",
    "bind_blocking",
    "resolve",
    "resolve_blocking",
]

_logger = logging.getLogger(__name__)

DEFAULT_UDS_PERMISSIONS: Final = 0o666
"""Everybody may connect, as to a TCP port."""


NO_OPTIONS: Final = TcpSocketOptions()
"""Leaves everything to the system."""


@dataclass(frozen=True, slots=True)
class TcpServerAddress:
    """A TCP address to listen on.

    Attributes:
        address: ``1.2.3.4:80``, ``[::1]:80`` or ``name:80``, of which the first resolved address
            is taken; port 0 lets the kernel choose.
        options: Of the listening socket and the accepted ones.

    Raises:
        ValueError: If the address cannot be read.
    """

    address: str
    options: TcpSocketOptions = NO_OPTIONS

    def __post_init__(self) -> None:
        if isinstance(parse_address(self.address), UnixAddress):
            raise ValueError(f"{self.address!r} is the path of a Unix socket, not a TCP address")

    @property
    def key(self) -> str:
        """What the socket is filed under."""
        return self.address


@dataclass(frozen=True, slots=True)
class UdsServerAddress:
    """A Unix socket to listen on.

    Attributes:
        path: File system path, with or without ``unix:``; a leading ``@`` stands for the abstract
            namespace.
        permissions: Mode of the file, such as 0o660; None for ``DEFAULT_UDS_PERMISSIONS``.

    Raises:
        ValueError: If the path is empty or too long, or the mode is none.
    """

    path: str
    permissions: int | None = None

    def __post_init__(self) -> None:
        parse_address(self.key)
        if self.permissions is not None and not 0 <= self.permissions <= 0o777:
            raise ValueError(f"permissions must be in 0..0o777, not {self.permissions:#o}")

    @property
    def key(self) -> str:
        """What the socket is filed under."""
        return "unix:" + self.path.removeprefix("unix:")


_UDP_PREFIX: Final = "udp:"


@dataclass(frozen=True, slots=True)
class UdpServerAddress:
    """A UDP address to receive datagrams on.

    Attributes:
        address: As that of a `TcpServerAddress`, with or without ``udp:``.
        options: Of the socket; ``tcp_fastopen`` and ``tcp_keepalive`` have no meaning here.

    Raises:
        ValueError: If the address cannot be read, or an option is one of connections.
    """

    address: str
    options: TcpSocketOptions = NO_OPTIONS

    def __post_init__(self) -> None:
        if isinstance(parse_address(self.bare), UnixAddress):
            raise ValueError(f"{self.address!r} is the path of a Unix socket, not a UDP address")
        for name in ("tcp_fastopen", "tcp_keepalive"):
            if getattr(self.options, name) is not None:
                raise ValueError(f"{self.address!r}: {name} is no option of a UDP socket")

    @property
    def bare(self) -> str:
        """The address without its prefix."""
        return self.address.removeprefix(_UDP_PREFIX)

    @property
    def key(self) -> str:
        """What the socket is filed under."""
        return _UDP_PREFIX + self.bare


ServerAddress: TypeAlias = TcpServerAddress | UdsServerAddress | UdpServerAddress


@dataclass(frozen=True, slots=True)
class BindRetry:
    """How long to wait for an address that somebody else still has.

    Attributes:
        attempts: How often to try, at least 1.
        interval: Time between two attempts, seconds.
    """

    attempts: int = 30
    interval: float = 1.0


DEFAULT_RETRY: Final = BindRetry()
"""Half a minute; listeners/l4.rs."""


async def bind(address: ServerAddress, retry: BindRetry = DEFAULT_RETRY) -> socket.socket:
    """Make a listening socket, or one that receives datagrams.

    Args:
        address: Where.
        retry: What to do about an address in use.

    Returns:
        The socket, non-blocking; the caller's to close.

    Raises:
        Error: ``BIND_ERROR`` naming the address.
    """
    where = (await resolve(address))[0]
    attempt = 1
    while True:
        sock = _attempt(address, where, attempt, retry)
        if sock is not None:
            return sock
        attempt += 1
        await asyncio.sleep(retry.interval)


def bind_blocking(
    address: ServerAddress,
    retry: BindRetry = DEFAULT_RETRY,
    sleep: Callable[[float], None] = time.sleep,
) -> socket.socket:
    """Make a socket as `bind` does, without an event loop.

    Args:
        address: Where.
        retry: What to do about an address in use.
        sleep: How to wait.

    Returns:
        The socket, non-blocking; the caller's to close.

    Raises:
        Error: ``BIND_ERROR`` naming the address.
    """
    where = resolve_blocking(address)[0]
    attempt = 1
    while True:
        sock = _attempt(address, where, attempt, retry)
        if sock is not None:
            return sock
        attempt += 1
        sleep(retry.interval)


def _attempt(
    address: ServerAddress, where: SocketAddress, attempt: int, retry: BindRetry
) -> socket.socket | None:
    # None: the address is in use, and there is another attempt.
    try:
        return _make(address, where)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or attempt >= retry.attempts:
            raise Error(ErrorType.BIND_ERROR, f"listen on {address.key}", cause=error) from error
    except Error as error:
        msg = f"listen on {address.key}"
        raise Error(ErrorType.BIND_ERROR, msg, cause=error) from error
    _logger.warning(
        "%s is in use by another socket (ss -ltnp tells whose): attempt %d of %d, the next in %g s",
        address.key,
        attempt,
        retry.attempts,
        retry.interval,
    )
    return None


def _make(address: ServerAddress, where: SocketAddress) -> socket.socket:
    if isinstance(address, UdsServerAddress):
        assert isinstance(where, UnixAddress)
        mode = DEFAULT_UDS_PERMISSIONS if address.permissions is None else address.permissions
        return listen_unix(where.path, mode)
    assert isinstance(where, InetAddress)
    if isinstance(address, TcpServerAddress):
        return listen_tcp(where, address.options)
    if isinstance(address, UdpServerAddress):
        return bind_udp(where, address.options)
    assert_never(address)


async def resolve(address: ServerAddress) -> list[SocketAddress]:
    """Look up what an address stands for.

    Args:
        address: The address.

    Returns:
        One address, or all those of a host name; `bind` takes the first.

    Raises:
        Error: ``BIND_ERROR`` if the name is unknown.
    """
    parsed, kind = _parse(address)
    if not isinstance(parsed, HostAddress):
        return [parsed]
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(parsed.host, parsed.port, type=kind, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise Error(ErrorType.BIND_ERROR, f"listen on {address.key}", cause=error) from error
    return _addresses(found)


def resolve_blocking(address: ServerAddress) -> list[SocketAddress]:
    """Look an address up as `resolve` does, without an event loop.

    Args:
        address: The address.

    Returns:
        One address, or all those of a host name.

    Raises:
        Error: ``BIND_ERROR`` if the name is unknown.
    """
    parsed, kind = _parse(address)
    if not isinstance(parsed, HostAddress):
        return [parsed]
    try:
        found = socket.getaddrinfo(parsed.host, parsed.port, type=kind, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise Error(ErrorType.BIND_ERROR, f"listen on {address.key}", cause=error) from error
    return _addresses(found)


def _parse(
    address: ServerAddress,
) -> tuple[InetAddress | UnixAddress | HostAddress, socket.SocketKind]:
    match address:
        case TcpServerAddress(text):
            return parse_address(text), socket.SOCK_STREAM
        case UdsServerAddress():
            return parse_address(address.key), socket.SOCK_STREAM
        case UdpServerAddress():
            return parse_address(address.bare), socket.SOCK_DGRAM


def _addresses(
    found: Sequence[tuple[object, object, object, object, object]],
) -> list[SocketAddress]:
    places = [socket_address_from_sockname(each[4]) for each in found]
    return [place for place in places if place is not None]
