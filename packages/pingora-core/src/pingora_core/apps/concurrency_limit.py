"""How many requests may be in flight: a fixed number, or one that follows the latency.

Theory of operation. By Little's law, requests in flight are throughput times latency. Beyond what the
upstreams (or this process) can do at once, more in flight means no more throughput, only a longer
queue and a higher latency. So the latency is compared with the lowest one there is without a queue, the
floor: `GradientLimit` multiplies the limit by floor / latency after each interval, and adds a headroom
for a small queue, by which it grows when there is capacity to spare.

It is Envoy's gradient controller (docs, "Adaptive Concurrency") and Netflix' Gradient2
(concurrency-limits) in these: medians of intervals, a tolerance for natural variation, a headroom of
the square root of the limit, no growth while less than half of it is in use. It departs from them in
how the floor is found. Envoy pins the limit to 3 once a minute, and refuses nearly everybody
meanwhile; Gradient2 takes a long average, which an overload that lasts drags upwards. Here, as in BBR's
ProbeRTT, the limit is lowered to a third for a moment, often enough for a queue of the usual length to
drain, and only while the limit is in use: else the latest intervals have shown the floor already. A
probe that finds a lower floor than the last one has begun with a longer queue than usual, and is
repeated from there; so the very first one, from ``initial_limit``, finds the floor also where that is far
too much.

Rules of this file: no clock, no loop. Times are arguments, seconds of a clock that does not go back.
"""

from __future__ import annotations

import math
import random
from enum import Enum, auto
from typing import Final, Protocol, final

__all__ = ["ConcurrencyLimit", "FixedLimit", "GradientLimit"]

# Requests that an interval must have seen, as in Envoy; and of how many the times are kept, because
# a median of more is no better.
_MIN_SAMPLES: Final = 50
_MAX_SAMPLES: Final = 512
# The share of the limit that drains what queue a limit in use allows: the latency is then at most
# tolerance / (1 - 1 / sqrt(limit)) floors, so this is about half of what is in service.
_PROBE_SHARE: Final = 1 / 3
_IN_USE: Final = 0.5
# By how much the limit may change in an interval, as in Envoy and Gradient2.
_LEAST_GRADIENT: Final = 0.5
_MOST_GRADIENT: Final = 2.0
# A floor this much lower than the last one has shown that there had been a queue.
_LOWER: Final = 0.9
# Intervals after which it may be the floor that is wrong: at the lowest limit, as in Envoy, or at one
# that would have drained a queue.
_STUCK: Final = 3
# A probe takes about four latencies; with this it is a twenty-fifth of the time at most.
_LATENCIES_PER_WINDOW: Final = 100
# Intervals that a probe waits for the queue to drain, or for enough samples.
_PATIENCE: Final = 10
# What a clock that stands still is taken for, seconds.
_NO_TIME: Final = 1e-9


class ConcurrencyLimit(Protocol):
    """Says how many requests may be in flight.

    Attributes:
        limit: How many may be now; at least 1.
    """

    limit: int

    def observe(self, latency: float, in_flight: int, now: float, *, is_failure: bool) -> None:
        """Learn how long a request took.

        Args:
            latency: From its head's arrival to the end of the exchange, seconds.
            in_flight: How many there were, this one included.
            now: When it ended, seconds.
            is_failure: Whether it was answered with a server error.
        """


@final
class FixedLimit:
    """A number that stays.

    Args:
        limit: How many requests may be in flight.

    Raises:
        ValueError: If it is less than 1.

    Attributes:
        limit: As given; may be set.
    """

    __slots__ = ("limit",)

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        self.limit: int = limit

    def observe(self, latency: float, in_flight: int, now: float, *, is_failure: bool) -> None:
        """Learn nothing.

        Args:
            latency: Of no interest.
            in_flight: Of no interest.
            now: Of no interest.
            is_failure: Of no interest.
        """


