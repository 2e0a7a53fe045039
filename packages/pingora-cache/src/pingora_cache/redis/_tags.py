"""Generations of tags: how a purge by tag meets every object, also those being written.

Theory of operation: a tag has a value in Redis, made of two parts. The first is its *birth*: a
number used once, drawn when a write first mentions the tag. The second tells when objects with the
tag were last made to expire; "" if never. An object keeps what its tags had when its write began.
At lookup what it keeps is compared with what is: another birth means that the tag was purged since,
another second part that the object has expired then.

So a purge by tag is one step, however many objects there are, wherever they are and whether they
are published yet; there is no list that could be incomplete. And it fails on the safe side: if
Redis has evicted the value of a tag, or lost it in a restart, the objects with that tag are gone.
The price is a second round trip for objects that have tags.
"""

from __future__ import annotations

import math
from struct import Struct
from typing import TYPE_CHECKING, Final

from pingora_cache.redis._frames import DamagedError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["compare", "pack", "unpack"]

_LENGTHS: Final = Struct("<IH")


def pack(generations: Mapping[bytes, bytes]) -> bytes:
    """Serialise what an object keeps.

    Args:
        generations: The generation of each tag.

    Returns:
        The content of a frame.
    """
    parts: list[bytes] = []
    for tag, generation in generations.items():
        parts += (_LENGTHS.pack(len(tag), len(generation)), tag, generation)
    return b"".join(parts)


def unpack(data: memoryview) -> dict[bytes, bytes]:
    """Parse what an object keeps.

    Args:
        data: The content of a frame.

    Returns:
        The generation of each tag.

    Raises:
        DamagedError: If it is none.
    """
    generations: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        if len(data) - at < _LENGTHS.size:
            break
        tag_size, size = _LENGTHS.unpack_from(data, at)
        middle = at + _LENGTHS.size + tag_size
        generations[bytes(data[at + _LENGTHS.size : middle])] = bytes(data[middle : middle + size])
        at = middle + size
    if at != len(data):
        msg = "tags do not fill their frame"
        raise DamagedError(msg)
    return generations


def compare(kept: Mapping[bytes, bytes], current: Mapping[bytes, bytes | None]) -> float | None:
    """Tell what has happened to an object through its tags.

    Args:
        kept: What the object keeps.
        current: What its tags have now; None for one that has nothing.

    Returns:
        None if it was purged; otherwise when it was made to expire, in seconds since the epoch,
        and infinity if it was not.
    """
    expired_at = math.inf
    for tag, before in kept.items():
        now = current.get(tag)
        if now == before:
            continue
        if now is None:
            return None
        birth, _, changed = now.partition(b":")
        if birth != before.partition(b":")[0]:
            return None
        when = _as_time(changed.partition(b":")[0])
        if when is None:
            return None
        expired_at = min(expired_at, when)
    return expired_at


def _as_time(text: bytes) -> float | None:
    try:
        when = float(text)
    except ValueError:
        return None
    return when if math.isfinite(when) else None
