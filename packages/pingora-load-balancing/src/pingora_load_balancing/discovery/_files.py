"""Small files that others change: read off the event loop, and again when they have changed."""

from __future__ import annotations

import asyncio
import os
import stat
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, NoReturn, TypeVar

from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FollowedFile", "Snapshot", "Stamp", "read_stamp", "take_snapshot"]

_T = TypeVar("_T")

_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


class Stamp(NamedTuple):
    """What tells one version of a file from another without reading it.

    Attributes:
        device: Device number.
        inode: Inode number; another one when the file was replaced by renaming.
        size: Bytes.
        modified: When the content was changed last, nanoseconds.
        changed: When anything about the file was, its permissions for instance, nanoseconds.
    """

    device: int
    inode: int
    size: int
    modified: int
    changed: int


class Snapshot(NamedTuple):
    """A file as it was when it was read.

    Attributes:
        stamp: Which version it was.
        data: Its bytes.
    """

    stamp: Stamp
    data: bytes


def read_stamp(path: str) -> Stamp | None:
    """Look at a file without reading it. Blocks.

    Args:
        path: The file; links are followed.

    Returns:
        Its stamp; None if there is no such file, or it cannot be looked at.
    """
    try:
        return _stamp(os.stat(path))  # noqa: PTH116  # as fstat below
    except (OSError, ValueError):
        return None


def take_snapshot(path: str, max_bytes: int) -> Snapshot:
    """Read a file. Blocks, but not on what is no regular file.

    Args:
        path: The file; links are followed.
        max_bytes: Refuse a longer one.

    Returns:
        What it holds.

    Raises:
        Error: ``FILE_READ_ERROR`` if it cannot be read, is too long, or changed meanwhile.
    """
    try:
        # Nonblocking, or opening a FIFO would wait for its writer.
        descriptor = os.open(path, _FLAGS)
        try:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                _refuse(path, "is no regular file")
            if before.st_size > max_bytes:
                _refuse(path, f"is longer than {max_bytes} bytes")
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(max_bytes + 1)
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        _refuse(path, "cannot be read", error)
    if _stamp(before) != _stamp(after) or len(data) != after.st_size:
        _refuse(path, "changed while it was read")
    return Snapshot(_stamp(after), data)


class FollowedFile(Generic[_T]):
    """What a small file means, found out again when the file has changed.

    Args:
        path: The file.
        max_bytes: Refuse a longer one.
        parse: Makes sense of its bytes.
    """

    __slots__ = ("_max_bytes", "_parse", "_path", "_stamp", "_value")

    def __init__(self, path: str, max_bytes: int, parse: Callable[[bytes], _T]) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._parse = parse
        self._stamp: Stamp | None = None
        self._value: _T | None = None

    async def read(self) -> _T:
        """Read the file if it has changed since the last time.

        Returns:
            What it means.

        Raises:
            Error: ``FILE_READ_ERROR`` if it cannot be read; what ``parse`` raises.
        """
        return await asyncio.to_thread(self._read)

    def _read(self) -> _T:
        stamp = read_stamp(self._path)
        if self._value is None or stamp is None or stamp != self._stamp:
            snapshot = take_snapshot(self._path, self._max_bytes)
            self._value = self._parse(snapshot.data)
            self._stamp = snapshot.stamp
        return self._value


def _stamp(status: os.stat_result) -> Stamp:
    return Stamp(
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )


def _refuse(path: str, why: str, cause: BaseException | None = None) -> NoReturn:
    raise Error.internal(ErrorType.FILE_READ_ERROR, f"file {path} {why}", cause=cause)
