"""What things are called in Redis.

All keys of one object have the same hash tag, its hash in braces, and so do the tags of one slot: in
a cluster each script has its keys on one node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, final

from xxhash import xxh3_64_intdigest

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Names", "ObjectNames"]

_LONGEST_PREFIX: Final = 200


class ObjectNames(NamedTuple):
    """The keys of one object.

    Attributes:
        head: A hash with all that is known about it, and with the body if that is small.
        writers: A hash with the writes that go on.
        bodies: What the keys of bodies begin with; the number of a write follows, in hex.
    """

    head: str
    writers: str
    bodies: str

    def body(self, write_id: bytes) -> str:
        """Name the hash that holds the body of a write.

        Args:
            write_id: The number of the write.

        Returns:
            The key.
        """
        return self.bodies + write_id.hex()


@final
class Names:
    """Makes names that begin with the same prefix.

    Args:
        prefix: The prefix.
        tag_slots: Over how many nodes of a cluster the generations of tags may spread.

    Attributes:
        prefix: The prefix.

    Raises:
        ValueError: If the prefix is empty, long, or has a brace in it; or there is no slot.
    """

    __slots__ = ("_tag_slots", "prefix")

    def __init__(self, prefix: str, *, tag_slots: int) -> None:
        if not 0 < len(prefix) <= _LONGEST_PREFIX or "{" in prefix or "}" in prefix:
            msg = f"a prefix has 1 to {_LONGEST_PREFIX} characters and no braces, not {prefix!r}"
            raise ValueError(msg)
        if tag_slots < 1:
            msg = f"there is at least 1 slot for tags, not {tag_slots}"
            raise ValueError(msg)
        self.prefix = prefix
        self._tag_slots = tag_slots

    def of(self, key_hash: bytes) -> ObjectNames:
        """Name the keys of an object.

        Args:
            key_hash: The combined hash of its cache key.

        Returns:
            The names.
        """
        base = f"{self.prefix}:{{{key_hash.hex()}}}"
        return ObjectNames(f"{base}:h", f"{base}:w", f"{base}:b:")

    def tag(self, tag: bytes) -> bytes:
        """Name the key with the generation of a tag.

        Args:
            tag: The tag, any bytes.

        Returns:
            The key.
        """
        return b"%b:{tags-%d}:%b" % (self.prefix.encode(), self._slot(tag), tag)

    def tags_by_slot(self, tags: Iterable[bytes]) -> list[list[bytes]]:
        """Group tags by the node that has them.

        Args:
            tags: The tags.

        Returns:
            Groups of tags, each once; none of them empty.
        """
        slots: dict[int, list[bytes]] = {}
        for tag in dict.fromkeys(tags):
            slots.setdefault(self._slot(tag), []).append(tag)
        return list(slots.values())

    def _slot(self, tag: bytes) -> int:
        return xxh3_64_intdigest(tag) % self._tag_slots if self._tag_slots > 1 else 0
