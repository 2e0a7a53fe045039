"""The request's half of an attempt: its head, filtered, and its body as it comes in."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic

from pingora_error import Error, ErrorSource, ErrorType
from pingora_proxy._response_filters import ResponseFilters
from pingora_proxy._upstream_request import complete_framing, make_upstream_request
from pingora_proxy._user_errors import as_error
from pingora_proxy.hooks import CTX

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.modules.chain import HttpModuleCtx
    from pingora_core.protocols.http.client import ClientSession
    from pingora_core.upstreams.peer import HttpPeer
    from pingora_http import RequestHeader
    from pingora_proxy._overrides import Overrides
    from pingora_proxy.hooks import ProxyHttp
    from pingora_proxy.request_record import AttemptRecord
    from pingora_proxy.session import Session

__all__ = ["RequestHalf"]


class RequestHalf(Generic[CTX]):
    """What sending the request of an attempt needs; see `Exchange`.

    Args:
        app: The user's object.
        overrides: Which callbacks it overrides.
        session: The request.
        upstream: The upstream's side of the exchange.
        peer: Where it goes.
        ctx: The user's context.
    """

    # One is made for each attempt; most of them never use this.
    _upload_task: asyncio.Task[None] | None = None
    _upload_error: Error | None = None

    def __init__(  # noqa: PLR0917 - by keyword it costs 0.1 us more, for each request (2026-11)
        self,
        app: ProxyHttp[CTX],
        overrides: Overrides,
        session: Session,
        upstream: ClientSession,
        peer: HttpPeer,
        ctx: CTX,
    ) -> None:
        # What every attempt reads is set here and not in the class: reading what only the class
        # has takes three times as long as reading what the object has (2026-11).
        self.show_request: Callable[[RequestHeader], None] | None = None
        # Where it notes when the final head has arrived.
        self.record: AttemptRecord | None = None
        # Watches the client instead, where two exchanges have the same.
        self.watcher: Callable[[], None] | None = None
        self._filters: ResponseFilters[CTX] | None = None
        self._sees_body = False
        self._is_sent = False
        self._is_watching = False
        # Whether something besides the task of the connection serves this attempt.
        self._has_helpers = False
        self._app = app
        self._overrides = overrides
        self._session = session
        self._down = session.downstream_session
        self._up = upstream
        self._peer = peer
        self._ctx = ctx
        self._modules: HttpModuleCtx | None = session.active_modules
        if (
            overrides.filters_response
            or self._modules is not None
            or session.active_upstream_modules is not None
        ):
            self._filter_responses()

    def _filter_responses(self) -> None:
        self._filters = ResponseFilters(self._app, self._overrides, self._session, self._ctx)
        self._sees_body = self._filters.sees_body

    def _send_head(self, request: RequestHeader) -> bool:
        """Send the request's head.

        Args:
            request: The head, filtered.

        Returns:
            Whether that was all; else what there is of the body follows now.
        """
        session = self._session
        down = self._down
        compression = session.active_upstream_compression
        if compression is not None:
            compression.request_filter(down.request)
            if self._filters is None:
                self._filter_responses()
        if self._modules is not None:
            self._modules.request_body_start()
        has_body = not down.is_body_empty
        values = request.raw_index or request.first_values()
        if has_body or b"transfer-encoding" in values or b"host" not in values:
            complete_framing(request, self._peer, has_body=has_body)
        if self.show_request is not None:
            self.show_request(request)
        session.phase = "send request"
        self._up.send_request_header(request)
        if has_body or self._overrides.request_body_filter or self._modules is not None:
            return False
        self._up.finish_request_body()
        session.phase = "read response"
        self._watch_client()
        return True

    async def _send_first_body(self) -> None:
        down = self._down
        if down.is_body_empty:
            await self._send_body(None, end=True)  # the filters are told its end
        else:
            down.auto_continue = False
            try:
                await self._upload_what_is_here()
            except Error as error:
                if error.esource is not ErrorSource.UPSTREAM:
                    raise
                self._upload_failed(error)
        self._session.phase = "read response"
        if self._upload_task is None:
            self._watch_client()

    def _make_request(self) -> RequestHeader:
        down = self._down
        return make_upstream_request(
            down.request, upgrade=down.is_upgrade_request, version=self._up.version
        )

    async def _upload_what_is_here(self) -> None:
        down = self._down
        up = self._up
        replay = down.retry_buffer
        if replay or down.is_body_done:
            await self._send_body(replay or None, end=down.is_body_done)
        while not down.is_body_done and not up.needs_drain:
            piece = down.next_request_body()
            if piece is None and not down.is_body_done:
                break
            await self._send_body(piece, end=down.is_body_done)
        if not down.is_body_done:
            self._has_helpers = True
            self._upload_task = asyncio.create_task(self._upload_rest(), name="upload")

    async def _upload_rest(self) -> None:
        """Send the rest of the request body as it arrives; runs in a task of its own."""
        down = self._down
        up = self._up
        try:
            while not down.is_body_done:
                if up.needs_drain:
                    await up.drain()
                piece = await down.read_request_body()
                await self._send_body(piece, end=down.is_body_done)
            self._watch_client()
        except Error as error:
            self._upload_failed(error)
        except Exception as error:  # noqa: BLE001 - a user's filter may raise anything
            self._upload_failed(as_error(error, "request_body_filter"))

    def _upload_failed(self, error: Error) -> None:
        self._upload_error = error
        if error.esource is not ErrorSource.UPSTREAM:
            self._up.fail(error)
        # An upstream that takes no more may have answered already (413, 401): the relay reads
        # on, and the error counts only if there is no answer.

    async def _send_body(self, piece: bytes | None, *, end: bool) -> None:
        if self._modules is not None:
            piece = await self._modules.request_body_filter(piece, end)
        if self._overrides.request_body_filter:
            self._session.phase = "request_body_filter"
            piece = await self._app.request_body_filter(self._session, piece, end, self._ctx)
        if piece:
            self._up.send_request_body(piece)
        if end:
            self._up.finish_request_body(self._down.request_trailers)

    def _watch_client(self) -> None:
        if self.watcher is not None:
            self.watcher()
        elif self._down.abort_on_close:
            self._is_watching = True
            self._down.watch_disconnect(self._client_gone)

    def _client_gone(self) -> None:
        self._up.fail(
            Error.down(ErrorType.CONNECTION_CLOSED, "the client closed before the response ended")
        )
