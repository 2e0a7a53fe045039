"""The finished objects of a store: found, counted, and evicted, in one step each.

Theory of operation: the table holds every object as bytes (see ``_records``). The metas of those
that were asked for last are kept ready to use beside it, so that a hit costs a look into a
dictionary; any other costs reading its meta once. The eviction manager hears of an object in the
same step in which it can be found, and forgets it in the same step in which it cannot, so that the
two never differ. Bodies that somebody reads are counted until the last reader is done, also when
their object has been removed.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, final

from pingora_cache.key import CompactCacheKey
from pingora_cache.memory._body import PIECE, Body
from pingora_cache.memory._hits import LargeHit, SmallHit
from pingora_cache.memory._records import Entry, Record, pack_tags, unpack_tags, weigh
from pingora_cache.memory._table import Table
from pingora_cache.memory._tag_purges import TagPurges
from pingora_cache.memory._trash import Trash

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pingora_cache.eviction import EvictionManager
    from pingora_cache.memory._writes import Write
    from pingora_cache.meta import CacheMeta
    from pingora_cache.stats import StorageStats

__all__ = ["Objects"]

# Bodies up to this size lie in the record. Each hit copies them out of it, which is cheaper than
# what an own place costs in memory.
_INLINE: Final = 4096


@final
class Objects:
    """The finished objects of a store.

    Args:
        eviction: Decides what is removed.
        stats: Counts evictions.
        ready: How many metas to keep ready.

    Attributes:
        weight: Bytes that all objects count for.
        pinned: Bytes of bodies that live on for their readers only.
        purges: The purges by tag.
        trash: Bodies that are being freed.
    """

    __slots__ = (
        "_eviction",
        "_open",
        "_ready",
        "_room",
        "_stats",
        "_table",
        "pinned",
        "purges",
        "trash",
        "weight",
    )

    def __init__(self, eviction: EvictionManager, stats: StorageStats, ready: int) -> None:
        self._eviction = eviction
        self._stats = stats
        self._room = ready
        self._table = Table()
        self._ready: OrderedDict[bytes, Entry] = OrderedDict()
        # Bodies outside the records that somebody reads.
        self._open: dict[bytes, Body] = {}
        self.purges = TagPurges()
        self.trash = Trash()
        self.weight = 0
        self.pinned = 0

    @property
    def count(self) -> int:
        """How many objects there are."""
        return self._table.objects

    # ------------------------------------------------------------------------ reading

    def get(self, slot: bytes) -> Entry | None:
        """Find an object.

        Args:
            slot: Where.

        Returns:
            It; None if there is none, or if it was purged by a tag.
        """
        entry = self._ready.get(slot)
        if entry is None:
            data = self._table.get(slot)
            if data is None:
                return None
            entry = self._ready[slot] = Entry(data)
            if len(self._ready) > self._room:
                self._ready.popitem(last=False)
        else:
            self._ready.move_to_end(slot)
        if entry.checked != self.purges.epoch:
            return self._judge(slot, entry)
        return entry

    def _judge(self, slot: bytes, entry: Entry) -> Entry | None:
        verdict = self.purges.judge(entry.meta.tags, entry.epoch)
        if verdict.deleted:
            self._remove_purged(slot)
            return None
        if verdict.expired:
            entry.meta = entry.meta.expired(verdict.expired)
        entry.checked = self.purges.epoch
        return entry

    def read(self, slot: bytes, entry: Entry) -> SmallHit | LargeHit:
        """Begin to read an object, which counts as an access.

        Args:
            slot: Where it is.
            entry: What ``get`` returned.

        Returns:
            The reader.
        """
        weight = entry.weight
        self._eviction.access(entry.key, weight, entry.meta.fresh_until)
        if entry.first < 0:
            return SmallHit(entry)
        body = self._open.get(slot)
        if body is None:
            pieces = self._table.pieces(entry.first, _pieces(entry.size))
            body = self._open[slot] = Body.whole(slot, pieces, entry.size)
        return LargeHit(body, weight, self.release)

    def release(self, body: Body) -> None:
        """Note that a reader is done.

        Args:
            body: What it has read.
        """
        body.readers -= 1
        if body.readers:
            return
        if body.detached:
            self.pinned -= body.size
            self.trash.add(body.pieces)
        elif self._open.get(body.slot) is body:
            del self._open[body.slot]

    def pin(self, body: Body) -> None:
        """Count a body that is not, or no longer, in the store, for as long as it is read; once.

        Args:
            body: The body.
        """
        if body.readers and not body.detached:
            body.detached = True
            self.pinned += body.size

    # ----------------------------------------------------------------------- changing

    def put(self, write: Write) -> bool:
        """Keep what was written, in place of what is there.

        Args:
            write: A complete write.

        Returns:
            Whether it is there now; False if the eviction manager would not have it.
        """
        slot, body = write.slot, write.body
        old = self._drop(slot)
        small = body.size <= _INLINE
        key = write.key.to_bytes()
        if old is not None and old.key != key:
            self._eviction.remove(CompactCacheKey.from_bytes(old.key))
        record = Record(
            epoch=self.purges.epoch,
            weight=write.weight,
            size=body.size,
            first=-1 if small else self._table.put_pieces(body.pieces),
            expired=write.expired,
            key=key,
            tags=write.packed_tags,
            meta=write.packed_meta,
            inline=b"".join(body.pieces) if small else b"",
        )
        if body.readers and not small:
            self._open[slot] = body
        self._table.put(slot, record.pack())
        self.weight += record.weight
        self._evict(self._eviction.admit(write.key, record.weight, write.fresh_until))
        return self._table.get(slot) is not None

    def update(self, slot: bytes, meta: CacheMeta) -> bool:
        """Replace the meta of an object.

        Args:
            slot: Where.
            meta: The new one.

        Returns:
            Whether it was replaced; False if there is none, or another one.
        """
        entry = self.get(slot)
        if entry is None or abs(entry.meta.created - meta.created) >= 1e-6:
            return False
        meta = meta.following(entry.meta)
        data, tags = meta.to_bytes(), pack_tags(meta.tags)
        weight = entry.size + weigh(data, tags)
        record = Record.unpack(entry.data)
        expired = max(record.expired, self.purges.judge(entry.meta.tags, entry.epoch).expired)
        record = record._replace(
            epoch=self.purges.epoch,
            weight=weight,
            # What was confirmed before it was made to expire has expired.
            expired=expired if meta.updated <= expired else 0.0,
            tags=tags,
            meta=data,
        )
        del self._ready[slot]
        self._table.put(slot, record.pack())
        self.weight += weight - entry.weight
        self._evict(self._eviction.admit(entry.key, weight, meta.fresh_until))
        return True

    def expire(self, slot: bytes, now: float) -> bool:
        """Make an object expire.

        Args:
            slot: Where.
            now: Wall clock seconds.

        Returns:
            Whether there is one.
        """
        if self.get(slot) is None:
            return False
        self._mark(slot, now)
        return True

    def _mark(self, slot: bytes, now: float) -> None:
        data = self._table.get(slot)
        assert data is not None
        self._ready.pop(slot, None)
        record = Record.unpack(data)._replace(epoch=self.purges.epoch, expired=now)
        self._table.put(slot, record.pack())

    def remove(self, slot: bytes) -> bool:
        """Remove an object.

        Args:
            slot: Where.

        Returns:
            Whether there was one.
        """
        record = self._drop(slot)
        if record is None:
            return False
        self._eviction.remove(CompactCacheKey.from_bytes(record.key))
        return True

    def _remove_purged(self, slot: bytes) -> None:
        self.remove(slot)
        self._stats.tag_purged += 1

    def _drop(self, slot: bytes) -> Record | None:
        data = self._table.pop(slot)
        if data is None:
            return None
        self._ready.pop(slot, None)
        record = Record.unpack(data)
        self.weight -= record.weight
        if record.first >= 0:
            pieces = self._table.pop_pieces(record.first, _pieces(record.size))
            body = self._open.pop(slot, None)
            if body is None:
                self.trash.add(pieces)
            else:
                self.pin(body)
        return record

    def clear(self) -> list[dict[bytes, bytes] | dict[int, bytes]]:
        """Remove everything; readers read on.

        Returns:
            What it was, in parts, to be freed one by one.
        """
        for body in self._open.values():
            self.pin(body)
        self._open.clear()
        self._ready.clear()
        self.trash.close()
        self.weight = 0
        return self._table.clear()

    # ----------------------------------------------------------------------- evicting

    def shrink(self, weight: int) -> None:
        """Evict until the objects count for so much at most.

        Args:
            weight: Bytes.
        """
        self._evict(self._eviction.evict_to(max(weight, 0)))

    def _evict(self, keys: list[CompactCacheKey]) -> None:
        for key in keys:
            record = self._drop(key.combined_hash)
            if record is not None:
                self._stats.evictions += 1
                self._stats.evicted_bytes += record.weight

    # ----------------------------------------------------------------------- sweeping

    def sweep(self) -> Iterator[None]:
        """Apply the purges by tag to all objects, in small steps, and forget them.

        Yields:
            After each step.
        """
        epoch = self.purges.epoch
        for slot in self._table.slots():
            data = self._table.get(slot)
            if data is not None and Record.is_tagged_before(data, epoch):
                record = Record.unpack(data)
                verdict = self.purges.judge(unpack_tags(record.tags), record.epoch)
                if verdict.deleted:
                    self._remove_purged(slot)
                elif verdict.expired:
                    self._mark(slot, max(verdict.expired, record.expired))
            yield
        self.purges.forget(epoch)


def _pieces(size: int) -> int:
    return -(-size // PIECE)
