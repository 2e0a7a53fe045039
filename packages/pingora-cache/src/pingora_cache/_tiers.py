"""What the readers and writers of a two-level store share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple, final

from pingora_cache._budget import Budget
from pingora_cache._tiered_marks import Marks, Recent, Turns
from pingora_cache.stats import StorageStats
from pingora_cache.storage import RESPONSE_TOO_LARGE, PurgeKind
from pingora_error import Error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pingora_cache._tiered_marks import Mark
    from pingora_cache.key import CacheKey, CompactCacheKey
    from pingora_cache.meta import CacheMeta
    from pingora_cache.storage import Finished, Storage

__all__ = ["DOUBTED", "Subject", "TieredStats", "Tiers"]

DOUBTED: Final = -math.inf
"""When an object of the first tier was checked that may not be served unchecked."""

# Keys of which it is noted when they were last compared, and which are in the first tier only.
_NOTES: Final = 65_536


class Subject(NamedTuple):
    """An object on its way between the tiers.

    Attributes:
        key: Its key, which nobody changes.
        meta: Its meta.
        mark: Tells what has happened to it meanwhile.
    """

    key: CacheKey
    meta: CacheMeta
    mark: Mark


@final
class TieredStats(StorageStats):
    """What happened in a two-level store; each tier has numbers of its own beside it.

    Attributes:
        first_errors: Calls that failed in the first tier.
        second_errors: Calls that failed in the second tier.
        promotions: Objects that were copied into the first tier when they were read.
        rechecks: Comparisons of an object of the first tier with the second.
        outdated: Objects of the first tier that turned out to be gone or replaced in the second.
        first_only: Objects that were published in the first tier only: the second did not take
            them.
    """

    __slots__ = (
        "first_errors",
        "first_only",
        "outdated",
        "promotions",
        "rechecks",
        "second_errors",
    )

    def __init__(self) -> None:
        super().__init__()
        self.first_errors: int = 0
        self.second_errors: int = 0
        self.first_only: int = 0
        self.promotions: int = 0
        self.rechecks: int = 0
        self.outdated: int = 0

    def snapshot(self) -> dict[str, int]:
        """Tell all the numbers.

        Returns:
            They by name.
        """
        own = {name: getattr(self, name) for name in self.__slots__}
        return {name: getattr(self, name) for name in StorageStats.__slots__} | own


@final
class Tiers:
    """What the readers and writers of a two-level store share.

    Args:
        first: The first tier.
        second: The second tier.
        limit: Bytes of the largest body that goes into the first tier.
        max_copying: Bytes of bodies that are gathered for the first tier at a time.
        monotonic: Seconds that only grow.

    Attributes:
        first: The first tier.
        second: The second tier.
        limit: Bytes of the largest body that goes into the first tier.
        budget: Bytes of bodies that are gathered for the first tier.
        monotonic: Seconds that only grow.
        stats: What is counted.
        marks: What has happened to keys that somebody is at.
        turns: Who publishes.
        checked: When keys were last known to be the same in both tiers.
        alone: Keys that are in the first tier only since the second did not take them.
        absent: When keys were last not found in the second tier, or only expired.
    """

    __slots__ = (
        "absent",
        "alone",
        "budget",
        "checked",
        "first",
        "limit",
        "marks",
        "monotonic",
        "second",
        "stats",
        "turns",
    )

    def __init__(
        self,
        first: Storage,
        second: Storage,
        *,
        limit: int,
        max_copying: int,
        monotonic: Callable[[], float],
    ) -> None:
        self.first = first
        self.second = second
        self.limit = limit
        self.budget = Budget(max_copying)
        self.monotonic = monotonic
        self.stats = TieredStats()
        self.marks = Marks()
        self.turns = Turns()
        self.checked = Recent(_NOTES)
        self.alone = Recent(_NOTES)
        self.absent = Recent(_NOTES)

    def first_failed(self, error: Error) -> None:
        """Count a failure of the first tier.

        Args:
            error: What it was.
        """
        if error.etype != RESPONSE_TOO_LARGE:
            self.stats.first_errors += 1
            self.stats.errors += 1

    def second_failed(self, error: Error) -> None:
        """Count a failure of the second tier.

        Args:
            error: What it was.
        """
        if error.etype != RESPONSE_TOO_LARGE:
            self.stats.second_errors += 1
            self.stats.errors += 1

    def note_same(self, key_hash: bytes) -> None:
        """Note that both tiers have the same now.

        Args:
            key_hash: The key.
        """
        self.alone.forget(key_hash)
        self.checked.note(key_hash, self.monotonic())

    def doubt(self, key_hash: bytes) -> None:
        """Note that the first tier may have something that the second has not.

        Args:
            key_hash: The key. Its object is compared before it is served.
        """
        self.alone.forget(key_hash)
        self.checked.note(key_hash, DOUBTED)

    async def put(self, subject: Subject, pieces: Iterable[bytes]) -> Finished | None:
        """Write a whole object into the first tier, unless it was purged meanwhile.

        Args:
            subject: The object, of whose key the caller has the turn.
            pieces: The body.

        Returns:
            What it came to; None if it was purged.

        Raises:
            Error: If the first tier does not take it.
        """
        key, meta, mark = subject
        expired_at = mark.expired_at
        if expired_at is not None:
            meta = meta.expired(expired_at)
        writer = await self.first.get_miss_handler(key, meta)
        try:
            # From here on a purge meets the write itself.
            if mark.is_void or mark.expired_at != expired_at:
                return None
            for piece in pieces:
                await writer.write_body(piece, end=False)
            return await writer.finish()
        finally:
            writer.close()

    async def drop_void(self, key: CacheKey, mark: Mark) -> bool:
        """Remove an object from the first tier if it is out of date.

        Args:
            key: The key.
            mark: Tells whether it is.

        Returns:
            Whether it is.
        """
        if mark.is_void:
            await self.drop_first(key.to_compact())
        return mark.is_void

    async def drop_first(self, key: CompactCacheKey) -> None:
        """Remove an object from the first tier that is not that of the second any more.

        Args:
            key: The key.
        """
        key_hash = key.combined_hash
        self.doubt(key_hash)
        try:
            await self.first.purge(key, kind=PurgeKind.EVICTION)
        except Error as error:
            self.first_failed(error)
        else:
            self.checked.forget(key_hash)
