"""The files of finished objects: finding, changing and removing them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from pingora_cache.disk._descriptor import READ_FLAGS, Cold, Descriptor, is_alive
from pingora_cache.disk._format import MARK_AT, pack_mark, pack_pointer, pointer_at, read_front
from pingora_cache.disk._hits import DiskHit, SmallHit
from pingora_cache.disk._io import Blocks
from pingora_cache.disk._layout import FRONT, HEAD_END, SUM, Damaged, Pointer, block_sum, meta_sum
from pingora_cache.disk._purge_records import Kind
from pingora_cache.disk._shop import disk_size
from pingora_cache.meta import CacheMeta
from pingora_cache.storage import PurgeAction, PurgeKind
from pingora_error import Error

if TYPE_CHECKING:
    from pingora_cache.disk._io import Io
    from pingora_cache.disk._layout import Front
    from pingora_cache.disk._shop import Shop

__all__ = ["Found", "Known", "expire", "find", "find_slowly", "remove", "replace_meta"]

_EAGER: Final = 64 * 1024
_WRITE_FLAGS: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
# How often a lock is tried, and seconds in between: it is held for microseconds.
_TRIES: Final = 50
_PAUSE: Final = 0.01
# A meta that comes later gets this much more room than it needs, so that the next fits too.
_GRAIN: Final = 256
_MOST_GROWTH: Final = 64 * 1024


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
    for attempt in range(_TRIES):
        try:
            descriptor = Descriptor(os.open(path, READ_FLAGS))
        except FileNotFoundError:
            return None
        try:
            if attempt and not _lock(descriptor.fd, fcntl.LOCK_SH):
                continue
            return _read(io, _PATIENT, descriptor, path, slot, None)
        except Damaged as why:
            # Somebody may have been changing its meta; not so while it is locked.
            if attempt:
                remove(path)
                return why
        finally:
            descriptor.release()
    return None


def _lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(_PAUSE)
        return False
    return True


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


# --------------------------------------------------------------------------------- changing


def _open_locked(path: str) -> Descriptor | None:
    # The file that is in its place, and stays as it is; None if there is none.
    for _ in range(_TRIES):
        try:
            descriptor = Descriptor(os.open(path, _WRITE_FLAGS))
        except FileNotFoundError:
            return None
        try:
            if _lock(descriptor.fd, fcntl.LOCK_EX) and _is_there(path, descriptor.fd):
                return descriptor.hold()
        finally:
            descriptor.release()
    msg = f"locked all the time: {path}"
    raise OSError(msg)


def _is_there(path: str, fd: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        there, opened = os.lstat(path), os.fstat(fd)
        return (there.st_ino, there.st_dev) == (opened.st_ino, opened.st_dev)
    return False


def replace_meta(shop: Shop, slot: bytes, meta: CacheMeta, *, epoch: int, position: int) -> bool:
    """Replace the meta of an object, in a thread.

    Args:
        shop: Where it is.
        slot: The hash of its key.
        meta: The new one.
        epoch: The log of purges that the position is of.
        position: What had been purged when it was made.

    Returns:
        Whether it was replaced; False if there is no object that was created when this says.

    Raises:
        OSError: If that fails.
        Error: If the meta cannot be kept.
    """
    text = meta.to_bytes()
    path = shop.tree.object(slot.hex())
    descriptor = _open_locked(path)
    if descriptor is None:
        return False
    try:
        fd = descriptor.fd
        data = os.pread(fd, FRONT, 0)
        known = _learn(_PATIENT, fd, data, slot)
        old, front = known.meta, known.front
        if old.tags:
            pointer = front.pointer
            if shop.judge_object(old.tags, pointer.epoch, pointer.position).deleted:
                return False
        if abs(old.created - meta.created) >= 1e-6:
            return False
        at = _place(front, os.fstat(fd).st_size, len(text))
        if at is None:
            # It has been replaced by longer ones again and again.
            remove(path)
            return False
        new = Pointer(
            front.pointer.number + 1, at, len(text), epoch, position, meta_sum(text, front.seed)
        )
        _write_exactly(fd, text, at)
        _write_exactly(fd, pack_pointer(new, front.seed), pointer_at(new.number))
    except Damaged:
        remove(path)
        return False
    finally:
        descriptor.release()
    return True


def _write_exactly(fd: int, data: bytes, at: int) -> None:
    if os.pwrite(fd, data, at) < len(data):
        msg = "no room for a meta"
        raise OSError(msg)


def _place(front: Front, file_size: int, length: int) -> int | None:
    # Where a new meta goes: in place of the last but one, or behind everything.
    spare = front.spare
    if spare is not None:
        room = spare.length
        if spare.at >= front.body_end:
            room = -(-spare.length // _GRAIN) * _GRAIN
        if length <= room:
            return spare.at
    sums = SUM.size * front.blocks if front.sums_at == front.body_end else 0
    end = max(file_size, front.body_end + sums, front.pointer.at + front.pointer.length)
    at = -(-end // _GRAIN) * _GRAIN
    return at if at + length <= front.body_end + sums + _MOST_GROWTH + 4 * length else None


def expire(path: str, when: float, *, is_write: bool) -> bool:
    """Make an object expire, or a write that goes on, in a thread.

    Args:
        path: Where it is.
        when: Wall clock seconds.
        is_write: Whether it is a write: that is locked by its writer, and has one meta only.

    Returns:
        Whether there is one.

    Raises:
        OSError: If that fails.
    """
    if is_write:
        try:
            descriptor: Descriptor | None = Descriptor(os.open(path, _WRITE_FLAGS))
        except FileNotFoundError:
            return False
    else:
        descriptor = _open_locked(path)
    if descriptor is None:
        return False
    try:
        front = read_front(os.pread(descriptor.fd, FRONT, 0))
        number = 1 if is_write else front.pointer.number
        os.pwrite(descriptor.fd, pack_mark(number, when, front.seed), MARK_AT)
    except Damaged:
        # A write that has just begun hears of it from the log.
        return is_write
    finally:
        descriptor.release()
    return True


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


# ---------------------------------------------------------------------------------- purging


class Purge(NamedTuple):
    """A purge of one key.

    Attributes:
        slot: The hash of the key.
        kind: Why.
        action: What is to be done.
        when: Wall clock seconds.
    """

    slot: bytes
    kind: PurgeKind
    action: PurgeAction
    when: float


def purge(shop: Shop, purge: Purge) -> bool:
    """Purge a key, in a thread.

    Args:
        shop: The store.
        purge: What is to be done.

    Returns:
        Whether there was anything, as far as files tell.

    Raises:
        OSError: If that fails.
    """
    slot, kind, action, when = purge
    deletes = action is PurgeAction.DELETE
    met = False
    if kind is PurgeKind.INVALIDATION:
        # First what writes look at when they have made their file, then what they have made.
        shop.purge(Kind.DELETE_KEY if deletes else Kind.EXPIRE_KEY, slot, when)
        for _, path in shop.tree.writes_of(slot):
            was_there = _is_found(shop, path, is_write=True)
            done = remove(path) if deletes else expire(path, when, is_write=True)
            met |= was_there and done
    path = shop.tree.object(slot.hex())
    was_there = _is_found(shop, path, is_write=False)
    done = remove(path) if deletes else expire(path, when, is_write=False)
    return (was_there and done) or met


def _is_found(shop: Shop, path: str, *, is_write: bool) -> bool:
    # Whether a lookup would find it: it may have been purged by a tag, or left by a dead writer.
    try:
        descriptor = Descriptor(os.open(path, READ_FLAGS))
    except FileNotFoundError:
        return False
    try:
        fd = descriptor.fd
        data = os.pread(fd, FRONT, 0)
        front = read_front(data)
        meta = _read_meta(_PATIENT, fd, data, front)
        pointer = front.pointer
        if meta.tags and shop.judge_object(meta.tags, pointer.epoch, pointer.position).deleted:
            return False
        return not is_write or is_alive(fd)
    except Damaged:
        return is_write
    finally:
        descriptor.release()


def remove_purged(shop: Shop, path: str, slot: bytes) -> None:
    """Remove an object that was purged by a tag, in a thread, unless it has been replaced.

    Args:
        shop: The store.
        path: Where it is.
        slot: The hash of its key.

    Raises:
        OSError: If that fails.
    """
    descriptor = _open_locked(path)
    if descriptor is None:
        return
    try:
        known = _learn(_PATIENT, descriptor.fd, os.pread(descriptor.fd, FRONT, 0), slot)
        pointer = known.front.pointer
        if shop.judge_object(known.meta.tags, pointer.epoch, pointer.position).deleted:
            remove(path)
    except Damaged:
        remove(path)
    finally:
        descriptor.release()
