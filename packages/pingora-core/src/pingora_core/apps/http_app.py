"""HTTP on top of the stream applications: which version a connection speaks.

Theory of operation. Over TLS, ALPN has said which version it is; in clear, and only where ``h2c``
is on, the first bytes do (RFC 9113 section 3.3). HTTP/2 has a task for each request; HTTP/1 has a
loop over them. Shutdown is noticed through a callback: an idle connection is closed at once, a busy
one answers ``Connection: close``, or sends GOAWAY, and ends after what is in flight.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING

from pingora_core.apps._http1 import Http1Connection
from pingora_core.apps._http_options import HttpServerOptions
from pingora_core.apps.app import ServerApp
from pingora_core.protocols.http.v2._server_connection import ServerConnection

if TYPE_CHECKING:
    from pingora_core.apps.load_shedding import LoadShedder
    from pingora_core.protocols.http.server import ServerSession
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.runtime.shutdown import ShutdownWatch

__all__ = ["HttpServerApp", "HttpServerOptions"]


class HttpServerApp(ServerApp):
    """An application that answers HTTP requests.

    Attributes:
        server_options: How the service speaks HTTP to its clients.
        load_shedder: Refuses requests that are too many, before anything is done for them; None
            lets all of them in. It may be set while the service runs.
    """

    server_options: HttpServerOptions = HttpServerOptions()
    load_shedder: LoadShedder | None = None

    @abstractmethod
    async def process_new_http(self, session: ServerSession, shutdown: ShutdownWatch) -> bool:
        """Serve one request: read its head from the session, answer, finish.

        Whoever implements it asks the ``load_shedder``, if there is one, once the head was read.

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
        if ssl_digest is not None and ssl_digest.alpn == b"h2":
            await self._serve_http2(stream, shutdown)
            return None
        connection = Http1Connection(self, stream, shutdown)
        unsubscribe = shutdown.subscribe(connection.on_shutdown)
        try:
            if ssl_digest is None and self.server_options.h2c and await connection.prefers_http2():
                # It has subscribed for itself before anything can happen.
                unsubscribe()
                connection.release()
                await self._serve_http2(stream, shutdown)
            else:
                await connection.run()
        finally:
            unsubscribe()
            connection.release()
            stream.close()
        return None

    async def _serve_http2(self, stream: Stream, shutdown: ShutdownWatch) -> None:
        options = self.server_options
        connection = ServerConnection(
            stream,
            options.http2,
            partial(self.process_new_http, shutdown=shutdown),
            request_limit=options.keepalive_request_limit,
            shutdown=shutdown,
            idle_drain=options.idle_grace,
        )
        unsubscribe = shutdown.subscribe(connection.drain)
        try:
            await connection.run()
        finally:
            unsubscribe()
            stream.close()
