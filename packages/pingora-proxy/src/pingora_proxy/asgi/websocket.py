"""One WebSocket through an ASGI application (ASGI WebSocket 2.3), over HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections import deque
from typing import TYPE_CHECKING, Final

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import (
    BytesMessage,
    CloseConnection,
    Ping,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from pingora_error import Error
from pingora_http import ResponseHeader
from pingora_proxy.asgi._errors import application_error
from pingora_proxy.asgi.http import field_pairs

if TYPE_CHECKING:
    from wsproto.events import (
        Event,
    )

    from pingora_core.protocols.http.server import ServerSession
    from pingora_proxy.asgi.types import Message

__all__ = ["WebSocketCycle", "asks_for_websocket"]

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_MAX_MESSAGE: Final = 16 << 20


def asks_for_websocket(session: ServerSession) -> bool:
    """Tell whether a request asks for a WebSocket.

    Args:
        session: The request.

    Returns:
        Whether it does, and properly (RFC 6455 section 4.2.1).
    """
    request = session.request
    return (
        session.is_upgrade_request
        and (request.get_raw(b"upgrade") or b"").lower() == b"websocket"
        and request.get_raw(b"sec-websocket-key") is not None
        and request.get_raw(b"sec-websocket-version") == b"13"
    )


class WebSocketCycle:
    """The ``receive`` and ``send`` of one WebSocket.

    Args:
        session: The client's side, its request read.
        max_message: Bytes of a message at most; a longer one ends the connection with 1009.
    """

    def __init__(self, session: ServerSession, *, max_message: int = _MAX_MESSAGE) -> None:
        self._session = session
        self._max_message = max_message
        self._ws = Connection(ConnectionType.SERVER)
        self._is_connected = False
        self._is_accepted = False
        self._is_refused = False
        self._is_over = False
        self._messages: deque[Message] = deque()
        self._text: list[str] = []
        self._bytes: list[bytes] = []
        self._size = 0

    @property
    def is_accepted(self) -> bool:
        """Whether the application has accepted the connection."""
        return self._is_accepted

    @property
    def is_complete(self) -> bool:
        """Whether the connection is over for the application."""
        return self._is_over

    async def receive(self) -> Message:
        """Give the application what the client has sent.

        Returns:
            ``websocket.connect``, ``websocket.receive`` for each message, ``websocket.disconnect``.
        """
        if not self._is_connected:
            self._is_connected = True
            return {"type": "websocket.connect"}
        while not self._messages:
            if self._is_over:
                return {"type": "websocket.disconnect", "code": 1006}
            await self._read()
        return self._messages.popleft()

    async def _read(self) -> None:
        try:
            data = await self._session.read_upgraded()
        except Error:
            data = b""
        if not data:
            self._end(1006)
            return
        self._ws.receive_data(data)
        try:
            for event in self._ws.events():
                await self._take(event)
        except RemoteProtocolError as problem:
            await self._close(1002, str(problem))
        if self._size > self._max_message:
            await self._close(1009, "")

    async def _take(self, event: object) -> None:
        match event:
            case Ping():
                await self._write(event.response())
            case CloseConnection():
                if self._ws.state is not ConnectionState.CLOSED:
                    await self._write(event.response())
                self._end(int(event.code or 1005))
            case TextMessage():
                self._text.append(event.data)
                self._size += len(event.data)
                if event.message_finished:
                    self._messages.append(
                        {"type": "websocket.receive", "text": "".join(self._text)}
                    )
                    self._next_message()
            case BytesMessage():
                self._bytes.append(bytes(event.data))
                self._size += len(event.data)
                if event.message_finished:
                    self._messages.append(
                        {"type": "websocket.receive", "bytes": b"".join(self._bytes)}
                    )
                    self._next_message()
            case _:
                pass

    def _next_message(self) -> None:
        self._text.clear()
        self._bytes.clear()
        self._size = 0

    def _end(self, code: int) -> None:
        if not self._is_over:
            self._is_over = True
            self._messages.append({"type": "websocket.disconnect", "code": code})

    async def send(self, message: Message) -> None:
        """Take what the application sends.

        Args:
            message: ``websocket.accept``, ``websocket.send`` or ``websocket.close``.

        Raises:
            Error: If the message is not one of these, or comes at the wrong moment; or from
                downstream.
        """
        match message["type"]:
            case "websocket.accept" if not self._is_accepted and not self._is_refused:
                await self._accept(message)
            case "websocket.send" if self._is_accepted:
                if not self._is_over:
                    await self._send_message(message)
            case "websocket.close" if self._is_accepted:
                code = message.get("code", 1000)
                await self._close(
                    code if isinstance(code, int) else 1000, str(message.get("reason") or "")
                )
            case "websocket.close" if not self._is_refused:
                self._is_refused = self._is_over = True
                header = ResponseHeader(403)
                header.set_content_length(0)
                await self._session.write_response_header(header, end=True)
            case kind:
                error = application_error(f"the application sent {kind!r} at the wrong moment")
                raise error

    async def _accept(self, message: Message) -> None:
        key = self._session.request.get_raw(b"sec-websocket-key") or b""
        accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
        header = ResponseHeader(101, headers=field_pairs(message.get("headers", ())))
        header.insert_header("Upgrade", "websocket")
        header.insert_header("Connection", "Upgrade")
        header.insert_header("Sec-WebSocket-Accept", accept)
        subprotocol = message.get("subprotocol")
        if isinstance(subprotocol, str):
            header.insert_header("Sec-WebSocket-Protocol", subprotocol)
        self._is_accepted = True
        await self._session.write_response_header(header)

    async def _send_message(self, message: Message) -> None:
        text = message.get("text")
        data = message.get("bytes")
        if isinstance(text, str):
            await self._write(TextMessage(data=text))
        elif isinstance(data, bytes):
            await self._write(BytesMessage(data=data))
        else:
            error = application_error("a message has neither text nor bytes")
            raise error

    async def _close(self, code: int, reason: str) -> None:
        if not self._is_over:
            self._end(code)
            await self._write(CloseConnection(code=code, reason=reason[:120] or None))

    async def _write(self, event: Event) -> None:
        try:
            data = self._ws.send(event)
        except LocalProtocolError as problem:
            error = application_error("a WebSocket message out of order", cause=problem)
            raise error from problem
        session = self._session
        session.send_upgraded(data)
        if session.needs_drain:
            await session.drain()

    async def end(self) -> None:
        """Close the connection in order when the application has returned."""
        if self._is_accepted:
            await self._close(1000, "")
            # The client's answer to it, for a moment; then the connection is closed.
            try:
                async with asyncio.timeout(1.0):
                    while self._ws.state is not ConnectionState.CLOSED:
                        data = await self._session.read_upgraded()
                        if not data:
                            break
                        self._ws.receive_data(data)
                        for _ in self._ws.events():
                            pass
            except (TimeoutError, Error, RemoteProtocolError):
                pass
