"""What requests met at each backend during one interval, and whom that convicts."""

from __future__ import annotations

import math
from statistics import median_low
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from pingora_load_balancing.outlier.settings import OutlierSettings
    from pingora_load_balancing.state import BackendState

__all__ = ["Comparison", "Record"]

# Of more than this many a median is as good as that of all, and sorting them would take long.
_ENOUGH_FOR_A_MEDIAN: Final = 1000

# About a tenth of a millisecond's work.
_SLICE: Final = 128


@final
class Record:
    """What requests met at one backend.

    Attributes:
        state: The state of the backend.
        in_row: Failures since the last success.
        requests: In this interval.
        failures: Among these.
        latency: Sum of the latencies in this interval, in seconds.
        latencies: How many these are.
        ejection: The number of its last ejection in its detector; 0 for none.
        ejections: What the length of the next ejection depends on.
        is_on_probation: It was ejected and has not succeeded since.
        was_out: It was ejected for a part of this interval, and is not any more.
    """

    __slots__ = (
        "ejection",
        "ejections",
        "failures",
        "in_row",
        "is_on_probation",
        "latencies",
        "latency",
        "requests",
        "state",
        "was_out",
    )

    def __init__(self, state: BackendState) -> None:
        self.state = state
        self.in_row = 0
        self.requests = 0
        self.failures = 0
        self.latency = 0.0
        self.latencies = 0
        self.ejection = 0
        self.ejections = 0
        self.is_on_probation = False
        self.was_out = False

    def begin_interval(self) -> None:
        """Forget what was gathered, but not the failures in a row."""
        self.requests = self.failures = self.latencies = 0
        self.latency = 0.0


@final
class Comparison:
    """The backends of one interval, compared with each other.

    Args:
        settings: What makes an outlier.

    Source: Envoy, source/common/upstream/outlier_detection_impl.cc (``successRateEjectionThreshold``,
    ``processSuccessRateEjections``).
    """

    __slots__ = ("_failing", "_latencies", "_rates", "_settings", "_squares", "_sum")

    def __init__(self, settings: OutlierSettings) -> None:
        self._settings = settings
        self._rates: list[tuple[float, Record]] = []
        self._sum = 0.0
        self._squares = 0.0
        self._failing: list[tuple[float, Record]] = []
        self._latencies: list[tuple[float, Record]] = []

    def add(self, record: Record) -> None:
        """Take a backend in.

        Args:
            record: What it met; at least one request.
        """
        settings = self._settings
        requests = record.requests
        if settings.latency_factor is not None and record.latencies >= settings.latency_requests:
            self._latencies.append((record.latency / record.latencies, record))
        failed = record.failures / requests
        if settings.success_rate_deviations is not None and (
            requests >= settings.success_rate_requests
        ):
            rate = 1.0 - failed
            self._rates.append((rate, record))
            self._sum += rate
            self._squares += rate * rate
        if (
            settings.failure_share is not None
            and requests >= settings.failure_share_requests
            and failed >= settings.failure_share
        ):
            self._failing.append((failed, record))

    def outliers(self) -> Generator[tuple[Record, str] | None, None, None]:
        """Find the outliers.

        Yields:
            One and what is held against it; None about ten times a millisecond.
        """
        for failed, record in self._failing:
            yield record, f"{failed:.1%} of its requests failed"
        yield from self._by_success_rate()
        yield from self._by_latency()

    def _by_success_rate(self) -> Iterator[tuple[Record, str] | None]:
        settings = self._settings
        count = len(self._rates)
        if settings.success_rate_deviations is None or count < settings.success_rate_backends:
            return
        mean = self._sum / count
        deviation = math.sqrt(max(self._squares / count - mean * mean, 0.0))
        least = mean - settings.success_rate_deviations * deviation
        for number, (rate, record) in enumerate(self._rates):
            if number % _SLICE == 0:
                yield None
            if rate < least:
                yield record, f"{rate:.1%} of its requests succeeded, {mean:.1%} elsewhere"

    def _by_latency(self) -> Iterator[tuple[Record, str] | None]:
        settings = self._settings
        latencies = self._latencies
        if settings.latency_factor is None or len(latencies) < settings.latency_backends:
            return
        stride = len(latencies) // _ENOUGH_FOR_A_MEDIAN + 1
        usual = median_low(latency for latency, _ in latencies[::stride])
        most = max(usual * settings.latency_factor, settings.latency_floor)
        for number, (latency, record) in enumerate(latencies):
            if number % _SLICE == 0:
                yield None
            if latency > most:
                yield record, f"it answered in {latency:.3f} s, others in {usual:.3f} s"
