"""An LRU in shards."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from pingora_cache.eviction._keys import key_of, name_of
from pingora_cache.eviction._recency import Recency

if TYPE_CHECKING:
    from random import Random

    from pingora_cache.key import CompactCacheKey

__all__ = ["ShardedLru"]


@final
class ShardedLru(Recency):
    """Evicts what was hardly used lately: the last of one of several lists.

    Args:
        shards: How many lists. The keys are spread over them; the limits hold for all together.
        limit: What all objects may come to together, bytes.
        watermark: How many objects there may be; None for any number.
        random: Draws the shards that are compared; None for one of its own.

    Raises:
        ValueError: If one of the numbers is below 1.

    Source: pingora-cache/src/eviction/lru.rs.
    """

    __slots__ = ()

    _FILE = "lru.data"

    def __init__(
        self,
        shards: int,
        limit: int,
        watermark: int | None = None,
        *,
        random: Random | None = None,
    ) -> None:
        super().__init__(limit, shards, watermark, random)

    @property
    def shards(self) -> int:
        """How many lists there are."""
        return self._heads

    def shard_len(self, shard: int) -> int:
        """Tell how many objects a shard has.

        Args:
            shard: Its number.

        Returns:
            The number of objects.
        """
        return self._counts[shard]

    def shard_weight(self, shard: int) -> int:
        """Tell what the objects of a shard come to.

        Args:
            shard: Its number.

        Returns:
            Bytes.
        """
        return self._sums[shard]

    def shard_of(self, key: CompactCacheKey) -> int:
        """Tell which shard a key belongs to, in this process.

        Args:
            key: The key.

        Returns:
            The number of the shard.
        """
        return hash(name_of(key)) % self._heads

    def peek_weight(self, key: CompactCacheKey) -> int | None:
        """Tell what an object counts for.

        Args:
            key: Its key.

        Returns:
            Bytes; None if it is not known.
        """
        slot = self._keys.find(name_of(key))
        return None if slot is None else self._slots.weights[slot]

    def peek_lru(self, shard: int) -> tuple[CompactCacheKey, int] | None:
        """Tell which object of a shard is the next to go.

        Args:
            shard: Its number.

        Returns:
            Its key, and what it counts for, bytes; None if the shard is empty, or there is no
            such shard.
        """
        if not 0 <= shard < self._heads or not self._counts[shard]:
            return None
        slot = self._slots.previous[shard]
        return key_of(self._keys.name(slot)), self._slots.weights[slot]
