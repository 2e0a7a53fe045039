"""What can be changed in a copy of a meta. Part of ``pingora_cache.meta``."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from pingora_http import ResponseHeader

__all__ = ["MetaChanges"]


class MetaChanges(TypedDict, total=False):
    """What ``CacheMeta.replace`` changes; the same names and meanings as those of ``CacheMeta``."""

    header: ResponseHeader
    created: float
    updated: float
    fresh_until: float
    stale_while_revalidate: int
    stale_if_error: int
    variance: bytes | None
    epoch_override: float | None
    tags: tuple[bytes, ...]
    revalidate: bool
    variants_expired: float
