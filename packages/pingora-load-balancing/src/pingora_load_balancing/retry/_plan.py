"""How two attempts side by side take their way through a proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pingora_core.upstreams.peer import HttpPeer
    from pingora_http import ResponseHeader
    from pingora_load_balancing.retry.attempts import Attempts
    from pingora_load_balancing.retry.request import ProxiedRequest

__all__ = ["HedgedAttempts"]


@final
class HedgedAttempts:
    """The proxy's plan for a hedge, made of the attempts of a request.

    Args:
        attempts: The attempts, the last of which has begun.
        session: The request.
        delay: When there is a second one beside it.
        choose: Makes the peer for the next backend.

    Attributes:
        delay: Seconds, as given.
    """

    __slots__ = ("_attempts", "_choose", "_session", "delay")

    def __init__(
        self,
        attempts: Attempts,
        session: ProxiedRequest,
        delay: float,
        choose: Callable[[], Awaitable[HttpPeer]],
    ) -> None:
        self._attempts = attempts
        self._session = session
        self._choose = choose
        self.delay: float = delay

    async def choose(self) -> HttpPeer | None:
        """Begin the second attempt.

        Returns:
            Where it goes; None to do without.

        Raises:
            Error: If no other backend is ready, or the budget does not grant it.
        """
        return await self._attempts.hedge(self._choose)

    def accepts(self, peer: HttpPeer, response: ResponseHeader) -> bool:
        """Judge an answer.

        Args:
            peer: Whose it is.
            response: Its final head.

        Returns:
            False if its status is to be retried.
        """
        return self._attempts.answered(self._session, peer, response.status)

    def settled(self, peer: HttpPeer) -> None:
        """End the attempt that has lost.

        Args:
            peer: Of the winner.
        """
        self._attempts.settled(peer)
