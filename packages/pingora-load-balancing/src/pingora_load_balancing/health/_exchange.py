"""One request of a health check and the whole answer to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pingora_core.protocols.http.task import BodyTask, HeaderTask, TrailerTask
from pingora_error import Error, ErrorType
from pingora_http import Version

if TYPE_CHECKING:
    from pingora_core.connectors.http import Connector
    from pingora_core.protocols.http.client import ClientSession
    from pingora_core.upstreams.peer import HttpPeer
    from pingora_http import HeaderMap, RequestHeader, ResponseHeader
    from pingora_load_balancing.health._network import Attempt

__all__ = ["HealthRequest", "HealthResponse", "perform"]


@dataclass(frozen=True, slots=True)
class HealthRequest:
    """What to ask.

    Attributes:
        header: The head.
        body: The body; the head has its length.
        max_body: Most bytes that are read of the body of the answer.
        whole_body: Whether more than that is an error; otherwise the rest is left alone.
    """

    header: RequestHeader
    body: bytes
    max_body: int
    whole_body: bool


@dataclass(frozen=True, slots=True)
class HealthResponse:
    """The answer to a health check.

    Attributes:
        header: The head, with ``header.status``.
        body: The body.
        trailers: The fields after the body; None if there are none.
    """

    header: ResponseHeader
    body: bytes
    trailers: HeaderMap | None

    @property
    def status(self) -> int:
        """The status code."""
        return self.header.status


async def perform(
    connector: Connector, peer: HttpPeer, request: HealthRequest, attempt: Attempt
) -> HealthResponse:
    """Send a request and read the answer to its end.

    A connection that was kept and turns out to be dead proves nothing: then it is tried once more
    over a new one.

    Args:
        connector: Where connections come from.
        peer: Where to; nothing is reused if its ``idle_timeout`` is 0.
        request: What to ask.
        attempt: Told when the connection stands.

    Returns:
        The answer.

    Raises:
        Error: From upstream, why there is none; ``READ_ERROR`` if it is too long.
    """
    session = None if peer.options.idle_timeout == 0 else connector.reused_http_session(peer)
    if session is not None:
        attempt.is_connected = True
        try:
            return await _exchange(connector, session, peer=peer, request=request)
        except Error as error:
            error.decide_reuse(reused=True)
            if not error.should_retry:
                raise
            attempt.is_connected = False
    session = await connector.new_http_session(peer)
    attempt.is_connected = True
    return await _exchange(connector, session, peer=peer, request=request)


async def _exchange(
    connector: Connector,
    session: ClientSession,
    *,
    peer: HttpPeer,
    request: HealthRequest,
) -> HealthResponse:
    try:
        session.send_request_header(request.header.copy())
        if request.body:
            session.send_request_body(request.body)
        session.finish_request_body()
        response = await _read(session, request)
    except BaseException:
        session.shutdown()
        raise
    if session.version is Version.HTTP_20 or session.can_reuse or not session.response_done:
        connector.release_http_session(session, peer)
    else:
        # In order: a reset after a good answer is noise in the log of the backend.
        session.close()
    return response


async def _read(session: ClientSession, request: HealthRequest) -> HealthResponse:
    header: ResponseHeader | None = None
    trailers: HeaderMap | None = None
    body = bytearray()
    is_over = False
    while not is_over:
        task = await session.read_task()
        is_over = task.end
        if isinstance(task, HeaderTask):
            # Informational heads come before the final one.
            header = task.header
        elif isinstance(task, BodyTask):
            body += task.data or b""
            if len(body) > request.max_body:
                if request.whole_body:
                    msg = f"a body of more than {request.max_body} bytes (max_body)"
                    raise Error.up(ErrorType.READ_ERROR, msg)
                is_over = True
        else:
            trailers = task.trailers if isinstance(task, TrailerTask) else None
    assert header is not None
    return HealthResponse(header, bytes(body[: request.max_body]), trailers)
