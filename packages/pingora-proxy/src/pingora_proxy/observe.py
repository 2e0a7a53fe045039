"""Watching requests from the outside: what metrics, access logs and traces are made of.

Theory of operation: a service has observers. For each request there is one :class:`RequestRecord`
with the times of its steps; the observers are called at a few points, and look at the session and
its record. Which methods an observer overrides is looked up once, when the service is built. A
service without observers keeps no record and pays one comparison a request.

Rules for observers: they are called in the middle of a request, synchronously, and do not wait.
An exception of theirs is counted and logged now and then; the request does not notice.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from pingora_proxy.request_record import AttemptRecord, RequestRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pingora_core.upstreams.peer import HttpPeer
    from pingora_error import Error
    from pingora_http import RequestHeader
    from pingora_proxy.session import Session

__all__ = ["AttemptRecord", "Observers", "ProxyObserver", "RequestRecord"]

_logger = logging.getLogger(__name__)


class ProxyObserver:
    """Is told what happens to requests; override what is of interest. Nothing is done by default."""

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
    """

    def __init__(self, observers: Sequence[ProxyObserver]) -> None:
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
        self._request_ended = [o.request_ended for o in observers if _overrides(o, "request_ended")]
        self.failures: int = 0

    def request_started(self, session: Session) -> None:
        """Begin the record of a request.

        Args:
            session: The request.
        """
        session.record = RequestRecord()
        for told in self._request_started:
            try:
                told(session)
            except Exception as failure:  # noqa: BLE001
                self._failed(failure)

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
        for told in self._attempt_started:
            try:
                told(session, attempt)
            except Exception as failure:  # noqa: BLE001
                self._failed(failure)
        return attempt

    @property
    def sees_requests(self) -> bool:
        """Whether anybody looks at the heads that are sent to upstreams."""
        return bool(self._upstream_request)

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
        for told in self._attempt_ended:
            try:
                told(session, attempt)
            except Exception as failure:  # noqa: BLE001
                self._failed(failure)

    def request_ended(self, session: Session, error: Error | None) -> None:
        """End the record of a request.

        Args:
            session: The request.
            error: Why it failed.
        """
        if session.record is not None:
            session.record.ended = time.monotonic()
        for told in self._request_ended:
            try:
                told(session, error)
            except Exception as failure:  # noqa: BLE001
                self._failed(failure)

    def _failed(self, failure: Exception) -> None:
        self.failures += 1
        # One that always fails is in the log the 1st, 2nd, 4th, 8th ... time.
        if self.failures & (self.failures - 1) == 0:
            _logger.error("an observer failed, %d times so far", self.failures, exc_info=failure)


def _overrides(observer: ProxyObserver, name: str) -> bool:
    mine: object = getattr(type(observer), name)
    return mine is not getattr(ProxyObserver, name)
