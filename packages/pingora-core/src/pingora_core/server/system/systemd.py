"""What a server and its service manager tell each other: readiness, reloads, sockets.

Theory of operation
-------------------
The protocol of sd_notify(3): datagrams of lines ``KEY=value`` to the Unix socket that the
environment variable ``NOTIFY_SOCKET`` names. Without the variable nothing happens, so a server
tells its state always and is heard where somebody listens. A server must not fail because its
manager does not listen: what goes wrong is a warning in the log, and only the first of a row is.

Sockets are passed as in sd_listen_fds(3): descriptors 3 and following, told by ``LISTEN_FDS``, for
the process that ``LISTEN_PID`` names.

The variables are the process's own, so a successor that a server starts gets an environment from
`environment_of_successor`, in which nothing is said that holds for its parent only.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import TYPE_CHECKING, Final

from pingora_core.protocols.address import InetAddress, socket_address_from_sockname

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "FIRST_SOCKET",
    "environment_of_successor",
    "inherited_sockets",
    "is_managed",
    "notify",
    "notify_main_pid",
    "notify_ready",
    "notify_reloading",
    "notify_status",
    "notify_stopping",
    "notify_watchdog",
    "watchdog_interval",
]

_logger = logging.getLogger(__name__)

FIRST_SOCKET: Final = 3
"""The descriptor of the first socket that is passed; sd_listen_fds(3)."""

_SEND_TIMEOUT: Final = 1.0
_MAX_SOCKETS: Final = 4096
_SOCKET_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


# ------------------------------------------------------------------------------------- telling


class _Complaint:
    """Whether the last notification failed: of failures in a row one is logged."""

    __slots__ = ("is_made",)

    def __init__(self) -> None:
        self.is_made = False


_complaint: Final = _Complaint()


def is_managed() -> bool:
    """Return whether there is a service manager that wants to be told."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


def notify(state: str) -> bool:
    """Tell the service manager something; never raises.

    Args:
        state: Lines ``KEY=value``.

    Returns:
        Whether it was told; False if nobody listens.
    """
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return False
    try:
        _send(path, state.encode())
    except (OSError, ValueError) as error:
        if not _complaint.is_made:
            _complaint.is_made = True
            _logger.warning("the service manager cannot be told at %s: %s", path, error)
        return False
    _complaint.is_made = False
    return True


def notify_ready(status: str = "", *, main_pid: int | None = None) -> bool:
    """Say that the start, or the reload that was announced, is finished.

    Args:
        status: What the manager shows as the state of the service; "" to leave that as it is.
        main_pid: The process to supervise from now on, said in the same breath; None for no
            change.

    Returns:
        Whether it was told.
    """
    lines = ["READY=1"]
    if main_pid is not None:
        lines.insert(0, f"MAINPID={main_pid}")
    return notify("\n".join([*lines, *_status(status)]))


def notify_reloading(status: str = "") -> bool:
    """Say that a reload begins; `notify_ready` ends it, whatever became of it.

    Args:
        status: As for `notify_ready`.

    Returns:
        Whether it was told.
    """
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    return notify("\n".join(["RELOADING=1", f"MONOTONIC_USEC={now}", *_status(status)]))


def notify_stopping(status: str = "") -> bool:
    """Say that the server is stopping.

    Args:
        status: As for `notify_ready`.

    Returns:
        Whether it was told.
    """
    return notify("\n".join(["STOPPING=1", *_status(status)]))


def notify_main_pid(pid: int) -> bool:
    """Say which process is the server from now on.

    Args:
        pid: A process of the same service.

    Returns:
        Whether it was told.
    """
    return notify(f"MAINPID={pid}")


def notify_status(status: str) -> bool:
    """Say in words how the server is.

    Args:
        status: One line.

    Returns:
        Whether it was told.
    """
    return notify("\n".join(_status(status)))


def notify_watchdog() -> bool:
    """Say that the server is alive.

    Returns:
        Whether it was told.
    """
    return notify("WATCHDOG=1")


