"""One HTTP request through an ASGI application (ASGI HTTP 2.3)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from pingora_core.protocols.http.v1.framing import connection_tokens
from pingora_error import Error
from pingora_http import HeaderMap, ResponseHeader
from pingora_proxy.asgi._errors import application_error

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pingora_core.protocols.http.server import ServerSession
    from pingora_proxy.asgi.types import Message

__all__ = ["HttpCycle", "ResponseWriter", "field_pairs"]

_HOP = (b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"proxy-connection")


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


class HttpCycle:
    """The ``receive`` and ``send`` of one request.

    Reading and writing wait as long as the connection makes them wait: that is the back-pressure.

    Args:
        session: The client's side.
        writer: Where the response goes.

    Attributes:
        is_complete: Whether the application has sent a whole response.
    """

    def __init__(self, session: ServerSession, writer: ResponseWriter) -> None:
        self._session = session
        self._writer = writer
        self._head: ResponseHeader | None = None
        self._head_sent = False
        self._sends_trailers = False
        self._body_ended = False
        self._request_read = False
        self._gone: asyncio.Event | None = None
        self.is_complete: bool = False

    async def receive(self) -> Message:
        """Give the application the next piece of the request body, or the end of the connection.

        Returns:
            ``http.request``, then ``http.disconnect`` once the response is complete or the client
            has gone.
        """
        session = self._session
        if not self._request_read:
            try:
                piece = await session.read_request_body()
            except Error:
                self._request_read = True
                return {"type": "http.disconnect"}
            more = not session.is_body_done
            self._request_read = not more
            return {"type": "http.request", "body": piece or b"", "more_body": more}
        if not self.is_complete:
            gone = self._gone
            if gone is None:
                gone = self._gone = asyncio.Event()
                session.watch_disconnect(gone.set)
            await gone.wait()
        return {"type": "http.disconnect"}

    def close(self) -> None:
        """Let go of the connection."""
        if self._gone is not None:
            self._session.watch_disconnect(None)
            self._gone.set()

    async def send(self, message: Message) -> None:
        """Take what the application sends.

        Args:
            message: ``http.response.start``, ``.body`` or ``.trailers``.

        Raises:
            Error: If the message is not one of these, or comes at the wrong moment; or from
                downstream.
        """
        match message["type"]:
            case "http.response.start" if self._head is None:
                self._head = _head(message)
                self._sends_trailers = bool(message.get("trailers"))
            case "http.response.body" if self._head is not None and not self._body_ended:
                body = message.get("body", b"")
                await self._body(
                    self._head,
                    body if isinstance(body, bytes) else b"",
                    more=bool(message.get("more_body")),
                )
            case "http.response.trailers" if self._body_ended and not self.is_complete:
                if not message.get("more_trailers"):
                    self._complete()
                    await self._writer.write_response_trailers(
                        HeaderMap(field_pairs(message.get("headers", ())))
                    )
            case kind:
                error = application_error(f"the application sent {kind!r} at the wrong moment")
                raise error

    async def _body(self, head: ResponseHeader, body: bytes, *, more: bool) -> None:
        end = not more and not self._sends_trailers
        self._body_ended = not more
        if end:
            self._complete()
        if not self._head_sent:
            self._head_sent = True
            if end and not body and head.get_raw(b"content-length") is None and _has_body(head):
                head.set_content_length(0)
            await self._writer.write_response_header(head, end=end and not body)
            if end and not body:
                return
        if self._session.request.raw_method == b"HEAD":
            return
        await self._writer.write_response_body(body or None, end=end)

    def _complete(self) -> None:
        self.is_complete = True
        if self._gone is not None:
            self._gone.set()


def field_pairs(fields: object) -> Iterable[tuple[bytes, bytes]]:
    """Check the fields of a message.

    Args:
        fields: What the application has given.

    Returns:
        Names and values.

    Raises:
        Error: If they are not pairs of bytes.
    """
    try:
        pairs = [(bytes(name), bytes(value)) for name, value in fields]  # type: ignore[attr-defined]  # checked here
    except (TypeError, ValueError) as problem:
        error = application_error(
            "the application's headers are not pairs of bytes",
            cause=problem,
        )
        raise error from problem
    return pairs


def _head(message: Message) -> ResponseHeader:
    status = message.get("status")
    if not isinstance(status, int) or not 200 <= status <= 599:
        error = application_error(f"the application answered with status {status!r}")
        raise error
    header = ResponseHeader(status, headers=field_pairs(message.get("headers", ())))
    named = connection_tokens(header)
    # What concerns the connection is not the application's.
    header.remove_headers({*_HOP, *named})
    return header


def _has_body(head: ResponseHeader) -> bool:
    return head.status not in {204, 304}
