"""The file that a manager saves its state to.

Theory of operation: a header with a checksum of all that follows, and then one column after the
other: states, weights, the sizes of the names, the names. Columns are joined and split by the
interpreter's own loops; a million entries take half a second, in a thread. The file is written
under another name, flushed to the disk, and renamed: whenever the machine stops, there is the
old file or the new one.

A file that is cut off, altered or of another version is not read. To lose the order in which
objects were used costs some hits; that is no reason not to start.

What a writer that was killed has left behind is removed when a state is loaded. A writer holds a
lock on its file (``flock``), which ends with its process, so that files in use are left alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import struct
import sys
from array import array
from hashlib import blake2b
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from pingora_cache.eviction._keys import SHORT, key_of
from pingora_error import Error, ErrorType, wrap

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Saved", "read", "write"]

logger = logging.getLogger(__name__)

_MAGIC: Final = b"pgevict\x01"
_HEADER: Final = struct.Struct("<8s16sQQ")
_DIGEST_AT: Final = 8
_DIGEST_SIZE: Final = 16
_BYTES_PER_ENTRY: Final = 1 + 8 + 4
_CHUNK: Final = 1 << 20


class _DamagedError(Exception):
    """A file is not what ``write`` has written."""


class Saved(NamedTuple):
    """Entries, the one to be kept the longest first.

    Attributes:
        names: Their names.
        weights: Their weights.
        states: What else is known of each, a byte.
    """

    names: Sequence[bytes]
    weights: Sequence[int]
    states: bytes


def write(path: Path, saved: Saved) -> None:
    """Write a file, all or nothing; it blocks.

    Args:
        path: Where. Directories that are missing are made.
        saved: What to write.

    Raises:
        Error: If that fails.
    """
    with wrap(OSError, etype=ErrorType.FILE_WRITE_ERROR, context=f"saving {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
        with temporary.open("xb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                for part in _encode(saved):
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        _sync_directory(path.parent)


def read(path: Path) -> Saved | None:
    """Read a file, and remove what killed writers have left beside it; it blocks.

    Args:
        path: Where it is.

    Returns:
        What was written; None if there is no file, or if it is damaged.

    Raises:
        Error: If it cannot be read.
    """
    with wrap(OSError, etype=ErrorType.FILE_READ_ERROR, context=f"loading {path}"):
        _remove_leftovers(path)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
    try:
        return _decode(data)
    except _DamagedError as error:
        logger.warning("the eviction state in %s is not used: %s", path, error)
        return None


def _encode(saved: Saved) -> list[bytes]:
    body = b"".join(
        (
            saved.states,
            _little(array("Q", saved.weights)),
            _little(array("I", map(len, saved.names))),
            *saved.names,
        )
    )
    count = len(saved.names)
    size = len(body) - count * _BYTES_PER_ENTRY
    header = _HEADER.pack(_MAGIC, _digest(count, size, body), count, size)
    return [header, body]


def _decode(data: bytes) -> Saved:
    if len(data) < _HEADER.size:
        msg = "it is too short"
        raise _DamagedError(msg)
    magic, digest, count, size = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        msg = "it is of another kind or version"
        raise _DamagedError(msg)
    body = memoryview(data)[_HEADER.size :]
    if len(body) != size + count * _BYTES_PER_ENTRY:
        msg = f"it has {len(body)} bytes for {count} entries"
        raise _DamagedError(msg)
    if _digest(count, size, body) != digest:
        msg = "its checksum is wrong"
        raise _DamagedError(msg)
    weights = _numbers("Q", body[count : 9 * count])
    sizes = _numbers("I", body[9 * count : 13 * count])
    text = bytes(body[13 * count :])
    if sum(sizes) != size or 0 in weights:
        msg = "its columns do not fit together"
        raise _DamagedError(msg)
    names = [text[start:end] for start, end in pairwise(accumulate(sizes, initial=0))]
    try:
        for name in names:
            if len(name) != SHORT:
                key_of(name)
    except Error as error:
        msg = f"it has a key that is none ({error})"
        raise _DamagedError(msg) from error
    return Saved(names, weights, bytes(body[:count]))


def _digest(count: int, size: int, body: bytes | memoryview) -> bytes:
    counts = count.to_bytes(8, "little") + size.to_bytes(8, "little")
    digest = blake2b(counts, digest_size=_DIGEST_SIZE)
    digest.update(body)
    return digest.digest()


def _little(numbers: array[int]) -> bytes:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _numbers(code: str, data: memoryview) -> array[int]:
    numbers = array(code)
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(path: Path) -> None:
    for leftover in path.parent.glob(f"{path.name}.*.tmp"):
        # Somebody else may be at it, or it may not be ours to remove.
        with contextlib.suppress(OSError), leftover.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()
