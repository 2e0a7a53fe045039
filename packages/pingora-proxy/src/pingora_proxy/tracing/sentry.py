"""Crash reports to Sentry: faults of the program, with the request they happened in (extra ``sentry``).

What clients and upstreams do wrong is no crash and is not reported. Of the request only what tells
where the fault happened is sent; fields and query are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sentry_sdk

from pingora_error import ErrorSource, ErrorType
from pingora_proxy.observe import ProxyObserver
from pingora_proxy.tracing.propagation import trace_of

if TYPE_CHECKING:
    from pingora_error import Error
    from pingora_proxy.session import Session

__all__ = ["SentryReports"]


class SentryReports(ProxyObserver):
    """Reports internal errors; call ``sentry_sdk.init`` yourself, in each process.

    The SDK sends from a thread and drops what it cannot send.

    Args:
        max_reports: Reports of this process at most, so that a fault in every request does not
            bury others.

    Attributes:
        reported: How many were reported.
        suppressed: How many were not, because of ``max_reports``.
    """

    def __init__(self, *, max_reports: int = 1000) -> None:
        self._max_reports = max_reports
        self.reported: int = 0
        self.suppressed: int = 0

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
        if self.reported >= self._max_reports:
            self.suppressed += 1
            return
        self.reported += 1
        request = session.req_header
        with sentry_sdk.new_scope() as scope:
            if session.record is not None and session.record.failed_in is not None:
                scope.set_tag("phase", session.record.failed_in)
            if session.route is not None:
                scope.set_transaction_name(f"{request.method} {session.route}")
            trace = trace_of(session)
            if trace is not None:
                scope.set_tag("trace_id", trace.trace_id)
            scope.set_context(
                "request",
                {
                    "method": request.method,
                    "path": request.path,
                    "host": request.get("host", ""),
                    "protocol": str(request.version),
                    "error": str(error),
                },
            )
            scope.capture_exception(error.root_cause)