class _Phase(Enum):
    NORMAL = auto()
    DRAINING = auto()
    SETTLING = auto()
    MEASURING = auto()


@final
class GradientLimit:
    """A number that follows the latency; see the top of this file.

    Args:
        min_limit: It is never less than this.
        max_limit: It is never more than this.
        initial_limit: Where it begins.
        tolerance: By which factor the latency may exceed the floor without a reaction.
        interval: Least time between two changes, seconds; with a long latency it is twice that.
        min_latency_window: How long a floor is believed, seconds; at least 100 latencies.
        jitter: By which share at most each window is longer, so that the processes and machines of
            a service do not look for their floors together.
        rng: Draws the jitter; None for a generator of its own.

    Raises:
        ValueError: If a number is out of range.

    Attributes:
        limit: How many requests may be in flight now.
        floor: The latency without a queue, seconds; 0.0 before it is known.
        latency: Of the last interval, seconds; 0.0 before the first one.
        probes: How often the limit was lowered to look for the floor.
    """

    __slots__ = (
        "_deadline",
        "_due",
        "_estimate",
        "_highest",
        "_interval",
        "_jitter",
        "_max_limit",
        "_min_limit",
        "_peak",
        "_phase",
        "_reference",
        "_rng",
        "_samples",
        "_stuck",
        "_tolerance",
        "_unloaded",
        "_window",
        "_window_end",
        "floor",
        "latency",
        "limit",
        "probes",
    )

    def __init__(
        self,
        *,
        min_limit: int = 4,
        max_limit: int = 1000,
        initial_limit: int = 20,
        tolerance: float = 1.5,
        interval: float = 0.1,
        min_latency_window: float = 30.0,
        jitter: float = 0.15,
        rng: random.Random | None = None,
    ) -> None:
        if not 1 <= min_limit <= initial_limit <= max_limit:
            msg = "1 <= min_limit <= initial_limit <= max_limit is needed"
            raise ValueError(f"{msg}, not {min_limit}, {initial_limit}, {max_limit}")
        _check("tolerance", tolerance, 1.0, 10.0)
        _check("interval", interval, 0.001, 60.0)
        _check("min_latency_window", min_latency_window, interval, 86400.0)
        _check("jitter", jitter, 0.0, 1.0)
        self._min_limit = min_limit
        self._max_limit = max_limit
        self._tolerance = tolerance
        self._interval = interval
        self._window = min_latency_window
        self._jitter = jitter
        # Not for secrets: processes should only not do the same at the same time.
        self._rng = rng or random.Random()  # noqa: S311
        # Where the limit goes back to after a probe.
        self._estimate = float(initial_limit)
        self._highest = self._estimate
        self._phase = _Phase.NORMAL
        self._samples: list[float] = []
        # The most in flight in this interval.
        self._peak = 0
        self._due = -math.inf
        self._deadline = math.inf
        self._window_end = -math.inf
        # The floor that a probe must stay below to be repeated.
        self._reference = math.inf
        # Latencies of the window's intervals in which little was in flight: their sum and number.
        self._unloaded = (0.0, 0)
        self._stuck = 0
        self.limit: int = initial_limit
        self.floor: float = 0.0
        self.latency: float = 0.0
        self.probes: int = 0

    def observe(self, latency: float, in_flight: int, now: float, *, is_failure: bool) -> None:
        """Learn how long a request took.

        Args:
            latency: From its head's arrival to the end of the exchange, seconds.
            in_flight: How many there were, this one included.
            now: When it ended, seconds.
            is_failure: Whether it was answered with a server error: no measure of what is needed
                to serve, unless it took long.
        """
        if is_failure and latency < self.latency:
            return
        if in_flight > self._peak:  # noqa: PLR1730 - a call would cost twice as much
            self._peak = in_flight
        samples = self._samples
        if len(samples) < _MAX_SAMPLES:
            samples.append(latency)
        if now >= self._due or self._phase is _Phase.DRAINING:
            self._advance(in_flight, now)

    # ----------------------------------------------------------------- phases

    def _advance(self, in_flight: int, now: float) -> None:
        if self._due == -math.inf:
            # The first request of all: look for the floor from where the limit is.
            self._begin(_Phase.MEASURING, now, self._span())
            self._deadline = math.inf
        elif self._phase is _Phase.DRAINING:
            if in_flight <= self.limit:
                self._begin(_Phase.SETTLING, now, self.latency)
            elif now >= self._deadline:
                self._end_probe(now)
        elif self._phase is _Phase.SETTLING:
            self._begin(_Phase.MEASURING, now, self._span())
        elif len(self._samples) < _MIN_SAMPLES:
            if now >= self._deadline:
                self._end_probe(now)
        elif self._phase is _Phase.MEASURING:
            self._conclude(now)
        else:
            self._adapt(now)

    def _begin(self, phase: _Phase, now: float, span: float) -> None:
        self._phase = phase
        self._due = now + span
        self._samples.clear()
        self._peak = 0

    def _span(self) -> float:
        # Long enough for most of what ends in it to have begun after the last change.
        return max(self._interval, 2 * self.latency)

    def _median(self) -> float:
        samples = sorted(self._samples)
        return max(samples[len(samples) // 2], _NO_TIME)

    # -------------------------------------------------------------- the limit

    def _adapt(self, now: float) -> None:
        latency = self.latency = self._median()
        estimate = self._estimate
        peak = self._peak
        if peak <= _PROBE_SHARE * estimate:
            total, count = self._unloaded
            self._unloaded = total + latency, count + 1
        gradient = self._tolerance * self.floor / latency
        gradient = max(_LEAST_GRADIENT, min(_MOST_GRADIENT, gradient))
        wanted = gradient * estimate + math.sqrt(estimate)
        if wanted <= estimate or peak >= _IN_USE * estimate:
            self._estimate = max(self._min_limit, min(self._max_limit, wanted))
        self.limit = int(self._estimate)
        self._highest = max(self._highest, self._estimate)
        lowest = max(self._min_limit + 1, self._highest * _PROBE_SHARE)
        self._stuck = self._stuck + 1 if gradient < 1 and self._estimate < lowest else 0
        self._begin(_Phase.NORMAL, now, self._span())
        if self._stuck >= _STUCK:
            # With so little in flight it is not a queue that takes the time.
            self._probe(now, latency)
        elif now >= self._window_end:
            self._renew(now)

    def _renew(self, now: float) -> None:
        total, count = self._unloaded
        if count:
            self.floor = total / count
            self._begin_window(now)
        else:
            self._probe(now, self.floor)

    def _begin_window(self, now: float) -> None:
        self._unloaded = (0.0, 0)
        self._stuck = 0
        self._highest = self._estimate
        window = max(self._window, _LATENCIES_PER_WINDOW * self.latency)
        self._window_end = now + window * (1 + self._rng.uniform(0, self._jitter))

    # -------------------------------------------------------------- the floor

    def _probe(self, now: float, reference: float) -> None:
        self.probes += 1
        self.limit = max(self._min_limit, int(self.limit * _PROBE_SHARE))
        self._reference = reference
        self._deadline = now + _PATIENCE * self._span()
        self._begin(_Phase.DRAINING, now, 0.0)

    def _conclude(self, now: float) -> None:
        floor = self.latency = self._median()
        was_used = self._peak > _PROBE_SHARE * self.limit
        self.floor = floor
        if floor < _LOWER * self._reference and was_used and self.limit > self._min_limit:
            self._probe(now, floor)
        else:
            self._end_probe(now)

    def _end_probe(self, now: float) -> None:
        self.limit = int(self._estimate)
        self._deadline = math.inf
        self._begin(_Phase.NORMAL, now, self._span())
        self._begin_window(now)


def _check(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name} must be in {least}..{most}, not {value}")
