"""The cache as one request sees it: ``HttpCache``, a state machine without I/O of its own.

Theory of operation
-------------------
```
 DISABLED --enable--> UNINIT --set_cache_key--> CACHE_KEY --bypass--> BYPASS
                                                   |                    |
                              cache_lookup, cache_vary_lookup           | cache_miss, when the
                                                   |                    v response is cacheable
      +--------------------+-----------------------+-----------------> MISS
      | cache_found        | cache_found             cache_miss         | set_cache_meta,
      v fresh              v expired                                    v set_miss_handler
     HIT                 STALE --set_stale_updating--> STALE_UPDATING  (fill)
                           |
                           +--set_cache_meta----------> EXPIRED, set_miss_handler (fill)
                           +--revalidate_cache_meta---> REVALIDATED
                           +--revalidate_uncacheable--> REVALIDATED_NO_CACHE

 any phase --disable--> DISABLED          any phase --close--> the end; the phase stays
```
A call that the phase does not allow raises ``CachePhaseError`` and changes nothing.

What an ``HttpCache`` holds, it gives back in ``close`` at the latest, which the owner of the
request calls in a ``finally``: the permit or place in the cache lock, the readers, the fill. The
only way to keep something longer is to take it: ``take_fill``, ``take_write_lock``,
``take_miss_body_reader``. A fill that was taken owns the permit, and releases it when it ends.

The rooms: ``_state`` has what is known and the moves of any phase, ``_view`` the questions,
``_lookup`` the way to an object, ``_filling`` the way of an object into the store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from pingora_cache._filling import CacheFilling
from pingora_cache._writer_ends import status_of
from pingora_cache.lock import LockStatus
from pingora_cache.phase import CachePhase

if TYPE_CHECKING:
    from pingora_cache.meta import CacheMeta
    from pingora_cache.reason import NoCacheReason
    from pingora_http import ResponseHeader

__all__ = ["HttpCache"]

_STALE = CachePhase.STALE

# What a 304 may change of what is stored, where nobody asks a policy for more.
_REFRESHED: Final = ("cache-control", "expires", "cache-tag", "cdn-cache-control", "etag")


@final
class HttpCache(CacheFilling):
    """The cache of one request.

    Caching is off at first. One call at a time, from any task; see the module for the way.

    Args:
        clock: Wall-clock time, seconds: what the times of metas are compared with.
        monotonic: Time that never jumps, seconds: what durations are measured with.

    Source: struct HttpCache in pingora-cache/src/lib.rs.
    """

    __slots__ = ()

    async def revalidate_cache_meta(self, meta: CacheMeta) -> bool:
        """Store what the upstream said in its 304: the stale object is fresh again.

        The time of creation stays that of the object. Those who wait look it up again.

        Args:
            meta: What is known about the object now. Extensions of the old one are kept, where
                this one has none of the name.

        Returns:
            Whether it was stored; False if the object is gone, or the store is in trouble (which
            is counted). It is served in any case.

        Raises:
            CachePhaseError: In phases other than ``STALE``.
        """
        storage = self._storage
        key = self._key
        old = self._meta
        if self._phase is not _STALE or storage is None or key is None or old is None:
            raise self._wrong_phase("revalidate_cache_meta")
        meta = self._meta = meta.replace(created=old.created).following(old)
        for name, value in old.extensions.items():
            meta.extensions.setdefault(name, value)
        try:
            updated = await storage.update_meta(key, meta)
        except Exception as error:  # noqa: BLE001  # whatever a store raises, the object is served
            self._note_meta_error(error)
            updated = False
        finally:
            self._release(LockStatus.DONE)
        if self._phase is _STALE:
            self._phase = CachePhase.REVALIDATED
        return updated

    def revalidate_merge_header(self, not_modified: ResponseHeader) -> ResponseHeader:
        """Put what a 304 says into the head that is stored, as Pingora does.

        Replaces ``Cache-Control``, ``Expires``, ``Cache-Tag``, ``CDN-Cache-Control`` and ``ETag``.
        Not ``Vary``: the stored object was chosen by the old one. (``CachePolicy.merge_304``
        follows RFC 9111 section 4.3.4.)

        Args:
            not_modified: The head of the 304.

        Returns:
            A head of its own.

        Raises:
            CachePhaseError: In phases other than ``STALE``.
        """
        meta = self._meta
        if self._phase is not _STALE or meta is None:
            raise self._wrong_phase("revalidate_merge_header")
        merged = meta.header.copy()
        for name in _REFRESHED:
            values = not_modified.get_all(name)
            if values:
                merged.remove_header(name)
                for value in values:
                    merged.append_header(name, value)
        return merged

    def revalidate_uncacheable(self, header: ResponseHeader, reason: NoCacheReason) -> None:
        """Serve the stale object, which the upstream confirmed, but do not store what it said.

        Args:
            header: The head to serve it with.
            reason: Why; decides what those who wait are told.

        Raises:
            CachePhaseError: In phases other than ``STALE``.
            ValueError: If the reason is not one that a writer can have.
        """
        meta = self._meta
        if self._phase is not _STALE or meta is None:
            raise self._wrong_phase("revalidate_uncacheable")
        status = status_of(reason, self._lock)
        self._meta = meta.replace(header=header)
        self._phase = CachePhase.REVALIDATED_NO_CACHE
        self._reason = reason
        self._release(status)

    def __repr__(self) -> str:
        closed = ", closed" if self._is_closed else ""
        reason = self.no_cache_reason
        return f"<{type(self).__name__} {self._phase}{'' if reason is None else f' ({reason})'}{closed}>"
