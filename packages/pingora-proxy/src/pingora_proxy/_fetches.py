"""What is being fetched for a cache, so that a purge meanwhile is not lost.

Theory of operation: a store knows of the writes that go on, and a purge meets them. Before a response
has begun to arrive there is no write, and what it says may be older than the purge nevertheless: the
origin had read it before. So who fetches registers the key, and a purge tells; what has been told is
written for those who wait for it, and purged at once.

For one process, and for purges by key that come as requests: those of other processes, by tag, and
straight to a store do not meet what has not begun to arrive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, final

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from pingora_cache.key import CacheKey

__all__ = ["Fetch", "noted"]

_T = TypeVar("_T")

_fetches: dict[bytes, set[Fetch]] = {}


@final
class Fetch:
    """A request that was sent to an upstream, and whose response may be stored.

    Args:
        key: What is fetched; of all its variants the same is noted.

    Attributes:
        is_outdated: Whether the object was purged since.
    """

    __slots__ = ("_hashed", "is_outdated")

    def __init__(self, key: CacheKey) -> None:
        self.is_outdated = False
        self._hashed = key.primary_hash
        _fetches.setdefault(self._hashed, set()).add(self)

    def end(self) -> None:
        """Hear no more; nothing on the second call."""
        fetches = _fetches.get(self._hashed)
        if fetches is not None:
            fetches.discard(self)
            if not fetches:
                del _fetches[self._hashed]


async def noted(key: CacheKey, purge: Awaitable[_T]) -> _T:
    """Purge an object, and tell those who fetch it.

    Args:
        key: Its key.
        purge: What purges it.

    Returns:
        What that came to.
    """
    _tell(key)
    result = await purge
    _tell(key)  # who has begun meanwhile may have been answered before
    return result


def _tell(key: CacheKey) -> None:
    for fetch in _fetches.get(key.primary_hash, ()):
        fetch.is_outdated = True
