"""Making listening sockets, and making them stop to listen: what is asked of the kernel."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import stat
import struct
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pingora_core.protocols.l4.sockopt import apply_listener_options

if TYPE_CHECKING:
    from pingora_core.protocols.address import InetAddress
    from pingora_core.protocols.l4.sockopt import TcpSocketOptions

__all__ = ["BACKLOG", "accept_waiting", "bind_udp", "listen_tcp", "listen_unix", "refuse_new"]

BACKLOG: Final = 65535
"""Connections that may wait to be accepted; the kernel lowers it to its own limit."""

# What accept(2) may say of a connection and not of the socket, and what of the process.
_GONE_ALREADY: Final = frozenset(
    {errno.ECONNABORTED, errno.EINTR, errno.EPROTO, errno.ENETDOWN, errno.ENETUNREACH}
    | {errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENONET, errno.ENOPROTOOPT}
)
_OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

# asm-generic/socket.h; absent from the socket module.
_SO_ATTACH_FILTER: Final = 26
# A classic BPF program (linux/filter.h) that sees a segment from its TCP header on: of the flags
# in its byte 13 leave SYN and ACK, drop the segment if that is SYN alone, keep it whole otherwise.
_DROP_SYN: Final = (
    (0x30, 0, 0, 13),
    (0x54, 0, 0, 0x12),
    (0x15, 0, 1, 0x02),
    (0x06, 0, 0, 0),
    (0x06, 0, 0, 0xFFFFFFFF),
)


def listen_tcp(address: InetAddress, options: TcpSocketOptions) -> socket.socket:
    """Make a listening TCP socket.

    Args:
        address: Where.
        options: What to set before it is bound.

    Returns:
        The socket, non-blocking.
    """
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


def bind_udp(address: InetAddress, options: TcpSocketOptions) -> socket.socket:
    """Make a socket that receives datagrams.

    Args:
        address: Where.
        options: What to set before it is bound.

    Returns:
        The socket, non-blocking.
    """
    # No SO_REUSEADDR: with it, a second server would take the datagrams of the first.
    sock = socket.socket(address.family, socket.SOCK_DGRAM, socket.IPPROTO_UDP)
    try:
        sock.settimeout(0)
        apply_listener_options(sock, options)
        sock.bind(address.sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


def listen_unix(path: str, mode: int) -> socket.socket:
    """Make a listening Unix socket.

    Args:
        path: Of its file, which is replaced if nobody listens on it; or abstract.
        mode: Of the file.

    Returns:
        The socket, non-blocking.
    """
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


def refuse_new(sock: socket.socket) -> None:
    """Let no new connection begin, while those that the kernel has completed can be accepted.

    It holds for everybody who shares the socket and for ever. A client that comes now is refused:
    on a Unix socket at once, on TCP when it tries again and the socket is closed.

    Args:
        sock: A listening socket. Where the system knows no such thing, nothing happens.
    """
    with suppress(OSError):
        if sock.family == socket.AF_UNIX:
            sock.shutdown(socket.SHUT_RD)
            return
        code = b"".join(struct.pack("HBBI", *instruction) for instruction in _DROP_SYN)
        program = ctypes.create_string_buffer(code, len(code))
        pointer = struct.pack("HP", len(_DROP_SYN), ctypes.addressof(program))
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, pointer)


def accept_waiting(sock: socket.socket) -> tuple[list[socket.socket], bool]:
    """Accept what the kernel has completed.

    Args:
        sock: A listening socket, non-blocking.

    Returns:
        The connections, non-blocking; whether there are no more, rather than no descriptors.
    """
    accepted: list[socket.socket] = []
    # Bounded, because somebody may connect faster than this accepts.
    for _ in range(BACKLOG):
        try:
            connection, _ = sock.accept()
        except OSError as error:
            if error.errno in _OUT_OF_RESOURCES:
                return accepted, False
            if error.errno in _GONE_ALREADY:
                continue
            break
        connection.setblocking(False)  # noqa: FBT003 - its only form
        accepted.append(connection)
    return accepted, True
