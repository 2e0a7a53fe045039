"""Looking up finished objects, on the loop as far as the system has them in its memory."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, final

from pingora_cache.disk._changes import remove_purged
from pingora_cache.disk._descriptor import Cold
from pingora_cache.disk._layout import Damaged
from pingora_cache.disk._objects import find, find_slowly
from pingora_error import ErrorType

if TYPE_CHECKING:
    from pingora_cache.disk._hits import DiskHit, SmallHit
    from pingora_cache.disk._objects import Found, Known
    from pingora_cache.disk._shop import Shop
    from pingora_cache.meta import CacheMeta

__all__ = ["Finder"]


@final
class Finder:
    """Looks objects up.

    Args:
        shop: The store.
        ready_objects: Of how many objects, those asked for last, the meta is kept ready to use.
    """

    __slots__ = ("_io", "_known", "_ready_objects", "_shop")

    def __init__(self, shop: Shop, ready_objects: int) -> None:
        self._shop = shop
        self._io = shop.io
        # What was read last of the objects that were asked for last; the oldest first.
        self._known: OrderedDict[bytes, Known] = OrderedDict()
        self._ready_objects = ready_objects

    async def find(self, slot: bytes) -> tuple[CacheMeta, DiskHit | SmallHit] | None:
        """Find an object.

        Args:
            slot: The hash of its key.

        Returns:
            Its meta and a reader; None if there is none that can be read and was not purged.
        """
        path = self._shop.tree.object(slot.hex())
        known = self._known
        try:
            try:
                found = find(self._io, path, slot, known.get(slot))
            except (Cold, Damaged):
                found = await self._find_slowly(path, slot)
            if found is None:
                known.pop(slot, None)
                return None
            known[slot] = found.known
            known.move_to_end(slot)
            if len(known) > self._ready_objects:
                known.popitem(last=False)
            self._shop.use(slot)
            return await self._judge(slot, path, found)
        except OSError as error:
            self._io.failed(error, ErrorType.FILE_READ_ERROR, "an object")
            return None

    async def _find_slowly(self, path: str, slot: bytes) -> Found | None:
        found = await self._io.run(lambda: find_slowly(self._io, path, slot))
        if isinstance(found, Damaged):
            self._io.count_damaged(found, path)
            self._shop.change(slot)
            return None
        return found

    async def _judge(
        self, slot: bytes, path: str, found: Found
    ) -> tuple[CacheMeta, DiskHit | SmallHit] | None:
        meta, front = found.known.meta, found.known.front
        when = front.expired
        if meta.tags:
            try:
                await self._shop.refresh_log()
            except OSError:
                found.reader.close()
                raise
            pointer = front.pointer
            verdict = self._shop.log.purges.judge_tags(meta.tags, pointer.epoch, pointer.position)
            if verdict.deleted:
                found.reader.close()
                self._io.go(self._remove_purged(slot, path))
                return None
            when = max(when, verdict.expired)
        return meta.expired(when) if when else meta, found.reader

    async def _remove_purged(self, slot: bytes, path: str) -> None:
        if await self._io.run(lambda: remove_purged(self._shop, path, slot)):
            self._io.stats.tag_purged += 1
        self._shop.change(slot)
