"""One run of the health checks over a pool: the loop, the checks under way, and their results.

Theory of operation. One task keeps a schedule and starts a task for each check that is due, as many
as the parallelism allows; a backend whose check is under way is not in the schedule. So a check that
hangs takes one place, and delays neither the others nor the discovery, which merely replaces the
set of the pool.

A backend is known by its state: one that has left and come back has another. A result is heeded
only if the pool still has the state for which the check was begun, and a check whose backend has
left is cancelled. A backend whose weight has changed keeps its state, and with it all that was
counted.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import TYPE_CHECKING, Final, final

from pingora_core.runtime.log_limit import LogLimit
from pingora_error import Error, ErrorSource, ErrorType
from pingora_load_balancing.health._schedule import Schedule
from pingora_load_balancing.health.record import HealthRecord
from pingora_load_balancing.health.settings import InitialHealth

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pingora_core.upstreams.peer import PeerAddress
    from pingora_load_balancing.backend import Backend
    from pingora_load_balancing.backends import Backends
    from pingora_load_balancing.health.interfaces import HealthCheck
    from pingora_load_balancing.health.settings import HealthSettings

__all__ = ["CheckRun"]

_logger = logging.getLogger(__name__)

# About a millisecond's work.
_SLICE: Final = 256
# How late a check may begin before that is worth a warning, seconds; or the frequency if longer.
_LATE: Final = 1.0


@final
class CheckRun:
    """Checks the backends of a pool until it is cancelled.

    Args:
        pool: The pool.
        check: How to check.
        settings: How often, and what follows.
        clock: Tells the time in seconds, monotonically.
        on_first_round: Called when each backend that was there at first has been checked.

    Attributes:
        check: As given.
        records: What was found, by address.
        ended: Set by the owner when this is over.
    """

    def __init__(
        self,
        pool: Backends,
        check: HealthCheck,
        settings: HealthSettings,
        *,
        clock: Callable[[], float],
        on_first_round: Callable[[], None],
    ) -> None:
        self.records: dict[PeerAddress, HealthRecord] = {}
        self._pool = pool
        self.check = check
        self.ended = asyncio.Event()
        self._settings = settings
        self._clock = clock
        self._now = clock()
        self._schedule = Schedule()
        self._running: dict[HealthRecord, asyncio.Task[None]] = {}
        self._generation = -1
        self._wake = asyncio.Event()
        self._on_first_round: Callable[[], None] | None = on_first_round
        self._unchecked: set[HealthRecord] = set()
        self._late_log = LogLimit(rate=1 / 60, burst=1)
        self._fault_log = LogLimit(rate=1 / 10, burst=3)

    async def run(self) -> None:
        """Check until cancelled; nothing of it goes on afterwards."""
        unsubscribe = self._pool.subscribe(self._pool_changed)
        try:
            while True:
                self._wake.clear()
                if self._generation != self._pool.generation:
                    await self._follow_pool()
                delay = self._start_due()
                try:
                    async with asyncio.timeout(delay):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            unsubscribe()
            tasks = list(self._running.values())
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    def check_now(self, address: PeerAddress | None) -> None:
        """Have checks done without waiting for their time.

        Args:
            address: Of the backend; None for all. One that is unknown is ignored.
        """
        records: Mapping[PeerAddress, HealthRecord] = self.records
        chosen = records.values() if address is None else filter(None, [records.get(address)])
        now = self._time()
        for record in chosen:
            if record not in self._running:
                self._schedule.put(record, now)
        self._wake.set()

    # -------------------------------------------------------------------- the pool

    def _pool_changed(self, pool: Backends) -> None:
        if pool.generation != self._generation:
            self._wake.set()

    async def _follow_pool(self) -> None:
        """Bring the records in line with the set of the pool, in slices."""
        pool = self._pool
        self._generation = pool.generation
        for record, task in self._running.items():
            # Whoever hears of a change is not cut off in the middle of it.
            if self._is_gone(record) and record.is_checking:
                task.cancel()
        for number, record in enumerate(list(self.records.values()), start=1):
            if self._is_gone(record):
                self._forget(record)
            if number % _SLICE == 0:
                await asyncio.sleep(0)
        now = self._time()
        is_first = self._on_first_round is not None
        for number, state in enumerate(pool.current.states, start=1):
            address = state.backend.addr
            if address not in self.records:
                record = self.records[address] = HealthRecord(state)
                self._schedule.put(record, now)
                if is_first:
                    self._unchecked.add(record)
            if number % _SLICE == 0:
                await asyncio.sleep(0)
        # A change meanwhile is found by the caller, who looks at the generation again.
        self._end_first_round()
        if self._generation != pool.generation:
            self._wake.set()

    def _is_gone(self, record: HealthRecord) -> bool:
        return self._pool.states.get(record.address) is not record.state

    def _forget(self, record: HealthRecord) -> None:
        self._schedule.remove(record)
        self._unchecked.discard(record)
        del self.records[record.address]

    def _end_first_round(self) -> None:
        if self._on_first_round is not None and not self._unchecked:
            self._on_first_round()
            self._on_first_round = None

    # ----------------------------------------------------------------- the schedule

    def _time(self) -> float:
        now = self._clock()
        if now < self._now:
            # A clock that goes back must not put all checks off.
            self._schedule.shift(now - self._now)
        self._now = now
        return now

    def _start_due(self) -> float | None:
        """Start the checks that are due.

        Returns:
            Seconds until the next one is; None if something else has to happen first.
        """
        now = self._time()
        while len(self._running) < self._settings.parallelism:
            found = self._schedule.pop_due(now)
            if found is None:
                due = self._schedule.next_due()
                return None if due is None else due - now
            record, due = found
            self._tell_late(now - due)
            name = f"health check of {record.backend}"
            self._running[record] = asyncio.create_task(self._examine(record), name=name)
        return None

    def _tell_late(self, seconds: float) -> None:
        if seconds > max(_LATE, self._settings.frequency):
            suppressed = self._late_log.admit(self._now)
            if suppressed is not None:
                _logger.warning(
                    "health checks are %.1f s late: %d backends, %d checks at a time",
                    seconds,
                    len(self.records),
                    self._settings.parallelism,
                )

    # -------------------------------------------------------------------- one check

    async def _examine(self, record: HealthRecord) -> None:
        """Check one backend, draw the conclusions, and schedule the next time."""
        started = self._clock()
        record.is_checking = True
        try:
            error = await self._ask(record)
            record.is_checking = False
            # What was found out about a backend that has left is nobody's business any more.
            if not self._is_gone(record):
                record.note(error, started=started, ended=self._clock())
                await self._conclude(record, error)
        finally:
            record.is_checking = False
            del self._running[record]
            self._unchecked.discard(record)
            if self.records.get(record.address) is record and not self._is_gone(record):
                wait = self._settings.next_wait(healthy=record.is_healthy)
                self._schedule.put(record, self._time() + wait)
            self._end_first_round()
            self._wake.set()

    async def _ask(self, record: HealthRecord) -> Error | None:
        limit = self._settings.max_check_time
        deadline = asyncio.timeout(limit)
        try:
            async with deadline:
                await self.check.check(record.backend)
        except Error as error:
            return error
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the verdict
            if isinstance(error, TimeoutError) and deadline.expired():
                msg = f"no verdict within {limit} s (max_check_time)"
                return Error(ErrorType.READ_TIMEDOUT, msg, source=ErrorSource.UPSTREAM, cause=error)
            return Error.up(ErrorType.UNKNOWN_ERROR, "the health check", cause=error)
        return None

    async def _conclude(self, record: HealthRecord, error: Error | None) -> None:
        settings = self._settings
        if error is not None and error.esource is ErrorSource.INTERNAL:
            # Without a free port or descriptor here, all backends would go at once.
            record.inconclusive += 1
            suppressed = self._fault_log.admit(self._clock())
            if suppressed is not None:
                _logger.warning(
                    "%s could not be checked, and stays as it is: %s (%d more such lines left out)",
                    self._name(record.backend),
                    error,
                    suppressed,
                )
            return
        success = error is None
        threshold = settings.consecutive_success if success else settings.consecutive_failure
        if settings.initial is InitialHealth.FIRST_CHECK and not record.is_decided:
            threshold = 1
        if record.observe(success=success, threshold=threshold):
            await self._flip(record, error)

    async def _flip(self, record: HealthRecord, error: Error | None) -> None:
        settings = self._settings
        backend = record.backend
        count = record.streak
        record.flipped(self._clock())
        self._pool.set_healthy(record.address, error is None)
        name = self._name(backend)
        try:
            if error is None:
                _logger.info("%s is healthy now, after %d good checks", name, count)
            else:
                _logger.warning(
                    "%s is unhealthy now, after %d failed checks: %s", name, count, error
                )
            if settings.health_changed is not None:
                async with asyncio.timeout(settings.max_check_time):
                    done = settings.health_changed(backend, error is None)
                    if inspect.isawaitable(done):
                        await done
        except Exception:
            _logger.exception("what follows a change of the health of %s failed", backend)

    def _name(self, backend: Backend) -> str:
        try:
            return self._settings.summary(backend)
        except Exception:
            _logger.exception("the summary of %s failed", backend)
            return str(backend)
