"""The file that a manager saves its state to.

Theory of operation: a header with a checksum of all that follows, and then blocks of some hundred
entries, each with one column after the other: states, weights, the sizes of the names, the names.
The file is written under another name, flushed to the disk, and renamed: whenever the machine
stops, there is the old file or the new one.

A file that is cut off, altered or of another version is not read. To lose the order in which
objects were used costs some hits; that is no reason not to start.

All this happens in a thread beside the event loop. No step of it takes the interpreter for longer
than one block, and after each the thread pauses, so that the loop goes on meanwhile.

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
import time
from array import array
from hashlib import blake2b
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

from pingora_cache.eviction._keys import SHORT, key_of
from pingora_error import Error, ErrorType, wrap

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

__all__ = ["BLOCK", "Block", "read", "write"]

logger = logging.getLogger(__name__)

BLOCK: Final = 512
"""How many entries a block has at most."""

_MAGIC: Final = b"pgevict\x01"
_HEADER: Final = struct.Struct("<8s16s")
_BLOCK_HEADER: Final = struct.Struct("<II")
_BYTES_PER_ENTRY: Final = 1 + 8 + 4
_DIGEST_SIZE: Final = 16
_CHUNK: Final = 1 << 20
_PAUSE: Final = 0.0005


class _DamagedError(Exception):
    """A file is not what ``write`` has written."""


class Block(NamedTuple):
    """Entries, the one to be kept the longest first.

    Attributes:
        names: Their names.
        weights: Their weights.
        states: What else is known of each, a byte.
    """

    names: Sequence[bytes]
    weights: Sequence[int]
    states: bytes

    def part(self, start: int, end: int) -> Block:
        """Cut some of them out.

        Args:
            start: The first.
            end: Behind the last, or beyond all.

        Returns:
            They.
        """
        return Block(self.names[start:end], self.weights[start:end], self.states[start:end])


def write(path: Path, blocks: Iterable[Block]) -> None:
    """Write a file, all or nothing; it blocks.

    Args:
        path: Where. Directories that are missing are made.
        blocks: What to write.

    Raises:
        Error: If that fails.
    """
    with wrap(OSError, etype=ErrorType.FILE_WRITE_ERROR, context=f"saving {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
        with temporary.open("xb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                _write_blocks(file, blocks)
                file.flush()
                os.fsync(file.fileno())
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        _sync_directory(path.parent)


def read(path: Path) -> list[Block]:
    """Read a file, and remove what killed writers have left beside it; it blocks.

    Args:
        path: Where it is.

    Returns:
        What was written; nothing if there is no file, or if it is damaged.

    Raises:
        Error: If it cannot be read.
    """
    with wrap(OSError, etype=ErrorType.FILE_READ_ERROR, context=f"loading {path}"):
        _remove_leftovers(path)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return []
    try:
        return list(_decode(memoryview(data)))
    except _DamagedError as error:
        logger.warning("the eviction state in %s is not used: %s", path, error)
        return []


def _write_blocks(file: BinaryIO, blocks: Iterable[Block]) -> None:
    digest = blake2b(digest_size=_DIGEST_SIZE)
    file.write(_HEADER.pack(_MAGIC, b""))
    for block in blocks:
        data = _encode(block)
        digest.update(data)
        file.write(data)
        time.sleep(_PAUSE)
    file.seek(0)
    file.write(_HEADER.pack(_MAGIC, digest.digest()))


def _encode(block: Block) -> bytes:
    names = b"".join(block.names)
    return b"".join(
        (
            _BLOCK_HEADER.pack(len(block.names), len(names)),
            block.states,
            _little(array("Q", block.weights)),
            _little(array("I", map(len, block.names))),
            names,
        )
    )


def _decode(data: memoryview) -> Iterator[Block]:
    if len(data) < _HEADER.size:
        msg = "it is too short"
        raise _DamagedError(msg)
    magic, expected = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        msg = "it is of another kind or version"
        raise _DamagedError(msg)
    data = data[_HEADER.size :]
    digest = blake2b(digest_size=_DIGEST_SIZE)
    for start in range(0, len(data), _CHUNK):
        digest.update(data[start : start + _CHUNK])
    if digest.digest() != expected:
        msg = "its checksum is wrong"
        raise _DamagedError(msg)
    # Nothing was damaged; it could still be the work of another program.
    while data:
        try:
            block, data = _take_block(data)
        except (struct.error, ValueError, Error) as error:
            msg = f"its contents make no sense ({error})"
            raise _DamagedError(msg) from error
        yield block
        time.sleep(_PAUSE)


def _take_block(data: memoryview) -> tuple[Block, memoryview]:
    count, size = _BLOCK_HEADER.unpack_from(data)
    body = data[_BLOCK_HEADER.size :]
    start = count * _BYTES_PER_ENTRY
    weights = _numbers("Q", body[count : 9 * count])
    sizes = _numbers("I", body[9 * count : start])
    text = bytes(body[start : start + size])
    if len(text) != size or sum(sizes) != size or 0 in weights:
        msg = f"a block of {count} entries"
        raise ValueError(msg)
    names = [text[begin:end] for begin, end in pairwise(accumulate(sizes, initial=0))]
    for name in names:
        if len(name) != SHORT:
            key_of(name)
    return Block(names, weights, bytes(body[:count])), body[start + size :]


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
