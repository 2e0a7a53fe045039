"""An in-memory cache whose values expire.

Theory of operation: a ``TinyUfo`` of values and the times at which they expire. What has expired
stays until its room is needed, or it is put in anew, since somebody may still want it as stale.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar, final

from pingora_cache.tinyufo import TinyUfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["CacheStatus", "MemoryCache"]

_K = TypeVar("_K")
_V = TypeVar("_V")


@final
@dataclass(frozen=True, slots=True)
class CacheStatus:
    """What a look-up came to.

    Attributes:
        name: ``hit``, ``miss``, ``expired``, ``lock_hit`` or ``stale``; also its text.
        stale_for: How long ago the value has expired, seconds; None unless it is stale.
        HIT: The value was there.
        MISS: There was none.
        EXPIRED: There was one that has expired.
        LOCK_HIT: Somebody else was looking it up already, and it came of that.

    Source: enum CacheStatus in pingora-memory-cache/src/lib.rs.
    """

    name: str
    stale_for: float | None = None

    HIT: ClassVar[CacheStatus]
    MISS: ClassVar[CacheStatus]
    EXPIRED: ClassVar[CacheStatus]
    LOCK_HIT: ClassVar[CacheStatus]

    @classmethod
    def stale(cls, seconds: float) -> CacheStatus:
        """Make the status of a value that has expired and was served.

        Args:
            seconds: How long ago it has expired.

        Returns:
            The status.
        """
        return cls("stale", seconds)

    @property
    def is_hit(self) -> bool:
        """Whether there was a value without looking it up: hit, hit on a lock, or stale."""
        return self.name not in {"miss", "expired"}

    def __str__(self) -> str:
        return self.name


CacheStatus.HIT = CacheStatus("hit")
CacheStatus.MISS = CacheStatus("miss")
CacheStatus.EXPIRED = CacheStatus("expired")
CacheStatus.LOCK_HIT = CacheStatus("lock_hit")

_HIT = CacheStatus.HIT
_MISS = (None, CacheStatus.MISS)
_EXPIRED = (None, CacheStatus.EXPIRED)


@final
class MemoryCache(Generic[_K, _V]):
    """Keeps values for a time, and those that are asked for often.

    Not for several threads at once.

    Args:
        size: How many values it keeps at most, at least 1.
        clock: Returns a monotonic time, seconds.

    Raises:
        ValueError: If the size is below 1.

    Examples:
        >>> cache = MemoryCache[str, int](1000)
        >>> cache.put("answer", 42, ttl=60.0)
        >>> value, status = cache.get("answer")
        >>> value, str(status)
        (42, 'hit')

    Source: pingora-memory-cache/src/lib.rs. There, the hash of a key is its identity, so that two
    keys can be taken for one another.
    """

    __slots__ = ("_clock", "_values")

    def __init__(self, size: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        # Each with the time when it expires.
        self._values = TinyUfo[_K, tuple[_V, float | None]](size)
        self._clock = clock

    def get(self, key: _K) -> tuple[_V | None, CacheStatus]:
        """Look a value up.

        Args:
            key: Its key.

        Returns:
            The value and ``HIT``; None and ``MISS`` or ``EXPIRED``.
        """
        found = self._values.get(key)
        if found is None:
            return _MISS
        value, expires = found
        if expires is None or self._clock() < expires:
            return value, _HIT
        return _EXPIRED

    def get_stale(self, key: _K) -> tuple[_V | None, CacheStatus]:
        """Look a value up that may have expired.

        Args:
            key: Its key.

        Returns:
            The value and ``HIT`` or a stale status; None and ``MISS``.
        """
        found = self._values.get(key)
        if found is None:
            return _MISS
        value, expires = found
        if expires is None or (now := self._clock()) < expires:
            return value, _HIT
        return value, CacheStatus.stale(now - expires)

    def put(self, key: _K, value: _V, ttl: float | None = None) -> None:
        """Put a value in, if it is worth its room.

        Args:
            key: Its key.
            value: The value.
            ttl: When it expires, seconds from now; 0 or less to not put it in, None for never.
        """
        if ttl is None:
            self._values.put(key, (value, None))
        elif ttl > 0:
            self._values.put(key, (value, self._clock() + ttl))

    def force_put(self, key: _K, value: _V, ttl: float | None = None) -> None:
        """Put a value in, also if it was hardly ever asked for.

        Args:
            key: Its key.
            value: The value.
            ttl: As for ``put``.
        """
        if ttl is None:
            self._values.force_put(key, (value, None))
        elif ttl > 0:
            self._values.force_put(key, (value, self._clock() + ttl))

    def remove(self, key: _K) -> bool:
        """Remove a value.

        Args:
            key: Its key.

        Returns:
            Whether there was one, expired or not.
        """
        return self._values.remove(key) is not None

    def multi_get(self, keys: Iterable[_K]) -> list[tuple[_V | None, CacheStatus]]:
        """Look values up.

        Args:
            keys: Their keys.

        Returns:
            For each key what ``get`` returns.
        """
        return list(map(self.get, keys))

    def multi_get_with_miss(
        self, keys: Iterable[_K]
    ) -> tuple[list[tuple[_V | None, CacheStatus]], list[_K]]:
        """Look values up.

        Args:
            keys: Their keys.

        Returns:
            For each key what ``get`` returns, and the keys that have no value, or an expired one.
        """
        found = []
        missed = []
        for key in keys:
            result = self.get(key)
            found.append(result)
            if not result[1].is_hit:
                missed.append(key)
        return found, missed

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)} values>"
