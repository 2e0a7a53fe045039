"""A hedged attempt: made a second time, beside the first, when that takes too long.

Theory of operation. A try goes from the connection to the final head of its response. The first try
runs in the request's own task, as any attempt does, so that a request that needs no hedge pays for a
timer and nothing else. When that fires, a task is made that chooses the other peer and makes the
second try. The first acceptable head settles it: the other try is given up, and the winner relayed;
from then on there is one exchange, as always. What the upstream has failed with on one side leaves
the other running.

Rules of this file: nothing of either try is relayed while both run. The first try is stopped, wherever
it waits, by cancelling the request's task in the way of ``asyncio.timeout``, and only from outside
that task. A try that was given up is nobody's failure: no callback judges it.

Source: Dean and Barroso, "The Tail at Scale", Communications of the ACM 56(2), 2013. As in Envoy
(``hedge_policy`` in api/envoy/config/route/v3/route_components.proto) a head that is worth a retry
does not win while the other try runs; as in gRPC (proposal A6) the winner is fixed by its head. There
is at most one hedge, as in Finagle's ``BackupRequestFilter``.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Generic

from pingora_error import Error, ErrorSource, ErrorType
from pingora_proxy._attempt import IDEMPOTENT_METHODS
from pingora_proxy._try import Try, TryContext
from pingora_proxy.hooks import CTX

if TYPE_CHECKING:
    from pingora_core.connectors.http.connector import Connector
    from pingora_core.protocols.http.server import ServerSession
    from pingora_core.protocols.http.task import HeaderTask
    from pingora_core.upstreams.peer import HttpPeer
    from pingora_proxy._overrides import Overrides
    from pingora_proxy.hooks import ProxyHttp
    from pingora_proxy.observe import Observers
    from pingora_proxy.outcome import HedgePlan
    from pingora_proxy.session import Session

__all__ = ["HedgedAttempt", "can_be_hedged"]

logger = logging.getLogger(__name__)


def can_be_hedged(downstream: ServerSession) -> bool:
    """Tell whether a request may be under way twice.

    Args:
        downstream: The client's side.

    Returns:
        True for an idempotent request without a body, unless it asks for another protocol.
    """
    return (
        downstream.is_body_empty
        and downstream.request.raw_method in IDEMPOTENT_METHODS
        and not downstream.is_upgrade_request
    )


class HedgedAttempt(Generic[CTX]):
    """An attempt with a plan for a second try; in the steps of an `Exchange`.

    Args:
        app: The user's object.
        overrides: Which callbacks it overrides.
        connector: Where the upstream's sides come from.
        session: The request.
        peer: Where the first try goes.
        ctx: The user's context.
        plan: When there is a second one, and where it goes.
        observers: Who is told of the tries.
    """

    def __init__(
        self,
        app: ProxyHttp[CTX],
        overrides: Overrides,
        connector: Connector,
        session: Session,
        *,
        peer: HttpPeer,
        ctx: CTX,
        plan: HedgePlan,
        observers: Observers | None = None,
    ) -> None:
        self._app = app
        self._session = session
        self._ctx = ctx
        self._plan = plan
        self._down = session.downstream_session
        self._shared = TryContext(
            app, overrides, connector, session, ctx, observers, self._watch_client
        )
        self._first = Try(self._shared, peer, holds_back=False)
        self._second: Try[CTX] | None = None
        self._winner: Try[CTX] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._second_task: asyncio.Task[None] | None = None
        # The request's own task, as long as the first try runs in it.
        self._first_task: asyncio.Task[object] | None = None
        self._is_first_stopped = False
        # What both are ended with.
        self._given_up: Error | None = None
        self._is_watching = False

    # ------------------------------------------------------------------ the steps

    async def run(self) -> None:
        """Go all the way: to a winner, and to the end of its response.

        Raises:
            Error: As the steps do.
        """
        try:
            await self.relay(await self.send_and_await_head())
        finally:
            await self.abandon()

    async def send_and_await_head(self) -> HeaderTask:
        """Make one try, or two, until there is a winner.

        Whoever calls this calls :meth:`abandon` in the end, whatever happens.

        Returns:
            The head of the winner's response; no filter has seen it.

        Raises:
            Error: What the first try has failed with, if all did; another attempt may follow if
                the error of either says so.
        """
        self._session.set_interrupter(self._interrupt)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._plan.delay, self._begin_second)
        winner = await self._settle()
        head = winner.head
        assert head is not None
        assert winner.upstream is not None
        self._winner = winner
        await self._end_tries(winner)
        loser = self._second if winner is self._first else self._first
        if loser is not None and loser.error is not None:
            self._log(loser.error)
        self._session.upstream_session = winner.upstream
        self._session.phase = "read response"
        self._plan.settled(winner.peer)
        return head

    async def relay(self, head: HeaderTask) -> None:
        """Relay the winner's response to its end.

        Args:
            head: From :meth:`send_and_await_head`; the filters see it now.

        Raises:
            Error: From upstream, downstream or a callback; a response head may have been sent.
        """
        assert self._winner is not None
        await self._winner.relay(head)

    async def abandon(self) -> None:
        """End everything, and give the connections back; again does nothing."""
        self._session.set_interrupter(None)
        if self._is_watching:
            self._is_watching = False
            self._down.watch_disconnect(None)
        await self._end_tries(None)

    # ------------------------------------------------------------------- the race

    async def _settle(self) -> Try[CTX]:
        first = self._first
        await self._run_first()
        if self._given_up is not None:
            raise first.error or self._given_up
        if first.error is not None and first.error.esource is not ErrorSource.UPSTREAM:
            raise first.error
        if first.head is not None and (self._second is None or self._is_good(first)):
            return first
        if self._second_task is not None:
            await asyncio.wait((self._second_task,))
        second = self._second
        if self._given_up is not None:
            raise (None if second is None else second.error) or self._given_up
        if second is not None and second.head is not None and (second.is_good or not first.head):
            return second
        if first.head is not None:
            return first
        assert first.error is not None
        if second is not None and second.error is not None:
            self._log(second.error)
            if second.error.should_retry:
                first.error.set_retry(True)
        raise first.error

    def _log(self, error: Error) -> None:
        # Of a try that does not count; what the attempt fails with is logged where all such are.
        app = self._app
        if not app.suppress_error_log(self._session, self._ctx, error):
            summary = app.request_summary(self._session, self._ctx)
            logger.warning("One of two tries failed: %s, %s", error, summary)

    async def _run_first(self) -> None:
        # In this task: it is stopped by a cancellation, which must be told from any other.
        task = asyncio.current_task()
        assert task is not None
        before = task.cancelling()
        cancelled: asyncio.CancelledError | None = None
        self._first_task = task
        try:
            await self._first.reach_head()
        except asyncio.CancelledError as error:
            cancelled = error
        self._first_task = None
        if self._timer is not None:
            self._timer.cancel()
        if self._is_first_stopped and task.uncancel() <= before:
            cancelled = None
        if cancelled is not None:
            raise cancelled

    def _stop_first(self) -> None:
        task = self._first_task
        if task is not None and task is not asyncio.current_task() and not self._is_first_stopped:
            self._is_first_stopped = True
            task.cancel()

    def _begin_second(self) -> None:
        self._second_task = asyncio.create_task(self._run_second(), name="hedge")

    async def _run_second(self) -> None:
        try:
            peer = await self._plan.choose()
        except Error as error:
            logger.debug("no hedge: %s", error)
            return
        except Exception as error:
            logger.error("choosing where to hedge failed: %s", error, exc_info=error)
            return
        if peer is None:
            return
        self._first.hold_back()
        self._second = second = Try(self._shared, peer, holds_back=True)
        await second.reach_head()
        if self._is_good(second):
            self._stop_first()

    def _is_good(self, one: Try[CTX]) -> bool:
        if one.head is not None:
            try:
                one.is_good = self._plan.accepts(one.peer, one.head.header)
            except Exception as error:
                logger.error("judging an answer failed: %s", error, exc_info=error)
                one.is_good = True
        return one.is_good

    async def _end_tries(self, winner: Try[CTX] | None) -> None:
        task = self._second_task
        try:
            if task is not None and not task.done():
                task.cancel()
                await asyncio.wait((task,))
        finally:
            for one in (self._first, self._second):
                if one is not None and one is not winner:
                    await one.end()

    # -------------------------------------------------------------- interruptions

    def _watch_client(self) -> None:
        if self._down.abort_on_close and not self._is_watching:
            self._is_watching = True
            self._down.watch_disconnect(self._client_gone)

    def _client_gone(self) -> None:
        self._give_up(
            Error.down(ErrorType.CONNECTION_CLOSED, "the client closed before the response ended")
        )

    def _interrupt(self, error: Error, peer: HttpPeer | None) -> None:
        running = [
            one.upstream
            for one in (self._first, self._second)
            if one is not None and one.upstream is not None and (peer is None or one.peer is peer)
        ]
        if peer is None and running:
            self._give_up(error)
            return
        for upstream in running:
            upstream.fail(error)

    def _give_up(self, error: Error) -> None:
        one = self._winner
        if one is None:
            self._given_up = error
            one = self._second if self._first_task is None else self._first
        if one is not None and one.upstream is not None:
            one.upstream.fail(error)
        elif self._first_task is not None:
            self._stop_first()
        elif self._second_task is not None:
            self._second_task.cancel()
