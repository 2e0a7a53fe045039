"""What is going on right now, by key, over many machines.

Theory of operation: each machine counts for itself and tells Redis what it holds of the keys that
have changed; the answer says what all others hold of them. Redis keeps it under a lease that every
flush renews. The lease of a machine that dies runs out, and with it goes what it held; if it was
only away for that long, it learns so and tells everything anew. A machine that has not heard of
Redis for a lease counts alone.
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
from pingora_limits._sketch import HASHES, SLOTS_PER_KEY, Sketch
from pingora_limits._tally import check_amount
from pingora_limits.inflight import Guard
from pingora_limits.redis._link import Link, as_list, as_numbers, check_name
from pingora_limits.redis._running import Running
from pingora_limits.redis._scripts import HOLD, LEAVE

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_limits._hashing import Key
    from pingora_limits.redis._link import RedisClient

__all__ = ["RedisInflight"]

_BATCH: Final = 1_000


@final
class _Held:
    """One key: what is held here, of that told to Redis, held by others."""

    __slots__ = ("field", "is_dirty", "others", "own", "told")

    def __init__(self, field: bytes) -> None:
        self.field = field
        self.own = 0
        self.told = 0
        self.others = 0
        self.is_dirty = False


@final
class _Exact:
    """The keys that are exchanged with Redis."""

    __slots__ = ("changed", "held")

    def __init__(self) -> None:
        self.held: dict[int, _Held] = {}
        self.changed: list[int] = []  # hashes of those to be told

    def add(self, hashed: int, amount: int, /) -> int:
        # To a key that is there; it stays until Redis knows that nothing of it is held.
        held = self.held[hashed]
        held.own += amount
        self.touch(hashed, held)
        return held.own

    def touch(self, hashed: int, held: _Held) -> None:
        if not held.is_dirty:
            held.is_dirty = True
            self.changed.append(hashed)


@final
class RedisInflight(Running):
    """``Inflight``, counted over all machines that use the same Redis and the same name.

    No call waits for Redis. Each machine counts for itself and exchanges counts with Redis every
    ``flush_interval`` in a background task: run this as an async context manager, or its ``run``.
    A count is what is in flight on this machine now, plus what all others had when the key last
    changed here and was exchanged.

    What a machine that dies had in flight is released when its lease has run out. When Redis is
    away for longer than the lease, a machine counts for itself alone.

    Round trips: one for every 1,000 keys that have changed since the last flush, and one in a third
    of the lease if there were none.

    Args:
        client: A client of Redis; ``connect`` makes one.
        name: What is counted; the same on all machines that count together.
        expected_keys: Keys that are in flight on this machine at the same time and exchanged, at
            least 1; those beyond are counted on this machine only, by estimates.
        lease: Seconds after which what a dead machine had in flight is released.
        flush_interval: Seconds between two flushes, less than a third of the lease.
        timeout: Seconds that Redis may take to answer.
        clock: Seconds that only grow.

    Attributes:
        max_memory: Bytes that the counts take at most, whatever keys come; guards not included.

    Raises:
        ValueError: If a number is out of range.
    """

    __slots__ = (
        "_capacity",
        "_clock",
        "_exact",
        "_flush_interval",
        "_flushing",
        "_keys",
        "_lease",
        "_link",
        "_machine",
        "_name",
        "_sketch",
        "max_memory",
    )

    def __init__(
        self,
        client: RedisClient,
        *,
        name: str,
        expected_keys: int = 10_000,
        lease: float = 10.0,
        flush_interval: float = 0.1,
        timeout: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        check_name(name)
        if expected_keys < 1:
            msg = f"at least 1 key is expected, not {expected_keys}"
            raise ValueError(msg)
        if not 0 < flush_interval < lease / 3 < math.inf:
            msg = (
                f"flushes are less than a third of a lease apart ({lease} s), not {flush_interval}"
            )
            raise ValueError(msg)
        self._capacity = expected_keys
        self._clock = clock
        self._flush_interval = flush_interval
        self._lease = lease
        self._link = Link(client, timeout=timeout, name=name, clock=clock)
        self._name = name
        self.max_memory: int = (600 + 8 * HASHES * SLOTS_PER_KEY) * expected_keys
        self.forget()
        forget_after_fork(self)

    def forget(self) -> None:
        """Be a machine of its own: guards that were made so far are the parent's."""
        self._flushing = asyncio.Lock()
        self._machine = secrets.token_hex(8)
        prefix = f"pingora:{{{self._name}}}:"
        self._keys = (f"{prefix}machines", f"{prefix}@{self._machine}", f"{prefix}@")
        self._exact = _Exact()
        self._sketch: Sketch | None = None

    @property
    def is_away(self) -> bool:
        """Whether Redis has failed since it last answered."""
        return self._link.is_away

    @property
    def failures(self) -> int:
        """How often Redis did not answer as it should."""
        return self._link.failures

    @property
    def staleness(self) -> float:
        """Seconds since Redis last answered; infinite if it never has."""
        return self._clock() - self._link.last_success

    def incr(self, key: Key, value: int = 1) -> tuple[Guard, int]:
        """Count something that begins.

        Args:
            key: What it belongs to.
            value: How much it is, from 1 to 4 Gi.

        Returns:
            A guard to release when it ends, and the count of the key with this included, as far as
            known here. The count falls also when the guard is dropped.

        Raises:
            TypeError: If the key is of another type.
            ValueError: If the value is out of range; nothing was counted.
        """
        if value != 1:
            check_amount(value, 1)
        hashed = hash_key(key)
        exact = self._exact
        if hashed not in exact.held:
            if len(exact.held) >= self._capacity:
                sketch = self._need_sketch()
                return Guard(self, sketch, hashed, value), sketch.add(hashed, value)
            exact.held[hashed] = _Held(encode_key(key))
        exact.add(hashed, value)
        return Guard(self, exact, hashed, value), self.count(hashed)

    def get(self, key: Key) -> int:
        """Tell what is in flight.

        Args:
            key: The key.

        Returns:
            Its count, as far as known here.
        """
        return self.count(hash_key(key))

    def count(self, hashed: int) -> int:
        """Tell what is in flight of a key of which only the hash is known.

        Args:
            hashed: The hash of the key.

        Returns:
            Its count, as far as known here.
        """
        count = 0
        held = self._exact.held.get(hashed)
        if held is not None:
            count = held.own
            if held.others and self._clock() - self._link.last_success <= self._lease:
                count += held.others
        if self._sketch is not None and self._sketch.total:
            count += self._sketch.get(hashed)
        return count

    async def run(self) -> None:
        """Exchange counts until cancelled; then let Redis forget this machine."""
        try:
            while True:
                await asyncio.sleep(self._flush_interval)
                await self.flush()
        finally:
            await self._link.settle()
            await self._link.run(LEAVE, self._keys[:2], [self._machine], as_list)
            await self._link.settle()

    async def flush(self) -> None:
        """Exchange counts now."""
        async with self._flushing:
            exact = self._exact
            # Not until nothing has changed: under load something always has.
            for _ in range(1 + len(exact.changed) // _BATCH):
                if not exact.changed and self.staleness < self._lease / 3:
                    return
                changed, exact.changed = exact.changed[:_BATCH], exact.changed[_BATCH:]
                if not await self._tell(changed):
                    exact.changed += changed
                    self._do_without()
                    return

    def _need_sketch(self) -> Sketch:
        if self._sketch is None:
            self._sketch = Sketch(HASHES, SLOTS_PER_KEY * self._capacity)
        return self._sketch

    async def _tell(self, changed: list[int]) -> bool:
        batch = [(hashed, self._exact.held[hashed]) for hashed in changed]
        arguments: list[str | bytes | int] = [self._machine, int(self._lease * 1000)]
        told = [held.own for _, held in batch]
        for (_, held), own in zip(batch, told, strict=True):
            arguments += (held.field, own)
        parse = partial(as_numbers, 1 + len(batch))
        answer = await self._link.run(HOLD, self._keys, arguments, parse)
        if answer is None:
            return False
        if not answer[0]:
            self._tell_all_again()
        for (hashed, held), own, others in zip(batch, told, answer[1:], strict=True):
            held.told, held.others = own, others
            self._settle(hashed, held)
        return True

    def _settle(self, hashed: int, held: _Held) -> None:
        held.is_dirty = False
        if held.own != held.told:
            self._exact.touch(hashed, held)  # changed while Redis was asked
        elif not held.own:
            del self._exact.held[hashed]

    def _do_without(self) -> None:
        # Keys of which nothing is held need not wait for Redis, unless it thinks otherwise.
        exact = self._exact
        if self.staleness > self._lease:
            for held in exact.held.values():
                held.told = held.others = 0
        done = {hashed for hashed, held in exact.held.items() if not held.own and not held.told}
        if done:
            exact.changed = [hashed for hashed in exact.changed if hashed not in done]
            for hashed in done:
                del exact.held[hashed]

    def _tell_all_again(self) -> None:
        # The lease had run out, or Redis has lost its memory.
        for hashed, held in self._exact.held.items():
            if held.told:
                self._exact.touch(hashed, held)
