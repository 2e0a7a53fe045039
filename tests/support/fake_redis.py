"""A Redis that a test holds in its hand: its clock, its answers, and which of them get lost.

It knows two scripts of ``pingora_limits.redis`` by heart, in Python; that their Lua does the same is
tested with a real one.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from redis.exceptions import ConnectionError as RedisConnectionError

from pingora_limits.redis._scripts import COUNT, HOLD, LEAVE

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FakeRedis"]

_Value = bytes | str | float


class FakeRedis:
    """Stands in for ``redis.asyncio.Redis``.

    Args:
        clock: Its clock.

    Attributes:
        calls: How often it was asked.
        is_deaf: Whether requests get lost.
        is_mute: Whether answers get lost.
        answer: What it answers whatever it is asked, if that is not None.
        meanwhile: Called after it has done what it was asked, before the answer is there.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.calls = 0
        self.is_deaf = False
        self.is_mute = False
        self.answer: object = None
        self.meanwhile: Callable[[], object] = int
        self._clock = clock
        self._counts: defaultdict[_Value, defaultdict[_Value, int]] = defaultdict(
            lambda: defaultdict(int)
        )
        self._leases: dict[_Value, float] = {}
        self._scripts = {COUNT.sha: self._count, HOLD.sha: self._hold, LEAVE.sha: self._leave}

    async def execute_command(self, *args: _Value) -> object:
        """Do what a script does.

        Args:
            args: ``EVALSHA`` and its arguments.

        Returns:
            The answer.

        Raises:
            RedisConnectionError: If the request or its answer gets lost.
        """
        self.calls += 1
        if self.is_deaf:
            raise RedisConnectionError
        count = int(args[2])
        answer = self._scripts[str(args[1])](args[3 : 3 + count], args[3 + count :])
        self.meanwhile()
        if self.is_mute:
            raise RedisConnectionError
        return answer if self.answer is None else self.answer

    def _count(self, keys: tuple[_Value, ...], arguments: tuple[_Value, ...]) -> list[object]:
        counts, before = self._counts[keys[0]], self._counts[keys[1]]
        machine, number = arguments[0], int(arguments[1])
        is_new = number > counts[machine]
        now = self._clock()
        answer: list[object] = [b"%d" % int(now), b"%d" % int(now % 1 * 1e6)]
        for field, amount in zip(arguments[3::2], arguments[4::2], strict=True):
            counts[field] += int(amount) if is_new else 0
            answer += [counts[field], b"%d" % before[field]]
        if is_new:
            counts[machine] = number
        return answer

    def _hold(self, keys: tuple[_Value, ...], arguments: tuple[_Value, ...]) -> list[object]:
        now, machine = self._clock(), f"{keys[2]!s}{arguments[0]!s}"
        for name in [name for name, end in self._leases.items() if end <= now]:
            del self._leases[name]
            self._counts.pop(name, None)
        answer: list[object] = [int(machine in self._leases)]
        self._leases[machine] = now + int(arguments[1]) / 1000
        for field, amount in zip(arguments[2::2], arguments[3::2], strict=True):
            self._counts[machine][field] = int(amount)
            answer.append(
                sum(self._counts[name][field] for name in self._leases if name != machine)
            )
        return answer

    def _leave(self, keys: tuple[_Value, ...], _: tuple[_Value, ...]) -> list[object]:
        self._leases.pop(keys[1], None)
        self._counts.pop(keys[1], None)
        return []
