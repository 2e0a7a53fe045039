"""The files of finished objects: finding them."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from pingora_cache.disk._descriptor import READ_FLAGS, Cold, Descriptor
from pingora_cache.disk._format import read_front
from pingora_cache.disk._hits import DiskHit, SmallHit
from pingora_cache.disk._io import Blocks
from pingora_cache.disk._layout import FRONT, HEAD_END, SUM, Damaged, block_sum, meta_sum
from pingora_cache.disk._locked import TRIES, open_locked, try_lock, unlock
from pingora_cache.disk._shop import disk_size
from pingora_cache.meta import CacheMeta
from pingora_error import Error

if TYPE_CHECKING:
    from pingora_cache.disk._io import Io
    from pingora_cache.disk._layout import Front

__all__ = [
    "Found",
    "Known",
    "find",
    "find_slowly",
    "peek",
    "remove",
    "remove_object",
    "study",
]

_EAGER: Final = 64 * 1024


class Known(NamedTuple):
    """What has been read of an object, so that it need not be read again.

    Attributes:
        raw: The first bytes of its file.
        front: What they say.
        meta: Its meta.
    """

    raw: bytes
    front: Front
    meta: CacheMeta


class Found(NamedTuple):
    """An object that was found.

    Attributes:
        known: What has been read of it.
        reader: Reads its body.
    """

    known: Known
    reader: DiskHit | SmallHit


class _Reading(Protocol):
    def front(self, fd: int) -> bytes: ...

    def read(self, fd: int, size: int, at: int) -> bytes: ...


class _Patient:
    # Reads in a thread: waits for the disk.

    def front(self, fd: int) -> bytes:
        return os.pread(fd, FRONT, 0)

    def read(self, fd: int, size: int, at: int) -> bytes:
        return os.pread(fd, size, at)


_PATIENT: Final = _Patient()


def find(io: Io, path: str, slot: bytes, known: Known | None) -> Found | None:
    """Find an object, on the loop.

    Args:
        io: Where it is read.
        path: Where it is.
        slot: The hash of its key.
        known: What was read of it the last time.

    Returns:
        It; None if there is none.

    Raises:
        Cold: If it has to be read from the disk.
        Damaged: If it seems to be damaged: it may just be written.
        OSError: If it cannot be read.
    """
    try:
        descriptor = Descriptor(os.open(path, READ_FLAGS))
    except FileNotFoundError:
        return None
    try:
        found = _read(io, io.reader, descriptor, path, slot, known)
    finally:
        descriptor.release()
    return found


def find_slowly(io: Io, path: str, slot: bytes) -> Found | Damaged | None:
    """Find an object, in a thread; remove it if it is damaged.

    Args:
        io: Where it is read.
        path: Where it is.
        slot: The hash of its key.

    Returns:
        It; None if there is none; what is damaged.

    Raises:
        OSError: If it cannot be read.
    """
    for attempt in range(TRIES):
        try:
            descriptor = Descriptor(os.open(path, READ_FLAGS))
        except FileNotFoundError:
            return None
        try:
            if attempt and not try_lock(descriptor.fd):
                continue
            return _read(io, _PATIENT, descriptor, path, slot, None)
        except Damaged as why:
            # Somebody may have been changing its meta; not so while it is locked.
            if attempt:
                io.tree.remove_same(path, slot, descriptor.fd)
                return why
        finally:
            unlock(descriptor)  # who reads it on needs no lock
    return None


def _read(  # noqa: PLR0917  # one step of a hit, cut in two
    io: Io, reading: _Reading, descriptor: Descriptor, path: str, slot: bytes, known: Known | None
) -> Found:
    fd = descriptor.fd
    data = reading.front(fd)
    if known is None or data[:HEAD_END] != known.raw:
        if len(data) < HEAD_END and reading is not _PATIENT:
            raise Cold
        known = _learn(reading, fd, data, slot)
    front = known.front
    size, body_at = front.state.size, front.layout.body_at
    weight = disk_size(front.end)
    if size <= _EAGER:
        end = body_at + size
        body = data[body_at:end] if end <= len(data) else reading.read(fd, size, body_at)
        if len(body) < size:
            msg = "end"
            raise Damaged(msg)
        if block_sum(body, front.seed, 0) != front.state.last_sum:
            msg = "body"
            raise Damaged(msg)
        return Found(known, SmallHit(body, weight))
    if os.fstat(fd).st_size < front.end:
        msg = "end"
        raise Damaged(msg)
    sums_end = front.sums_at + SUM.size * front.blocks
    sums = data[front.sums_at : sums_end] if sums_end <= len(data) else b""
    blocks = Blocks(io, descriptor.hold(), path, body_at=body_at, seed=front.seed)
    return Found(known, DiskHit(front, blocks, sums, weight))


def _learn(reading: _Reading, fd: int, data: bytes, slot: bytes) -> Known:
    front = read_front(data)
    if front.slot != slot or not front.state.complete:
        msg = "head"
        raise Damaged(msg)
    return Known(data[:HEAD_END], front, _read_meta(reading, fd, data, front))


def _read_meta(reading: _Reading, fd: int, data: bytes, front: Front) -> CacheMeta:
    at, length = front.pointer.at, front.pointer.length
    text = data[at : at + length] if at + length <= len(data) else reading.read(fd, length, at)
    if meta_sum(text, front.seed) != front.pointer.sum:
        msg = "meta"
        raise Damaged(msg)
    try:
        return CacheMeta.from_bytes(text)
    except Error as error:
        msg = "meta"
        raise Damaged(msg) from error


def study(fd: int, slot: bytes) -> Known:
    """Read what is known about a finished object, in a thread.

    Args:
        fd: Its file.
        slot: The hash of its key.

    Returns:
        It.

    Raises:
        Damaged: If it is damaged.
        OSError: If it cannot be read.
    """
    return _learn(_PATIENT, fd, os.pread(fd, FRONT, 0), slot)


def peek(fd: int) -> tuple[Front, CacheMeta]:
    """Read what is known about an object or a write, in a thread.

    Args:
        fd: Its file.

    Returns:
        What is in front of it, and its meta.

    Raises:
        Damaged: If it is damaged, or has just begun.
        OSError: If it cannot be read.
    """
    data = os.pread(fd, FRONT, 0)
    front = read_front(data)
    return front, _read_meta(_PATIENT, fd, data, front)


def remove(path: str) -> bool:
    """Remove a file, in a thread.

    Args:
        path: Where it is.

    Returns:
        Whether there was one.

    Raises:
        OSError: If that fails.
    """
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def remove_object(path: str, *, tries: int = TRIES) -> bool:
    """Remove a finished object, whatever it is by now, in a thread.

    Args:
        path: Where it is.
        tries: How often it is tried to lock it; after that it is removed all the same.

    Returns:
        Whether there was one.

    Raises:
        OSError: If that fails.
    """
    locked = None
    # What cannot be locked is none of ours, or is locked by a process that was stopped.
    with contextlib.suppress(OSError):
        locked = open_locked(path, tries=tries)
        if locked is None:
            return False
    try:
        return remove(path)
    finally:
        if locked is not None:
            unlock(locked)
