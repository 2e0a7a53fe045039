"""Responses without an end of their own: event streams and gRPC, and how a server that stops ends them.

Theory of operation. What passes is followed, so that it is known where the response may end. When
it is time, the relay is interrupted between two events or messages: at once if it is there, or at
the next such place that comes within a bounded time. Then the body is ended as its framing has it,
so that an event source connects anew and a gRPC caller reads a status. What passes has the bytes of
the upstream: filters behind this place are told the end like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pingora_core.protocols.http.bridge.grpc import (
    GrpcStatus,
    encode_grpc_message,
    is_grpc_request,
)
from pingora_core.protocols.http.stream_boundaries import (
    EventTracker,
    MessageTracker,
    is_event_stream,
)
from pingora_core.runtime.timers import Deadline, get_timers
from pingora_error import Error, ErrorType
from pingora_http import HeaderMap

if TYPE_CHECKING:
    from pingora_core.protocols.http.client import ClientSession
    from pingora_core.protocols.http.server import ServerSession
    from pingora_core.protocols.http.stream_boundaries import Boundaries
    from pingora_http import RequestHeader, ResponseHeader

__all__ = ["STOPPING", "STOP_WAIT", "OpenEnded", "boundaries_of"]

#: What clients are told.
STOPPING: Final = "server is shutting down"
#: Seconds without a move on the way to the next good place to end, and for what it takes to come
#: to an end there.
STOP_WAIT: Final = 1.0


def boundaries_of(request: RequestHeader, response: ResponseHeader) -> Boundaries | None:
    """Tell what follows a response without a known length.

    Args:
        request: The client's head, which tells gRPC even where modules translate it.
        response: The upstream's head, before filters.

    Returns:
        None if the response comes to its end by itself.
    """
    if is_grpc_request(request):
        return MessageTracker() if response.status == 200 else None
    return EventTracker() if is_event_stream(response) else None


class OpenEnded:
    """One response that goes on until somebody ends it.

    Args:
        boundaries: Follows it.
        downstream: The client's side.
        upstream: The upstream's side; interrupted when it is time.

    Attributes:
        ended: The error with which the wait for the upstream is interrupted.
    """

    __slots__ = ("_boundaries", "_deadline", "_down", "_is_ending", "_up", "ended")

    def __init__(
        self, boundaries: Boundaries, downstream: ServerSession, upstream: ClientSession
    ) -> None:
        self.ended = Error.internal(ErrorType.CONNECTION_CLOSED, STOPPING)
        self._boundaries = boundaries
        self._down = downstream
        self._up = upstream
        self._is_ending = False
        self._deadline: Deadline | None = None

    @property
    def note(self) -> str:
        """What has happened, for logs."""
        if isinstance(self._boundaries, MessageTracker):
            return "the server stops: gRPC call ended with UNAVAILABLE"
        return "the server stops: event stream ended"

    def end(self) -> None:
        """Bring it to its end; called when exchanges of this kind should end."""
        self._is_ending = True
        self._deadline = Deadline(get_timers(), self._expired)
        self._deadline.set(STOP_WAIT)
        if self._boundaries.at_boundary:
            self._up.fail(self.ended)

    def _expired(self) -> None:
        self._up.fail(self.ended)
        if self._down.needs_drain:
            # The relay waits for a client that takes nothing: there is no end to be told.
            self._down.shutdown()

    def take(self, data: bytes) -> int:
        """Follow a piece.

        Args:
            data: At least one byte.

        Returns:
            How much of it is still to be sent before the response is ended; -1 if it goes on.
        """
        if self._is_ending:
            cut = self._boundaries.next_boundary(data)
            if cut >= 0:
                return cut
            if self._deadline is not None:
                # It may take its time as long as it moves; the grace period ends that.
                self._deadline.set(STOP_WAIT)
        self._boundaries.feed(data)
        return -1

    def make_trailers(self) -> HeaderMap | None:
        """Make what ends the response.

        Returns:
            The trailers of a gRPC call; None where the body just ends.
        """
        if not isinstance(self._boundaries, MessageTracker):
            return None
        trailers = HeaderMap()
        trailers.append_header(b"grpc-status", str(int(GrpcStatus.UNAVAILABLE)))
        trailers.append_header(b"grpc-message", encode_grpc_message(STOPPING))
        return trailers

    def release(self) -> None:
        """Stop the clock; for the end of the exchange."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
