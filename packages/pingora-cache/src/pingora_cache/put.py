"""Putting a response into a cache without asking an origin for it.

Whoever fills a cache ahead of time sends it the response, head and body, as the body of a request
of its own. A server takes that request, and has ``CachePutCtx`` store what is in it:

```
async def cache_put(session: Session) -> NoCacheReason | None:
    key = CacheKey.for_request(session.req_header, scheme="https")
    put = CachePutCtx(CachePut(policy), key, storage)
    return await put.cache_put(session.read_request_body)
```

Who may do that is for the server to decide: whatever is put is what everybody is served.

The same policy decides as for a response that an origin has sent. No cache lock is taken: those
who fetch the same at the same time are not held up, and the later finish wins.

Source: pingora-cache/src/put.rs.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pingora_cache._put_response import INCOMPLETE_BODY, PutBody, ResponseParser
from pingora_cache._writer_ends import storage_error
from pingora_cache.fill import CacheFill, FillTarget
from pingora_cache.policy import CachePolicy
from pingora_cache.reason import NoCacheReason
from pingora_cache.stats import CacheStats
from pingora_cache.verdict import Uncacheable
from pingora_http import RequestHeader, names

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pingora_cache.eviction import EvictionManager
    from pingora_cache.key import CacheKey
    from pingora_cache.meta import CacheMeta
    from pingora_cache.storage import Storage
    from pingora_cache.verdict import RespCacheable
    from pingora_http import ResponseHeader

__all__ = ["INCOMPLETE_BODY", "CachePut", "CachePutCtx"]


class CachePut:
    """What decides about responses that are put; to be subclassed for decisions of one's own.

    Args:
        policy: What decides; None for the default one. ``CachePolicy.pingora(defaults)`` decides
            as the original does.

    Source: trait CachePut in pingora-cache/src/put.rs.
    """

    def __init__(self, policy: CachePolicy | None = None) -> None:
        self._policy = CachePolicy() if policy is None else policy

    def cacheable(self, response: ResponseHeader, now: float) -> RespCacheable:
        """Decide whether a response is stored.

        By default the policy decides as if a plain GET, without ``Authorization``, had got it.

        Args:
            response: Its head, to be left as it is.
            now: Wall clock seconds.

        Returns:
            What to store, or why nothing.
        """
        request = RequestHeader("GET", "/")
        return self._policy.response_cacheable(
            request, response, request_time=now, response_time=now
        )

    def trace_header(self, response: ResponseHeader) -> None:
        """Hear of the head of a response before it is decided about; does nothing by default.

        Args:
            response: Its head.
        """


class CachePutCtx:
    """Stores one response that comes in piece by piece, or says why not.

    Either ``cache_put`` does everything, or ``write`` and ``finish`` are called by turns and
    ``close`` on every path. One call at a time.

    Args:
        cache_put: What decides.
        key: What it is stored as. If it has a variance, so will the meta.
        storage: Where.
        eviction: An eviction manager outside the store, if any.
        max_file_size_bytes: The largest body, bytes; None for any.
        stats: What counts; None if nobody asks.
        clock: Wall clock seconds.

    Raises:
        ValueError: If the largest size is negative.

    Source: struct CachePutCtx in pingora-cache/src/put.rs.
    """

    __slots__ = ("_clock", "_fill", "_key", "_parser", "_put", "_target", "_verdict")

    def __init__(
        self,
        cache_put: CachePut,
        key: CacheKey,
        storage: Storage,
        *,
        eviction: EvictionManager | None = None,
        max_file_size_bytes: int | None = None,
        stats: CacheStats | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if max_file_size_bytes is not None and max_file_size_bytes < 0:
            msg = f"a body cannot be smaller than nothing ({max_file_size_bytes} bytes)"
            raise ValueError(msg)
        counters = CacheStats() if stats is None else stats
        self._put = cache_put
        self._key = key
        self._target = FillTarget(storage, eviction, None, counters, max_file_size_bytes)
        self._clock = clock
        self._parser = ResponseParser()
        self._fill: CacheFill | None = None
        self._verdict: Uncacheable | None = None

    @property
    def uncacheable(self) -> Uncacheable | None:
        """Why the response is not stored; None if it is, or as long as that is not known."""
        return self._verdict

    async def cache_put(self, read: Callable[[], Awaitable[bytes | None]]) -> NoCacheReason | None:
        """Read a response to its end, and store it if it may be.

        All is read even if nothing is stored, so that the connection it comes by can be used
        again. How long that may take is the reader's business.

        Args:
            read: Gives the next piece; None at the end.

        Returns:
            None if it was stored, or else why not.

        Raises:
            Error: ``INVALID_HTTP_HEADER`` if it is no response; ``INCOMPLETE_BODY`` if it ends too
                early; ``RESPONSE_TOO_LARGE`` if its body turns out to be larger than is stored;
                and what reader and store report. Nothing is stored then.
        """
        try:
            while (data := await read()) is not None:
                await self.write(data)
            return await self.finish()
        finally:
            self.close()

    async def write(self, data: bytes) -> None:
        """Take what follows.

        Args:
            data: The next piece; may be empty.

        Raises:
            Error: As ``cache_put`` does.
        """
        if self._verdict is not None:
            return
        for event in self._parser.feed(data):
            if isinstance(event, PutBody):
                assert self._fill is not None
                await self._fill.write(event.data, end=event.end)
                continue
            self._verdict = await self._begin(event.header)
            if self._verdict is not None:
                return

    async def finish(self) -> NoCacheReason | None:
        """Say that nothing follows, and publish what came.

        Returns:
            None if it is stored, or else why not.

        Raises:
            Error: As ``cache_put`` does.
        """
        if self._verdict is not None:
            return self._verdict.reason
        self._parser.finish()
        fill = self._fill
        assert fill is not None
        await fill.finish()
        return None

    def close(self) -> None:
        """Give up, unless it is finished: nothing is left in the store."""
        if self._fill is not None:
            self._fill.close()

    async def _begin(self, header: ResponseHeader) -> Uncacheable | None:
        self._put.trace_header(header)
        # The framing is told by the store from now on.
        header.remove_header(names.TRANSFER_ENCODING)
        if header.status == 204:
            header.remove_header(names.CONTENT_LENGTH)
        verdict = self._put.cacheable(header, self._clock())
        if isinstance(verdict, Uncacheable):
            return verdict
        limit = self._target.max_size
        length = header.get_raw(names.CONTENT_LENGTH)
        if limit is not None and length is not None and _is_above(header, length, limit):
            return Uncacheable(NoCacheReason.RESPONSE_TOO_LARGE, "Content-Length")
        await self._store(verdict.meta)
        return None

    async def _store(self, meta: CacheMeta) -> None:
        variance = self._key.variance
        if variance is not None:
            meta = meta.replace(variance=variance)
        try:
            handler = await self._target.storage.get_miss_handler(self._key, meta)
        except Exception as cause:
            self._target.stats.fill_errors += 1
            error = storage_error("begin to write", cause)
            raise error from cause
        self._fill = CacheFill(handler, self._target, None, key=self._key, meta=meta)


def _is_above(header: ResponseHeader, length: bytes, limit: int) -> bool:
    # A 304 tells the length of what it confirms; the parser has refused what is no number.
    return header.status != 304 and int(length.partition(b",")[0]) > limit
