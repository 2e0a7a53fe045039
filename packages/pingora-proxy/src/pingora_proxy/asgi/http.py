"""One HTTP request through an ASGI application (ASGI HTTP 2.5)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from pingora_core.protocols.http.stream_boundaries import is_event_stream
from pingora_core.protocols.http.v1.framing import connection_tokens, to_length
from pingora_error import Error, ErrorType
from pingora_http import HeaderMap, ResponseHeader
from pingora_proxy.asgi._cycle import STOPPING, Cycle
from pingora_proxy.asgi._errors import ClientDisconnectedError, application_error

if TYPE_CHECKING:
    from pingora_core.protocols.http.server import ServerSession
    from pingora_proxy.asgi.options import AsgiOptions
    from pingora_proxy.asgi.types import Message

__all__ = ["HttpCycle", "ResponseWriter", "checked_bytes", "field_pairs", "response_head"]

_HOP: Final = (b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"proxy-connection")
# Seconds in which an application has to end once its event stream was ended, or once it was told
# that the request is no good; it is cancelled then.
_STOP_TIME: Final = 1.0


class ResponseWriter(Protocol):
    """Where a response goes: a session of a proxy, or one of a server."""

    async def write_response_header(self, header: ResponseHeader, *, end: bool = False) -> None:
        """Send a response head.

        Args:
            header: The head.
            end: Whether nothing follows.
        """

    async def write_response_body(self, data: bytes | None, *, end: bool = False) -> None:
        """Send a piece of the response body.

        Args:
            data: The piece; None for none.
            end: Whether it is the last.
        """

    async def write_response_trailers(self, trailers: HeaderMap) -> None:
        """Send the trailers and end the message.

        Args:
            trailers: The fields.
        """


class HttpCycle(Cycle):
    """The ``receive`` and ``send`` of one request.

    Reading and writing wait as long as the connection makes them wait: that is the back-pressure.

    Args:
        session: The client's side.
        writer: Where the response goes.
        options: How applications are run.
    """

    def __init__(
        self, session: ServerSession, writer: ResponseWriter, options: AsgiOptions
    ) -> None:
        super().__init__(session, options)
        self._writer = writer
        self._head: ResponseHeader | None = None
        self._trailers: list[tuple[bytes, bytes]] | None = None
        # What is left of the length that the application has announced; None if it has not.
        self._left: int | None = None
        self._body_ended = False
        self._request_read = False
        self._reader: asyncio.Task[bytes | None] | None = None

    async def close(self) -> None:
        """Let go of the connection."""
        await super().close()
        reader, self._reader = self._reader, None
        if reader is not None:
            # The connection has one reader, and what is left of the body is read next.
            reader.cancel()
            await asyncio.wait((reader,))

    # ---------------------------------------------------------------- reading

    async def receive(self) -> Message:
        """Give the application the next piece of the request body, or the end of the connection.

        Returns:
            ``http.request``, then ``http.disconnect`` once the response is complete or the client
            has gone.
        """
        if not (self._request_read or self._ended.done()):
            self._wait_for_client()
            try:
                piece = await self._next_piece()
            except Error as error:
                self._fail(error)
                self._cancel_within(_STOP_TIME)
            else:
                if piece is not None or self._session.is_body_done:
                    more = not self._session.is_body_done
                    self._request_read = not more
                    return {"type": "http.request", "body": piece or b"", "more_body": more}
            finally:
                self._wait_for_answer()
        if not self._ended.done():
            await asyncio.wait((self._ended,))
        return {"type": "http.disconnect"}

    async def _next_piece(self) -> bytes | None:
        # None without more to come, or when the exchange is over.
        session = self._session
        reader = self._reader
        if reader is None:
            piece = session.next_request_body()
            if piece is not None or session.is_body_done:
                return piece
            reader = self._reader = asyncio.create_task(session.read_request_body())
        # It outlives a `receive` that is cancelled: nothing of the body may be lost.
        await asyncio.wait((reader, self._ended), return_when=asyncio.FIRST_COMPLETED)
        if not reader.done():
            return None
        self._reader = None
        return reader.result()

    # ---------------------------------------------------------------- writing

    async def send(self, message: Message) -> None:
        """Take what the application sends.

        Args:
            message: ``http.response.start``, ``.body``, ``.trailers`` or ``.early_hint``. What
                follows a complete response is ignored.

        Raises:
            ClientDisconnectedError: If the client has gone.
            Error: If the message is not one of these, or comes at the wrong moment.
        """
        if self.is_complete:
            return
        if self.is_gone or self.is_stopped:
            raise ClientDisconnectedError(STOPPING if self.is_stopped else "the client has gone")
        match message["type"]:
            case "http.response.early_hint" if self._head is None:
                links = [(b"link", checked_bytes(link)) for link in _each(message.get("links"))]
                await self._write(
                    self._writer.write_response_header(_make_head(103, links, informational=True))
                )
            case "http.response.start" if self._head is None:
                self._head = response_head(message)
                self._left = self._promised(self._head)
                self._trailers = [] if message.get("trailers") else None
            case "http.response.body" if self._head is not None and not self._body_ended:
                body = checked_bytes(message.get("body", b""))
                await self._body(self._head, body, more=bool(message.get("more_body")))
            case "http.response.trailers" if self._body_ended and self._trailers is not None:
                self._trailers += field_pairs(message.get("headers", ()))
                if not message.get("more_trailers"):
                    trailers = HeaderMap(self._trailers)
                    await self._write(self._writer.write_response_trailers(trailers))
                    self._complete()
            case kind:
                error = application_error(f"the application sent {kind!r} at the wrong moment")
                raise error

    def _promised(self, head: ResponseHeader) -> int | None:
        length = head.get_raw(b"content-length")
        if length is None or self._has_no_body(head):
            return None
        return to_length(length)

    def _has_no_body(self, head: ResponseHeader) -> bool:
        return head.status in {204, 304} or self._session.request.raw_method == b"HEAD"

    async def _body(self, head: ResponseHeader, body: bytes, *, more: bool) -> None:
        if self._left is not None:
            self._left -= len(body)
            if self._left < 0 or (self._left > 0 and not more):
                # Half of a body is worse than none, and silence would hide the mistake.
                error = application_error("the application's body has not its Content-Length")
                raise error
        end = not more and self._trailers is None
        self._body_ended = not more
        has_no_body = self._has_no_body(head)
        if not self._has_begun:
            self._answer_begins()
            # Who is answered already is not told to go on with the request.
            self._session.auto_continue = False
            if is_event_stream(head) and self._session.shutdown_watch is not None:
                watch = self._session.shutdown_watch
                self._unsubscribe = watch.subscribe_end_of_streams(self._stop)
            await self._write(
                self._writer.write_response_header(head, end=end and (not body or has_no_body))
            )
            if end and (not body or has_no_body):
                self._complete()
                return
        if not has_no_body and (body or end):
            await self._write(self._writer.write_response_body(body or None, end=end))
        if end:
            self._complete()

    def _complete(self) -> None:
        self.is_complete = True
        self._end()
        if not self.over.done():
            self.over.set_result(None)

    # --------------------------------------------------------------- stopping

    def _stop(self) -> None:
        if not (self.is_complete or self.is_gone):
            self._stop_within(_STOP_TIME)

    async def end_stream(self) -> None:
        """End the body of an event stream that has no end of its own.

        Raises:
            Error: From downstream, or if the client is too slow for an end in order.
        """
        if self._session.needs_drain:
            # There is nobody to be told while the server stops.
            error = Error.internal(ErrorType.CONNECTION_CLOSED, f"{STOPPING}: data was cut off")
            raise error
        await self._writer.write_response_body(None, end=True)
        self._complete()


def _each(items: object) -> list[object]:
    try:
        return list(items)  # type: ignore[call-overload,no-any-return]  # checked here
    except TypeError as problem:
        error = application_error("the application's list is none", cause=problem)
        raise error from problem


def checked_bytes(data: object) -> bytes:
    """Check what an application sends as bytes.

    Args:
        data: What it has given.

    Returns:
        The bytes.

    Raises:
        Error: If they are not.
    """
    if isinstance(data, bytes):
        return data
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    error = application_error(f"the application sent {type(data).__name__}, not bytes")
    raise error


def field_pairs(fields: object) -> list[tuple[bytes, bytes]]:
    """Check the fields of a message.

    Args:
        fields: What the application has given.

    Returns:
        Names and values.

    Raises:
        Error: If they are not pairs of bytes.
    """
    pairs: list[tuple[bytes, bytes]] = []
    for field in _each(fields):
        pair = _each(field)
        if len(pair) != 2:
            error = application_error("the application's headers are not pairs of bytes")
            raise error
        pairs.append((checked_bytes(pair[0]), checked_bytes(pair[1])))
    return pairs


def _make_head(
    status: int, fields: list[tuple[bytes, bytes]], *, informational: bool = False
) -> ResponseHeader:
    try:
        header = ResponseHeader(status, headers=fields)
    except Error as problem:
        error = application_error(f"the application's headers: {problem}", cause=problem)
        raise error from problem
    if not informational:
        # What concerns the connection is not the application's.
        header.remove_headers({*_HOP, *connection_tokens(header)})
    return header


def response_head(message: Message) -> ResponseHeader:
    """Make the head of a response.

    Args:
        message: What the application has sent.

    Returns:
        The head.

    Raises:
        Error: If it cannot be sent.
    """
    status = message.get("status")
    if not isinstance(status, int) or not 200 <= status <= 599:
        error = application_error(f"the application answered with status {status!r}")
        raise error
    return _make_head(int(status), field_pairs(message.get("headers", ())))
