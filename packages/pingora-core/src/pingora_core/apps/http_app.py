"""HTTP on top of the stream applications: which version a connection speaks, and its loop.

Theory of operation. Over TLS, ALPN has said which version it is; in clear, and only where ``h2c``
is on, the first bytes do (RFC 9113 section 3.3). HTTP/2 has a task for each request. For HTTP/1 the
connection's own task makes one session after another on the stream for as long as the exchanges
leave the connection reusable. Shutdown is noticed through a callback: an idle connection is closed
at once, a busy one answers ``Connection: close``, or sends GOAWAY, and ends after what is in flight.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from pingora_core.apps.app import ServerApp
from pingora_core.protocols.http.v1.server import Http1Options, HttpSession
from pingora_core.protocols.http.v2._frames import PREFACE
from pingora_core.protocols.http.v2._server_connection import ServerConnection
from pingora_core.protocols.http.v2.options import Http2Options
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from pingora_core.protocols.http.server import ServerSession
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.runtime.shutdown import ShutdownWatch

__all__ = ["HttpServerApp", "HttpServerOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpServerOptions:
    """How a service speaks HTTP to its clients.

    Attributes:
        allow_connect_method_proxying: Whether CONNECT reaches the callbacks; otherwise it is
            answered with 405.
        keepalive_request_limit: Requests per connection; None for no limit.
        h2c: Whether clients may speak HTTP/2 in clear, by prior knowledge, on the port on which
            HTTP/1 is spoken. Over TLS, ALPN decides.
        http1: What the HTTP/1 sessions have in common.
        http2: What the HTTP/2 connections have in common.
    """

    allow_connect_method_proxying: bool = False
    keepalive_request_limit: int | None = None
    h2c: bool = False
    http1: Http1Options = field(default_factory=Http1Options)
    http2: Http2Options = field(default_factory=Http2Options)


class HttpServerApp(ServerApp):
    """An application that answers HTTP requests.

    Attributes:
        server_options: How the service speaks HTTP to its clients.
    """

    server_options: HttpServerOptions = HttpServerOptions()

    @abstractmethod
    async def process_new_http(self, session: ServerSession, shutdown: ShutdownWatch) -> bool:
        """Serve one request: read its head from the session, answer, finish.

        Args:
            session: A session on which nothing was read yet.
            shutdown: Tells when the server stops.

        Returns:
            Whether the connection can carry another request (what ``session.finish`` said).
        """

    async def process_new(self, stream: Stream, shutdown: ShutdownWatch) -> Stream | None:
        """Serve a connection until it ends.

        Args:
            stream: The connection.
            shutdown: Tells when the server stops.

        Returns:
            None: the stream was closed.
        """
        ssl_digest = stream.digest.ssl_digest
        if ssl_digest is None:
            is_http2 = self.server_options.h2c and await self._prefers_http2(stream, shutdown)
        else:
            is_http2 = ssl_digest.alpn == b"h2"
        if is_http2:
            await self._serve_http2(stream, shutdown)
            return None
        loop = _Http1Connection(self, stream, shutdown)
        unsubscribe = shutdown.subscribe(loop.on_shutdown)
        try:
            await loop.run()
        finally:
            unsubscribe()
            stream.close()
        return None

    async def _serve_http2(self, stream: Stream, shutdown: ShutdownWatch) -> None:
        options = self.server_options
        connection = ServerConnection(
            stream,
            options.http2,
            partial(self.process_new_http, shutdown=shutdown),
            request_limit=options.keepalive_request_limit,
        )
        unsubscribe = shutdown.subscribe(connection.drain)
        try:
            await connection.run()
        finally:
            unsubscribe()
            stream.close()

    async def _prefers_http2(self, stream: Stream, shutdown: ShutdownWatch) -> bool:
        # Decided by the first byte that differs: a short HTTP/1.0 request waits for nobody.
        def interrupt() -> None:
            stream.fail(Error.internal(ErrorType.CONNECTION_CLOSED, "shutting down"))

        unsubscribe = shutdown.subscribe(interrupt)
        timeout = self.server_options.http1.keepalive_timeout
        try:
            while True:
                data = stream.take()
                stream.unread(data)
                if len(data) >= len(PREFACE) or not PREFACE.startswith(data):
                    return data.startswith(PREFACE)
                if not await stream.fill(timeout):
                    return False
                timeout = self.server_options.http2.preface_timeout
        except Error:
            # Idle for too long, reset, or told to go: the loop finds the same and closes.
            return False
        finally:
            unsubscribe()


class _Http1Connection:
    """The loop over the requests of one HTTP/1 connection."""

    __slots__ = ("_app", "_session", "_shutdown", "_stream")

    def __init__(self, app: HttpServerApp, stream: Stream, shutdown: ShutdownWatch) -> None:
        self._app = app
        self._stream = stream
        self._shutdown = shutdown
        self._session: HttpSession | None = None

    def on_shutdown(self) -> None:
        session = self._session
        if session is None:
            return
        session.last_request = True
        session.set_keepalive(None)
        if session.is_idle:
            self._stream.fail(Error.internal(ErrorType.CONNECTION_CLOSED, "shutting down"))

    async def run(self) -> None:
        app = self._app
        stream = self._stream
        options = app.server_options
        http1 = options.http1
        shutdown = self._shutdown
        remaining = options.keepalive_request_limit
        previous: HttpSession | None = None
        while True:
            session = self._session = HttpSession(stream, http1)
            if previous is not None:
                session.idle_timeout = previous.idle_timeout
                session.connection_context = previous.connection_context
            if remaining is not None:
                remaining -= 1
                session.last_request = remaining <= 0
            if shutdown.is_shutting_down:
                session.last_request = True
            reusable = await app.process_new_http(session, shutdown)
            if not reusable or stream.is_closed or shutdown.is_shutting_down:
                break
            previous = session
            if stream.buffered:
                # One client's pipelined requests must not keep the others waiting: without a
                # pause, an application that awaits nothing would answer all of them first.
                await asyncio.sleep(0)
        if not stream.is_closed:
            # A client that is still sending would have the response cut off by a reset
            # (RFC 9112 section 9.6).
            stream.close(
                discard_input=session.is_refused or not session.is_body_done or stream.buffered > 0
            )
