"""Watching requests from the outside: what metrics, access logs and traces are made of.

Theory of operation: a service has observers. For each request there is one :class:`RequestRecord`
with the times of its steps; the observers are called at a few points, and look at the session and
its record. Which methods an observer overrides is looked up once, when the service is built. A
service without observers keeps no record and pays one comparison a request.

Rules for observers: they are called in the middle of a request, synchronously, and do not wait.
An exception of theirs is counted and logged now and then; the request does not notice.

Who looks at a request only when it is over, and does not mind to look a moment later, says so with
``ProxyObserver.is_patient``: its calls are kept for the end of the loop's turn and then made one
after the other. The processor is faster at the same work when it does it again and again than when it
comes to it between other things.

An observer lives as long as the services that it observes: ``startup`` is called in the process
that serves, before the first of them listens, and ``cleanup`` after the last request of the last.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final

from pingora_core.metrics import Description, Reading
from pingora_proxy._timed_session import TimedSession
from pingora_proxy.request_record import AttemptRecord, RequestRecord
from pingora_proxy.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pingora_core.upstreams.peer import HttpPeer
    from pingora_error import Error
    from pingora_http import RequestHeader

__all__ = ["DESCRIPTIONS", "AttemptRecord", "Observers", "ProxyObserver", "RequestRecord"]

_logger = logging.getLogger(__name__)

OBSERVER_FAILURES: Final = Description.counter(
    "pingora.observer.failures", "Calls of observers that have raised.", "service"
)

DESCRIPTIONS: Final = (OBSERVER_FAILURES,)

_CLEANUP_SECONDS: Final = 5.0
"""How long an observer may take to let go of what it has."""


class ProxyObserver:
    """Is told what happens to requests; override what is of interest. Nothing is done by default.

    Attributes:
        is_patient: Whether ``request_ended`` may come a moment late: with the next turn of the
            event loop, together with that of other requests. That costs a request much less.
            Everything about the request is as it was at its end, and nothing may be changed.
    """

    is_patient: ClassVar[bool] = False

    async def startup(self) -> None:
        """Get what is needed; called once in each process that serves, before it listens.

        What it raises is the service's: it does not start.
        """

    async def cleanup(self) -> None:
        """Write or send what waits, and let go of everything; called once, after the last request.

        Also if ``startup`` has failed. It has five seconds, and what it raises is logged: neither keeps the server from ending.
        """

    def read_metrics(self, service: str) -> Iterable[Reading]:
        """Tell what this observer counts; ``ProxyMetrics.watch`` has it read.

        Args:
            service: Name of a service that is observed, for labels.

        Returns:
            The numbers.
        """
        del service
        return ()

    def request_started(self, session: Session) -> None:
        """Be told of a request whose head was read, or could not be understood.

        Args:
            session: The request; ``session.record`` is its record. Of a malformed request the head
                is a placeholder.
        """

    def attempt_started(self, session: Session, attempt: AttemptRecord) -> None:
        """Be told that a peer was chosen and a connection is looked for.

        Args:
            session: The request.
            attempt: The attempt.
        """

    def upstream_request(
        self, session: Session, attempt: AttemptRecord, request: RequestHeader
    ) -> None:
        """See, and change, the head that is about to be sent to the upstream, after all filters.

        Args:
            session: The request.
            attempt: The attempt.
            request: The head.
        """

    def attempt_ended(self, session: Session, attempt: AttemptRecord) -> None:
        """Be told that an attempt is over, in whatever way.

        Args:
            session: The request.
            attempt: The attempt.
        """

    def phase_ended(self, session: Session, phase: str, seconds: float) -> None:
        """Be told how long a callback or a step took; of the two tries of a hedge they mix.

        Only who overrides this has phases timed, which costs something at each.

        Args:
            session: The request; its phase is the next one already.
            phase: What it was: the name that errors have.
            seconds: How long it took; it is over just now.
        """

    def request_ended(self, session: Session, error: Error | None) -> None:
        """Be told the end of a request, after ``logging``; once, whatever the end.

        Args:
            session: The request.
            error: Why it failed; None if it did not.
        """


class Observers:
    """The observers of a service.

    Args:
        observers: They are called in this order.

    Attributes:
        failures: How many calls have raised.
        sees_requests: Whether anybody looks at the heads that are sent to upstreams.
    """

    def __init__(self, observers: Sequence[ProxyObserver]) -> None:
        self._all = tuple(observers)
        self._running: list[ProxyObserver] = []
        self._request_started = [
            o.request_started for o in observers if _overrides(o, "request_started")
        ]
        self._attempt_started = [
            o.attempt_started for o in observers if _overrides(o, "attempt_started")
        ]
        self._upstream_request = [
            o.upstream_request for o in observers if _overrides(o, "upstream_request")
        ]
        self._attempt_ended = [o.attempt_ended for o in observers if _overrides(o, "attempt_ended")]
        self._phase_ended = [o.phase_ended for o in observers if _overrides(o, "phase_ended")]
        ending = [o for o in observers if _overrides(o, "request_ended")]
        self._request_ended = [o.request_ended for o in ending if not o.is_patient]
        self._request_ended_late = [o.request_ended for o in ending if o.is_patient]
        self._late: list[tuple[Session, RequestRecord, Error | None]] = []
        self._is_timed = bool(self._phase_ended)
        self.sees_requests: bool = bool(self._upstream_request)
        self.failures: int = 0

    async def startup(self) -> None:
        """Have those get ready that no other service has had so; the service calls this."""
        for observer in self._all:
            used = _uses.get(id(observer), 0)
            _uses[id(observer)] = used + 1
            self._running.append(observer)
            if not used:
                await observer.startup()

    async def cleanup(self) -> None:
        """Have those end that no other service is observed by; the service calls this at its end."""
        self._tell_late()
        ending: list[ProxyObserver] = []
        while self._running:
            observer = self._running.pop()
            _uses[id(observer)] -= 1
            if not _uses[id(observer)]:
                del _uses[id(observer)]
                ending.append(observer)
        # At the same time: the slow ones do not use up the patience of who stops the server.
        await asyncio.gather(*map(_end, ending))

    def read_metrics(self, service: str) -> Iterable[Reading]:
        """Tell what the observers count, and how often one has failed.

        Args:
            service: Value of the label of that name.

        Yields:
            The numbers.
        """
        yield Reading(OBSERVER_FAILURES, self.failures, (service,))
        for observer in self._all:
            yield from observer.read_metrics(service)

    def request_started(self, session: Session) -> RequestRecord:
        """Begin the record of a request.

        Args:
            session: The request.

        Returns:
            The record, which the session has now.
        """
        record = session.record = RequestRecord()
        if self._is_timed and isinstance(session, TimedSession):
            session.on_phase = partial(self._tell_phase, session)
        for told in self._request_started:
            try:
                told(session)
            except Exception as failure:  # noqa: BLE001
                self._failed(failure)
        return record

    def attempt_started(self, session: Session, peer: HttpPeer) -> AttemptRecord:
        """Begin the record of an attempt.

        Args:
            session: The request; it has a record.
            peer: Where the attempt goes.

        Returns:
            The record.
        """
        attempt = AttemptRecord(peer, time.monotonic())
        if session.record is not None:
            session.record.attempts.append(attempt)
        if self._attempt_started:
            self._tell_attempt(self._attempt_started, session, attempt)
        return attempt

    @property
    def new_session(self) -> type[Session]:
        """What the service makes of each request: a session that is timed, where anybody asks."""
        return TimedSession if self._is_timed else Session

    def _tell_phase(self, session: Session, phase: str, seconds: float) -> None:
        for told in self._phase_ended:
            try:
                told(session, phase, seconds)
            except Exception as failure:  # noqa: BLE001
                self._failed(failure)

    def upstream_request(
        self, session: Session, attempt: AttemptRecord, request: RequestHeader
    ) -> None:
        """Show the head that is about to be sent.

        Args:
            session: The request.
            attempt: The attempt.
            request: The head.
        """
        for told in self._upstream_request:
            try:
                told(session, attempt, request)
            except Exception as failure:  # noqa: BLE001 - whatever it is
                self._failed(failure)

    def attempt_ended(self, session: Session, attempt: AttemptRecord, error: Error | None) -> None:
        """End the record of an attempt.

        Args:
            session: The request.
            attempt: The attempt.
            error: Why it failed.
        """
        attempt.ended = time.monotonic()
        attempt.error = error
        if self._attempt_ended:
            self._tell_attempt(self._attempt_ended, session, attempt)

    def _tell_attempt(
        self,
        all_told: Sequence[Callable[[Session, AttemptRecord], None]],
        session: Session,
        attempt: AttemptRecord,
    ) -> None:
        for told in all_told:
            try:
                told(session, attempt)
            except Exception as failure:  # noqa: BLE001
                self._failed(failure)

    def request_ended(self, session: Session, record: RequestRecord, error: Error | None) -> None:
        """End the record of a request. HOT.

        Args:
            session: The request.
            record: Its record.
            error: Why it failed.
        """
        record.ended = time.monotonic()
        if self._is_timed:
            session.phase = "ended"
        if self._request_ended:
            self._tell_now(session, record, error)
        if self._request_ended_late:
            late = self._late
            if not late:
                asyncio.get_running_loop().call_soon(self._tell_late)
            late.append((session, record, error))

    def _tell_now(self, session: Session, record: RequestRecord, error: Error | None) -> None:
        record.complete(session.downstream_session)
        for told in self._request_ended:
            try:
                told(session, error)
            except Exception as failure:  # noqa: BLE001
                self._failed(failure)

    def _tell_late(self) -> None:
        ended, self._late = self._late, []
        if not self._request_ended:
            for session, record, _ in ended:
                record.complete(session.downstream_session)
        for told in self._request_ended_late:
            for session, _, error in ended:
                try:
                    told(session, error)
                except Exception as failure:  # noqa: BLE001
                    self._failed(failure)

    def _failed(self, failure: Exception) -> None:
        self.failures += 1
        # One that always fails is in the log the 1st, 2nd, 4th, 8th ... time.
        if self.failures & (self.failures - 1) == 0:
            _logger.error("an observer failed, %d times so far", self.failures, exc_info=failure)


# How many running services each observer has, by its identity: these keep it.
_uses: Final[dict[int, int]] = {}


async def _end(observer: ProxyObserver) -> None:
    try:
        async with asyncio.timeout(_CLEANUP_SECONDS):
            await observer.cleanup()
    except TimeoutError:
        _logger.warning("%r took too long to end", observer)
    except Exception:
        _logger.exception("%r could not end", observer)


def _overrides(observer: ProxyObserver, name: str) -> bool:
    mine: object = getattr(type(observer), name)
    return mine is not getattr(ProxyObserver, name)
