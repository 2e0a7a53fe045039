"""An attempt whose response the cache wants: asked for, judged, stored or passed on.

Theory of operation. The upstream is asked for the whole object, whatever the client wants of it,
and with the validators of the stored one if there is one. Its head then decides: a 304 refreshes
what is stored, an error may be replaced by it, a response that may be stored goes through a
``Fill``, and every other one to the client, cut to what the client has asked for.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pingora_cache.filters import upstream_request_filter
from pingora_cache.phase import CachePhase
from pingora_cache.reason import NoCacheReason
from pingora_cache.storage import RESPONSE_TOO_LARGE
from pingora_cache.verdict import Cacheable, Uncacheable
from pingora_error import Error, ErrorSource, ErrorType, HTTPStatus
from pingora_proxy._body_pipe import BodyPipe
from pingora_proxy._body_source import UpstreamBody
from pingora_proxy._cache_fill import Fill
from pingora_proxy._cached_response import CachedResponse
from pingora_proxy._exchange import Exchange
from pingora_proxy._fetches import Fetch, noted
from pingora_proxy._stored_responses import StoredResponses
from pingora_proxy._upstream_request import clean_response
from pingora_proxy.hooks import CTX

if TYPE_CHECKING:
    from pingora_cache.cache import HttpCache
    from pingora_cache.fill import CacheFill
    from pingora_core.protocols.http.task import HeaderTask
    from pingora_http import RequestHeader, ResponseHeader
    from pingora_proxy.session import Session

__all__ = ["CachingExchange", "InvalidatingExchange", "exchange_for"]

logger = logging.getLogger(__name__)

# Seconds in all that others wait for a client that is slow to take a body of unknown length.
_PATIENCE = 2.0
# The conditions by which an object is revalidated; the first one that is there counts.
_REVALIDATING = (b"if-none-match", b"if-modified-since")
_PARTIAL = frozenset({b"range", b"if-none-match", b"if-modified-since"})


class CachingExchange(Exchange[CTX]):
    """One attempt of a request for which the cache is on, or was when it was made."""

    _sent: RequestHeader
    _sent_at = 0.0
    _validators: tuple[bytes | None, ...] = ()
    _fetch: Fetch | None = None

    async def run(self) -> None:
        """Send the request, and store or relay the response.

        Raises:
            Error: From upstream, downstream or a callback; a response head may have been sent.
        """
        try:
            await self.relay(await self.send_and_await_head())
        finally:
            await self.abandon()

    # ---------------------------------------------------------------- the request

    def _make_request(self) -> RequestHeader:
        request = super()._make_request()
        session = self._session
        cache = session.cache
        self._sent = request
        self._sent_at = cache.now()
        if (key := cache.maybe_cache_key) is not None:
            self._fetch = Fetch(key)
        if cache.enabled:
            upstream_request_filter(request, cache.maybe_cache_meta)
            self._validators = tuple(map(request.get_raw, _REVALIDATING))
            session.upstream_headers_mutated_for_cache = True
        return request

    async def abandon(self) -> None:
        """End what serves this exchange besides its own task; again does nothing."""
        if self._fetch is not None:
            self._fetch.end()
        await super().abandon()

    def _watch_client(self) -> None:
        # Whoever leaves while the cache wants the response does not end it.
        if not self._session.cache.enabled:
            super()._watch_client()

    # --------------------------------------------------------------- the response

    async def relay(self, head: HeaderTask) -> None:
        """Store or relay the response to its end.

        Args:
            head: From :meth:`send_and_await_head`.

        Raises:
            Error: As :meth:`run` does.
        """
        await self._relay_held()
        session = self._session
        cache = session.cache
        session.upstream_request_time = self._sent_at
        header = head.header
        if header.status == 101 or not (cache.enabled or cache.bypassing):
            await super().relay(head)
            return
        clean_response(header)
        if self._filters is not None:
            await self._filters.upstream.header(header, end=head.end)
            self._upstream_filtered = True
        if cache.phase is CachePhase.STALE:
            if header.status == 304:
                if not self._is_the_clients():
                    await self._revalidated(header)
                    return
                cache.disable(NoCacheReason.DEFERRED)
            elif header.status >= 500 and await self._served_stale(header):
                return
        fill = None
        if cache.enabled and self._sent.raw_method == b"HEAD":
            await self._learn(cache, header)
        elif cache.enabled or cache.bypassing:
            fill = await self._admit(cache, header)
        if fill is not None:
            await self._store(head, fill)
        elif session.upstream_headers_mutated_for_cache and self._is_partial():
            await self._cut(head)
        else:
            super()._watch_client()
            await super().relay(head)
            self._learn_size(cache)

    async def _learn(self, cache: HttpCache, header: ResponseHeader) -> None:
        # A callback has insisted on HEAD: there is no body to store, but something to know of the
        # one that is stored (RFC 9111 section 4.3.5).
        session = self._session
        if cache.phase is CachePhase.STALE:
            new = cache.policy.freshened_by_head(
                cache.cache_meta,
                header,
                self._sent,
                request_time=session.upstream_request_time,
                response_time=cache.now(),
            )
            if new is not None:
                await cache.revalidate_cache_meta(new)
                if new.is_fresh(cache.now()):
                    return
        cache.disable(NoCacheReason.DEFERRED)

    def _learn_size(self, cache: HttpCache) -> None:
        # A response that was too large the last time may have become smaller.
        limit = cache.max_file_size_bytes
        if (
            limit is not None
            and cache.no_cache_reason == NoCacheReason.PREDICTED_RESPONSE_TOO_LARGE
            and self._up.body_bytes_received <= limit
        ):
            cache.response_became_cacheable()

    def _is_partial(self) -> bool:
        # Whether the client has asked for less than the upstream was.
        request = self._down.request
        return request.raw_method == b"HEAD" or not _PARTIAL.isdisjoint(request.first_values())

    async def _cut(self, head: HeaderTask) -> None:
        # Sends the client what it has asked for of a response that is not stored.
        body = UpstreamBody(
            self._up, None if self._filters is None else self._filters.upstream, end=head.end
        )
        try:
            await self._responder().send(head.header, body)
        finally:
            body.close()

    def _responder(self) -> CachedResponse[CTX]:
        return CachedResponse(self._app, self._overrides, self._session, self._ctx)

    # ------------------------------------------------------------------ admission

    async def _admit(self, cache: HttpCache, header: ResponseHeader) -> CacheFill | None:
        # Decides whether a response is stored; begins to.
        session = self._session
        session.phase = "response_cache_filter"
        verdict = await self._app.response_cache_filter(session, header, self._ctx)
        session.phase = "relay response"
        if header.status == 304:
            # Nothing was stored that it could be about.
            verdict = Uncacheable(NoCacheReason.custom("304 on miss"))
            if cache.bypassing:
                verdict = Uncacheable(NoCacheReason.DEFERRED)
        if isinstance(verdict, Uncacheable):
            cache.response_became_uncacheable(verdict.reason)
            cache.disable(verdict.reason)
            return None
        if cache.bypassing and not self._leaves_bypass(cache, header):
            return None
        meta = verdict.meta
        length = header.get_raw(b"content-length")
        size = int(length) if length is not None and length.isdigit() else None
        if not self._fits(cache, size):
            return None
        if header.status == 200 and size is not None:
            meta.header.insert_header(b"Accept-Ranges", b"bytes")
        variance = self._app.cache_vary_filter(session, meta, session.req_header, self._ctx)
        cache.set_cache_meta(meta)
        cache.update_variance(variance)
        try:
            await cache.set_miss_handler()
            if self._fetch is not None and self._fetch.is_outdated:  # now a purge can meet it
                await cache.purger().invalidate(cache.cache_key)
        except Error as error:
            too_large = error.etype == RESPONSE_TOO_LARGE
            reason = NoCacheReason.RESPONSE_TOO_LARGE if too_large else NoCacheReason.STORAGE_ERROR
            logger.log(
                logging.INFO if too_large else logging.WARNING,
                "a response is not stored: %s, %s",
                error,
                self._app.request_summary(session, self._ctx),
            )
            cache.response_became_uncacheable(reason)
            cache.disable(reason)
            return None
        return cache.take_fill()

    def _fits(self, cache: HttpCache, size: int | None) -> bool:
        # Whether a response is neither too large nor not worth it; the cache is off otherwise.
        limit = cache.max_file_size_bytes
        if limit is not None and size is not None and size > limit:
            cache.response_became_uncacheable(NoCacheReason.RESPONSE_TOO_LARGE)
            cache.disable(NoCacheReason.RESPONSE_TOO_LARGE)
            self._session.ignore_downstream_range = True
            return False
        if not cache.is_worth_storing(size):
            cache.disable(NoCacheReason.DEFERRED)
            return False
        return True

    def _leaves_bypass(self, cache: HttpCache, header: ResponseHeader) -> bool:
        # A response that was thought to be uncacheable is stored after all, at once or next time.
        session = self._session
        if cache.max_file_size_bytes is not None and header.get_raw(b"content-length") is None:
            cache.disable(NoCacheReason.PREDICTED_RESPONSE_TOO_LARGE)
            return False
        cache.response_became_cacheable()
        if self._down.request.raw_method != b"GET" or header.status != 200:
            cache.disable(NoCacheReason.DEFERRED)
            return False
        session.phase = "cache_miss"
        self._app.cache_miss(session, self._ctx)
        return True

    async def _store(self, head: HeaderTask, fill: CacheFill) -> None:
        session = self._session
        header = head.header
        filters = None if self._filters is None else self._filters.upstream
        body = UpstreamBody(self._up, filters, end=head.end)
        # A client that depends on the store is lost if the body turns out not to fit into it.
        sized = header.get_raw(b"content-length") is not None
        stored = session.cache.take_miss_body_reader()
        pipe = BodyPipe(stored, patience=0.0 if sized else _PATIENCE)
        self._down.watch_disconnect(None)  # where the lookup was left out, it has been on
        filling = Fill[CTX](body, fill, pipe, self._app.request_summary(session, self._ctx))
        try:
            await self._responder().send(header, pipe)
        except BaseException as error:
            if not isinstance(error, Error) or error.esource is not ErrorSource.DOWNSTREAM:
                await filling.cancel()
            raise
        finally:
            # The client has what it wants, or has gone; others want the whole.
            pipe.close()
            await filling.end()
            if filling.was_too_large:
                session.cache.response_became_uncacheable(NoCacheReason.RESPONSE_TOO_LARGE)

    # --------------------------------------------------------------- revalidation

    def _is_the_clients(self) -> bool:
        # Whether a 304 is about what the client has, since a callback has put its condition back.
        condition = next(filter(None, map(self._sent.get_raw, _REVALIDATING)), None)
        asked = map(self._down.request.get_raw, _REVALIDATING)
        return condition is not None and condition not in self._validators and condition in asked

    async def _revalidated(self, not_modified: ResponseHeader) -> None:
        # The stored object has been confirmed: its head is renewed, and it is served.
        session = self._session
        cache = session.cache
        old = cache.cache_meta
        verdict = cache.policy.merge_304(
            old,
            not_modified,
            self._sent,
            request_time=session.upstream_request_time,
            response_time=cache.now(),
        )
        if isinstance(verdict, Cacheable):
            merged = verdict.meta.header
        else:
            merged = cache.revalidate_merge_header(not_modified)
        if self._overrides.response_cache_filter:
            session.phase = "response_cache_filter"
            verdict = await self._app.response_cache_filter(session, merged.copy(), self._ctx)
            session.phase = "relay response"
        if isinstance(verdict, Uncacheable):
            cache.response_became_uncacheable(verdict.reason)
            cache.revalidate_uncacheable(merged, verdict.reason)
        else:
            cache.response_became_cacheable()
            meta = verdict.meta
            if meta.variance != old.variance:
                meta = meta.replace(variance=old.variance)
            await cache.revalidate_cache_meta(meta)
        header = cache.cache_meta.header.copy()
        age = int(cache.cache_meta.age(cache.now()))
        if age or b"age" in header.first_values():
            header.insert_header(b"Age", b"%d" % age)
        if session.is_subrequest:
            self._down.send_response_header(header, end=True)  # nobody wants the body
            return
        await self._send_stored(header)

    async def _served_stale(self, header: ResponseHeader) -> bool:
        error = Error.up(HTTPStatus(header.status), "the upstream has answered with an error")
        return await self._stored().serves_stale(self._session, self._ctx, error)

    async def _send_stored(self, header: ResponseHeader) -> None:
        session = self._session
        if not await self._stored().sends(session, session.cache, self._ctx, header):
            # Without it the upstream has to be asked again, and for the body this time.
            again = Error.internal(ErrorType.INTERNAL_ERROR, "the stored body is lost")
            again.set_retry(True)
            raise again

    def _stored(self) -> StoredResponses[CTX]:
        return StoredResponses(self._app, self._overrides)


class InvalidatingExchange(Exchange[CTX]):
    """One attempt of a request that may change what is stored (RFC 9111 section 4.4)."""

    async def run(self) -> None:
        """Send the request, purge what it has made invalid, then relay the response.

        Raises:
            Error: From upstream, downstream or a callback; a response head may have been sent.
        """
        try:
            await self.relay(await self.send_and_await_head())
        finally:
            await self.abandon()

    async def relay(self, head: HeaderTask) -> None:
        """Purge what the request has made invalid, then relay the response.

        Args:
            head: From :meth:`send_and_await_head`.

        Raises:
            Error: As :meth:`run` does.
        """
        await self._invalidate(head.header)
        await super().relay(head)

    async def _invalidate(self, header: ResponseHeader) -> None:
        session = self._session
        purger = session.invalidates
        if purger is None:
            return
        session.phase = "cache_invalidation_keys"
        for key in self._app.cache_invalidation_keys(session, header, self._ctx):
            try:
                await noted(key, purger.invalidate(key))
            except Error as error:
                logger.error(
                    "an object could not be invalidated: %s, %s",
                    error,
                    self._app.request_summary(session, self._ctx),
                )


def exchange_for(session: Session) -> type[Exchange[CTX]]:
    """Choose what an attempt of a request with a cache is.

    Args:
        session: The request; somebody has asked for its cache.

    Returns:
        The kind of exchange.
    """
    cache = session.cache
    if cache.enabled or cache.bypassing:
        return CachingExchange
    return Exchange if session.invalidates is None else InvalidatingExchange
