"""A simulated service under load: some servers, one queue, a clock of its own; always the same."""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pingora_core.apps.load_shedding import LoadShedder
from pingora_http import RequestHeader, ResponseHeader

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.apps.concurrency_limit import ConcurrencyLimit
    from pingora_core.apps.load_shedding import RequestPermit
    from tests.support.clock import FakeClock

__all__ = ["Outcome", "Simulation"]


@dataclass(slots=True)
class Outcome:
    """What became of the requests.

    Attributes:
        offered: How many there were.
        served: When each one was answered, and how long it took; seconds.
        limits: The limit after each of them.
    """

    offered: int = 0
    served: list[tuple[float, float]] = field(default_factory=list)
    limits: list[int] = field(default_factory=list)

    def rate(self, begin: float, end: float, patience: float = 1.0) -> float:
        """Return how many requests a second were answered before their clients had given up.

        Args:
            begin: From when on, seconds.
            end: Until when, seconds.
            patience: How long clients wait, seconds.
        """
        good = sum(begin <= at < end and took <= patience for at, took in self.served)
        return good / (end - begin)

    def latency(self, begin: float, end: float, share: float) -> float:
        """Return a quantile of the latency, seconds.

        Args:
            begin: From when on, seconds.
            end: Until when, seconds.
            share: Of the requests that were at most as slow.
        """
        taken = sorted(took for at, took in self.served if begin <= at < end)
        return taken[int(len(taken) * share)]


class Simulation:
    """Requests come at random; each takes a server for a while, first come, first served.

    Args:
        limit: How many may be in the service at a time; None for no limit.
        clock: Its time is moved on.
        servers: How many requests are worked on at a time.
        service: How long one takes, given the source of randomness and the time; seconds.
        rate: How many come, given the time; a second.
        seed: Of everything random.

    Attributes:
        shedder: What stands in front.
        outcome: What became of the requests.
    """

    def __init__(
        self,
        limit: ConcurrencyLimit | int,
        clock: FakeClock,
        *,
        servers: int,
        service: Callable[[random.Random, float], float],
        rate: Callable[[float], float],
        seed: int = 1,
    ) -> None:
        self.shedder = LoadShedder(limit, clock=clock)
        self.outcome = Outcome()
        self._clock = clock
        self._start = clock.now
        self._servers = servers
        self._service = service
        self._rate = rate
        self._random = random.Random(seed)
        self._queue: deque[tuple[float, RequestPermit]] = deque()
        # When it happens, in which order if together, and whose request ends; None: one comes.
        self._events: list[tuple[float, int, tuple[float, RequestPermit] | None]] = []
        self._number = 0
        self._busy = 0

    def run(self, seconds: float) -> Outcome:
        """Let time pass.

        Args:
            seconds: Until when, since the start.

        Returns:
            What became of the requests.
        """
        self._expect(self._random.expovariate(self._rate(0.0)), None)
        while True:
            now, _, ending = heapq.heappop(self._events)
            if now > seconds:
                return self.outcome
            self._clock.now = self._start + now
            if ending is None:
                self._come(now)
            else:
                self._end(now, *ending)
            while self._queue and self._busy < self._servers:
                self._busy += 1
                served = self._queue.popleft()
                self._expect(now + self._service(self._random, now), served)

    def _expect(self, when: float, ending: tuple[float, RequestPermit] | None) -> None:
        self._number += 1
        heapq.heappush(self._events, (when, self._number, ending))

    def _come(self, now: float) -> None:
        self._expect(now + self._random.expovariate(self._rate(now)), None)
        self.outcome.offered += 1
        permit = self.shedder.admit(RequestHeader("GET", "/"))
        if permit is not None:
            self._queue.append((now, permit))

    def _end(self, now: float, came: float, permit: RequestPermit) -> None:
        self._busy -= 1
        self.outcome.served.append((now, now - came))
        permit.release(ResponseHeader(200))
        self.outcome.limits.append(self.shedder.limit)
