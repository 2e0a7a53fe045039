"""What the readers and writers of one storage share."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from pingora_cache._budget import Budget
from pingora_cache.redis._link import REDIS_AWAY, REDIS_REFUSED
from pingora_cache.redis._scripts import DISCARD
from pingora_error import Error

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_cache.redis._link import Link
    from pingora_cache.redis._names import ObjectNames
    from pingora_cache.stats import StorageStats

__all__ = ["OVERHEAD", "RedisTuning", "Shared"]

OVERHEAD: Final = 512
"""Bytes that Redis takes for an object besides its body and its meta, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisTuning:
    """Numbers that are right as they are until somebody has measured.

    Attributes:
        chunk_size: Bytes of each piece of a large body.
        inline_size: Bytes up to which a body is kept, and looked up, together with its meta.
        max_commands: Commands, and so connections, at a time.
        max_buffered: Bytes of bodies that may be on their way at a time, over all requests. Beyond
            it responses are not stored, and bodies are not read ahead.
        keep: Seconds that an object is kept when it can be served no more, stale or not: it may be
            revalidated.
        reader_grace: Seconds that a body which was replaced or purged remains for those who read
            it already. Each piece that is read prolongs it.
        max_lifetime: Seconds that an object is kept at most.
        write_lifetime: Seconds after which a write that nobody goes on with is forgotten.
        tag_slots: Over how many nodes of a cluster the tags may spread; the same in all processes
            that share the cache.

    Raises:
        ValueError: If a number is out of range.
    """

    chunk_size: int = 128 * 1024
    inline_size: int = 16 * 1024
    max_commands: int = 64
    max_buffered: int = 64 * 1024 * 1024
    keep: float = 3600.0
    reader_grace: float = 60.0
    max_lifetime: float = 30 * 86400.0
    write_lifetime: float = 120.0
    tag_slots: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.inline_size <= self.chunk_size <= 2**29 or self.chunk_size < 1:
            msg = "bodies are in pieces of 1 byte to 512 MiB; what is inline is no larger than one"
            raise ValueError(msg)
        if self.max_buffered < self.chunk_size:
            msg = f"at least one piece of {self.chunk_size} bytes is on its way at a time"
            raise ValueError(msg)
        if not 0 <= self.keep < 1e9 or not 0 < self.max_lifetime < 1e9:
            msg = "an object is kept for some seconds, and 30 years at most"
            raise ValueError(msg)
        if not 0 < self.reader_grace < 1e9 or not 0 < self.write_lifetime < 1e9:
            msg = "readers and writers have some seconds"
            raise ValueError(msg)


@final
class Shared:
    """What the readers and writers of one storage share.

    Args:
        link: The way to Redis.
        tuning: Numbers.
        stats: What is counted.
        clock: Seconds that only grow.

    Attributes:
        link: The way to Redis.
        tuning: Numbers.
        stats: What is counted.
        budget: Bytes of bodies on their way.
        clock: Seconds that only grow.
        max_object_size: Bytes of the largest body that is stored; None for any.
        grace: Milliseconds that readers have.
    """

    __slots__ = ("budget", "clock", "grace", "link", "max_object_size", "stats", "tuning")

    def __init__(
        self,
        link: Link,
        tuning: RedisTuning,
        stats: StorageStats,
        *,
        max_object_size: int | None,
        clock: Callable[[], float],
    ) -> None:
        self.link = link
        self.tuning = tuning
        self.stats = stats
        self.budget = Budget(tuning.max_buffered)
        self.clock = clock
        self.grace = max(1, int(tuning.reader_grace * 1000))
        self.max_object_size = max_object_size

    def discard(self, names: ObjectNames, *write: str | bytes) -> None:
        """Remove a damaged object, without waiting for it.

        Args:
            names: The keys of the object.
            *write: The number of its write, in hex, as far as it is known.
        """
        self.stats.corrupt += 1
        self.drop(names, *write)

    def drop(self, names: ObjectNames, *write: str | bytes) -> None:
        """Remove an object, without waiting for it.

        Args:
            names: The keys of the object.
            *write: The number of its write, in hex, as far as it is known.
        """
        with suppress(Error):  # then it will be found again
            _ = self.link.run(DISCARD, [names.head], [names.bodies, *write])

    def count(self, error: Error) -> None:
        """Count a failure of Redis.

        Args:
            error: A failure of any sort.
        """
        if error.etype in {REDIS_AWAY, REDIS_REFUSED}:
            self.stats.errors += 1
