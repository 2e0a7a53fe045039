"""What callbacks hand back when a plain value does not say enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["BodyFilterResult", "Delayed", "FailToProxy"]


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
