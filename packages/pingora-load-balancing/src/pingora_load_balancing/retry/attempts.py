"""The attempts of one request: where each goes, how it ends, and whether there is another one.

Theory of operation: the phases of a proxy tell what becomes of an attempt, in this order:
``next_backend`` begins it; ``failed_to_connect`` ends it, or ``connected`` goes on; ``responded``
is told the status, and ends it by raising if it is to be sent again; ``failed`` ends it with an
error; ``end`` ends what is still open when the request is over. Whatever the end, the lease and the
permit of the attempt are released, and the outcome is reported to the pool, once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, final

from pingora_core.runtime.timers import Deadline, get_timers
from pingora_error import Error, ErrorSource, ErrorType, HTTPStatus, RetryType
from pingora_load_balancing.circuit_breaker import CIRCUIT_OPEN
from pingora_load_balancing.retry.policy import RetryOn, failure_of

if TYPE_CHECKING:
    from pingora_core.protocols.http.server import ServerSession
    from pingora_core.upstreams.peer import HttpPeer, PeerAddress
    from pingora_http import RequestHeader, ResponseHeader
    from pingora_load_balancing.backend import Backend
    from pingora_load_balancing.circuit_breaker import Permit
    from pingora_load_balancing.retry.failover import Failover
    from pingora_load_balancing.state import Lease

__all__ = ["Attempts", "ProxiedRequest"]

# Failures of this machine's own, though they look like the upstream's.
_LOCAL: Final = frozenset({ErrorType.BIND_ERROR, ErrorType.SOCKET_ERROR})


class ProxiedRequest(Protocol):
    """What is asked of a request; the proxy's ``Session`` is one."""

    @property
    def req_header(self) -> RequestHeader:
        """The client's request head."""

    @property
    def response_written(self) -> ResponseHeader | None:
        """The final response head that was sent to the client, None before that."""

    @property
    def downstream_session(self) -> ServerSession:
        """The client's side."""

    def interrupt(self, error: Error) -> None:
        """End the exchange with the upstream now, wherever it waits.

        Args:
            error: What the request fails with.
        """


