"""What may be stored, for how long, and for whom: HTTP caching as RFC 9111 has it.

Theory of operation
-------------------
A policy holds settings and no state; it reads heads and tells. Around one request it is asked, in
this order:

```
request_cacheable ──── lookup ──── variance ──── hit_verdict ──┬─ FRESH ── serve
       │                  │                                    └─ STALE, VALIDATE
       │ no               │ nothing found                             │ ask the upstream
       v                  v                                           v
  straight to the upstream ───────── a response ──────┬─ 304 ─── merge_304
                                                      └─ other ─ response_cacheable, variance
  (any method)                                          invalidated
```

**What tells requests apart.** The key (``CacheKey.for_request``) holds scheme, host and port, path
and query. The variance holds the request fields that ``Vary`` names. *Nothing else of a request
does*: a response that depends on another field (``X-Forwarded-Host``, ``Cookie``, a field that
overrides the method ...) without saying so in ``Vary`` is served to everybody. Either the origin
names it, or the application puts it into the key as ``extra``, or removes it before the request is
sent. To leave less to trust, these are never stored: responses to a request with a body or a field
that overrides the method; statuses that answer a field of one request; responses whose ``Cache-Control`` another reader could read differently, whose
``Vary`` is ``*`` or names what is no field, or from which ``Connection``, ``private="..."`` or
``no-cache="..."`` would take the fields that say what they are; and, unless the policy is told
otherwise, responses that set cookies.

**Where this goes beyond the RFC.** ``Age`` that cannot be read, or is there twice, means stale
(``bad_age``); the RFC suggests to ignore it. ``Pragma: no-cache`` in a response without
``Cache-Control`` means ``no-cache``. Of two different ``max-age`` none counts: stale. A response
that is stale at once, has no validator and must not be served stale is not stored: nothing could
ever come of it, and others would wait for it. A 304 whose ``ETag`` is another one than the one that
was asked for still confirms the stored body, and the stored ``ETag`` stays.

Source: RFC 9111; for ``CachePolicy.pingora`` pingora-cache/src/filters.rs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from pingora_cache._asked import asked_verdict, asks
from pingora_cache._confirming import answers_condition, head_matches, vary_grew
from pingora_cache._original import original_merge_304, original_response_cacheable
from pingora_cache._storable import (
    HEURISTIC_STATUSES,
    NEVER_STORED_STATUSES,
    Arrival,
    SetCookie,
    Settings,
    decide,
    make_meta,
)
from pingora_cache._storing import add_date, merged, stored_copy
from pingora_cache.invalidation import invalidated
from pingora_cache.reason import NoCacheReason
from pingora_cache.tags import DEFAULT_TAG_FIELDS
from pingora_cache.vary import DEFAULT_NORMALISERS, request_variance, vary_names
from pingora_cache.verdict import Cacheable, HitVerdict, Uncacheable
from pingora_http import names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pingora_cache.filters import CacheMetaDefaults
    from pingora_cache.invalidation import Invalidated
    from pingora_cache.meta import CacheMeta
    from pingora_cache.tags import TagField
    from pingora_cache.vary import Normaliser
    from pingora_cache.verdict import RespCacheable
    from pingora_http import RequestHeader, ResponseHeader

__all__ = ["HEURISTIC_STATUSES", "NEVER_STORED_STATUSES", "CachePolicy", "SetCookie"]

_FRESH: Final = HitVerdict.FRESH
_CACHED_METHODS: Final = frozenset({b"GET", b"HEAD"})
_METHOD_OVERRIDES: Final = frozenset(
    {b"x-http-method", b"x-http-method-override", b"x-method-override"}
)
# Most requests have none of these; then nothing more is looked at.
_TELLING: Final = _METHOD_OVERRIDES | {
    names.CACHE_CONTROL,
    names.CONTENT_LENGTH,
    names.TRANSFER_ENCODING,
}
_UNMATCHABLE: Final = bytes(16)
_NO_COOKIE: Final = (names.SET_COOKIE,)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CachePolicy:
    """Decides about storing and serving, for a cache that many share.

    Attributes:
        targeted_fields: Fields that come before ``Cache-Control``, in their order (RFC 9213).
        surrogate_control: Whether ``Surrogate-Control`` counts too, after those.
        default_ttl: Seconds that a response is fresh for, by status, if it does not say: what
            makes up for origins that say nothing, and negative caching. Comes before heuristics.
        heuristic_fraction: The share of the time since ``Last-Modified`` for which a response that
            says nothing is fresh, 0 to 1; 0 for no heuristics.
        heuristic_max: Seconds, the upper bound of that.
        heuristic_statuses: For which statuses that is; for others only with ``public``.
        stale_while_revalidate: Seconds after it expired during which a response may be served
            while it is fetched anew, if it says nothing about that, and has been fresh at all.
        stale_if_error: Seconds during which it may be served when the upstream fails, likewise.
        max_ttl: Seconds, an upper bound of being fresh; None for none.
        set_cookie: What becomes of responses with ``Set-Cookie``. ``"deny"``: not stored, unless
            they are explicitly for shared caches (``public``, ``s-maxage``, a targeted field), and
            then without the cookie. ``"strip"``: stored without it. ``"store"``: stored with it,
            as the RFC has it; everybody gets the cookie of the first.
        request_directives: Whether clients may ask: ``no-cache``, ``max-age``, ``min-fresh``,
            ``max-stale``, ``only-if-cached``, ``no-store``, and ``Pragma``. False ignores them, as
            CDNs do: nobody can make the cache ask the origin.
        bad_age: What an ``Age`` that cannot be read makes of a response: ``"stale"``, or nothing.
        normalisers: What is done to request fields before they are compared for ``Vary``.
        tag_fields: The fields that hold the tags by which a response can be purged.

    Raises:
        ValueError: If a number is out of range, or a status with a default must not be stored.

    Examples:
        >>> from pingora_http import RequestHeader
        >>> policy = CachePolicy(default_ttl={200: 10, 404: 1}, stale_if_error=3600)
        >>> policy.request_cacheable(RequestHeader("POST", "/")).detail
        'method'
    """

    targeted_fields: tuple[str, ...] = ("CDN-Cache-Control",)
    surrogate_control: bool = False
    default_ttl: Mapping[int, float] = field(default_factory=dict)
    heuristic_fraction: float = 0.1
    heuristic_max: float = 86400.0
    heuristic_statuses: frozenset[int] = HEURISTIC_STATUSES
    stale_while_revalidate: int = 0
    stale_if_error: int = 0
    max_ttl: float | None = None
    set_cookie: SetCookie = "deny"
    request_directives: bool = True
    bad_age: Literal["stale", "ignore"] = "stale"
    normalisers: Mapping[str, Normaliser] = field(default_factory=lambda: DEFAULT_NORMALISERS)
    tag_fields: tuple[TagField, ...] = DEFAULT_TAG_FIELDS
    _original: CacheMetaDefaults | None = field(init=False, repr=False, default=None)
    _settings: Settings = field(init=False, repr=False)
    _normalisers: Mapping[bytes, Normaliser] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        settings = Settings(
            targeted_fields=tuple(name.lower().encode("latin-1") for name in self.targeted_fields),
            surrogate_control=self.surrogate_control,
            default_ttl=dict(self.default_ttl),
            heuristic_fraction=self.heuristic_fraction,
            heuristic_max=self.heuristic_max,
            heuristic_statuses=self.heuristic_statuses,
            stale_while_revalidate=self.stale_while_revalidate,
            stale_if_error=self.stale_if_error,
            max_ttl=self.max_ttl,
            set_cookie=self.set_cookie,
            bad_age=self.bad_age,
            tag_fields=self.tag_fields,
        )
        settings.check()
        normalisers = {name.lower().encode("latin-1"): do for name, do in self.normalisers.items()}
        object.__setattr__(self, "_settings", settings)
        object.__setattr__(self, "_normalisers", normalisers)

    @staticmethod
    def pingora(defaults: CacheMetaDefaults) -> CachePolicy:
        """Make a policy that decides as Pingora does.

        No request directives, ``Age``, heuristics, ``Vary`` or invalidation: an application that
        relies on it does the rest itself. See ``pingora_cache.filters``.

        Args:
            defaults: What holds for responses that say nothing.

        Returns:
            The policy.
        """
        policy = CachePolicy(request_directives=False)
        object.__setattr__(policy, "_original", defaults)
        return policy

    # ---------------------------------------------------------------- requests

    def request_cacheable(self, request: RequestHeader) -> Uncacheable | None:
        """Tell whether the cache may be used for a request at all.

        Args:
            request: The head of the request.

        Returns:
            None if it may; otherwise why not: the method, a body, a field that overrides the
            method, or ``no-store``.
        """
        if request.raw_method not in _CACHED_METHODS:
            return _refuse("method")
        fields = request.raw_index or request.first_values()
        if _TELLING.isdisjoint(fields) or self._original is not None:
            return None
        if names.TRANSFER_ENCODING in fields or fields.get(names.CONTENT_LENGTH, b"0") != b"0":
            return _refuse("request body")
        if not _METHOD_OVERRIDES.isdisjoint(fields):
            return _refuse("method override")
        if self.request_directives and asks(request, "no-store"):
            return _refuse("no-store in the request")
        return None

    def only_if_cached(self, request: RequestHeader) -> bool:
        """Tell whether a request wants a stored response or none.

        Args:
            request: The head of the request.

        Returns:
            Whether to answer 504 where the upstream would be asked (RFC 9111 section 5.2.1.7).
        """
        return self.request_directives and asks(request, "only-if-cached")

    def hit_verdict(self, request: RequestHeader, meta: CacheMeta, now: float) -> HitVerdict:
        """Say what may be done with the stored response that was found.

        Args:
            request: The head of the request.
            meta: The stored response.
            now: Seconds since the epoch.

        Returns:
            The verdict.
        """
        if self.request_directives:
            fields = request.raw_index or request.first_values()
            if names.CACHE_CONTROL in fields or names.PRAGMA in fields:
                return asked_verdict(request, meta, now, self._settings)
        return _FRESH if meta.is_fresh(now) else HitVerdict.STALE

    # --------------------------------------------------------------- responses

    def response_cacheable(
        self,
        request: RequestHeader,
        response: ResponseHeader,
        *,
        request_time: float,
        response_time: float,
    ) -> RespCacheable:
        """Decide whether a response is stored.

        Args:
            request: The head of the request, as the client sent it. (Upstream goes a GET without
                conditions and ranges; see ``filters.upstream_request_filter``.)
            response: The head of the final response; it is not changed.
            request_time: When the request was sent upstream; seconds since the epoch.
            response_time: When the head arrived.

        Returns:
            What to store, or why nothing is.
        """
        if self._original is not None:
            return original_response_cacheable(self._original, request, response, response_time)
        refused = self.request_cacheable(request)
        if refused is not None:
            return refused
        arrival = Arrival(response, request_time, response_time)
        terms = decide(self._settings, request, response, arrival)
        if isinstance(terms, str):
            return _refuse(terms)
        head = stored_copy(response, terms.hidden_fields)
        return Cacheable(
            make_meta(self._settings, head, terms, created=response_time, updated=response_time)
        )

    def merge_304(
        self,
        meta: CacheMeta,
        not_modified: ResponseHeader,
        request: RequestHeader,
        *,
        request_time: float,
        response_time: float,
    ) -> RespCacheable:
        """Freshen a stored response by the 304 that confirms it.

        Its fields replace those of the same name, except ``Vary`` and those that belong to the
        stored body (RFC 9111 section 3.2).

        Args:
            meta: The stored response; it is not changed.
            not_modified: The head of the 304.
            request: The head of the request as it was *sent upstream*, with its conditions.
            request_time: When it was sent; seconds since the epoch.
            response_time: When the 304 arrived.

        Returns:
            What is stored from now on, ``created`` as it was; or why this response must not be
            stored any longer, or the 304 says nothing about it.
        """
        if self._original is not None:
            return original_merge_304(
                self._original, meta, not_modified, request, now=response_time
            )
        if not answers_condition(request, meta.header):
            return _refuse("304 to another condition")
        if vary_grew(meta.header, not_modified):
            return _refuse("Vary changed")
        return self._merge(meta, request, Arrival(not_modified, request_time, response_time))

    def freshened_by_head(
        self,
        meta: CacheMeta,
        response: ResponseHeader,
        request: RequestHeader,
        *,
        request_time: float,
        response_time: float,
    ) -> CacheMeta | None:
        """Learn about a stored response from one to a HEAD (RFC 9111 section 4.3.5).

        Args:
            meta: The stored response, which was the answer to a GET; it is not changed.
            response: The head of the response to the HEAD.
            request: The head of the request.
            request_time: When it was sent; seconds since the epoch.
            response_time: When the response arrived.

        Returns:
            What is stored from now on: freshened if the body is still the same, expired if it is
            not; None if the response says nothing about it.
        """
        if self._original is not None or response.status != 200 or meta.header.status != 200:
            return None
        if not head_matches(meta.header, response) or vary_grew(meta.header, response):
            return meta.expired(response_time)
        verdict = self._merge(meta, request, Arrival(response, request_time, response_time))
        return verdict.meta if isinstance(verdict, Cacheable) else meta.expired(response_time)

    def _merge(self, meta: CacheMeta, request: RequestHeader, arrival: Arrival) -> RespCacheable:
        update = arrival.head.copy()
        add_date(update, arrival.response_time)
        head = merged(meta.header, update, () if self.set_cookie == "store" else _NO_COOKIE)
        terms = decide(self._settings, request, head, arrival)
        if isinstance(terms, str):
            return _refuse(terms)
        head = stored_copy(head, terms.hidden_fields)
        new = make_meta(
            self._settings, head, terms, created=meta.created, updated=arrival.response_time
        )
        return Cacheable(new.replace(variance=meta.variance))

    # ---------------------------------------------------------------- variants

    def varies(self, meta: CacheMeta) -> bool:
        """Tell whether a stored response is for some requests of its key only.

        Args:
            meta: The stored response.

        Returns:
            Whether there is a variance to compute.
        """
        return self._original is None and names.VARY in meta.header.keys_lower()

    def variance(self, meta: CacheMeta, request: RequestHeader) -> bytes | None:
        """Tell which variant of a stored response a request wants.

        Args:
            meta: The stored response, which names the fields that count.
            request: The head of the request, as the client sent it.

        Returns:
            16 bytes; None if there are no variants.
        """
        fields = vary_names(meta.header) if self._original is None else ()
        if fields is None:
            return _UNMATCHABLE  # stored by another policy, and for nobody
        return request_variance(request, fields, self._normalisers) if fields else None

    def invalidated(
        self, request: RequestHeader, response: ResponseHeader, *, scheme: str
    ) -> list[Invalidated]:
        """Tell which stored responses a request has made obsolete.

        Args:
            request: The head of the request, as the client sent it; of any method.
            response: The head of its response.
            scheme: The scheme of the request.

        Returns:
            The targets, for ``CacheKey.for_uri``; see ``pingora_cache.invalidation``.
        """
        if self._original is not None:
            return []
        return invalidated(request, response, scheme=scheme)


def _refuse(detail: str) -> Uncacheable:
    return Uncacheable(NoCacheReason.ORIGIN_NOT_CACHE, detail)
