"""How an object lies in memory: as one string of bytes.

Theory of operation: a cache of a million small responses is a million metas, each a tree of some
dozen objects. As such they would take kilobytes each, and above all the garbage collector of the
interpreter would walk through all of them again and again, and stop the program for a second each
time. Bytes are nothing to walk through, and neither is a dictionary that holds nothing else.

So the serialised meta, the body if it is small, and what the store has to know about the object lie
in one ``bytes``:

```
 HEAD (below) | key | tags: (length, tag)* | meta | body, if it is small
```
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple, final

from pingora_cache.key import CompactCacheKey
from pingora_cache.meta import CacheMeta

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["OVERHEAD", "Entry", "Record", "pack_tags", "unpack_tags", "weigh"]

OVERHEAD: Final = 384
"""Bytes that an object counts for besides its meta, its tags and its body: its record's head, its
key, and what the tables and the eviction manager take for it."""

# epoch, weight, size of the body, first piece or -1, expired at or 0.0, then three lengths
_HEAD: Final = Struct("<qqqqdIII")
_EPOCH: Final = Struct("<q")
_LENGTH: Final = Struct("<I")
_TAGS_AT: Final = _HEAD.size - 8


class Record(NamedTuple):
    """What is known about a finished object.

    Attributes:
        epoch: When it was published or its meta updated, counted in purges by tag.
        weight: Bytes that it counts for.
        size: Bytes of its body.
        first: The number of the body's first piece; -1 if the body is ``inline``.
        expired: When it was made to expire, wall clock seconds; 0.0 if it was not.
        key: The compact key, serialised.
        tags: The tags, packed.
        meta: The meta, serialised.
        inline: The body if it is small, b"" otherwise.
    """

    epoch: int
    weight: int
    size: int
    first: int
    expired: float
    key: bytes
    tags: bytes
    meta: bytes
    inline: bytes

    def pack(self) -> bytes:
        """Make one string of it.

        Returns:
            The bytes.
        """
        head = _HEAD.pack(
            self.epoch,
            self.weight,
            self.size,
            self.first,
            self.expired,
            len(self.key),
            len(self.tags),
            len(self.meta),
        )
        return b"".join((head, self.key, self.tags, self.meta, self.inline))

    @classmethod
    def unpack(cls, data: bytes) -> Record:
        """Read what ``pack`` made.

        Args:
            data: The bytes.

        Returns:
            The record.
        """
        epoch, weight, size, first, expired, key, tags, meta = _HEAD.unpack_from(data)
        tags_at = _HEAD.size + key
        meta_at = tags_at + tags
        inline_at = meta_at + meta
        return cls(
            epoch,
            weight,
            size,
            first,
            expired,
            data[_HEAD.size : tags_at],
            data[tags_at:meta_at],
            data[meta_at:inline_at],
            data[inline_at:],
        )

    @staticmethod
    def is_tagged_before(data: bytes, epoch: int) -> bool:
        """Look, without reading all of it, whether purges by tag may concern a record.

        Args:
            data: A packed record.
            epoch: Of the last purge.

        Returns:
            Whether it has tags and is older.
        """
        return bool(_LENGTH.unpack_from(data, _TAGS_AT)[0]) and _EPOCH.unpack_from(data)[0] < epoch


@final
class Entry:
    """An object that is ready to be used.

    Attributes:
        meta: Its meta.
        key: Its key, for the eviction manager.
        weight: Bytes that it counts for.
        size: Bytes of its body.
        first: The number of the body's first piece, -1 if it lies in ``data``.
        data: The record.
        body_at: Where the body is in the record.
        epoch: As in ``Record``.
        checked: The epoch up to which purges by tag have been applied.
    """

    __slots__ = ("body_at", "checked", "data", "epoch", "first", "key", "meta", "size", "weight")

    def __init__(self, data: bytes) -> None:
        record = Record.unpack(data)
        meta = CacheMeta.from_bytes(record.meta)
        self.meta = meta.expired(record.expired) if record.expired else meta
        self.key = CompactCacheKey.from_bytes(record.key)
        self.weight = record.weight
        self.size = record.size
        self.first = record.first
        self.data = data
        self.body_at = len(data) - len(record.inline)
        self.epoch = self.checked = record.epoch


def pack_tags(tags: Iterable[bytes]) -> bytes:
    """Make one string of tags.

    Args:
        tags: The tags.

    Returns:
        The bytes; none for no tags.
    """
    return b"".join(_LENGTH.pack(len(tag)) + tag for tag in tags)


def unpack_tags(data: bytes) -> list[bytes]:
    """Read what ``pack_tags`` made.

    Args:
        data: The bytes.

    Returns:
        The tags.
    """
    tags: list[bytes] = []
    at = 0
    while at < len(data):
        end = at + 4 + _LENGTH.unpack_from(data, at)[0]
        tags.append(data[at + 4 : end])
        at = end
    return tags


def weigh(meta: bytes, tags: bytes) -> int:
    """Tell what an object counts for without its body.

    Args:
        meta: The meta, serialised.
        tags: The tags, packed.

    Returns:
        Bytes.
    """
    return len(meta) + len(tags) + OVERHEAD
