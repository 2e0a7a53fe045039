"""What the policy says: whether a response may be stored, and whether a stored one may be used."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from pingora_cache.meta import CacheMeta
    from pingora_cache.reason import NoCacheReason

__all__ = ["Cacheable", "HitVerdict", "RespCacheable", "Uncacheable"]


@dataclass(frozen=True, slots=True)
class Cacheable:
    """The response may be stored.

    Attributes:
        meta: What to store with its body: the head, cleaned, and the times.
    """

    meta: CacheMeta


@dataclass(frozen=True, slots=True)
class Uncacheable:
    """The response, or the response to the request, may not be stored.

    Attributes:
        reason: Why, in the terms of the cache.
        detail: Which rule it was, such as ``no-store``. A proxy tells it in ``Cache-Status`` where it
            was one about the request.
    """

    reason: NoCacheReason
    detail: str = ""


RespCacheable: TypeAlias = Cacheable | Uncacheable
"""What is decided about a response. Source: RespCacheable in pingora-cache/src/lib.rs."""


class HitVerdict(Enum):
    """What may be done with a stored response that was found for a request.

    Attributes:
        FRESH: Serve it. Either it is fresh, or the client accepts it as stale as it is.
        STALE: Validate it. Until that is done it may be served stale, within the windows that its
            meta grants.
        VALIDATE: Validate it, and serve it only if that succeeds: the request asks for it. It may
            be fresh, so that the windows of its meta must not be looked at.
    """

    FRESH = "fresh"
    STALE = "stale"
    VALIDATE = "validate"
