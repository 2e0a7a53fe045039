"""Remembers what turned out to be uncacheable, so that the next request does not wait for it.

A request that looks cacheable takes part in the cache lock: others wait for what it brings. When
the response then says that it must not be stored, they all waited for nothing. A key of which this
is known from the last time bypasses lookup and lock; if its response is cacheable after all, that
is noticed as it passes.

To keep requests out of the cache that one knows beforehand, do not enable caching for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, final

from cachetools import LRUCache

from pingora_cache.reason import NoCacheReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_cache.key import CacheKey

__all__ = ["CacheablePredictor", "Predictor"]


class CacheablePredictor(Protocol):
    """What ``HttpCache`` needs of a predictor.

    Source: trait CacheablePredictor in pingora-cache/src/predictor.rs.
    """

    def cacheable_prediction(self, key: CacheKey) -> bool:
        """Predict whether the response for a key is cacheable.

        Args:
            key: The key, without a variance: there has been no lookup yet.

        Returns:
            True unless there is reason to think otherwise.
        """

    def mark_cacheable(self, key: CacheKey) -> bool:
        """Learn that a response is cacheable.

        Args:
            key: Its key.

        Returns:
            True if nothing else was known; False if it was thought to be uncacheable.
        """

    def mark_uncacheable(self, key: CacheKey, reason: NoCacheReason) -> bool | None:
        """Learn that a response is not cacheable.

        Args:
            key: Its key.
            reason: Why.

        Returns:
            True if that is new, False if it was known; None if such a reason says nothing about
            the next response, and nothing was learnt.
        """


@final
class Predictor:
    """Remembers the keys that were last found uncacheable, by their primary hash.

    Args:
        capacity: Keys to remember, at least 1. The one that was marked the longest ago is
            forgotten first.
        skip_custom_reason: Called with the text of a reason of the application's own; True means
            that such a response is not to be remembered. None remembers them all.

    Raises:
        ValueError: If the capacity is below 1.

    Source: pingora-cache/src/predictor.rs. One table in place of its shards.
    """

    __slots__ = ("_skip_custom_reason", "_uncacheable")

    def __init__(
        self, capacity: int, skip_custom_reason: Callable[[str], bool] | None = None
    ) -> None:
        if capacity < 1:
            msg = f"a predictor remembers at least 1 key, not {capacity}"
            raise ValueError(msg)
        self._uncacheable: LRUCache[bytes, None] = LRUCache(capacity)
        self._skip_custom_reason = skip_custom_reason

    def cacheable_prediction(self, key: CacheKey) -> bool:
        """Predict whether the response for a key is cacheable.

        Args:
            key: The key; its variance is ignored.

        Returns:
            True unless it is remembered as uncacheable. Asking does not refresh the memory.
        """
        return key.primary_hash not in self._uncacheable

    def mark_cacheable(self, key: CacheKey) -> bool:
        """Forget that a key was uncacheable.

        Args:
            key: The key; its variance is ignored.

        Returns:
            True if it was not remembered; False if it is forgotten now.
        """
        hashed = key.primary_hash
        if hashed not in self._uncacheable:
            return True
        del self._uncacheable[hashed]
        return False

    def mark_uncacheable(self, key: CacheKey, reason: NoCacheReason) -> bool | None:
        """Remember a key as uncacheable, if the reason will hold the next time.

        What the response itself said does: ``ORIGIN_NOT_CACHE``, ``RESPONSE_TOO_LARGE`` and the
        application's own reasons. Trouble in between does not.

        Args:
            key: The key; its variance is ignored.
            reason: Why it was not cached.

        Returns:
            True if it is new, False if it was remembered and is refreshed, None if the reason is
            no reason to remember.
        """
        if reason.is_custom:
            skip = self._skip_custom_reason
            if skip is not None and skip(reason.name):
                return None
        elif reason not in _LASTING:
            return None
        hashed = key.primary_hash
        is_new = hashed not in self._uncacheable
        self._uncacheable[hashed] = None
        return is_new

    def __len__(self) -> int:
        return len(self._uncacheable)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)} keys>"


_LASTING = (NoCacheReason.ORIGIN_NOT_CACHE, NoCacheReason.RESPONSE_TOO_LARGE)
