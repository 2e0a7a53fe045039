"""Counts by key and interval that many machines share through Redis, without ever waiting for it.

Theory of operation: each machine counts for itself and tells Redis every ``flush_interval`` what it
has counted since, in batches; the answer says how much that makes over all machines. The count of a
key is what this machine has counted so far plus what the others had in the last answer. When Redis
is away the second part is what it last was, and nothing from the next interval on: counting goes on
as if this machine were alone. What was not told is told later, as long as its interval matters.

Intervals are numbered by the clock of Redis, whose distance to our own each answer tells. A batch
has a number by which Redis knows it again, so that one whose answer was lost is counted once.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from functools import partial
from typing import TYPE_CHECKING, Final, final

from pingora_limits._forking import forget_after_fork
from pingora_limits._hashing import encode_key, hash_key
from pingora_limits._tally import Geometry, Tally
from pingora_limits.redis._link import Link, as_numbers, check_name
from pingora_limits.redis._running import Running
from pingora_limits.redis._scripts import COUNT

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_limits._hashing import Key
    from pingora_limits.redis._link import RedisClient

__all__ = ["RedisCounters"]

_BATCH: Final = 1_000


@final
class _Count:
    """One key in one interval: counted here, of that told to Redis, counted by others."""

    __slots__ = ("field", "hashed", "is_dirty", "others", "own", "told")

    def __init__(self, hashed: int, field: bytes) -> None:
        self.hashed = hashed
        self.field = field
        self.own = 0
        self.told = 0
        self.others = 0
        self.is_dirty = False


@final
class _Epoch:
    """One interval: its keys, those beyond the room for them, those to be told to Redis."""

    __slots__ = ("counts", "crowd", "dirty", "number")

    def __init__(self, number: int, geometry: Geometry) -> None:
        self.number = number
        self.counts: dict[int, _Count] = {}
        self.crowd = Tally(geometry)
        self.dirty: list[_Count] = []

    def get(self, hashed: int) -> int:
        count = self.counts.get(hashed)
        return self.crowd.get(hashed) if count is None else count.own + count.others


@final
class _Batch:
    """What is told to Redis at once."""

    __slots__ = ("amounts", "counts", "epoch", "number")

    def __init__(self, number: int, epoch: _Epoch, counts: list[_Count]) -> None:
        self.number = number
        self.epoch = epoch
        self.counts = counts
        self.amounts = [count.own - count.told for count in counts]


@final
class RedisCounters(Running):
    """What ``RedisRate`` and ``RedisSlidingWindow`` count with.

    Args:
        client: The client.
        interval: Length of an interval in seconds.
        name: What is counted; the same on all machines that count together.
        expected_keys: Keys that are told to Redis in an interval; others are counted here only.
        flush_interval: Seconds between two flushes.
        timeout: Seconds that Redis may take to answer.
        clock: Seconds that only grow.

    Attributes:
        interval: Length of an interval in seconds.
        link: The way to Redis.
        lost: Events that were never told to Redis, since it was away for too long.

    Raises:
        ValueError: If a number is out of range.
    """

    __slots__ = (
        "_batches",
        "_capacity",
        "_clock",
        "_current",
        "_end",
        "_flush_interval",
        "_flushing",
        "_geometry",
        "_machine",
        "_name",
        "_offset",
        "_pending",
        "_previous",
        "_start",
        "interval",
        "link",
        "lost",
    )

    def __init__(
        self,
        client: RedisClient,
        interval: float,
        *,
        name: str,
        expected_keys: int,
        flush_interval: float,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        check_name(name)
        if not 0 < interval < math.inf:
            msg = f"an interval is longer than 0 seconds and ends, not {interval}"
            raise ValueError(msg)
        if not 0 < flush_interval < interval:
            msg = f"flushes are less than an interval apart ({interval} s), not {flush_interval}"
            raise ValueError(msg)
        self._geometry = Geometry(expected_keys, exact_keys=0)
        self._capacity = expected_keys
        self._clock = clock
        self._name = name
        self._flush_interval = flush_interval
        self.interval = interval
        self.link = Link(client, timeout=timeout, name=name, clock=clock)
        self.forget()
        forget_after_fork(self)

    def forget(self) -> None:
        """Be a machine of its own: what was counted so far is the parent's to tell."""
        self._flushing = asyncio.Lock()
        self._machine = b"@" + secrets.token_hex(8).encode()
        self._batches = 0
        self._offset: float | None = None  # of the clock of Redis against ours
        self._pending: _Batch | None = None
        self._start = self._end = -math.inf
        self._previous = _Epoch(-1, self._geometry)
        self._current = _Epoch(0, self._geometry)
        self.lost = 0

    @property
    def staleness(self) -> float:
        """Seconds since Redis last answered; infinite if it never has."""
        return self._clock() - self.link.last_success

    @property
    def max_memory(self) -> int:
        """Bytes that the counts take at most."""
        return 2 * (600 * self._capacity + self._geometry.max_memory)

    def add(self, key: Key, amount: int) -> int:
        """Count.

        Args:
            key: The key.
            amount: How much, from 0 to 4 Gi.

        Returns:
            The count of the key in this interval, as far as it is known here.
        """
        now = self._clock()
        if not self._start <= now < self._end:
            self._turn(now)
        epoch = self._current
        hashed = hash_key(key)
        count = epoch.counts.get(hashed)
        if count is None:
            if len(epoch.counts) >= self._capacity:
                return epoch.crowd.add(hashed, amount)
            count = epoch.counts[hashed] = _Count(hashed, encode_key(key))
        count.own += amount
        if not count.is_dirty:
            count.is_dirty = True
            epoch.dirty.append(count)
        return count.own + count.others

    def get(self, key: Key) -> tuple[int, int, float]:
        """Tell what was counted.

        Args:
            key: The key.

        Returns:
            The count of the key in the interval before and in this one, as far as it is known
            here, and the seconds since this interval began.
        """
        now = self._clock()
        if not self._start <= now < self._end:
            self._turn(now)
        hashed = hash_key(key)
        elapsed = min(self.interval, max(0.0, now - self._start))
        return self._previous.get(hashed), self._current.get(hashed), elapsed

    async def run(self) -> None:
        """Flush until cancelled, and then once more."""
        try:
            while True:
                await asyncio.sleep(self._flush_interval)
                await self.flush()
        finally:
            await self.link.settle()
            await self.flush()
            await self.link.settle()

    async def flush(self) -> None:
        """Tell Redis what was counted until now, and learn what others have counted."""
        async with self._flushing:
            await self._flush()

    async def _flush(self) -> None:
        now = self._clock()
        if not self._start <= now < self._end:
            self._turn(now)
        if self._offset is None:
            # What is the time? Epoch 0 will do to ask.
            if not await self._tell(_Batch(0, self._current, [])):
                return
            self._turn(self._clock())
        dirty = len(self._previous.dirty) + len(self._current.dirty)
        # Not until nothing is dirty: under load something always is.
        for _ in range(2 + dirty // _BATCH):
            batch = self._next_batch()
            if batch is None or not await self._tell(batch):
                return
            self._pending = None

    def _next_batch(self) -> _Batch | None:
        pending = self._pending
        if pending is not None and pending.epoch.number >= self._previous.number:
            return pending
        epoch = self._previous if self._previous.dirty else self._current
        counts, epoch.dirty = epoch.dirty[:_BATCH], epoch.dirty[_BATCH:]
        if not counts:
            self._pending = None
            return None
        for count in counts:
            count.is_dirty = False
        self._batches += 1
        self._pending = _Batch(self._batches, epoch, counts)
        return self._pending

    async def _tell(self, batch: _Batch) -> bool:
        number = batch.epoch.number
        keys = [self._key(number), self._key(number - 1)]
        lifetime = max(1_000, int(3_000 * self.interval))
        arguments: list[bytes | int] = [self._machine, batch.number, lifetime]
        for count, amount in zip(batch.counts, batch.amounts, strict=True):
            arguments += (count.field, amount)
        asked = self._clock()
        parse = partial(as_numbers, 2 + 2 * len(batch.counts))
        answer = await self.link.run(COUNT, keys, arguments, parse)
        if answer is None:
            return False
        answered = self._clock()
        self._apply(batch, answer[2:])
        self._adjust((answer[0] + answer[1] / 1e6) - (asked + answered) / 2, answered - asked)
        return True

    def _apply(self, batch: _Batch, totals: list[int]) -> None:
        previous = self._previous if batch.epoch is self._current else None
        for index, count in enumerate(batch.counts):
            count.told += batch.amounts[index]
            count.others = max(0, totals[2 * index] - count.told)
            if previous is None:
                continue
            before = previous.counts.get(count.hashed)
            if before is None and len(previous.counts) < self._capacity:
                before = previous.counts[count.hashed] = _Count(count.hashed, count.field)
            if before is not None:
                before.others = max(0, totals[2 * index + 1] - before.told)

    def _adjust(self, offset: float, uncertainty: float) -> None:
        known = self._offset
        if known is not None and abs(offset - known) <= uncertainty:
            return
        self._offset = offset
        if known is None:
            # Until now intervals were numbered by our own clock: it is the same interval.
            number = math.floor((self._clock() + offset) / self.interval)
            self._current.number, self._previous.number = number, number - 1
        self._start = self._end = -math.inf

    def _turn(self, now: float) -> None:
        """Let the interval of a reading be the current one."""
        offset = self._offset or 0.0
        number = math.floor((now + offset) / self.interval)
        self._start = number * self.interval - offset
        self._end = self._start + self.interval
        ahead = number - self._current.number
        if ahead == 0:
            return
        if ahead == -1:
            # The clock of Redis is a little later than it seemed: the new interval has begun.
            self._start = now
            return
        self._count_lost(self._previous)
        if ahead == 1:
            self._previous = self._current
        else:
            self._count_lost(self._current)
            self._previous = _Epoch(number - 1, self._geometry)
        self._current = _Epoch(number, self._geometry)

    def _count_lost(self, epoch: _Epoch) -> None:
        if epoch.dirty or self._pending is not None:
            self.lost += sum(count.own - count.told for count in epoch.counts.values())

    def _key(self, number: int) -> str:
        return f"pingora:{{{self._name}:{self.interval!r}}}:{number}"
