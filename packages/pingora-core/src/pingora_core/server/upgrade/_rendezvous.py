"""The upgrade socket: the file that a successor makes, who may come to it, what comes out of it."""

from __future__ import annotations

import os
import socket
import stat
import struct
import time
from array import array
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from pingora_core.server.upgrade._wire import (
    BATCH,
    HEADER_SIZE,
    Descriptors,
    Failed,
    body_size,
    decode,
    open_listener,
    refuse,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pingora_core.server.upgrade._wire import Hello, Message

__all__ = ["Incoming", "peer_of", "rendezvous"]

_LEAST_TIMEOUT: Final = 0.001
_OWNER_ONLY: Final = 0o600
_WAITING: Final = 4
_CREDENTIALS: Final = struct.Struct("iII")
_SIZE: Final = array("i").itemsize


def peer_of(connection: socket.socket, owner: int | None = None) -> int:
    """Find out who is at the other end, and whether that is somebody to deal with.

    Args:
        connection: A connected Unix socket.
        owner: A user id that is welcome beside our own and root's.

    Returns:
        The process id, as the kernel knows it.

    Raises:
        Error: ``UPGRADE_ERROR`` if it is a process of another user.
    """
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    if uid not in {0, os.geteuid(), owner}:
        refuse(f"process {pid} at the other end is of user {uid}, who is not trusted")
    return int(pid)


# -------------------------------------------------------------------------------- the file


@contextmanager
def rendezvous(path: str, owner: int | None) -> Iterator[socket.socket]:
    """Listen on the upgrade socket until the end of the block.

    Args:
        path: Its file, which exists only meanwhile, and which only its owner can connect to.
        owner: User id to give the file to; None to keep it.

    Yields:
        The listening socket.

    Raises:
        Error: ``UPGRADE_ERROR`` if the path is taken by somebody else.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    found: os.stat_result | None = None
    try:
        try:
            _remove_stale(path, owner)
            # Born with this mode: it is not open to others for a moment.
            os.fchmod(sock.fileno(), _OWNER_ONLY)
            sock.bind(path)
            found = os.lstat(path)
            if owner is not None and owner != found.st_uid:
                os.chown(path, owner, -1, follow_symlinks=False)
            sock.listen(_WAITING)
        except OSError as error:
            refuse(f"the upgrade socket {path} cannot be made", error)
        yield sock
    finally:
        if found is not None:
            _remove(path, found)
        sock.close()


def _remove(path: str, made: os.stat_result) -> None:
    # Only ours: somebody may have put another in its place.
    try:
        found = os.lstat(path)
        if (found.st_dev, found.st_ino) == (made.st_dev, made.st_ino):
            Path(path).unlink(missing_ok=True)
    except OSError:
        pass


def _remove_stale(path: str, owner: int | None) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        refuse(f"the upgrade socket {path} is a file that is no socket: remove it")
    if found.st_uid not in {os.geteuid(), owner}:
        refuse(f"the upgrade socket {path} belongs to another user: {found.st_uid}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # somebody lives there, and is busy
    refuse(f"another process waits on the upgrade socket {path} already")


# ------------------------------------------------------------------------------ what comes


@final
class Incoming:
    """Reads messages with what is attached to them, and never more than one.

    Args:
        connection: The blocking socket; stays the caller's.
        limit: How long all reading together may take, seconds.
    """

    __slots__ = ("_connection", "_deadline", "_descriptors")

    def __init__(self, connection: socket.socket, limit: float) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + limit
        self._descriptors: list[int] = []

    def read(self) -> Message:
        """Read a message.

        Returns:
            What was said.

        Raises:
            Error: ``UPGRADE_ERROR`` if it is garbage, or the other end is gone.
            OSError: If the connection fails, or time is up.
        """
        return decode(self._read_exactly(body_size(self._read_exactly(HEADER_SIZE))))

    def take_sockets(self, hello: Hello, sockets: dict[str, socket.socket]) -> None:
        """Read and check the sockets that were announced.

        Args:
            hello: The announcement.
            sockets: Gets them; all that are in it when this fails are the caller's to close.

        Raises:
            Error: ``UPGRADE_ERROR`` if they are not what was announced.
            OSError: If the connection fails, or time is up.
        """
        if len(set(hello.keys)) != len(hello.keys):
            refuse("an address was announced twice")
        waiting = list(reversed(hello.keys))
        while waiting:
            said = self.read()
            if isinstance(said, Failed):
                refuse(f"the predecessor failed: {said.reason}")
            if not isinstance(said, Descriptors):
                refuse(f"sockets were expected, not {type(said).__name__}")
            if said.count != len(self._descriptors) or not 0 < said.count <= len(waiting):
                refuse(
                    f"{len(self._descriptors)} sockets were received, {said.count} were sent, "
                    f"{len(waiting)} were expected"
                )
            while self._descriptors:
                key = waiting.pop()
                sockets[key] = open_listener(key, self._descriptors.pop(0))

    @property
    def has_unclaimed(self) -> bool:
        """Whether there are descriptors that were received and not taken."""
        return bool(self._descriptors)

    def close_unclaimed(self) -> None:
        """Close the descriptors that were received and not taken."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _read_exactly(self, size: int) -> bytes:
        pieces = bytearray()
        while len(pieces) < size:
            # Not beyond this message: what is attached to the next one stays with it.
            data, attached, flags, _ = self._receive(min(size - len(pieces), 1 << 20))
            for _, _, payload in attached:  # nothing else can be attached unless one asks for it
                numbers = array("i")
                numbers.frombytes(payload[: len(payload) // _SIZE * _SIZE])
                self._descriptors += numbers
            if flags & socket.MSG_CTRUNC:
                refuse("sockets were lost: more than allowed, or too many files are open")
            if not data:
                refuse("the other process has ended in the middle of the hand-over")
            pieces += data
        return bytes(pieces)

    def _receive(self, size: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, object]:
        self._connection.settimeout(max(self._deadline - time.monotonic(), _LEAST_TIMEOUT))
        return self._connection.recvmsg(
            size, socket.CMSG_SPACE(BATCH * _SIZE), socket.MSG_CMSG_CLOEXEC
        )
