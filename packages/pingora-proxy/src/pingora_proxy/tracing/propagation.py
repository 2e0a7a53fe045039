"""Passing the trace context on: each attempt becomes a span of its own."""

from __future__ import annotations

import random
import secrets
from typing import TYPE_CHECKING, Final

from pingora_proxy.observe import ProxyObserver
from pingora_proxy.tracing.context import TraceContext

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_http import RequestHeader
    from pingora_proxy.request_record import AttemptRecord
    from pingora_proxy.session import Session

__all__ = ["TRACE", "TracePropagation", "trace_of"]

TRACE: Final = "trace"
"""Under which key the trace context is in the state of a request's record."""


def trace_of(session: Session) -> TraceContext | None:
    """Tell the trace that a request belongs to, for logs.

    Args:
        session: The request.

    Returns:
        Its context; None if nobody traces.
    """
    record = session.record
    found = None if record is None else record.state.get(TRACE)
    return found if isinstance(found, TraceContext) else None


class TracePropagation(ProxyObserver):
    """Continues the trace of a client, or begins one, and passes it to upstreams.

    Args:
        sample: The share of new traces that are recorded, 0 to 1; those of clients keep what they
            say.
        trusts_clients: Whether a context that comes with a request is continued. At the edge it
            may come from anybody.
        choose: A number from 0 to 1 for each new trace, which ``sample`` is compared with.
        random_bytes: Where ids come from.

    Raises:
        ValueError: If ``sample`` is no share.
    """

    def __init__(
        self,
        *,
        sample: float = 1.0,
        trusts_clients: bool = True,
        choose: Callable[[], float] = random.random,  # noqa: S311 - it decides about traces
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        if not 0.0 <= sample <= 1.0:
            msg = f"a share of traces lies between 0 and 1, not at {sample}"
            raise ValueError(msg)
        self._sample = sample
        self._trusts_clients = trusts_clients
        self._choose = choose
        self._random_bytes = random_bytes

    def request_started(self, session: Session) -> None:
        """Find the trace of a request.

        Args:
            session: The request.
        """
        if session.record is None:
            return
        given = TraceContext.read(session.req_header) if self._trusts_clients else None
        if given is None:
            sampled = self._sample >= 1.0 or self._choose() < self._sample
            given = TraceContext.start(self._random_bytes, sampled=sampled)
        session.record.state[TRACE] = given.child(self._random_bytes)

    def upstream_request(
        self, session: Session, attempt: AttemptRecord, request: RequestHeader
    ) -> None:
        """Pass the trace on.

        Args:
            session: The request.
            attempt: The attempt.
            request: The head that is about to be sent.
        """
        del attempt
        trace = trace_of(session)
        if trace is not None:
            trace.child(self._random_bytes).write(request)
