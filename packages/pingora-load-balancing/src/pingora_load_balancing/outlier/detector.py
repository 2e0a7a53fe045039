"""Ejects the backends that requests fare badly at, and readmits them after a while.

Theory of operation: every request that is reported to the pool is counted here. Failures in a row
eject a backend at once. Everything else is gathered over an interval, at whose end the backends are
compared with each other. That, and the readmission of those whose time is over, is done by whoever
comes first: the background service, or the next report. Either does it in small steps, however
many backends there are.

A record is kept only of backends that had requests lately or were ejected lately.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final, TypeAlias

from pingora_core.services.background import BackgroundService
from pingora_load_balancing.backend import Backend
from pingora_load_balancing.background import until_shutdown
from pingora_load_balancing.outlier._records import Comparison, Record
from pingora_load_balancing.outlier.settings import OutlierSettings
from pingora_load_balancing.steady_clock import SteadyClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pingora_core.runtime.shutdown import ShutdownWatch
    from pingora_load_balancing.backends import Backends
    from pingora_load_balancing.state import BackendState

__all__ = ["EjectionChanged", "OutlierDetector"]

_logger = logging.getLogger(__name__)

EjectionChanged: TypeAlias = Callable[[Backend, bool], None]
"""Called with a backend and whether it is ejected now."""

# About a tenth of a millisecond's work.
_SLICE: Final = 128


class OutlierDetector(BackgroundService):
    """Watches what requests meet at the backends of a pool, and takes the bad ones out.

    It works as long as requests are reported; run it as a background service as well
    (``server.add_service(background_service("outliers", detector))``), so that backends come back
    in time when there are none. One detector per pool is enough, however many load balancers share
    it. Not for use from several threads at once; each worker process watches for itself.

    Args:
        pool: The pool.
        settings: What makes an outlier; None for the defaults.
        ejection_changed: Called after each ejection and each readmission; what it raises is logged.

    Attributes:
        pool: As given.
        settings: As given.
        ejections: How often a backend was ejected so far.
        spared: How often one was not, because too many were out or too few left.

    Examples:
        >>> pool = Backends(["10.0.0.1:80", "10.0.0.2:80"])
        >>> detector = OutlierDetector(pool, OutlierSettings(consecutive_errors=2))
        >>> for _ in range(2):
        ...     pool.report(pool.current[0], failed=True)
        >>> [str(state) for state in pool.current.states]
        ['<BackendState 10.0.0.1:80 ejected, 0 in flight>', '<BackendState 10.0.0.2:80 ready, 0 in flight>']

    Source: Envoy, source/common/upstream/outlier_detection_impl.cc.
    """

    __slots__ = (
        "_clock",
        "_due",
        "_ejected",
        "_ejection_changed",
        "_generation",
        "_is_stepping",
        "_next_comparison",
        "_readmissions",
        "_records",
        "_steps",
        "_unsubscribe",
        "ejections",
        "pool",
        "settings",
        "spared",
    )

    def __init__(
        self,
        pool: Backends,
        settings: OutlierSettings | None = None,
        *,
        ejection_changed: EjectionChanged | None = None,
    ) -> None:
        self.pool: Backends = pool
        self.settings: OutlierSettings = OutlierSettings() if settings is None else settings
        self.ejections: int = 0
        self.spared: int = 0
        self._ejection_changed = ejection_changed
        self._clock = SteadyClock(pool.clock)
        self._records: dict[BackendState, Record] = {}
        self._ejected: set[Record] = set()
        self._generation = pool.generation
        # When each of the ejected comes back, and which ejection that ends.
        self._readmissions: list[tuple[float, int, Record]] = []
        self._next_comparison = self._due = self._clock() + self.settings.interval
        self._steps: Iterator[None] | None = None
        self._is_stepping = False
        self._unsubscribe = pool.observe(self._observe)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {len(self._ejected)} of {len(self.pool.current)} ejected,"
            f" {len(self._records)} watched>"
        )

    @property
    def ejected(self) -> tuple[Backend, ...]:
        """The backends that are out now."""
        states = (record.state for record in self._ejected)
        return tuple(s.backend for s in states if s.is_ejected and self._is_current(s))

    def close(self) -> None:
        """Watch no longer, and readmit all; again does nothing."""
        self._unsubscribe()
        for record in tuple(self._ejected):
            self._readmit(record)

    # ---------------------------------------------------------------------- as a service

    async def start(self, shutdown: ShutdownWatch) -> None:
        """Compare and readmit in time until the server stops.

        Args:
            shutdown: Tells when that is.
        """
        await until_shutdown(self._work(), shutdown)

    async def _work(self) -> None:
        while True:
            self.advance()
            if self._steps is not None:
                await asyncio.sleep(0)
            else:
                wait = min(max(self._due - self._clock(), 0.0), self.settings.interval)
                await asyncio.sleep(wait)

    # ---------------------------------------------------------------------- watching

    def _observe(self, state: BackendState, latency: float | None, failed: bool) -> None:  # noqa: FBT001
        # HOT: once per request.
        if not state.is_ejected:  # What was under way when it was ejected says nothing new.
            record = self._records.get(state)
            if record is None:
                record = self._records[state] = Record(state)
            record.requests += 1
            if latency is not None:
                record.latency += latency
                record.latencies += 1
            if failed:
                self._fail(record)
            else:
                record.in_row = 0
                record.is_on_probation = False
        if self._steps is not None or self._clock() >= self._due:
            self.advance()

    def _fail(self, record: Record) -> None:
        record.failures += 1
        record.in_row += 1
        limit = self.settings.consecutive_errors
        if limit is not None:
            if record.in_row >= limit:
                self._eject(record, f"{record.in_row} failures in a row")
            elif record.is_on_probation:
                self._eject(record, "it failed again")

    def advance(self) -> None:
        """Do some of what is due: readmit, or compare a hundred backends."""
        if self._is_stepping:
            return  # A callback of ours reports requests.
        self._is_stepping = True
        try:
            now = self._clock()
            readmissions = self._readmissions
            while readmissions and readmissions[0][0] <= now:
                _, number, record = heappop(readmissions)
                if number == record.ejection:
                    self._readmit(record)
            if self._steps is None and now >= self._next_comparison:
                self._next_comparison = now + self.settings.interval
                self._steps = self._compare()
            if self._steps is not None:
                for _ in self._steps:
                    break
                else:
                    self._steps = None
            self._note_due()
        finally:
            self._is_stepping = False

    def _note_due(self) -> None:
        self._due = self._next_comparison
        if self._readmissions:
            self._due = min(self._due, self._readmissions[0][0])

    # ---------------------------------------------------------------------- judging

    def _compare(self) -> Iterator[None]:
        comparison = Comparison(self.settings)
        for number, record in enumerate(tuple(self._records.values()), start=1):
            if number % _SLICE == 0:
                yield
            self._close_interval(record, comparison)
        for outlier in comparison.outliers():
            if outlier is not None:
                record, why = outlier
                self._eject(record, why)
            yield

    def _close_interval(self, record: Record, comparison: Comparison) -> None:
        state = record.state
        if record in self._ejected:
            if not state.is_ejected:  # Somebody else has readmitted it.
                self._forgive(record)
        elif record.ejections and not record.was_out:
            record.ejections -= 1
        record.was_out = False
        if not self._is_current(state):
            del self._records[state]
        elif not state.is_ejected:
            if record.requests:
                comparison.add(record)
            elif not (record.ejections or record.in_row or record.is_on_probation):
                del self._records[state]
        record.begin_interval()

    def _is_current(self, state: BackendState) -> bool:
        return state.totals is self.pool.totals

    def _eject(self, record: Record, why: str) -> None:
        state = record.state
        if state.is_ejected or not self._is_current(state):
            return
        if not self._has_room(state):
            self.spared += 1
            return
        record.ejections += 1
        record.in_row = 0
        seconds = self.settings.time_out(record.ejections)
        self.ejections += 1
        record.ejection = self.ejections
        self._ejected.add(record)
        heappush(self._readmissions, (self._clock() + seconds, self.ejections, record))
        self._note_due()
        _logger.warning("backend %s is ejected for %.1f s: %s", state.backend, seconds, why)
        self._set(record, ejected=True)

    def _has_room(self, state: BackendState) -> bool:
        pool = self.pool
        if self._generation != pool.generation:
            self._generation = pool.generation
            self._ejected = {record for record in self._ejected if self._is_current(record.state)}
        totals = pool.totals
        settings = self.settings
        if len(self._ejected) >= max(int(settings.max_ejected_share * totals.active), 1):
            return False
        counts = state.is_healthy and state.is_enabled and state.backend.weight > 0
        return totals.sound - counts >= settings.min_remaining

    # ---------------------------------------------------------------------- readmitting

    def _readmit(self, record: Record) -> None:
        if record in self._ejected:
            self._forgive(record)
            if self._is_current(record.state) and record.state.is_ejected:
                _logger.info("backend %s is readmitted", record.state.backend)
                self._set(record, ejected=False)

    def _forgive(self, record: Record) -> None:
        self._ejected.discard(record)
        record.in_row = 0
        record.is_on_probation = record.was_out = True
        record.begin_interval()

    def _set(self, record: Record, *, ejected: bool) -> None:
        backend = record.state.backend
        self.pool.set_ejected(backend.addr, ejected)
        if self._ejection_changed is not None:
            try:
                self._ejection_changed(backend, ejected)
            except Exception:
                _logger.exception("ejection_changed failed for %s", backend)
