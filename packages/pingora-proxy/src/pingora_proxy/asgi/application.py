"""An ASGI application: what runs its requests, wherever they come from."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import unquote_to_bytes

from pingora_core.protocols.address import InetAddress
from pingora_error import Error
from pingora_proxy.asgi._errors import application_error
from pingora_proxy.asgi.http import HttpCycle
from pingora_proxy.asgi.lifespan import Lifespan

if TYPE_CHECKING:
    from pingora_core.protocols.address import SocketAddress
    from pingora_core.protocols.http.server import ServerSession
    from pingora_proxy.asgi.http import ResponseWriter
    from pingora_proxy.asgi.types import ASGIApp, Message, Scope
    from pingora_proxy.session import Session

__all__ = ["AsgiApplication"]

_logger = logging.getLogger(__name__)


class _Cycle(Protocol):
    @property
    def is_complete(self) -> bool: ...

    async def receive(self) -> Message: ...

    async def send(self, message: Message) -> None: ...


_VERSIONS: Final = {10: "1.0", 11: "1.1", 20: "2"}


class AsgiApplication:
    """An ASGI application, ready to answer requests of this framework.

    As a service: :func:`asgi_service`. For some routes of a proxy: call :meth:`startup` and
    :meth:`cleanup` in those of the proxy, and answer in ``request_filter``::

        if session.req_header.path.startswith("/api"):
            await self.api.serve(session)
            return True

    Args:
        app: The application.
        root_path: The path under which it is mounted, without the slash at the end; requests are
            passed with their whole path (ASGI HTTP 2.3).
        lifespan_timeout: Seconds that its start-up and its shutdown may take, each.

    Attributes:
        failures: How many requests the application has failed in.
    """

    def __init__(
        self, app: ASGIApp, *, root_path: str = "", lifespan_timeout: float = 30.0
    ) -> None:
        self._app = app
        self._root_path = root_path
        self._lifespan = Lifespan(app, timeout=lifespan_timeout)
        self.failures: int = 0

    async def startup(self) -> None:
        """Start the application.

        Raises:
            Error: If it cannot start.
        """
        await self._lifespan.startup()

    async def cleanup(self) -> None:
        """Stop the application."""
        await self._lifespan.shutdown()

    async def serve(self, session: Session) -> None:
        """Answer a request of a proxy; its response passes the downstream modules.

        Args:
            session: The request.

        Raises:
            Error: If the application fails: a 500, unless a response has begun; or from
                downstream.
        """
        await self.serve_session(session.downstream_session, session)

    async def serve_session(self, session: ServerSession, writer: ResponseWriter) -> None:
        """Answer a request.

        Args:
            session: The client's side, its head read.
            writer: Where the response goes: the session itself, or what filters it.

        Raises:
            Error: If the application fails, or from downstream.
        """
        if session.is_upgrade_request:
            from pingora_proxy.asgi.websocket import (  # noqa: PLC0415 - an extra
                WebSocketCycle,
                asks_for_websocket,
            )

            if asks_for_websocket(session):
                sockets = WebSocketCycle(session)
                await self._run(self._scope(session, "websocket"), sockets)
                await sockets.end()
                if not sockets.is_accepted and session.response_written is None:
                    raise self._unanswered()
                session.set_keepalive(None)
                return
        cycle = HttpCycle(session, writer)
        try:
            await self._run(self._scope(session, "http"), cycle)
        finally:
            cycle.close()
        if not cycle.is_complete:
            raise self._unanswered()

    def _unanswered(self) -> Error:
        self.failures += 1
        return application_error("the application returned without a whole response")

    async def _run(self, scope: Scope, cycle: _Cycle) -> None:
        try:
            await self._app(scope, cycle.receive, cycle.send)
        except Error:
            raise
        except Exception as problem:
            self.failures += 1
            _logger.exception("an ASGI application failed")
            if cycle.is_complete:
                return  # frameworks answer with a page of their own first
            error = application_error("the application failed", cause=problem)
            raise error from problem

    def _scope(self, session: ServerSession, kind: str) -> Scope:
        request = session.request
        secure = session.digest.ssl_digest is not None
        scheme = {"http": "https" if secure else "http", "websocket": "wss" if secure else "ws"}
        path, _, query = request.raw_target.partition(b"?")
        scope: Scope = {
            "type": kind,
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": _VERSIONS[request.version],
            "scheme": scheme[kind],
            "path": _unquoted(path),
            "raw_path": path,
            "query_string": query,
            "root_path": self._root_path,
            "headers": [(name.lower(), value) for name, value in request.raw_items],
            "client": _pair(session.client_addr),
            "server": _pair(session.server_addr),
            "state": dict(self._lifespan.state),
        }
        if kind == "http":
            scope["method"] = request.method
            scope["extensions"] = {"http.response.trailers": {}}
        else:
            offered = request.get("sec-websocket-protocol", "")
            scope["subprotocols"] = [word.strip() for word in offered.split(",") if word.strip()]
        return scope


def _unquoted(path: bytes) -> str:
    return unquote_to_bytes(path).decode("utf-8", "replace")


def _pair(address: SocketAddress | None) -> tuple[str, int] | None:
    return (address.host, address.port) if isinstance(address, InetAddress) else None
