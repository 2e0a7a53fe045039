"""Measures limits: what a call costs, alone and beside other processes, and what they take.

``PYTHONPATH=tools python -m bench.limits``
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pingora_limits import Estimator, Inflight, Rate, SlidingWindow, TokenBucket
from pingora_limits.redis import RedisInflight, RedisRate
from pingora_limits.shared import (
    SharedInflight,
    SharedRate,
    SharedSlidingWindow,
    SharedTokenBucket,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_KEYS: Final = [f"10.0.{number // 256}.{number % 256}" for number in range(1_000)]
_CHUNK: Final = 100
_SECONDS: Final = 0.5
_OTHERS: Final = (0, 1, 3, 7)
_LONG: Final = 3_600.0
_MANY: Final = 10**9


@dataclass(frozen=True, slots=True)
class _Case:
    name: str
    call: Callable[[str], object]
    memory: Callable[[], int] | None = None


class _NoRedis:
    async def execute_command(self, *_: bytes | str | float) -> object:
        return None


def main() -> None:
    """Measure and print two tables."""
    print(f"{'one process':34}{'us':>7}{'KiB for 1,000 keys':>20}")
    for case in _local():
        taken = _measure(case.call)
        memory = f"{case.memory() / 1024:20.0f}" if case.memory else ""
        print(f"{case.name:34}{taken:7.2f}{memory}", flush=True)
    print(f"\n{'us, shared with other processes':34}" + "".join(f"{n:7}" for n in _OTHERS))
    for make in (_rate, _window, _bucket, _inflight):
        row = [_beside(make, others) for others in _OTHERS]
        print(f"{make().name:34}" + "".join(f"{taken:7.2f}" for taken in row), flush=True)


def _local() -> Iterator[_Case]:
    rate = Rate(_LONG)
    yield _Case("Rate.observe", rate.observe, lambda: rate.memory)
    crowd = Rate(_LONG, expected_keys=1_000, exact_keys=0)
    yield _Case("Rate.observe, beyond the room", crowd.observe, lambda: crowd.memory)
    estimator = Estimator.for_keys(1_000)
    yield _Case("Estimator.incr", estimator.incr, lambda: estimator.memory)
    window = SlidingWindow(_MANY, _LONG)
    yield _Case("SlidingWindow.acquire", window.acquire, lambda: window.memory)
    bucket = TokenBucket(1.0, _MANY)
    yield _Case("TokenBucket.acquire", bucket.acquire, lambda: bucket.memory)
    inflight = Inflight()
    yield _Case("Inflight.incr and release", lambda key: inflight.incr(key)[0].release())
    client = _NoRedis()
    told = RedisRate(client, _LONG, name="bench")
    yield _Case("RedisRate.observe", told.observe)
    held = RedisInflight(client, name="bench")
    yield _Case("RedisInflight.incr and release", lambda key: held.incr(key)[0].release())


def _rate() -> _Case:
    return _Case("SharedRate.observe", SharedRate(_LONG).observe)


def _window() -> _Case:
    return _Case("SharedSlidingWindow.acquire", SharedSlidingWindow(_MANY, _LONG).acquire)


def _bucket() -> _Case:
    return _Case("SharedTokenBucket.acquire", SharedTokenBucket(1.0, _MANY).acquire)


def _inflight() -> _Case:
    inflight = SharedInflight()
    return _Case("SharedInflight.incr and release", lambda key: inflight.incr(key)[0].release())


def _beside(make: Callable[[], _Case], others: int) -> float:
    case = make()
    with ExitStack() as stack:
        for _ in range(others):
            stack.enter_context(_process(case))
        return _measure(case.call)


@contextmanager
def _process(case: _Case) -> Iterator[None]:
    # Has counted every key once, and then only holds its slot.
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        for key in _KEYS:
            case.call(key)
        os.close(writer)
        signal.pause()
        os._exit(0)
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _measure(call: Callable[[str], object]) -> float:
    """Time a call; the best of many short runs, since others use the machine too.

    Args:
        call: Gets one of a thousand keys.

    Returns:
        Microseconds.
    """
    best = float("inf")
    for key in _KEYS:
        call(key)
    end = time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        for start in range(0, len(_KEYS), _CHUNK):
            keys = _KEYS[start : start + _CHUNK]
            began = time.perf_counter()
            for key in keys:
                call(key)
            best = min(best, time.perf_counter() - began)
    return best / _CHUNK * 1e6


if __name__ == "__main__":
    main()
