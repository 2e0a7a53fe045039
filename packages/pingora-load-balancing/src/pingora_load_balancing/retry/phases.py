"""The phases of a proxy that failover takes part in, ready made."""

# ruff: noqa: ARG002, FBT001, PLR0917  # the signatures of the phases

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from pingora_load_balancing.retry._plan import HedgedAttempts
from pingora_load_balancing.retry.request import ProxiedRequest

if TYPE_CHECKING:
    from pingora_core.protocols.digest import Digest
    from pingora_core.upstreams.peer import HttpPeer
    from pingora_error import Error
    from pingora_http import ResponseHeader
    from pingora_load_balancing.retry.attempts import Attempts

__all__ = ["FailoverPhases", "HasAttempts"]


class HasAttempts(Protocol):
    """The context of a request, as far as failover needs it; `Attempts` itself is one."""

    @property
    def attempts(self) -> Attempts:
        """The attempts of the request."""


SESSION = TypeVar("SESSION", bound=ProxiedRequest)
CTX = TypeVar("CTX", bound=HasAttempts)


class FailoverPhases(Generic[SESSION, CTX]):
    """Tells the `Attempts` in the context of a request what happens to it.

    Put it in front of ``ProxyHttp``, with the types of session and context, and write ``new_ctx``
    and ``upstream_peer``. Whoever overrides one of the methods below awaits the one of ``super()``
    as well.

    Examples:
        >>> class Gateway(FailoverPhases[Session, Attempts], ProxyHttp[Attempts]):
        ...     def __init__(self, failover: Failover) -> None:
        ...         self.failover = failover
        ...
        ...     def new_ctx(self) -> Attempts:
        ...         return Attempts(self.failover)
        ...
        ...     async def upstream_peer(self, session: Session, ctx: Attempts) -> HttpPeer:
        ...         return ctx.prepare(HttpPeer(await ctx.next_backend()))
    """

    if TYPE_CHECKING:

        async def upstream_peer(self, session: SESSION, ctx: CTX) -> HttpPeer:
            """Choose where an attempt goes; yours."""

    def hedge_request(self, session: SESSION, peer: HttpPeer, ctx: CTX) -> HedgedAttempts | None:
        """Have a slow request sent to a second backend, if ``hedge_after`` of `Failover` is set.

        That is chosen as always, by ``upstream_peer``.

        Args:
            session: The request.
            peer: Where it is sent first.
            ctx: The context.

        Returns:
            When, and where to; None for one attempt at a time.
        """
        attempts = ctx.attempts
        delay = attempts.hedge_delay(session)
        if delay is None:
            return None
        return HedgedAttempts(attempts, session, delay, lambda: self.upstream_peer(session, ctx))

    async def fail_to_connect(
        self, session: SESSION, peer: HttpPeer, ctx: CTX, error: Error
    ) -> Error:
        """Decide whether another backend is tried.

        Args:
            session: The request.
            peer: What could not be reached.
            ctx: The context.
            error: Why.

        Returns:
            The error, with a decided retry.
        """
        return ctx.attempts.failed_to_connect(session, error, peer=peer)

    async def connected_to_upstream(
        self,
        session: SESSION,
        reused: bool,
        peer: HttpPeer,
        digest: Digest,
        ctx: CTX,
    ) -> None:
        """Begin to watch that there is a response in time.

        Args:
            session: The request.
            reused: Whether the connection came from the pool.
            peer: Where it leads.
            digest: What is known of it.
            ctx: The context.
        """
        ctx.attempts.connected(session, peer=peer)

    async def upstream_response_filter(
        self, session: SESSION, upstream_response: ResponseHeader, ctx: CTX
    ) -> None:
        """Decide by the status whether the response is passed on.

        Args:
            session: The request.
            upstream_response: The head.
            ctx: The context.

        Raises:
            Error: If the request is sent again instead.
        """
        ctx.attempts.responded(session, upstream_response.status)

    async def error_while_proxy(
        self,
        peer: HttpPeer,
        session: SESSION,
        error: Error,
        ctx: CTX,
        client_reused: bool,
    ) -> Error:
        """Decide whether another backend is tried.

        Args:
            peer: Where the request went.
            session: The request.
            error: What happened.
            ctx: The context.
            client_reused: Whether the upstream connection came from the pool.

        Returns:
            The error, with a decided retry.
        """
        error = error.more_context(f"Peer: {peer}")
        return ctx.attempts.failed(session, error, reused=client_reused, peer=peer)

    async def logging(self, session: SESSION, error: Error | None, ctx: CTX) -> None:
        """Release what the last attempt held, and report how it went.

        Args:
            session: The request.
            error: Why it failed; None when it did not.
            ctx: The context.
        """
        ctx.attempts.end()
