"""One WebSocket through an ASGI application (ASGI WebSocket 2.5), over HTTP/1.1 and HTTP/2.

Theory of operation. A task of its own reads what the client sends, also while the application does
not ask for it: it answers Pings and notices the end. It reads on only when the application has taken
all messages, which is the back-pressure; so there is never more in memory than what came in one read
and one message that is half through. No extension is agreed to: what is deflated could be a
thousand times as large in memory.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections import deque
from contextlib import suppress
from io import StringIO
from typing import TYPE_CHECKING, Final

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import (
    BytesMessage,
    CloseConnection,
    Ping,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from pingora_core.protocols.http.websocket_frames import GOING_AWAY
from pingora_core.runtime.timers import Deadline, get_timers
from pingora_error import Error, ErrorSource
from pingora_http import ResponseHeader
from pingora_proxy.asgi._cycle import STOPPING, Cycle
from pingora_proxy.asgi._errors import ClientDisconnectedError, application_error
from pingora_proxy.asgi._handshake import offered_subprotocols
from pingora_proxy.asgi._websocket_messages import NORMAL, checked_code, message_event
from pingora_proxy.asgi.http import checked_bytes, field_pairs, response_head

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsproto.events import Event

    from pingora_core.protocols.http.server import ServerSession
    from pingora_proxy.asgi.http import ResponseWriter
    from pingora_proxy.asgi.options import AsgiOptions
    from pingora_proxy.asgi.types import Message

__all__ = ["WebSocketCycle"]

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_PROTOCOL_ERROR: Final = 1002
_NO_STATUS: Final = 1005
_ABNORMAL: Final = 1006
_TOO_BIG: Final = 1009
_INTERNAL_ERROR: Final = 1011
# Fields of the handshake, which are not the application's.
_HANDSHAKE: Final = (
    b"connection",
    b"content-length",
    b"sec-websocket-accept",
    b"sec-websocket-extensions",
    b"sec-websocket-protocol",
    b"transfer-encoding",
    b"upgrade",
)
# Seconds that the client may take to answer a Close, and the application to end at a server's stop.
_CLOSE_TIME: Final = 1.0
_STOP_TIME: Final = 5.0


class WebSocketCycle(Cycle):
    """The ``receive`` and ``send`` of one WebSocket.

    Args:
        session: The client's side, its request read.
        writer: Where a response goes that refuses the WebSocket.
        options: How applications are run.
        on_accept: Called when it is accepted.

    Attributes:
        is_accepted: Whether the application has accepted the connection.
        is_refused: Whether it has refused it, or begun to.
    """

    def __init__(
        self,
        session: ServerSession,
        writer: ResponseWriter,
        options: AsgiOptions,
        on_accept: Callable[[], None],
    ) -> None:
        super().__init__(session, options)
        self._writer = writer
        self._on_accept = on_accept
        self._ws = Connection(ConnectionType.SERVER)
        self.is_accepted: bool = False
        self.is_refused: bool = False
        self._is_connected = False
        self._denial: ResponseHeader | None = None
        self._has_closed = False
        self._is_broken = False
        self._messages: deque[Message] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._disconnect: Message | None = None
        # One buffer each: a list of what a client sends in tiny frames would be many times as large.
        self._text = StringIO()
        self._bytes = bytearray()
        self._size = 0
        self._reader: asyncio.Task[None] | None = None
        self._pinging = Deadline(get_timers(), self._silent)
        self._has_pinged = False

    async def close(self) -> None:
        """Let go of the connection."""
        self._pinging.cancel()
        self._over(_ABNORMAL, "")
        await super().close()
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
            await asyncio.wait((reader,))

    # ---------------------------------------------------------------- reading

    async def receive(self) -> Message:
        """Give the application what the client has sent.

        Returns:
            ``websocket.connect``, ``websocket.receive`` for each message, ``websocket.disconnect``.
        """
        if not self._is_connected:
            self._is_connected = True
            return {"type": "websocket.connect"}
        while not self._messages:
            if self._disconnect is not None:
                return self._disconnect
            self._news.clear()
            await self._news.wait()
        message = self._messages.popleft()
        if not self._messages:
            self._room.set()
        return message

    async def _read(self) -> None:
        session = self._session
        try:
            while not (self._is_broken or self._ws.state is ConnectionState.CLOSED):
                await self._room.wait()
                self._wait_for_bytes()
                data = await session.read_upgraded()
                self._pinging.clear()
                self._has_pinged = False
                if not data:
                    break
                self._take(data)
                if session.needs_drain:
                    # Pongs for somebody who does not read.
                    async with self._sending:
                        await session.drain()
                if self._messages and not self.is_complete:
                    self._room.clear()
        except (Error, ClientDisconnectedError, LocalProtocolError):
            pass  # cut off, or said something after its Close
        finally:
            self._pinging.clear()
            self._over(_ABNORMAL, "")

    def _take(self, data: bytes) -> None:
        try:
            self._ws.receive_data(data)
            for event in self._ws.events():
                self._handle(event)
        except RemoteProtocolError as problem:
            self._close(_PROTOCOL_ERROR, str(problem))

    def _handle(self, event: object) -> None:
        match event:
            case Ping():
                if self._ws.state is ConnectionState.OPEN:
                    self._send(event.response())
            case CloseConnection():
                # Without a Close of the client's: what came is no frame, and nothing more is read.
                self._is_broken = self._ws.state is ConnectionState.OPEN
                if self._ws.state is not ConnectionState.CLOSED:
                    self._send(event.response())
                self._over(int(event.code or _NO_STATUS), event.reason or "")
            case TextMessage() if not self.is_complete:
                self._text.write(event.data)
                self._count(len(event.data if event.data.isascii() else event.data.encode()))
                if event.message_finished:
                    self._arrived({"type": "websocket.receive", "text": self._text.getvalue()})
                    self._text = StringIO()
            case BytesMessage() if not self.is_complete:
                self._bytes += event.data
                self._count(len(event.data))
                if event.message_finished:
                    self._arrived({"type": "websocket.receive", "bytes": bytes(self._bytes)})
                    self._bytes = bytearray()
            case _:
                pass

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > self._options.max_message_size:
            self._close(_TOO_BIG, "")

    def _arrived(self, message: Message) -> None:
        self._size = 0
        if not self.is_complete:
            self._messages.append(message)
            self._news.set()

    # --------------------------------------------------------------- silence

    def _wait_for_bytes(self) -> None:
        interval = self._options.ping_interval
        if interval is not None:
            self._pinging.set(interval)

    def _silent(self) -> None:
        if self._session.needs_drain:
            # It has much to read before it sees a Ping; that has a deadline of its own.
            self._wait_for_bytes()
            return
        if self._has_pinged or self._ws.state is not ConnectionState.OPEN:
            self._close(_INTERNAL_ERROR, "no answer to a Ping", told=_ABNORMAL)
            self._session.shutdown()
            return
        self._has_pinged = True
        with suppress(ClientDisconnectedError):
            self._send(Ping())
        self._pinging.set(self._options.ping_timeout)

    # ---------------------------------------------------------------- writing

    async def send(self, message: Message) -> None:
        """Take what the application sends.

        Args:
            message: ``websocket.accept``, ``.send`` or ``.close``, or ``websocket.http.response.start``
                and ``.body``. To close what is over has no effect.

        Raises:
            ClientDisconnectedError: If the client has gone, or the server has closed the connection.
            Error: If the message is not one of these, or comes at the wrong moment.
        """
        kind = message["type"]
        if kind == "websocket.close" and self._disconnect is not None:
            return
        if self._disconnect is not None and not self._has_closed:
            raise ClientDisconnectedError(STOPPING if self.is_stopped else "the client has gone")
        is_open = not (self.is_accepted or self.is_refused or self._denial)
        match kind:
            case "websocket.accept" if is_open:
                await self._accept(message)
            case "websocket.close" if is_open:
                header = ResponseHeader(403)
                header.set_content_length(0)
                await self._refuse(header, b"", more=False)
            case "websocket.http.response.start" if is_open:
                self._denial = response_head(message)
            case "websocket.http.response.body" if self._denial is not None:
                body = checked_bytes(message.get("body", b""))
                await self._refuse(self._denial, body, more=bool(message.get("more_body")))
            case "websocket.send" if self.is_accepted and not self._has_closed:
                self._send(message_event(message))
                await self._drain()
            case "websocket.close" if self.is_accepted:
                code = message.get("code")
                self._has_closed = True
                self._close(checked_code(code), str(message.get("reason") or ""))
            case _:
                error = application_error(f"the application sent {kind!r} at the wrong moment")
                raise error

    async def _accept(self, message: Message) -> None:
        request = self._session.request
        key = request.get_raw(b"sec-websocket-key") or b""
        accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
        try:
            header = ResponseHeader(101, headers=field_pairs(message.get("headers", ())))
        except Error as problem:
            error = application_error(f"the application's headers: {problem}", cause=problem)
            raise error from problem
        header.remove_headers(_HANDSHAKE)
        header.insert_header("Upgrade", "websocket")
        header.insert_header("Connection", "Upgrade")
        header.insert_header("Sec-WebSocket-Accept", accept)
        subprotocol = message.get("subprotocol")
        if subprotocol is not None:
            if subprotocol not in offered_subprotocols(request):
                error = application_error(f"the client has not offered {subprotocol!r}")
                raise error
            header.insert_header("Sec-WebSocket-Protocol", str(subprotocol))
        self.is_accepted = True
        self._answer_begins()
        self._session.watch_disconnect(None)  # what it has sent before it left is read
        await self._write(self._session.write_response_header(header))
        self._on_accept()
        self._reader = asyncio.create_task(self._read(), name="asgi websocket")
        watch = self._session.shutdown_watch
        if watch is not None:
            self._unsubscribe = watch.subscribe_end_of_streams(self._stop)

    async def _refuse(self, header: ResponseHeader, body: bytes, *, more: bool) -> None:
        first = not self.is_refused
        if first:
            self.is_refused = True
            self._answer_begins()
            await self._write(self._writer.write_response_header(header, end=not (more or body)))
        if body or (more is False and not first):
            await self._write(self._writer.write_response_body(body or None, end=not more))
        if not more:
            self._denial = None
            self._over(_ABNORMAL, "")

    def _send(self, event: Event) -> None:
        try:
            data = self._ws.send(event)
        except LocalProtocolError as problem:
            if self._disconnect is not None:
                raise ClientDisconnectedError(str(problem)) from problem
            error = application_error("a WebSocket message out of order", cause=problem)
            raise error from problem
        try:
            self._session.send_upgraded(data)
        except Error as error:
            self._over(_ABNORMAL, "")
            raise ClientDisconnectedError(str(error)) from error

    async def _drain(self) -> None:
        session = self._session
        if not session.needs_drain:
            return
        try:
            async with self._sending:
                await session.drain()
        except Error as error:
            if error.esource is not ErrorSource.DOWNSTREAM:
                raise
            # Cut off, it is no use to read on.
            session.shutdown()
            self._over(_ABNORMAL, "")
            raise ClientDisconnectedError(str(error)) from error

    # ----------------------------------------------------------------- ending

    def _over(self, code: int, reason: str) -> None:
        # For the application: what it receives next, behind what has come before, is the end.
        if self._disconnect is not None:
            return
        self._disconnect = {"type": "websocket.disconnect", "code": code, "reason": reason}
        self.is_complete = True
        if not (self._has_closed or self.is_refused):
            self.is_gone = True
        self._news.set()
        self._room.set()
        self._end()
        if not self.is_cancelling:
            self._cancel_within(self._options.disconnect_timeout)

    def _fail(self, error: Error) -> None:
        super()._fail(error)
        self._over(_ABNORMAL, "")

    def _close(self, code: int, reason: str, *, told: int | None = None) -> None:
        if self._ws.state is ConnectionState.OPEN:
            with suppress(ClientDisconnectedError):
                self._send(CloseConnection(code=code, reason=reason or None))
        self._over(code if told is None else told, reason)

    def _stop(self) -> None:
        if self._disconnect is None:
            self._close(GOING_AWAY, STOPPING)
            self._stop_within(min(_STOP_TIME, self._options.disconnect_timeout))

    async def end(self, *, failed: bool) -> None:
        """Close the connection in order when the application has ended.

        Args:
            failed: Whether it has failed.
        """
        self._close(_INTERNAL_ERROR if failed else NORMAL, "")
        # The client's answer to it, for a moment; then the connection is closed.
        if self._reader is not None:
            await asyncio.wait((self._reader,), timeout=_CLOSE_TIME)
