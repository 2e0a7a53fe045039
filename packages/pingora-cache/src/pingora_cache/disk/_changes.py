"""The files of finished objects: changing and removing them. All of it for threads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

from pingora_cache.disk._descriptor import READ_FLAGS, Descriptor, is_alive
from pingora_cache.disk._format import MARK_AT, pack_mark, pack_pointer, pointer_at, read_front
from pingora_cache.disk._layout import FRONT, SUM, Damaged, Pointer, meta_sum
from pingora_cache.disk._locked import AlwaysLockedError, open_locked, unlock
from pingora_cache.disk._objects import peek, remove, remove_object, study
from pingora_cache.disk._purge_records import Kind
from pingora_cache.storage import PurgeAction, PurgeKind

if TYPE_CHECKING:
    from pingora_cache.disk._layout import Front
    from pingora_cache.disk._shop import Shop
    from pingora_cache.meta import CacheMeta

__all__ = ["Purge", "expire", "purge", "remove_purged", "replace_meta"]

_WRITE_FLAGS: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
# A meta that comes later gets this much more room than it needs, so that the next fits too.
_GRAIN: Final = 256
_MOST_GROWTH: Final = 64 * 1024


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
    path = shop.tree.object(slot.hex())
    descriptor = open_locked(path)
    if descriptor is None:
        return False
    try:
        fd = descriptor.fd
        known = study(fd, slot)
        old, front = known.meta, known.front
        expired = front.expired
        if old.tags:
            pointer = front.pointer
            verdict = shop.judge_object(old.tags, pointer.epoch, pointer.position)
            if verdict.deleted:
                return False
            expired = max(expired, verdict.expired)
        if abs(old.created - meta.created) >= 1e-6:
            return False
        meta = meta.following(old)
        if meta.updated <= expired:  # confirmed before it was made to expire
            meta = meta.expired(expired)
        text = meta.to_bytes()
        at = _place(front, os.fstat(fd).st_size, len(text))
        if at is None:
            # It has been replaced by longer ones again and again.
            shop.tree.remove_same(path, slot, fd)
            return False
        new = Pointer(
            front.pointer.number + 1, at, len(text), epoch, position, meta_sum(text, front.seed)
        )
        _write_exactly(fd, text, at)
        _write_exactly(fd, pack_pointer(new, front.seed), pointer_at(new.number))
    except Damaged:
        shop.tree.remove_same(path, slot, descriptor.fd)
        return False
    finally:
        unlock(descriptor)
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
        descriptor = open_locked(path)
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
        unlock(descriptor)
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
    done = remove_object(path) if deletes else _expire_or_remove(path, when)
    return (was_there and done) or met


def _expire_or_remove(path: str, when: float) -> bool:
    try:
        return expire(path, when, is_write=False)
    except AlwaysLockedError:
        return remove_object(path, tries=1)  # that needs no lock in the end


def _is_found(shop: Shop, path: str, *, is_write: bool) -> bool:
    # Whether a lookup would find it: it may have been purged by a tag, or left by a dead writer.
    try:
        descriptor = Descriptor(os.open(path, READ_FLAGS))
    except FileNotFoundError:
        return False
    try:
        fd = descriptor.fd
        front, meta = peek(fd)
        pointer = front.pointer
        if meta.tags and shop.judge_object(meta.tags, pointer.epoch, pointer.position).deleted:
            return False
        return not is_write or is_alive(fd)
    except Damaged:
        return is_write
    finally:
        descriptor.release()


def remove_purged(shop: Shop, path: str, slot: bytes) -> bool:
    """Remove an object that was purged by a tag, in a thread, unless it has been replaced.

    Args:
        shop: The store.
        path: Where it is.
        slot: The hash of its key.

    Returns:
        Whether it was there, and is gone now.

    Raises:
        OSError: If that fails.
    """
    descriptor = open_locked(path)
    if descriptor is None:
        return False
    try:
        known = study(descriptor.fd, slot)
        pointer, tags = known.front.pointer, known.meta.tags
        if tags and shop.judge_object(tags, pointer.epoch, pointer.position).deleted:
            shop.tree.remove_same(path, slot, descriptor.fd)
            return True
    except Damaged:
        shop.tree.remove_same(path, slot, descriptor.fd)
    finally:
        unlock(descriptor)
    return False
