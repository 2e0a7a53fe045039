"""Listening sockets: where, with which options, and how they are made.

Source: pingora-core/src/listeners/l4.rs.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from pingora_core.protocols.address import HostAddress, InetAddress, UnixAddress, parse_address
from pingora_core.protocols.l4.sockopt import TcpSocketOptions, apply_listener_options
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "BACKLOG",
    "DEFAULT_RETRY",
    "DEFAULT_UDS_PERMISSIONS",
    "NO_OPTIONS",
    "BindRetry",
    "ServerAddress",
    "TcpServerAddress",
    "UdsServerAddress",
    "bind",
]

_logger = logging.getLogger(__name__)

BACKLOG: Final = 65535
"""Connections that may wait to be accepted; the kernel lowers it to its own limit."""

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


ServerAddress: TypeAlias = TcpServerAddress | UdsServerAddress


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
    """Make a listening socket.

    Args:
        address: Where.
        retry: What to do about an address in use.

    Returns:
        The socket, listening, non-blocking; the caller's to close.

    Raises:
        Error: ``BIND_ERROR`` naming the address.
    """
    if isinstance(address, TcpServerAddress):
        where = await _resolve(address.address)
        options = address.options

        def make() -> socket.socket:
            return _listen_tcp(where, options)
    else:
        unix = parse_address(address.key)
        assert isinstance(unix, UnixAddress)
        mode = DEFAULT_UDS_PERMISSIONS if address.permissions is None else address.permissions

        def make() -> socket.socket:
            return _listen_unix(unix.path, mode)

    return await _with_retry(address.key, make, retry)


async def _with_retry(
    key: str, make: Callable[[], socket.socket], retry: BindRetry
) -> socket.socket:
    attempt = 1
    while True:
        try:
            return make()
        except OSError as error:
            if error.errno != errno.EADDRINUSE or attempt >= retry.attempts:
                raise Error(ErrorType.BIND_ERROR, f"listen on {key}", cause=error) from error
        _logger.warning("%s is in use, attempt %d of %d", key, attempt, retry.attempts)
        attempt += 1
        await asyncio.sleep(retry.interval)


async def _resolve(text: str) -> InetAddress:
    address = parse_address(text)
    if isinstance(address, InetAddress):
        return address
    assert isinstance(address, HostAddress)
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise Error(ErrorType.BIND_ERROR, f"listen on {text}", cause=error) from error
    sockaddr = found[0][4]
    return InetAddress(str(sockaddr[0]), address.port)


def _listen_tcp(address: InetAddress, options: TcpSocketOptions) -> socket.socket:
    # With the protocol named, asyncio sets TCP_NODELAY on what it accepts; uvloop always does.
    sock = socket.socket(address.family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.settimeout(0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        apply_listener_options(sock, options)
        sock.bind(address.sockaddr)
        # Here and not when serving begins: two sockets may be bound to one address, but only
        # listening fails for the second.
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _listen_unix(path: str, mode: int) -> socket.socket:
    is_file = not path.startswith("\0")
    if is_file:
        _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(0)
        if is_file:
            # The file is born with the socket's own mode (less the umask), so it is never more
            # open than asked for, not even between bind and chmod.
            os.fchmod(sock.fileno(), mode)
        sock.bind(path)
        if is_file:
            Path(path).chmod(mode)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    # A file that nobody listens on is left over from a crash. What is no socket, or is alive,
    # is somebody else's.
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise FileExistsError(errno.EEXIST, "there is a file that is no socket", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
            return
        except BlockingIOError:
            # Alive, and its backlog is full.
            pass
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)
