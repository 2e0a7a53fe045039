"""An ASGI application: what runs its requests, wherever they come from."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from pingora_core.protocols.address import InetAddress, UnixAddress
from pingora_error import Error, ErrorSource, HTTPStatus
from pingora_proxy.asgi._errors import application_error
from pingora_proxy.asgi._handshake import asks_for_websocket, offered_subprotocols, refusal_of
from pingora_proxy.asgi.http import HttpCycle
from pingora_proxy.asgi.lifespan import Lifespan
from pingora_proxy.asgi.options import AsgiOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.protocols.address import SocketAddress
    from pingora_core.protocols.http.server import ServerSession
    from pingora_proxy.asgi._cycle import Cycle
    from pingora_proxy.asgi.http import ResponseWriter
    from pingora_proxy.asgi.types import ASGIApp, Scope
    from pingora_proxy.session import Session

__all__ = ["AsgiApplication"]

_logger = logging.getLogger(__name__)

_VERSIONS: Final = {10: "1.0", 11: "1.1", 20: "2"}
# Seconds that an application may take to end once it was cancelled.
_CANCEL_TIME: Final = 1.0


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
            passed with their whole path.
        options: How it is run; None for the defaults.

    Attributes:
        failure_counts: How many requests the application has failed in, by what it did: ``raised``,
            ``protocol`` for what ASGI does not allow, ``unanswered``, ``timeout``.
    """

    def __init__(
        self, app: ASGIApp, *, root_path: str = "", options: AsgiOptions | None = None
    ) -> None:
        self._app = app
        self._root_path = root_path
        self._options = options or AsgiOptions()
        self._lifespan = Lifespan(
            app,
            timeout=self._options.lifespan_timeout,
            required=self._options.lifespan == "on",
        )
        # Those that still run, also after their responses.
        self._tasks: set[asyncio.Task[None]] = set()
        self.failure_counts: dict[str, int] = {
            "protocol": 0,
            "raised": 0,
            "timeout": 0,
            "unanswered": 0,
        }

    @property
    def running(self) -> int:
        """How many calls of the application run now, also those whose response is complete."""
        return len(self._tasks)

    @property
    def failures(self) -> int:
        """How many requests the application has failed in."""
        return sum(self.failure_counts.values())

    async def startup(self) -> None:
        """Start the application.

        Raises:
            Error: If it cannot start.
        """
        if self._options.lifespan != "off":
            await self._lifespan.startup()

    async def cleanup(self) -> None:
        """Stop the application, after what still runs in the background."""
        try:
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=self._options.lifespan_timeout)
            if self._tasks:
                _logger.error("%d calls of the application were cancelled", len(self._tasks))
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=_CANCEL_TIME)
            await self._lifespan.shutdown()

    # ---------------------------------------------------------------- serving

    async def serve(self, session: Session) -> None:
        """Answer a request of a proxy; its response passes the downstream modules.

        Args:
            session: The request.

        Raises:
            Error: If the application fails: a 500, unless a response has begun; or from
                downstream.
        """
        permit = session.load_permit

        def on_accept() -> None:
            if permit is not None:
                # A WebSocket is no request any more, however long it lasts.
                permit.release()

        note = await self._serve(session.downstream_session, session, on_accept)
        if note is not None:
            session.shutdown_note = note

    async def serve_session(self, session: ServerSession, writer: ResponseWriter) -> None:
        """Answer a request.

        Args:
            session: The client's side, its head read.
            writer: Where the response goes: the session itself, or what filters it.

        Raises:
            Error: If the application fails, or from downstream.
        """
        await self._serve(session, writer, _nothing)

    async def _serve(
        self, session: ServerSession, writer: ResponseWriter, on_accept: Callable[[], None]
    ) -> str | None:
        # Says what was ended because the server stops.
        if session.request.raw_method == b"CONNECT":
            raise Error.down(HTTPStatus(405), "an ASGI application makes no tunnels")
        if asks_for_websocket(session):
            return await self._serve_websocket(session, writer, on_accept)
        cycle = HttpCycle(session, writer, self._options)
        try:
            task = await self._run(self._scope(session, "http"), cycle)
            if cycle.is_complete:
                self._follow(task)
                return None
            if cycle.is_stopped and not cycle.is_gone:
                await cycle.end_stream()
                return "the server stops: event stream ended"
            raise self._error_of(cycle, task)
        finally:
            await cycle.close()

    async def _serve_websocket(
        self, session: ServerSession, writer: ResponseWriter, on_accept: Callable[[], None]
    ) -> str | None:
        refusal = refusal_of(session.request)
        if refusal is not None:
            await writer.write_response_header(refusal, end=True)
            return None
        try:
            from pingora_proxy.asgi.websocket import WebSocketCycle  # noqa: PLC0415 - an extra
        except ImportError as error:
            message = "WebSockets need pingora-proxy[asgi]"
            raise Error.internal(HTTPStatus(501), message, cause=error) from error
        cycle = WebSocketCycle(session, writer, self._options, on_accept)
        try:
            task = await self._run(self._scope(session, "websocket"), cycle)
            if not cycle.is_accepted:
                if cycle.is_complete and not cycle.is_gone:
                    self._follow(task)
                    return None
                raise self._error_of(cycle, task)
            failed = self._failed(cycle, task)
            await cycle.end(failed=failed is not None)
            if failed is not None:
                _logger.error("an ASGI application failed in a WebSocket", exc_info=failed)
            session.set_keepalive(None)
            return "the server stops: WebSocket closed with 1001" if cycle.is_stopped else None
        finally:
            await cycle.close()

    async def _run(self, scope: Scope, cycle: Cycle) -> asyncio.Task[None]:
        task = asyncio.create_task(self._call(scope, cycle), name="asgi application")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        cycle.begin(task)
        try:
            await cycle.over
        except BaseException:
            task.cancel()
            await asyncio.wait((task,), timeout=_CANCEL_TIME)
            raise
        return task

    async def _call(self, scope: Scope, cycle: Cycle) -> None:
        try:
            await self._app(scope, cycle.receive, cycle.send)
        except SystemExit as problem:
            # It would end the event loop, and with it all other requests.
            msg = f"the application raised {problem!r}"
            raise RuntimeError(msg) from problem

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # looked at; whoever is concerned looks again

    # ----------------------------------------------------------------- faults

    def _error_of(self, cycle: Cycle, task: asyncio.Task[None]) -> Error:
        # Why there is no response, or only half of one.
        if cycle.error is not None:
            if cycle.is_late:
                self.failure_counts["timeout"] += 1
            return cycle.error
        failed = self._failed(cycle, task)
        if failed is None:
            self.failure_counts["unanswered"] += 1
            return application_error("the application returned without a whole response")
        if isinstance(failed, Error):
            return failed
        return application_error("the application failed", cause=failed)

    def _failed(self, cycle: Cycle, task: asyncio.Task[None]) -> BaseException | None:
        # What an application has ended with, where that is a fault of its own.
        if not task.done() or cycle.is_cancelling:
            return None
        if task.cancelled():
            failed: BaseException | None = asyncio.CancelledError("it has cancelled itself")
        else:
            failed = task.exception()
        if failed is None:
            return None
        if cycle.is_gone or cycle.is_stopped:
            # What frameworks raise when there is nobody any more.
            _logger.info("an ASGI application ended with its client gone: %r", failed)
            return None
        self._count(failed)
        return failed

    def _count(self, failed: BaseException) -> None:
        internal = isinstance(failed, Error) and failed.esource is ErrorSource.INTERNAL
        self.failure_counts["protocol" if internal else "raised"] += 1

    def _follow(self, task: asyncio.Task[None]) -> None:
        # Its response is complete, it is not: frameworks do work in the background then, or raise
        # what they have answered with a page of their own.
        if task.done():
            self._ended_late(task)
        else:
            task.add_done_callback(self._ended_late)

    def _ended_late(self, task: asyncio.Task[None]) -> None:
        failed = None if task.cancelled() else task.exception()
        if failed is not None:
            self._count(failed)
            _logger.error("an ASGI application failed", exc_info=failed)

    # ------------------------------------------------------------------ scope

    def _scope(self, session: ServerSession, kind: str) -> Scope:
        request = session.request
        secure = session.digest.ssl_digest is not None
        scheme = {"http": "https" if secure else "http", "websocket": "wss" if secure else "ws"}
        path, _, query = request.raw_path.partition(b"?")
        scope: Scope = {
            "type": kind,
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": _VERSIONS[request.version],
            "scheme": scheme[kind],
            "path": unquote_to_bytes(path).decode("utf-8", "replace"),
            "raw_path": path,
            "query_string": query,
            "root_path": self._root_path,
            "headers": [(name.lower(), value) for name, value in request.raw_items],
            "client": _client(session.client_addr),
            "server": _server(session.server_addr),
            "state": dict(self._lifespan.state),
        }
        if kind == "http":
            scope["method"] = request.method.upper()
            scope["extensions"] = {"http.response.early_hint": {}, "http.response.trailers": {}}
        else:
            scope["subprotocols"] = offered_subprotocols(request)
            scope["extensions"] = {"websocket.http.response": {}}
        return scope


def _client(address: SocketAddress | None) -> tuple[str, int] | None:
    return (address.host, address.port) if isinstance(address, InetAddress) else None


def _server(address: SocketAddress | None) -> tuple[str, int | None] | None:
    match address:
        case InetAddress(host, port):
            return host, port
        case UnixAddress(path):
            return path, None
        case None:
            return None


def _nothing() -> None:
    pass
