"""The writes of a store that go on: found, given room, published or failed, in one step each.

Theory of operation: three numbers add up to what is used, and never to more than the limit:

- what the finished objects count for (body, meta and overhead),
- what the unfinished writes count for so far; objects are evicted to make room for them,
- bodies of removed objects that somebody still reads.

When the last two leave no room, the write that wants it fails: then what is in memory is in use.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, final

from pingora_cache._handlers import (
    RESPONSE_TOO_LARGE,
    STORAGE_CLOSED,
    STORAGE_FULL,
    WRITE_FAILED,
    WRITE_STALLED,
    Finished,
)
from pingora_cache.memory._body import Body
from pingora_cache.memory._writes import Write
from pingora_error import Error, ErrorSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pingora_cache.key import CacheKey
    from pingora_cache.memory._objects import Objects
    from pingora_cache.meta import CacheMeta
    from pingora_cache.stats import StorageStats
    from pingora_error import Custom

__all__ = ["Filling", "Limits"]

_BURNT_AT_ONCE: Final = 16 << 20


class Limits(NamedTuple):
    """What a store allows.

    Attributes:
        max_bytes: Bytes in all.
        max_weight: Bytes that one object counts for.
        max_object_size: Bytes of one body.
        stall_timeout: Seconds that readers wait for a writer without progress.
    """

    max_bytes: int
    max_weight: int
    max_object_size: int
    stall_timeout: float


@final
class Filling:
    """The writes that go on.

    Args:
        objects: The finished objects.
        limits: What is allowed.
        stats: Counts writes, and what is used.

    Attributes:
        writes: Those of each slot that has any, the oldest first.
    """

    __slots__ = ("_by_tag", "_in_flight", "_limits", "_next_tag", "_objects", "_stats", "writes")

    def __init__(self, objects: Objects, limits: Limits, stats: StorageStats) -> None:
        self._objects = objects
        self._limits = limits
        self._stats = stats
        self.writes: dict[bytes, list[Write]] = {}
        self._by_tag: dict[bytes, Write] = {}
        self._next_tag = 0
        self._in_flight = 0

    # ------------------------------------------------------------------------ finding

    def joinable(self, slot: bytes) -> Write | None:
        """Find the write that a new reader is to follow.

        Args:
            slot: Where.

        Returns:
            The one that began last; None if there is none that was not purged and gets on.
        """
        for write in reversed(self.writes.get(slot, ())):
            if not write.deleted and not write.body.stalled():
                return write
        return None

    def tagged(self, tag: bytes) -> Write | None:
        """Find a write by what it is found by.

        Args:
            tag: The tag of the write.

        Returns:
            It; None if there is none, or if it has ended.
        """
        return self._by_tag.get(tag)

    # ------------------------------------------------------------------------ filling

    def begin(self, key: CacheKey, meta: CacheMeta) -> Write:
        """Begin a write.

        Args:
            key: The key of the object.
            meta: What is known about the response.

        Returns:
            The write.

        Raises:
            Error: If there is no room for it, or the meta cannot be kept.
        """
        self._next_tag += 1
        write = Write(self._next_tag.to_bytes(8, "big"), key, meta)
        base = write.base
        if base > self._limits.max_weight:
            refusal = _too_large(f"a head of {len(write.packed_meta)} bytes")
            raise Error(*refusal, source=ErrorSource.INTERNAL)
        # Said at once, nobody has to rely on a write that is going to fail.
        declared = _declared_size(meta)
        largest = min(self._limits.max_object_size, self._limits.max_weight - base)
        if declared is not None and declared > largest:
            refusal = _too_large(f"{declared} bytes, beyond {largest},")
            raise Error(*refusal, source=ErrorSource.INTERNAL)
        if not self._make_room(base):
            raise Error(*_full(base), source=ErrorSource.INTERNAL)
        write.body = Body(write.slot, self._limits.stall_timeout, partial(self._stall, write))
        self.writes.setdefault(write.slot, []).append(write)
        self._by_tag[write.tag] = write
        self._in_flight += base
        return write

    def grow(self, write: Write, size: int) -> None:
        """Count bytes that are about to be added to a write.

        Args:
            write: The write.
            size: Bytes.

        Raises:
            Error: If there is no room; the write has failed then.
        """
        limits = self._limits
        largest = min(limits.max_object_size, limits.max_weight - write.base)
        if write.body.size + size > largest:
            refusal = _too_large(f"more than {largest} bytes")
        elif not self._make_room(size):
            refusal = _full(size)
        else:
            self._in_flight += size
            return
        self._fail(write, *refusal)
        raise Error(*refusal, source=ErrorSource.INTERNAL)

    def _make_room(self, size: int) -> bool:
        while self.make_some_room(size):
            pass
        return self.used + size <= self._limits.max_bytes

    def make_some_room(self, size: int) -> bool:
        """Make room, or a part of it: as much as is done in a few milliseconds.

        Args:
            size: Bytes that are wanted.

        Returns:
            Whether there is more to do; False if there is room, or will be none.
        """
        objects = self._objects
        limit = self._limits.max_bytes
        excess = self.used + size - limit
        if excess <= 0 or self._in_flight + objects.pinned + size > limit:
            return False
        if objects.trash.size:
            objects.trash.burn(min(excess, _BURNT_AT_ONCE))
            return True
        # In turns, since evicting what is being read frees nothing yet.
        before = objects.weight
        objects.shrink(before - excess)
        return objects.weight != before

    @property
    def used(self) -> int:
        """Bytes that count towards the limit."""
        objects = self._objects
        return self._in_flight + objects.weight + objects.pinned + objects.trash.size

    def settle(self) -> None:
        """Bring what is used back under the limit, after what may have added to it."""
        self._make_room(0)

    # ------------------------------------------------------------------------- ending

    def publish(self, write: Write) -> Finished:
        """Make an object of a complete write.

        Args:
            write: The write.

        Returns:
            What it came to.
        """
        write.body.end()
        weight = write.weight
        self._remove(write)
        published = not write.deleted and self._objects.put(write)
        if published:
            self._stats.writes += 1
        else:
            self._objects.pin(write.body)
        self.settle()
        return Finished(weight, weight) if published else Finished(0, 0, published=False)

    def fail(self, write: Write, context: str) -> None:
        """End a write without publishing it; nothing if it has ended.

        Args:
            write: The write.
            context: Why.
        """
        self._fail(write, WRITE_FAILED, context)

    def _stall(self, write: Write) -> None:
        self._fail(write, WRITE_STALLED, f"no progress in {self._limits.stall_timeout} s")

    def _fail(self, write: Write, etype: Custom, context: str) -> None:
        if not write.active:
            return
        self._remove(write)
        pieces = write.body.pieces
        write.body.fail(etype, context)
        if write.body.readers:
            # They have the end, or will, or what there is of it; only nobody else finds it.
            self._objects.pin(write.body)
        elif not write.body.complete:
            self._objects.trash.add(pieces)
        self._stats.aborted_writes += 1

    def _remove(self, write: Write) -> None:
        write.active = False
        self._in_flight -= write.weight
        del self._by_tag[write.tag]
        writes = self.writes[write.slot]
        writes.remove(write)
        if not writes:
            del self.writes[write.slot]

    def close(self) -> None:
        """Fail all."""
        for write in list(self._by_tag.values()):
            self._fail(write, STORAGE_CLOSED, "the store was closed")

    # ------------------------------------------------------------------------ purging

    def purge(self, slot: bytes, change: Callable[[Write], None]) -> bool:
        """Tell the writes of a slot that they were purged.

        Args:
            slot: Where.
            change: What tells it to one.

        Returns:
            Whether there are any that were not deleted before.
        """
        return _purge(self.writes.get(slot, ()), change)

    def purge_tag(self, tag: bytes, change: Callable[[Write], None]) -> bool:
        """Tell the writes of objects with a tag that they were purged.

        Args:
            tag: The tag of the objects.
            change: What tells it to one.

        Returns:
            Whether there are any that were not deleted before.
        """
        return _purge((write for write in self._by_tag.values() if tag in write.tags), change)


def _purge(writes: Iterable[Write], change: Callable[[Write], None]) -> bool:
    met = False
    for write in writes:
        if not write.deleted:
            change(write)
            met = True
    return met


def _too_large(what: str) -> tuple[Custom, str]:
    return RESPONSE_TOO_LARGE, f"{what} for the store in memory"


def _full(size: int) -> tuple[Custom, str]:
    return STORAGE_FULL, f"no room for {size} bytes: all that is left is in use"


def _declared_size(meta: CacheMeta) -> int | None:
    text = meta.header.get("content-length")
    if text is None or not text.isdecimal() or len(text) > 15:
        return None
    return int(text)