def watchdog_interval() -> float | None:
    """Return how often `notify_watchdog` has to be called.

    Returns:
        Seconds, half of what the manager waits; None if it does not watch this process.
    """
    text = os.environ.get("WATCHDOG_USEC")
    if text is None:
        return None
    watched = os.environ.get("WATCHDOG_PID")
    if watched is not None and watched != str(os.getpid()):
        return None
    limit = int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else 0
    if limit == 0:
        _logger.warning("WATCHDOG_USEC=%r is no number of microseconds: nothing is sent", text)
        return None
    return limit / 2_000_000


def environment_of_successor() -> dict[str, str]:
    """Return the environment for a process that is to take the place of this one.

    The manager is told by both, its watchdog wants to hear whichever is the main one; what names
    this very process is left out.

    Returns:
        A copy, to be changed at will.
    """
    own = {"WATCHDOG_PID", *_SOCKET_VARIABLES}
    return {key: value for key, value in os.environ.items() if key not in own}


def _status(status: str) -> list[str]:
    return [f"STATUS={' '.join(status.split())}"] if status else []


def _send(path: str, message: bytes) -> None:
    if path[0] not in "/@":
        raise ValueError("neither a path nor an abstract socket")
    address = "\0" + path[1:] if path[0] == "@" else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        # A manager that is busy is waited for a little: READY must not be lost.
        sock.settimeout(_SEND_TIMEOUT)
        sock.connect(address)
        sock.sendall(message)


# ------------------------------------------------------------------------------------- sockets


def inherited_sockets() -> dict[str, socket.socket]:
    """Take the listening sockets that the service manager has passed; once.

    The variables that tell of them are removed, so that no other process takes them for its own.
    Descriptors that are no use to a server are closed and logged.

    Returns:
        Listening and datagram sockets by what they are bound to, in the form of
        ``ServerAddress.key``; the caller's to close, closed in programs that this one starts.
    """
    pid, count, names = (os.environ.pop(key, "") for key in _SOCKET_VARIABLES)
    if not count or pid != str(os.getpid()):
        return {}
    if not (count.isascii() and count.isdecimal() and len(count) < 5):
        _logger.warning("LISTEN_FDS=%r is no number of descriptors: none is used", count)
        return {}
    labels = names.split(":") if names else []
    sockets: dict[str, socket.socket] = {}
    for index, fd in enumerate(_passed(int(count))):
        label = labels[index] if index < len(labels) else "unknown"
        sock, problem = _adopt(fd)
        if sock is None:
            _logger.warning("descriptor %d (%s) is not used: %s", fd, label, problem)
            continue
        key = _key(sock)
        if key is None or key in sockets:
            problem = "its kind is not known" if key is None else f"{key} was passed already"
            _logger.warning("descriptor %d (%s) is not used: %s", fd, label, problem)
            sock.close()
            continue
        _logger.info("%s was passed as descriptor %d (%s)", key, fd, label)
        sockets[key] = sock
    return sockets


def _passed(count: int) -> Iterator[int]:
    return iter(range(FIRST_SOCKET, FIRST_SOCKET + min(count, _MAX_SOCKETS)))


def _adopt(fd: int) -> tuple[socket.socket | None, str]:
    # A socket that listens or takes datagrams, or None and the reason.
    try:
        if not os.get_inheritable(fd):
            return None, "it is this program's own"  # what is passed comes through an exec
        os.set_inheritable(fd, False)  # noqa: FBT003 - that is how it is called
    except OSError as error:
        return None, str(error.strerror)
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        return None, "it is no socket"
    kind = sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
    if kind == socket.SOCK_DGRAM:
        return sock, ""
    if kind == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return sock, ""
    sock.close()
    reason = "it is a connection" if kind == socket.SOCK_STREAM else f"it is of type {kind}"
    return None, f"{reason}, allowed: listening sockets, Accept=no"


def _key(sock: socket.socket) -> str | None:
    if sock.family not in {socket.AF_INET, socket.AF_INET6, socket.AF_UNIX}:
        return None
    name: object = sock.getsockname()
    address = socket_address_from_sockname(name)
    if address is None:
        return None
    if sock.type != socket.SOCK_DGRAM:
        return str(address)
    return f"udp:{address}" if isinstance(address, InetAddress) else None
