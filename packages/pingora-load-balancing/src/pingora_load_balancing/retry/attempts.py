"""The attempts of one request: where each goes, how it ends, and whether there is another one.

Theory of operation: the phases of a proxy tell what becomes of an attempt, in this order:
``next_backend`` begins it; ``failed_to_connect`` ends it, or ``connected`` goes on; ``responded``
is told the status, and ends it by raising if it is to be sent again; ``failed`` ends it with an
error; ``end`` ends what is still open when the request is over. Whatever the end, the lease and the
permit of the attempt are released, and the outcome is reported to the pool, once.

Between the first and the second of these there may be two attempts side by side. ``hedge_delay``
tells when, ``hedge`` begins the second one, and ``settled`` ends the loser, which has not failed by
that. What happens to one of the two is told with its peer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from pingora_error import Error, ErrorSource, HTTPStatus, RetryType
from pingora_load_balancing.latency_quantile import LatencyQuantile
from pingora_load_balancing.retry._choice import choose_backend
from pingora_load_balancing.retry._open_attempt import OpenAttempt
from pingora_load_balancing.retry.policy import RetryOn, failure_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pingora_core.upstreams.peer import HttpPeer, PeerAddress
    from pingora_load_balancing.backend import Backend
    from pingora_load_balancing.circuit_breaker import Permit
    from pingora_load_balancing.retry.failover import Failover
    from pingora_load_balancing.retry.request import ProxiedRequest

__all__ = ["Attempts"]


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
        "_current",
        "_failover",
        "_hedge",
        "_is_granted",
        "_is_hedging",
        "_is_wanted",
        "_stale",
        "_tried",
        "_verdict",
        "backend",
        "count",
    )

    def __init__(self, failover: Failover) -> None:
        self._failover = failover
        self.backend: Backend | None = None
        self.count: int = 0
        self._tried: tuple[PeerAddress, ...] = ()
        # Attempts that met a connection which had been dead before.
        self._stale = 0
        # The next attempt was granted by the budget.
        self._is_granted = False
        self._current: OpenAttempt | None = None
        self._hedge: OpenAttempt | None = None
        self._is_hedging = False  # the next backend is asked for a hedge
        # One of two attempts side by side has failed in a way that is worth another one.
        self._is_wanted = False
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
        if self._is_hedging:
            return self._next_hedge(key)
        failover = self._failover
        self.end()
        self._is_wanted = False
        if not self.count:
            failover.budget.deposit()
        else:
            if not self._is_granted and not failover.budget.withdraw():
                raise Error(HTTPStatus(503), "no retry is left in the budget")
            self._is_granted = False
            wait = failover.policy.wait_before(self.count)
            if wait > 0:
                await failover.sleep(wait)
        backend, permit = choose_backend(failover, key, self._tried, is_retry=self.count > 0)
        self._current = self._open(backend, permit)
        return backend

    def _open(self, backend: Backend, permit: Permit | None) -> OpenAttempt:
        self.backend = backend
        self._tried += (backend.addr,)
        self.count += 1
        return OpenAttempt(self._failover, backend, permit)

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

    # ---------------------------------------------------------------------- a second beside it

    def hedge_delay(self, session: ProxiedRequest) -> float | None:
        """Tell when the attempt is worth a second one beside it.

        Args:
            session: The request; without a body.

        Returns:
            Seconds from now; None for never.
        """
        after = self._failover.hedge_after
        methods = self._failover.policy.methods
        if after is None or self._current is None or session.req_header.method not in methods:
            return None
        if isinstance(after, LatencyQuantile):
            self._current.latencies = after
            return after()
        return after

    async def hedge(self, choose: Callable[[], Awaitable[HttpPeer]]) -> HttpPeer | None:
        """Begin a second attempt beside the one under way, without a wait before it.

        Args:
            choose: Calls `next_backend`, which finds one that was not tried, and makes its peer.

        Returns:
            The peer; None if there are enough attempts.

        Raises:
            Error: If no such backend is ready, or the budget does not grant it.
        """
        is_hedged = self._hedge is not None
        if is_hedged or self._is_last:
            return None
        self._is_hedging = True
        try:
            peer = await choose()
        except BaseException:
            self._end_hedge()
            raise
        finally:
            self._is_hedging = False
        if self._hedge is not None:
            self._hedge.peer = peer
        return None if self._hedge is None else peer

    def _next_hedge(self, key: bytes) -> Backend:
        failover = self._failover
        backend, permit = choose_backend(
            failover, key, self._tried, is_retry=True, only_untried=True
        )
        # Asked last, so that it is not charged for what comes to nothing.
        if not failover.budget.withdraw():
            if permit is not None:
                permit.release()
            raise Error(HTTPStatus(503), "no hedge is left in the budget")
        failover.hedges += 1
        self._hedge = self._open(backend, permit)
        if self._current is not None:
            self._hedge.latencies = self._current.latencies
        return backend

    def answered(self, session: ProxiedRequest, peer: HttpPeer, status: int) -> bool:
        """Tell the status of a response to one of two attempts side by side.

        Args:
            session: The request.
            peer: Of the attempt.
            status: Of the final head.

        Returns:
            Whether it will do; else the other one should be waited for.
        """
        attempt = self._find(peer)
        if attempt is not None:
            attempt.responded(status)
        return not self._failover.policy.retries_status(status, session.req_header.method)

    def settled(self, peer: HttpPeer) -> None:
        """Tell which of two attempts side by side goes on, though there be only one.

        Args:
            peer: Of the winner.
        """
        hedge = self._hedge
        self._is_wanted = False
        if hedge is not None and hedge.peer is peer:
            self._hedge, loser = None, self._current
            self._current = hedge
            if loser is not None:
                loser.end()
        else:
            self._end_hedge()
        if self._current is not None:
            self.backend = self._current.backend

    def _end_hedge(self) -> None:
        hedge, self._hedge = self._hedge, None
        if hedge is not None:
            hedge.end()

    def _find(self, peer: HttpPeer | None) -> OpenAttempt | None:
        hedge = self._hedge
        return hedge if hedge is not None and hedge.peer is peer is not None else self._current

    # ---------------------------------------------------------------------- what becomes of it

    def connected(self, session: ProxiedRequest, *, peer: HttpPeer | None = None) -> None:
        """Tell that the attempt has a connection; from now on it is watched that it answers.

        Args:
            session: The request.
            peer: Of the attempt.
        """
        attempt = self._find(peer)
        if attempt is not None:
            attempt.peer = peer
            attempt.connected(session)

    def failed_to_connect(
        self, session: ProxiedRequest, error: Error, *, peer: HttpPeer | None = None
    ) -> Error:
        """Tell that there is no connection.

        Args:
            session: The request.
            error: Why.
            peer: Of the attempt.

        Returns:
            The error, with a decided retry.
        """
        attempt = self._find(peer)
        if attempt is not None:
            attempt.blame_for_no_connection(error)
        self._end(attempt)
        wanted = self._failover.policy.allows(RetryOn.CONNECT_FAILURE, session.req_header.method)
        error.set_retry(self._decide(session, wanted=wanted))
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
        attempt = self._current
        if (status < 200 and status != 101) or attempt is None:
            return
        attempt.responded(status)
        wanted = self._failover.policy.retries_status(status, session.req_header.method)
        if wanted and self._may_retry(session):
            where = f"{self.backend} answered {status}"
            self.end()
            self._verdict = Error.up(HTTPStatus(status), where, retry=RetryType.RETRY)
            raise self._verdict

    def failed(
        self,
        session: ProxiedRequest,
        error: Error,
        *,
        reused: bool,
        peer: HttpPeer | None = None,
    ) -> Error:
        """Tell that the attempt failed after there was a connection.

        Args:
            session: The request.
            error: What happened, upstream, downstream or in a filter.
            reused: Whether the connection came from the pool.
            peer: Of the attempt.

        Returns:
            The error, with a decided retry.
        """
        verdict, self._verdict = self._verdict, None
        if verdict is not None and error.should_retry:
            return error
        wanted = error.should_retry
        if error.esource is ErrorSource.UPSTREAM:
            attempt = self._find(peer)
            wanted = self._judge(session, error, attempt, reused=reused)
            self._end(attempt)
        else:
            self.end()
        error.set_retry(session.response_written is None and self._decide(session, wanted=wanted))
        return error

    def _judge(
        self, session: ProxiedRequest, error: Error, attempt: OpenAttempt | None, *, reused: bool
    ) -> bool:
        """Find out what an error of the upstream's means.

        Returns:
            True if it is worth another attempt.
        """
        is_stale = reused and error.retry is RetryType.REUSED_ONLY
        if is_stale and not self._stale and attempt is not None:
            # As if it had not been: the backend may be fine, and there is one more attempt.
            self._stale = 1
            self._tried = tuple(a for a in self._tried if a != attempt.backend.addr)
        # Where nothing has come of a request because the connection was being closed already,
        # nobody is to blame, but whoever raises a status blames the backend.
        if (is_stale or error.should_retry) and not isinstance(error.etype, HTTPStatus):
            return True
        failure = failure_of(error) if attempt is None else attempt.blame(error, reused=reused)
        return error.should_retry or self._failover.policy.allows(
            failure, session.req_header.method
        )

    # ---------------------------------------------------------------------- ending one

    def end(self) -> None:
        """Tell that the request, or this attempt, is over; again does nothing."""
        self._end(self._current)
        self._end_hedge()

    def _end(self, attempt: OpenAttempt | None) -> None:
        if attempt is None:
            return
        if attempt is self._hedge:
            self._hedge = None
        else:
            self._current = None
        attempt.end()

    def _decide(self, session: ProxiedRequest, *, wanted: bool) -> bool:
        if self._current is not None or self._hedge is not None:
            # The other one goes on, and if that fails, too, it is decided.
            self._is_wanted = self._is_wanted or wanted
            return False
        return (wanted or self._is_wanted) and self._may_retry(session)

    @property
    def _is_last(self) -> bool:
        return self.count - self._stale >= self._failover.policy.max_attempts

    def _may_retry(self, session: ProxiedRequest) -> bool:
        downstream = session.downstream_session
        self._is_granted = (
            not self._is_last
            and not (downstream.body_bytes_read > 0 and downstream.retry_buffer_truncated)
            and self._failover.budget.withdraw()
        )
        return self._is_granted
