"""A steady rate with a bounded burst, exact over many machines.

Theory of operation: buckets live in Redis, and a script decides. All decisions that are asked for
while Redis works on some go with the next round trip, of which there is one at a time. Who asked
gets the decision of its own bucket on this machine instead when there is no answer in time.
"""

from __future__ import annotations

import asyncio
import math
import time
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, final

from pingora_limits._buckets import SLACK
from pingora_limits._forking import forget_after_fork
from pingora_limits._hashing import encode_key
from pingora_limits._tally import check_amount
from pingora_limits.limiter import Decision
from pingora_limits.redis._link import Link, as_list, as_number, check_name
from pingora_limits.redis._running import Running
from pingora_limits.redis._scripts import TAKE
from pingora_limits.token_bucket import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_limits._hashing import Key
    from pingora_limits.limiter import Limiter
    from pingora_limits.redis._link import RedisClient

__all__ = ["RedisTokenBucket"]

_Answer: TypeAlias = tuple[bool, float]
_Waiting: TypeAlias = tuple[bytes, int, asyncio.Future[_Answer | None]]


@final
class RedisTokenBucket(Running):
    """``TokenBucket`` over all machines that use the same Redis and the same name.

    Each decision takes a round trip to Redis, which it shares with all that are asked for at the
    same time, and at most twice the timeout. A limiter on this machine decides when Redis does not
    answer in time, when it has failed a moment ago, or when too many wait already. It takes part in
    what Redis allows, so that nobody has a second burst when Redis goes away.

    Run it as an async context manager, or its ``run`` in a task; until then it decides locally.

    Args:
        client: A client of Redis; ``connect`` makes one.
        rate: Tokens per second on all machines together, above 0.
        burst: Tokens that a bucket holds, at least 1.
        name: What is limited; the same on all machines that share buckets.
        fallback: Decides when Redis does not; None for a bucket of the same size on this machine.
        timeout: Seconds that Redis may take to answer.
        max_waiting: Decisions that may wait for Redis; more are made here.
        clock: Seconds that only grow.

    Attributes:
        local: How many decisions were made on this machine.

    Raises:
        ValueError: If a number is out of range.
    """

    __slots__ = (
        "_burst",
        "_fallback",
        "_is_running",
        "_link",
        "_max_waiting",
        "_prefix",
        "_rate",
        "_waiting",
        "_wakeup",
        "local",
    )

    def __init__(
        self,
        client: RedisClient,
        rate: float,
        burst: int,
        *,
        name: str,
        fallback: Limiter | None = None,
        timeout: float = 0.05,
        max_waiting: int = 500,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        check_amount(burst, 1)
        check_name(name)
        if not 0 < rate < math.inf:
            msg = f"tokens flow at a rate above 0 per second, not {rate}"
            raise ValueError(msg)
        if max_waiting < 1:
            msg = f"at least 1 decision waits for Redis, not {max_waiting}"
            raise ValueError(msg)
        self._rate = rate
        self._burst = burst
        self._fallback = TokenBucket(rate, burst, clock=clock) if fallback is None else fallback
        self._link = Link(client, timeout=timeout, name=name, clock=clock)
        self._max_waiting = max_waiting
        # Buckets of another size are other buckets.
        self._prefix = f"pingora:{{{name}:{rate!r}:{burst}}}:".encode()
        self.local: int = 0
        self.forget()
        forget_after_fork(self)

    @property
    def limit(self) -> int:
        """Tokens that a bucket holds."""
        return self._burst

    @property
    def window(self) -> float:
        """Seconds that an empty bucket takes to fill."""
        return self._burst / self._rate

    @property
    def is_away(self) -> bool:
        """Whether Redis has failed since it last answered."""
        return self._link.is_away

    @property
    def failures(self) -> int:
        """How often Redis did not answer as it should."""
        return self._link.failures

    async def acquire(self, key: Key, cost: int = 1, /) -> Decision:
        """Ask, and take what is asked for if it is allowed.

        On cancellation the tokens may have been taken.

        Args:
            key: Who asks.
            cost: For how many tokens, from 1 to 4 Gi.

        Returns:
            The answer.

        Raises:
            TypeError: If the key is of another type.
            ValueError: If the cost is out of range.
        """
        check_amount(cost, 1)
        field = encode_key(key)
        answer = None
        if self._has_room():
            future = asyncio.get_running_loop().create_future()
            self._waiting.append((field, cost, future))
            self._wakeup.set()
            answer = await future
        if answer is None:
            self.local += 1
            return self._fallback.acquire(key, cost)
        is_allowed, debt = answer
        if is_allowed:
            self._fallback.acquire(key, cost)
        return self._decide(cost, is_allowed=is_allowed, debt=debt)

    async def run(self) -> None:
        """Ask Redis for decisions until cancelled."""
        self._is_running = True
        try:
            while True:
                if self._link.is_away:
                    # Nobody waits for what is only meant to see whether it is back.
                    await asyncio.sleep(self._link.pause)
                else:
                    await self._wakeup.wait()
                self._wakeup.clear()
                await self._ask()
        finally:
            self._is_running = False
            self._answer(self._take_waiting(), None)
            await self._link.settle()

    def forget(self) -> None:
        """Wait for nothing: whoever does is the parent's."""
        self._is_running = False
        self._waiting: list[_Waiting] = []
        self._wakeup = asyncio.Event()

    def _has_room(self) -> bool:
        is_up = self._is_running and not self._link.is_away
        return is_up and len(self._waiting) < self._max_waiting

    def _take_waiting(self) -> list[_Waiting]:
        batch, self._waiting = self._waiting, []
        return batch

    async def _ask(self) -> None:
        batch = self._take_waiting()
        answers = None
        try:
            keys = [self._prefix + field for field, _, _ in batch]
            arguments: list[str | int] = [repr(self._rate), self._burst]
            arguments += (cost for _, cost, _ in batch)
            parse = partial(_parse_taken, len(batch))
            answers = await self._link.run(TAKE, keys, arguments, parse)
        finally:
            self._answer(batch, answers)
            if self._link.is_away:
                self._answer(self._take_waiting(), None)

    def _answer(self, batch: list[_Waiting], answers: list[_Answer] | None) -> None:
        for index, (_, _, future) in enumerate(batch):
            if not future.done():  # who asked may have been cancelled
                future.set_result(answers[index] if answers else None)

    def _decide(self, cost: int, *, is_allowed: bool, debt: float) -> Decision:
        wait = 0.0
        if not is_allowed:
            short = debt + cost - self._burst
            wait = math.inf if cost > self._burst else max(0.0, short / self._rate)
        room = max(0, int(self._burst - debt + SLACK))
        return Decision(is_allowed, self._burst, room, wait, debt / self._rate)


def _parse_taken(count: int, answer: object) -> list[_Answer]:
    items = as_list(answer)
    return [
        (as_number(items[index]) == 1, _as_float(items[index + 1]))
        for index in range(0, 2 * count, 2)
    ]


def _as_float(answer: object) -> float:
    if isinstance(answer, str | bytes) and math.isfinite(number := float(answer)):
        return number
    msg = f"a finite number was expected, not {answer!r}"
    raise TypeError(msg)
