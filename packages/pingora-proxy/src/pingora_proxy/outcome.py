"""What callbacks hand back when a plain value does not say enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pingora_core.upstreams.peer import HttpPeer
    from pingora_http import ResponseHeader

__all__ = ["BodyFilterResult", "Delayed", "FailToProxy", "Hedge", "HedgePlan"]


@dataclass(frozen=True, slots=True)
class FailToProxy:
    """How a failed request was answered.

    Attributes:
        error_code: The status sent to the client; 0 when nothing was sent, because the client
            is gone.
        can_reuse_downstream: Whether the connection may carry another request. Honoured only
            for errors before an upstream was chosen.
        response_completed: Whether a response whose head had been sent before the error was
            ended properly nevertheless, as gRPC does with a status in the trailers. Otherwise
            it is cut off so that the client notices.
    """

    error_code: int
    can_reuse_downstream: bool = False
    response_completed: bool = False


@dataclass(frozen=True, slots=True)
class Delayed:
    """A filtered body piece together with a pause: how a body filter throttles.

    Attributes:
        body: What to send on; None or empty for nothing.
        seconds: How long to wait after sending it, before the next piece is read.
    """

    body: bytes | None
    seconds: float


BodyFilterResult: TypeAlias = bytes | Delayed | None


class HedgePlan(Protocol):
    """How an attempt is made a second time, beside the first, when that takes too long.

    The first acceptable answer counts, and the other try is given up: its connection is closed,
    or its stream reset. A `Hedge` is the simplest plan.
    """

    @property
    def delay(self) -> float:
        """Seconds from the beginning of the first try, its connection included, to the second."""

    def choose(self) -> Awaitable[HttpPeer | None]:
        """Choose where the second try goes; called when it is time.

        Returns:
            The peer; None to do without, as when a budget is used up. Without a second try the
            first goes on, and so it does if this raises.
        """

    def accepts(self, peer: HttpPeer, response: ResponseHeader) -> bool:
        """Judge an answer to one of two tries; not called as long as there is only one.

        Args:
            peer: Whose answer it is.
            response: Its final head, as the upstream has sent it.

        Returns:
            False to wait for the other try, and to take this one only if that fails or does no
            better.
        """

    def settled(self, peer: HttpPeer) -> None:
        """Be told whose answer counts, before the response filters see it.

        Not called if there is none.

        Args:
            peer: Of the winner; the other one, if there was one, has been given up.
        """


def _accept(peer: HttpPeer, response: ResponseHeader) -> bool:  # noqa: ARG001 - takes any
    return True


def _ignore(peer: HttpPeer) -> None:
    """Do nothing about it."""


@dataclass(frozen=True, slots=True)
class Hedge:
    """A plan made of functions.

    Attributes:
        delay: Seconds from the beginning of the first try to the second.
        choose: Chooses where that goes when it is time; None does without.
        accepts: Judges an answer, given whose it is; any will do by default.
        settled: Told whose answer counts.
    """

    delay: float
    choose: Callable[[], Awaitable[HttpPeer | None]]
    accepts: Callable[[HttpPeer, ResponseHeader], bool] = _accept
    settled: Callable[[HttpPeer], None] = _ignore
