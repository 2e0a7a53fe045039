"""What an eviction manager is: it decides which objects go when a store is full."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from pingora_cache.key import CompactCacheKey

__all__ = ["EvictionManager"]


class EvictionManager(ABC):
    """Keeps account of the objects of a store, and names those that are to go when it is full.

    It holds keys and sizes only. Who uses it removes from the store what it names, and tells it
    what is removed for other reasons. Not for several threads at once.

    Each call does a bounded amount of work, so that none of them stops the event loop: one object
    that takes the place of many thousands may leave the total above the limit for the moment. The
    next calls go on with it; ``evict_to(limit)`` does so at once, until it returns nothing.

    Sizes are in bytes. One below 1 counts as 1, so that a limit in bytes bounds the number too.

    Source: trait EvictionManager in pingora-cache/src/eviction/mod.rs.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def limit(self) -> int:
        """What the objects may come to together, bytes."""

    @property
    @abstractmethod
    def total_size(self) -> int:
        """What the objects come to together, bytes."""

    @property
    @abstractmethod
    def total_items(self) -> int:
        """How many objects there are."""

    @property
    @abstractmethod
    def evicted_size(self) -> int:
        """What all objects evicted so far came to, bytes."""

    @property
    @abstractmethod
    def evicted_items(self) -> int:
        """How many objects have been evicted so far."""

    @abstractmethod
    def admit(self, key: CompactCacheKey, size: int, fresh_until: float) -> list[CompactCacheKey]:
        """Account for an object that was stored, or stored anew.

        Args:
            key: Its key.
            size: What it counts for, bytes.
            fresh_until: Until when it is fresh, wall clock seconds.

        Returns:
            The keys to remove from the store, no longer accounted for. ``key`` itself may be among
            them: the object is not worth its room.
        """

    @abstractmethod
    def increment_weight(
        self, key: CompactCacheKey, delta: int, max_weight: int | None = None
    ) -> list[CompactCacheKey]:
        """Account for what was added to an object; for one that is not known, account for it.

        Args:
            key: Its key.
            delta: By how much it has grown, bytes.
            max_weight: What it counts for at most, bytes; it does not shrink because of this.
                None for any size.

        Returns:
            The keys to remove from the store, as of ``admit``.
        """

    @abstractmethod
    def remove(self, key: CompactCacheKey) -> bool:
        """Forget an object that was removed from the store.

        Args:
            key: Its key.

        Returns:
            Whether it was known.
        """

    @abstractmethod
    def access(self, key: CompactCacheKey, size: int, fresh_until: float) -> bool:
        """Note that an object was used.

        One that is not known is accounted for from now on, as it is after a restart without a
        saved state. That evicts nothing; the next ``admit`` may have the more to evict.

        Args:
            key: Its key.
            size: What it counts for, bytes, if it is not known.
            fresh_until: Until when it is fresh, wall clock seconds.

        Returns:
            Whether it was known.
        """

    @abstractmethod
    def peek(self, key: CompactCacheKey) -> bool:
        """Tell whether an object is known. It does not count as a use.

        Args:
            key: Its key.

        Returns:
            Whether it is.
        """

    @abstractmethod
    def evict_to(self, size: int) -> list[CompactCacheKey]:
        """Make room beyond what the limit asks for.

        Args:
            size: What the objects may come to, bytes; they are evicted until they do.

        Returns:
            The keys to remove from the store; the total may still be above ``size``, see above.
            Empty if it is not.
        """

    @abstractmethod
    async def save(self, directory: str | Path) -> None:
        """Write the state to a file, all or nothing.

        Args:
            directory: Where; it is made if it is not there.

        Raises:
            Error: If that fails; what was saved before is still there then.
        """

    @abstractmethod
    async def load(self, directory: str | Path) -> int:
        """Add what was saved to what is known, as used the longest ago.

        Without a file, or with one that is damaged, nothing is added.

        Args:
            directory: Where it was saved.

        Returns:
            How many objects were added.

        Raises:
            Error: If the file is there and cannot be read.
        """
