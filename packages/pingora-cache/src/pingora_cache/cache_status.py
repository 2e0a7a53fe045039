"""``Cache-Status``: how each cache on the way has handled a request.

The field is a list. The cache that is nearest to the origin comes first, and each cache appends
what it has done:

```
Cache-Status: OriginCache; hit; ttl=1100, "edge 7"; fwd=uri-miss; stored
```

It goes to clients, and to whoever they show it to. So a key is in it only if it is asked for, and
nothing else is taken from a request.

Source: RFC 9211.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from math import floor
from typing import TYPE_CHECKING, Final

from pingora_cache._structured import Token, parse_list
from pingora_cache.phase import CachePhase
from pingora_cache.reason import NoCacheReason
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pingora_cache._structured import BareItem
    from pingora_http import HeaderMap

__all__ = [
    "CacheStatusValue",
    "ForwardReason",
    "append_cache_status",
    "parse_cache_status",
    "status_of_phase",
]

_FIELD: Final = b"Cache-Status"
_TOKEN: Final = re.compile(r"[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*").fullmatch
_UNPRINTABLE: Final = re.compile(r"[^ -~]")
_MAX_INTEGER: Final = 999_999_999_999_999
_MAX_TEXT: Final = 1024
# Why a cache is switched off for a request with a method that it does not handle.
_METHOD: Final = NoCacheReason.custom("method")


class ForwardReason(Enum):
    """Why a request went on towards the origin.

    Attributes:
        BYPASS: The cache was not to handle it.
        METHOD: Its method is one that has to go on.
        URI_MISS: Nothing was stored for its URI.
        VARY_MISS: Something was stored for its URI, for requests with other fields.
        MISS: Nothing was stored that could be used; one of the two above.
        REQUEST: Something fresh was stored, but the request would not have it.
        STALE: What was stored had expired.
        PARTIAL: What was stored was only a part of it.

    Source: RFC 9211 section 2.2.
    """

    BYPASS = "bypass"
    METHOD = "method"
    URI_MISS = "uri-miss"
    VARY_MISS = "vary-miss"
    MISS = "miss"
    REQUEST = "request"
    STALE = "stale"
    PARTIAL = "partial"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStatusValue:
    """How one cache has handled a request.

    Attributes:
        cache: The name of the cache.
        hit: Whether it answered from what it had, without sending the request on.
        fwd: Why it sent the request on; None if it did not, or does not say.
        fwd_status: The status that came back, if it is not that of the response.
        ttl: Seconds for which the response is still fresh; negative if it is stale.
        stored: Whether it stored the response.
        collapsed: Whether it held the request back for another one that was on its way: true if
            that one's response served it too, false if it had to be sent on after all, None if
            it was not held back.
        key: The key that it was looked up by. For debugging: a key may tell what a client sent.
        detail: Anything else, in a word or two.

    Raises:
        ValueError: If it was both answered and sent on, the name is empty, or the status has not
            three digits.

    Examples:
        >>> print(CacheStatusValue(cache="edge", hit=True, ttl=30))
        edge; hit; ttl=30
        >>> print(CacheStatusValue(cache="edge 7", fwd=ForwardReason.STALE, fwd_status=304))
        "edge 7"; fwd=stale; fwd-status=304

    Source: RFC 9211 section 2.
    """

    cache: str
    hit: bool = False
    fwd: ForwardReason | None = None
    fwd_status: int | None = None
    ttl: int | None = None
    stored: bool = False
    collapsed: bool | None = None
    key: str | None = None
    detail: str | None = None

    def __post_init__(self) -> None:
        if not self.cache:
            msg = "a cache needs a name"
            raise ValueError(msg)
        if self.hit and self.fwd is not None:
            msg = "a request is either answered from a cache or sent on"
            raise ValueError(msg)
        if self.fwd_status is not None and not 100 <= self.fwd_status <= 999:
            msg = f"a status code has three digits (100 to 999), not {self.fwd_status}"
            raise ValueError(msg)

    def __str__(self) -> str:
        parts = [_word(self.cache)]
        if self.hit:
            parts.append("hit")
        if self.fwd is not None:
            parts.append(f"fwd={self.fwd.value}")
        if self.fwd_status is not None:
            parts.append(f"fwd-status={self.fwd_status}")
        if self.ttl is not None:
            parts.append(f"ttl={min(max(self.ttl, -_MAX_INTEGER), _MAX_INTEGER)}")
        if self.stored:
            parts.append("stored")
        if self.collapsed is not None:
            parts.append("collapsed" if self.collapsed else "collapsed=?0")
        if self.key is not None:
            parts.append(f"key={_quoted(self.key)}")
        if self.detail:
            parts.append(f"detail={_word(self.detail)}")
        return "; ".join(parts)


def status_of_phase(  # noqa: PLR0913  # one for each thing that is known
    cache: str,
    phase: CachePhase,
    *,
    reason: NoCacheReason | None = None,
    fresh_for: float | None = None,
    is_variant: bool = False,
    looked_up: bool = False,
    waited: bool = False,
    stored: bool = False,
    refused: bool = False,
) -> CacheStatusValue:
    """Tell what the phase of a request means in these terms.

    Args:
        cache: The name of the cache.
        phase: Where the request stands when its response is sent.
        reason: Why caching is off, or why a revalidated object is not kept.
        fresh_for: Seconds for which the object is still fresh; negative if it is stale.
        is_variant: Whether the request differs from others for its URI.
        looked_up: Whether there was a lookup.
        waited: Whether the request waited for another one that fetched the same.
        stored: Whether the response is being stored.
        refused: Whether what was found was fresh, and had to be validated all the same.

    Returns:
        What to tell.
    """
    # In this order what is no number counts as stale.
    ttl = None if fresh_for is None else floor(min(max(-_MAX_INTEGER, fresh_for), _MAX_INTEGER))
    fwd, detail, collapsed = _FORWARDED.get(phase), None, False if waited else None
    match phase:
        case CachePhase.HIT | CachePhase.STALE_UPDATING:
            # Whoever waited and then found it has got what the other request fetched.
            updating = phase is CachePhase.STALE_UPDATING
            return CacheStatusValue(
                cache=cache,
                hit=True,
                ttl=ttl,
                collapsed=True if waited else None,
                detail="stale-while-revalidate" if updating else None,
            )
        case CachePhase.DISABLED:
            fwd = ForwardReason.MISS if looked_up else ForwardReason.BYPASS
            if reason == _METHOD and not looked_up:
                fwd = ForwardReason.METHOD
            elif reason is not None and reason != NoCacheReason.NEVER_ENABLED:
                detail = reason.name
        case CachePhase.MISS:
            fwd = ForwardReason.VARY_MISS if is_variant else ForwardReason.URI_MISS
        case CachePhase.STALE:
            detail = "stale-if-error"
        case CachePhase.REVALIDATED_NO_CACHE:
            detail = None if reason is None else reason.name
        case _:
            pass
    if refused and fwd is ForwardReason.STALE:
        fwd = ForwardReason.REQUEST
    confirmed = phase in {CachePhase.REVALIDATED, CachePhase.REVALIDATED_NO_CACHE}
    return CacheStatusValue(
        cache=cache,
        fwd=fwd,
        fwd_status=304 if confirmed else None,
        ttl=ttl,
        stored=stored,
        collapsed=None if fwd is None else collapsed,
        detail=detail,
    )


_FORWARDED: Final = {
    CachePhase.BYPASS: ForwardReason.BYPASS,
    CachePhase.STALE: ForwardReason.STALE,
    CachePhase.EXPIRED: ForwardReason.STALE,
    CachePhase.REVALIDATED: ForwardReason.STALE,
    CachePhase.REVALIDATED_NO_CACHE: ForwardReason.STALE,
}


def append_cache_status(header: HeaderMap, value: CacheStatusValue) -> None:
    """Add what this cache has done to what those behind it have said.

    Args:
        header: The head of the response, changed in place.
        value: What this cache has done.
    """
    header.append_header(_FIELD, str(value))


def parse_cache_status(header: HeaderMap) -> list[CacheStatusValue]:
    """Read what the caches on the way have said.

    Parameters that are unknown, or of another type than they should be, are left out.

    Args:
        header: The head of a response.

    Returns:
        What each cache has said, the one nearest to the origin first; empty if there is none.

    Raises:
        Error: ``INVALID_HTTP_HEADER`` if the field is not as the RFC wants it.
    """
    lines = header.get_all_raw(_FIELD.lower())
    members = parse_list(",".join(_texts(lines)))
    if members is None:
        raise Error(ErrorType.INVALID_HTTP_HEADER, "malformed Cache-Status")
    return [_value(name, parameters) for name, parameters in members]


def _texts(lines: Iterable[bytes]) -> list[str]:
    # Lines without anything are no members (RFC 9110 section 5.6.1).
    return [text for line in lines if (text := line.decode("latin-1").strip(" \t"))]


def _value(name: BareItem, parameters: dict[str, BareItem]) -> CacheStatusValue:
    if not isinstance(name, str) or not name:
        raise Error(ErrorType.INVALID_HTTP_HEADER, "a cache without a name in Cache-Status")
    hit = parameters.get("hit") is True
    reason, collapsed = parameters.get("fwd"), parameters.get("collapsed")
    status = _integer(parameters.get("fwd-status"))
    key, detail = parameters.get("key"), parameters.get("detail")
    return CacheStatusValue(
        cache=str(name),
        hit=hit,
        fwd=None if hit or not isinstance(reason, Token) else _REASONS.get(reason),
        fwd_status=status if status is not None and 100 <= status <= 999 else None,
        ttl=_integer(parameters.get("ttl")),
        stored=parameters.get("stored") is True,
        collapsed=collapsed if isinstance(collapsed, bool) else None,
        key=str(key) if isinstance(key, str) and not isinstance(key, Token) else None,
        detail=str(detail) if isinstance(detail, str) else None,
    )


_REASONS: Final[dict[str, ForwardReason]] = {reason.value: reason for reason in ForwardReason}


def _integer(item: BareItem | None) -> int | None:
    return item if isinstance(item, int) and not isinstance(item, bool) else None


def _word(text: str) -> str:
    return text if len(text) <= _MAX_TEXT and _TOKEN(text) else _quoted(text)


def _quoted(text: str) -> str:
    # A string holds printable ASCII only. Whatever else there is is written as in a URI.
    plain = _UNPRINTABLE.sub(_percent, text[:_MAX_TEXT])
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))
