"""How long a request spent on the cache, for its log line."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["HttpCacheDigest"]


class HttpCacheDigest(NamedTuple):
    """Sums over all lookups and waits of one request, whatever became of them.

    Attributes:
        lock_duration: Spent waiting for others that fetched the same object, seconds; None if it
            never waited.
        lookup_duration: Spent on lookups in the store, seconds; None if there was none.

    Source: struct HttpCacheDigest in pingora-cache/src/lib.rs.
    """

    lock_duration: float | None = None
    lookup_duration: float | None = None