@final
class Attempts:
    """Keeps track of one request; ``new_ctx`` makes one, for the request's context.

    `FailoverPhases` calls all of it but ``next_backend`` and ``prepare``.

    Args:
        failover: What all requests share.

    Attributes:
        backend: Where the last attempt went; None before the first.
        count: How many attempts were begun.
    """

    __slots__ = (
        "_began",
        "_deadline",
        "_failover",
        "_has_expired",
        "_is_granted",
        "_latency",
        "_lease",
        "_outcome",
        "_permit",
        "_stale",
        "_tried",
        "_verdict",
        "backend",
        "count",
    )

    def __init__(self, failover: Failover) -> None:
        self._failover = failover
        self.backend: Backend | None = None
        self.count = 0
        self._tried: tuple[PeerAddress, ...] = ()
        # Attempts that met a connection which had been dead before.
        self._stale = 0
        # The next attempt was granted by the budget.
        self._is_granted = False
        # Of the attempt under way; a lease says that there is one.
        self._lease: Lease | None = None
        self._permit: Permit | None = None
        self._began = 0.0
        self._latency: float | None = None
        # Whether it has failed, as far as is known.
        self._outcome: bool | None = None
        self._deadline: Deadline | None = None
        self._has_expired = False
        # What `responded` has raised.
        self._verdict: Error | None = None

    def __repr__(self) -> str:
        where = "nowhere yet" if self.backend is None else f"to {self.backend}"
        return f"<{type(self).__name__} {self.count}, {where}>"

    @property
    def attempts(self) -> Attempts:
        """This object, so that it can be the whole context of a request."""
        return self

    # ---------------------------------------------------------------------- beginning one

    async def next_backend(self, key: bytes = b"") -> Backend:
        """Begin an attempt, at a backend that was not tried yet if there is one.

        Waits for the back-off before all but the first.

        Args:
            key: What to choose by.

        Returns:
            Where to go.

        Raises:
            Error: ``HTTPStatus(503)`` if no backend is ready, if the circuit breaker refuses all
                that are (then the root is `CIRCUIT_OPEN`), or if this attempt was not granted by
                any of the other methods, and the budget does not grant it either.
        """
        failover = self._failover
        self.end()
        if not self.count:
            failover.budget.deposit()
        else:
            if not self._is_granted and not failover.budget.withdraw():
                raise Error(HTTPStatus(503), "no retry is left in the budget")
            self._is_granted = False
            wait = failover.policy.wait_before(self.count)
            if wait > 0:
                await failover.sleep(wait)
        self.backend = backend = self._choose(key)
        self._lease = failover.balancer.lease(backend)
        self._tried += (backend.addr,)
        self.count += 1
        self._latency = self._outcome = None
        self._has_expired = False
        self._began = failover.balancer.pool.clock()
        return backend

    def _choose(self, key: bytes) -> Backend:
        failover = self._failover
        balancer = failover.balancer
        most = failover.max_iterations
        backend = None if self._tried else balancer.select(key, most)
        if backend is not None and self._is_admitted(backend):
            return backend
        tried = self._tried
        is_refused = backend is not None

        def accept(backend: Backend, is_ready: bool) -> bool:  # noqa: FBT001  # as asked for
            nonlocal is_refused
            if not is_ready or backend.addr in tried:
                return False
            if self._is_admitted(backend):
                return True
            is_refused = True
            return False

        backend = balancer.select_with(key, most, accept)
        if backend is None and tried:
            tried = ()
            backend = balancer.select_with(key, most, accept)
        if backend is None:
            why = None
            breaker = failover.breaker
            if is_refused or (breaker is not None and breaker.open):
                why = Error.internal(CIRCUIT_OPEN, "all that are ready have enough to do")
            raise Error(HTTPStatus(503), "no backend can be used", cause=why)
        return backend

    def _is_admitted(self, backend: Backend) -> bool:
        breaker = self._failover.breaker
        if breaker is None:
            return True
        self._permit = breaker.try_acquire(backend, is_retry=self.count > 0)
        return self._permit is not None

    def prepare(self, peer: HttpPeer) -> HttpPeer:
        """Put the limits of an attempt into the options of its peer.

        Args:
            peer: For the backend of this attempt.

        Returns:
            The same peer.
        """
        options = peer.options
        limit = self._failover.policy.per_try_timeout
        if limit is not None:
            before = options.total_connection_timeout
            options.total_connection_timeout = limit if before is None else min(before, limit)
        return peer

    # ---------------------------------------------------------------------- what becomes of it

    def connected(self, session: ProxiedRequest) -> None:
        """Tell that the attempt has a connection; from now on it is watched that it answers.

        Args:
            session: The request.
        """
        if self._permit is not None:
            self._permit.connected()
        limit = self._failover.policy.per_try_timeout
        if limit is None or self._lease is None:
            return
        passed = self._failover.balancer.pool.clock() - self._began
        self._watch(session, limit, limit - passed)

    def _watch(self, session: ProxiedRequest, limit: float, seconds: float) -> None:
        def expire() -> None:
            if not session.downstream_session.is_body_done:
                # It is the client that is slow. An upload has deadlines of its own.
                self._watch(session, limit, limit)
                return
            self._has_expired = True
            # No READ_TIMEDOUT, which the exchange takes for one wait of many.
            session.interrupt(Error.up(HTTPStatus(504), f"no response within {limit} s"))

        self._deadline = Deadline(get_timers(), expire)
        self._deadline.set(seconds)

    def failed_to_connect(self, session: ProxiedRequest, error: Error) -> Error:
        """Tell that there is no connection.

        Args:
            session: The request.
            error: Why.

        Returns:
            The error, with a decided retry.
        """
        if error.root_etype not in _LOCAL:
            self._outcome = True
        self.end()
        allowed = self._failover.policy.allows(RetryOn.CONNECT_FAILURE, session.req_header.method)
        error.set_retry(allowed and self._may_retry(session))
        return error

    def responded(self, session: ProxiedRequest, status: int) -> None:
        """Tell the status of a response; that of an informational one is ignored.

        Args:
            session: The request.
            status: The status.

        Raises:
            Error: ``HTTPStatus(status)``, to be retried, if the policy says so and there may be
                another attempt. If there may not, the response should be passed on.
        """
        if (status < 200 and status != 101) or self._lease is None:
            return
        failover = self._failover
        self._latency = failover.balancer.pool.clock() - self._began
        if self._deadline is not None:
            self._deadline.clear()
        self._outcome = status in failover.failure_statuses
        policy = failover.policy
        if (
            status in policy.statuses
            and policy.allows(RetryOn.STATUS, session.req_header.method)
            and self._may_retry(session)
        ):
            where = f"{self.backend} answered {status}"
            self.end()
            self._verdict = Error.up(HTTPStatus(status), where, retry=RetryType.RETRY)
            raise self._verdict

    def failed(self, session: ProxiedRequest, error: Error, *, reused: bool) -> Error:
        """Tell that the attempt failed after there was a connection.

        Args:
            session: The request.
            error: What happened, upstream, downstream or in a filter.
            reused: Whether the connection came from the pool.

        Returns:
            The error, with a decided retry.
        """
        verdict, self._verdict = self._verdict, None
        if verdict is not None and error.should_retry:
            return error
        wanted = error.should_retry
        if error.esource is ErrorSource.UPSTREAM:
            wanted = self._judge(session, error, reused=reused)
        self.end()
        error.set_retry(wanted and session.response_written is None and self._may_retry(session))
        return error

    def _judge(self, session: ProxiedRequest, error: Error, *, reused: bool) -> bool:
        """Find out what an error of the upstream's means.

        Returns:
            True if it is worth another attempt.
        """
        is_stale = reused and error.retry is RetryType.REUSED_ONLY
        if is_stale and not self._stale:
            # As if it had not been: the backend may be fine, and there is one more attempt.
            self._stale = 1
            self._tried = self._tried[:-1]
        # Where nothing has come of a request because the connection was being closed already,
        # nobody is to blame, but whoever raises a status blames the backend.
        if (is_stale or error.should_retry) and not isinstance(error.etype, HTTPStatus):
            return True
        if not (reused and self._latency is None and error.etype is ErrorType.CONNECTION_CLOSED):
            self._outcome = True
        failure = RetryOn.TIMEOUT if self._has_expired else failure_of(error)
        return error.should_retry or self._failover.policy.allows(
            failure, session.req_header.method
        )

    # ---------------------------------------------------------------------- ending one

    def end(self) -> None:
        """Tell that the request, or this attempt, is over; again does nothing."""
        lease, self._lease = self._lease, None
        if lease is None:
            return
        lease.release()
        if self._permit is not None:
            self._permit.release()
            self._permit = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        balancer = self._failover.balancer
        latency = self._latency
        passed = balancer.pool.clock() - self._began
        if self._outcome is not None:
            if latency is None:
                latency = passed
            balancer.report(lease.backend, latency=latency, failed=self._outcome)
            return
        state = balancer.state(lease.backend)
        if state is not None and passed > (state.latency or 0.0):
            # Nobody knows how it would have ended, but it has taken that long at least.
            state.observe_latency(passed, balancer.pool.clock())

    def _may_retry(self, session: ProxiedRequest) -> bool:
        failover = self._failover
        downstream = session.downstream_session
        self._is_granted = (
            self.count - self._stale < failover.policy.max_attempts
            and not (downstream.body_bytes_read > 0 and downstream.retry_buffer_truncated)
            and failover.budget.withdraw()
        )
        return self._is_granted
