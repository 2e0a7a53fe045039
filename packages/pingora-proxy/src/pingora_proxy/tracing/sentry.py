"""Crash reports to Sentry: faults of the program, with the request they happened in (extra ``sentry``).

What clients and upstreams do wrong is no crash and is not reported. Of the request only what tells
where the fault happened is sent; fields and query are not, and neither are the local variables of
the callbacks that have failed, which would have them.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import sentry_sdk
from sentry_sdk.integrations.logging import ignore_logger

from pingora_core.metrics import Description, Reading
from pingora_core.runtime.log_limit import LogLimit
from pingora_error import ErrorSource, ErrorType
from pingora_proxy._conventions import METHODS, OTHER_METHOD
from pingora_proxy._log_text import cut, printable, readable, redact
from pingora_proxy.observe import ProxyObserver
from pingora_proxy.tracing.propagation import trace_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sentry_sdk.types import Event, Hint

    from pingora_error import Error
    from pingora_http import RequestHeader
    from pingora_proxy.session import Session

__all__ = ["DESCRIPTIONS", "SentryReports"]

REPORTS: Final = Description.counter(
    "pingora.crash.reports",
    "Faults of the program: reported to Sentry, or suppressed because there were too many.",
    "service",
    "outcome",
)

DESCRIPTIONS: Final = (REPORTS,)

_FLUSH_SECONDS: Final = 2.0


class SentryReports(ProxyObserver):
    """Reports internal errors; call ``sentry_sdk.init`` yourself, before the server runs.

    The SDK sends from a thread and drops what it cannot send. Each fault is one event: the line that
    the proxy logs about it is none besides.

    Args:
        rate: Reports a second in the long run, so that a fault in every request does not use up
            what Sentry takes.
        burst: Reports at once.
        sends_variables: Whether local variables of the program are sent, whatever they hold.
        clock: Monotonic time, seconds.

    Attributes:
        reported: How many were reported.
        suppressed: How many were not, because there were too many; the next one says how many.

    Raises:
        ValueError: If the rate is not positive, or the burst less than 1.
    """

    def __init__(
        self,
        *,
        rate: float = 0.2,
        burst: int = 20,
        sends_variables: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = LogLimit(rate, burst)
        self._sends_variables = sends_variables
        self._clock = clock
        self.reported: int = 0
        self.suppressed: int = 0
        ignore_logger("pingora_proxy.proxy")

    async def cleanup(self) -> None:
        """Send what waits, for two seconds at most."""
        await asyncio.to_thread(sentry_sdk.flush, _FLUSH_SECONDS)

    def read_metrics(self, service: str) -> Iterable[Reading]:
        """Tell how many faults there were.

        Args:
            service: Value of the label of that name.

        Yields:
            The numbers.
        """
        yield Reading(REPORTS, self.reported, (service, "reported"))
        yield Reading(REPORTS, self.suppressed, (service, "suppressed"))

    def request_ended(self, session: Session, error: Error | None) -> None:
        """Report a fault.

        Args:
            session: The request.
            error: Why it failed; None if it did not.
        """
        if error is None or error.root_etype is not ErrorType.INTERNAL_ERROR:
            return
        if error.esource in {ErrorSource.UPSTREAM, ErrorSource.DOWNSTREAM}:
            return
        suppressed = self._limit.admit(self._clock())
        if suppressed is None:
            self.suppressed += 1
            return
        self.reported += 1
        request = session.req_header
        with sentry_sdk.new_scope() as scope:
            if not self._sends_variables:
                scope.add_event_processor(_without_variables)
            if suppressed:
                scope.set_extra("suppressed before", suppressed)
            if session.record is not None and session.record.failed_in is not None:
                scope.set_tag("phase", session.record.failed_in)
            if session.route is not None:
                scope.set_transaction_name(f"{_method(request)} {session.route}")
            trace = trace_of(session)
            if trace is not None:
                scope.set_tag("trace_id", trace.trace_id)
            scope.set_context(
                "request",
                {
                    "method": printable(cut(request.raw_method)),
                    "path": printable(cut(redact(request.raw_target.partition(b"?")[0], ()))),
                    "host": printable(cut(request.get_raw(b"host") or b"")),
                    "protocol": str(request.version),
                    "error": readable(str(error)),
                },
            )
            scope.capture_exception(error.root_cause)


def _method(request: RequestHeader) -> str:
    return METHODS.get(request.raw_method, OTHER_METHOD)


def _without_variables(event: Event, hint: Hint) -> Event:
    del hint
    for exception in event.get("exception", {}).get("values", ()):
        for frame in (exception.get("stacktrace") or {}).get("frames", ()):
            frame.pop("vars", None)
    return event
