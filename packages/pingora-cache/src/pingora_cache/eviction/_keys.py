"""The keys of an eviction manager, and the place of each.

Theory of operation: a key is known by its *name*: the primary hash alone, or all of the key as
bytes if there is more to it. Names lead to places by a dictionary that is split into many. One of
a million entries would stop the process for tens of milliseconds whenever it grows; of these, each
grows for itself, and takes a fraction of a millisecond. The way back, from a place to its name, is
an array of bytes, since an object for each entry would be one more to keep.
"""

from __future__ import annotations

from typing import Final, final

from pingora_cache._room import Room
from pingora_cache.key import CompactCacheKey

__all__ = ["SHORT", "Keys", "key_of", "name_of"]

_SHARDS: Final = 256
SHORT: Final = 16
"""The size of a name that is a primary hash and nothing else, bytes."""


def name_of(key: CompactCacheKey) -> bytes:
    """Tell the name of a key.

    Args:
        key: The key.

    Returns:
        Its name.
    """
    primary, variance, tag = key
    if variance is None and not tag:
        return primary
    return key.to_bytes()


def key_of(name: bytes) -> CompactCacheKey:
    """Tell the key that has a name.

    Args:
        name: The name.

    Returns:
        The key.

    Raises:
        Error: If it is no name.
    """
    return CompactCacheKey(name) if len(name) == SHORT else CompactCacheKey.from_bytes(name)


@final
class Keys:
    """Names and places.

    Attributes:
        shards: The dictionaries.
    """

    __slots__ = ("_long", "_short", "shards")

    def __init__(self) -> None:
        self.shards: tuple[dict[bytes, int], ...] = tuple({} for _ in range(_SHARDS))
        self._short = Room()
        # The names of the keys that are more than a primary hash, by place, split as above.
        self._long: tuple[dict[int, bytes], ...] = tuple({} for _ in range(_SHARDS))

    def find(self, name: bytes) -> int | None:
        """Find the place of a key.

        Args:
            name: Its name.

        Returns:
            Its place; None if it has none.
        """
        # The high bits: a dictionary uses the low ones.
        return self.shards[hash(name) >> 48 & 255].get(name)

    def add(self, name: bytes, slot: int) -> None:
        """Give a key that has none a place.

        Args:
            name: Its name.
            slot: The place.
        """
        self.shards[hash(name) >> 48 & 255][name] = slot
        if len(name) != SHORT:
            self._long[slot & 255][slot] = name
            return
        short = self._short
        start = slot * SHORT
        if start + SHORT > len(short.buffer):
            short.extend(start + SHORT + start // 8 - len(short.buffer))
        short.buffer[start : start + SHORT] = name

    def name(self, slot: int) -> bytes:
        """Tell the name of the key that has a place.

        Args:
            slot: The place.

        Returns:
            The name.
        """
        long = self._long[slot & 255]
        if long and (name := long.get(slot)) is not None:
            return name
        start = slot * SHORT
        return bytes(self._short.buffer[start : start + SHORT])

    def remove(self, name: bytes, slot: int) -> None:
        """Take the place of a key away.

        Args:
            name: Its name.
            slot: Its place.
        """
        del self.shards[hash(name) >> 48 & 255][name]
        if len(name) != SHORT:
            del self._long[slot & 255][slot]
