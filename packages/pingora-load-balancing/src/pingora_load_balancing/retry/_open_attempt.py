"""One attempt under way: what it holds, and how it has gone so far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from pingora_core.runtime.timers import Deadline, get_timers
from pingora_error import Error, ErrorType, HTTPStatus
from pingora_load_balancing.retry.policy import RetryOn, failure_of

if TYPE_CHECKING:
    from pingora_core.upstreams.peer import HttpPeer
    from pingora_load_balancing.backend import Backend
    from pingora_load_balancing.circuit_breaker import Permit
    from pingora_load_balancing.latency_quantile import LatencyQuantile
    from pingora_load_balancing.retry.failover import Failover
    from pingora_load_balancing.retry.request import ProxiedRequest

__all__ = ["OpenAttempt"]

# Failures of this machine's own, though they look like the upstream's.
_LOCAL: Final = frozenset({ErrorType.BIND_ERROR, ErrorType.SOCKET_ERROR})


@final
class OpenAttempt:
    """Holds a lease, and a permit where there is a breaker, until it is ended.

    Args:
        failover: What all requests share.
        backend: Where it goes.
        permit: What the breaker has given for it.

    Attributes:
        backend: As given.
        peer: The peer that was made for it; None as long as nobody has told.
        permit: As given.
        latency: Seconds to the head of the response, once that is there.
        has_failed: Whether it has failed; None as long as that is not known.
        has_expired: Whether its time was over.
        latencies: Where its latency counts, too; None for nowhere else.
    """

    __slots__ = (
        "_began",
        "_deadline",
        "_failover",
        "_lease",
        "backend",
        "has_expired",
        "has_failed",
        "latencies",
        "latency",
        "peer",
        "permit",
    )

    def __init__(self, failover: Failover, backend: Backend, permit: Permit | None) -> None:
        self._failover = failover
        self._lease = failover.balancer.lease(backend)
        self._began = failover.balancer.pool.clock()
        self._deadline: Deadline | None = None
        self.backend = backend
        self.peer: HttpPeer | None = None
        self.permit = permit
        self.latency: float | None = None
        self.has_failed: bool | None = None
        self.has_expired = False
        self.latencies: LatencyQuantile | None = None

    @property
    def seconds(self) -> float:
        """How long ago it began."""
        return self._failover.balancer.pool.clock() - self._began

    def connected(self, session: ProxiedRequest) -> None:
        """Watch that there is an answer in time.

        Args:
            session: The request.
        """
        if self.permit is not None:
            self.permit.connected()
        limit = self._failover.policy.per_try_timeout
        if limit is not None:
            self._watch(session, limit, limit - self.seconds)

    def _watch(self, session: ProxiedRequest, limit: float, seconds: float) -> None:
        def expire() -> None:
            if not session.downstream_session.is_body_done:
                # It is the client that is slow. An upload has deadlines of its own.
                self._watch(session, limit, limit)
                return
            self.has_expired = True
            # No READ_TIMEDOUT, which the exchange takes for one wait of many.
            late = Error.up(HTTPStatus(504), f"no response within {limit} s")
            session.interrupt(late, peer=self.peer)

        self._deadline = Deadline(get_timers(), expire)
        self._deadline.set(seconds)

    def responded(self, status: int) -> None:
        """Take note of the answer.

        Args:
            status: Of the final head.
        """
        if self.latency is None:
            self.latency = self.seconds
        self.has_failed = status in self._failover.failure_statuses
        if self._deadline is not None:
            self._deadline.clear()

    def blame_for_no_connection(self, error: Error) -> None:
        """Take note that there is no connection.

        Args:
            error: Why.
        """
        if error.root_etype not in _LOCAL:
            self.has_failed = True

    def blame(self, error: Error, *, reused: bool) -> RetryOn:
        """Take note of an error of the upstream's.

        Args:
            error: What happened, after there was a connection.
            reused: Whether the connection came from the pool.

        Returns:
            What that means.
        """
        is_closing = reused and self.latency is None
        if not (is_closing and error.etype is ErrorType.CONNECTION_CLOSED):
            self.has_failed = True
        return RetryOn.TIMEOUT if self.has_expired else failure_of(error)

    def end(self) -> None:
        """Release what it holds, and report how it went; once."""
        self._lease.release()
        if self.permit is not None:
            self.permit.release()
        if self._deadline is not None:
            self._deadline.cancel()
        balancer = self._failover.balancer
        passed = self.seconds
        latency = self.latency
        if self.latencies is not None:
            self._add_to(self.latencies, passed if latency is None else latency)
        if self.has_failed is not None:
            if latency is None:
                latency = passed
            balancer.report(self.backend, latency=latency, failed=self.has_failed)
            return
        state = balancer.state(self.backend)
        if state is not None and passed > (state.latency or 0.0):
            # Nobody knows how it would have ended, but it has taken that long at least.
            state.observe_latency(passed, balancer.pool.clock())

    def _add_to(self, latencies: LatencyQuantile, seconds: float) -> None:
        # Those that were given up because they took too long count as that long. If only answers
        # did, each hedge would make the next one come earlier.
        is_answered = self.latency is not None and not self.has_failed
        if is_answered or seconds > latencies():
            latencies.add(seconds)
