"""A write that goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from pingora_cache.memory._records import pack_tags, weigh
from pingora_cache.meta import CacheMeta

if TYPE_CHECKING:
    from pingora_cache.key import CacheKey, CompactCacheKey
    from pingora_cache.memory._body import Body

__all__ = ["Write"]


@final
class Write:
    """What is known about an object that is still being written.

    Args:
        tag: What it is found by.
        key: The key of the object.
        meta: What is known about the response.

    Raises:
        Error: If the meta cannot be kept.

    Attributes:
        tag: What it is found by.
        slot: Where the object belongs.
        key: Its key, compact.
        packed_meta: The meta, serialised; what is kept.
        packed_tags: The tags of the meta, as a record has them.
        tags: The tags of the meta.
        fresh_until: That of the meta.
        base: Bytes that it counts for besides its body.
        body: What has been written.
        deleted: Whether it was purged, and will not be published.
        expired: When it was made to expire, wall clock seconds; 0.0 if it was not.
        active: Whether it has neither been published nor failed.
    """

    __slots__ = (
        "_meta",
        "active",
        "base",
        "body",
        "deleted",
        "expired",
        "fresh_until",
        "key",
        "packed_meta",
        "packed_tags",
        "slot",
        "tag",
        "tags",
    )

    body: Body

    def __init__(self, tag: bytes, key: CacheKey, meta: CacheMeta) -> None:
        self.tag = tag
        self.slot = key.combined_hash
        self.key: CompactCacheKey = key.to_compact()
        self.packed_meta = meta.to_bytes()
        self.packed_tags = pack_tags(meta.tags)
        self.tags = meta.tags
        self.fresh_until = meta.fresh_until
        self.base = weigh(self.packed_meta, self.packed_tags)
        self.deleted = False
        self.expired = 0.0
        self.active = True
        self._meta: CacheMeta | None = None

    @property
    def weight(self) -> int:
        """Bytes that it counts for now."""
        return self.base + self.body.size

    def meta(self) -> CacheMeta:
        """Get the meta as those who find the object see it: as it is kept.

        Returns:
            The meta.
        """
        if self._meta is None:
            meta = CacheMeta.from_bytes(self.packed_meta)
            self._meta = meta.expired(self.expired) if self.expired else meta
        return self._meta

    def expire(self, now: float) -> None:
        """Have it expired when it is published.

        Args:
            now: Wall clock seconds.
        """
        self.expired = now
        self._meta = None
