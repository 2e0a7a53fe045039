"""One attempt: a request sent to an upstream and its response relayed to the client.

Theory of operation. The task of the client's connection relays the response. The request body
is sent by the same task as long as its bytes are here already; only a body that is still being
uploaded gets a second task, and so do the client's raw bytes after an upgrade. While the client
has nothing more to send, its stream reports a disconnect through a callback, which interrupts
the wait for the upstream. Both directions stop reading when the other side's send buffer is
full.

Rules of this file: a second task never outlives :meth:`Exchange.run`; whatever it fails with is
turned into an interruption of the relay, which alone decides how the request ends.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic

from pingora_core.protocols.http.task import (
    BodyTask,
    DoneTask,
    FailedTask,
    HeaderTask,
    TrailerTask,
    UpgradedBodyTask,
)
from pingora_error import Error, ErrorSource, ErrorType
from pingora_proxy._response_filters import ResponseFilters
from pingora_proxy._tunnel import UPGRADED_IDLE, Tunnel
from pingora_proxy._upstream_request import clean_response, complete_framing, make_upstream_request
from pingora_proxy._user_errors import as_error
from pingora_proxy.hooks import CTX

if TYPE_CHECKING:
    from pingora_core.modules.module import HttpModuleCtx
    from pingora_core.protocols.http.client import ClientSession
    from pingora_core.protocols.http.task import HttpTask
    from pingora_core.upstreams.peer import HttpPeer
    from pingora_http import ResponseHeader
    from pingora_proxy._overrides import Overrides
    from pingora_proxy.hooks import ProxyHttp
    from pingora_proxy.session import Session

__all__ = ["Exchange"]


class Exchange(Generic[CTX]):
    """The state of one attempt.

    Args:
        app: The user's object.
        overrides: Which callbacks it overrides.
        session: The request.
        upstream: The upstream's side of the exchange.
        peer: Where it goes.
        ctx: The user's context.
    """

    # One is made for each attempt; most of them never change most of this.
    _filters: ResponseFilters[CTX] | None = None
    _filters_body = False
    _upload_task: asyncio.Task[None] | None = None
    _upgrade_task: asyncio.Task[None] | None = None
    _upload_error: Error | None = None
    _is_watching = False
    _tunnel: Tunnel | None = None

    def __init__(
        self,
        app: ProxyHttp[CTX],
        overrides: Overrides,
        session: Session,
        upstream: ClientSession,
        *,
        peer: HttpPeer,
        ctx: CTX,
    ) -> None:
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

    async def run(self) -> None:
        """Send the request and relay the response to its end.

        Raises:
            Error: From upstream, downstream or a callback; a response head may have been sent.
        """
        try:
            await self._send_request()
            await self._relay_response()
        finally:
            if self._is_watching:
                self._down.watch_disconnect(None)
            if self._upload_task is not None or self._upgrade_task is not None:
                await self._end_second_tasks()

    def _filter_responses(self) -> None:
        self._filters = ResponseFilters(self._app, self._overrides, self._session, self._ctx)
        self._filters_body = self._filters.sees_body

    async def _end_second_tasks(self) -> None:
        for task in (self._upload_task, self._upgrade_task):
            if task is not None:
                task.cancel()
                await asyncio.wait((task,))
        self._upload_task = self._upgrade_task = None

    # ---------------------------------------------------------------- request

    async def _send_request(self) -> None:
        session = self._session
        down = self._down
        request = make_upstream_request(
            down.request,
            upgrade=down.is_upgrade_request,
            version=self._up.version,
        )
        if self._overrides.upstream_request_filter:
            session.phase = "upstream_request_filter"
            await self._app.upstream_request_filter(session, request, self._ctx)
        compression = session.active_upstream_compression
        if compression is not None:
            compression.request_filter(down.request)
            if self._filters is None:
                self._filter_responses()
        if self._modules is not None:
            self._modules.request_body_start()
        has_body = not down.is_body_empty
        complete_framing(request, self._peer, has_body=has_body)
        session.phase = "send request"
        self._up.send_request_header(request)
        if not has_body:
            if self._overrides.request_body_filter or self._modules is not None:
                await self._send_body(None, end=True)
            else:
                self._up.finish_request_body()
            return
        down.auto_continue = False
        try:
            await self._upload_what_is_here()
        except Error as error:
            if error.esource is not ErrorSource.UPSTREAM:
                raise
            self._upload_failed(error)

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

    # --------------------------------------------------------------- response

    async def _relay_response(self) -> None:
        up = self._up
        down = self._down
        self._session.phase = "read response"
        if self._upload_task is None:
            self._watch_client()
        while True:
            task = up.next_task()
            if task is None:
                try:
                    task = await up.wait_task()
                except Error as error:
                    self._judge_read_error(error)
                    continue
            # The two kinds of which every response is made come first, and a coroutine is made
            # only for those who filter.
            if isinstance(task, BodyTask) and not self._filters_body:
                end = task.end
                down.send_response_body(task.data, end=end)
            elif (
                isinstance(task, HeaderTask)
                and self._filters is None
                and task.header.status >= 200
                and down.request.raw_method != b"CONNECT"
            ):
                end = task.end
                clean_response(task.header)
                down.send_response_header(task.header, end=end)
            else:
                end = await self._relay(task)
            if end:
                return
            if down.needs_drain:
                await down.drain()

    def _judge_read_error(self, error: Error) -> None:
        """Raise what an error of the upstream means, or return to read on."""
        if error.etype is ErrorType.READ_TIMEDOUT:
            if self._tunnel is not None and self._tunnel.was_active():
                return
            if self._upload_task is not None and not self._upload_task.done():
                return  # it is the client's turn: an upload has deadlines of its own
        failed = self._upload_error
        if failed is not None and error is not failed:
            if failed.esource is ErrorSource.UPSTREAM:
                # Only the reading side knows whether the connection was dead beforehand.
                failed.retry = error.retry
            raise failed from failed.cause
        raise error

    def _watch_client(self) -> None:
        if self._down.abort_on_close:
            self._is_watching = True
            self._down.watch_disconnect(self._client_gone)

    def _client_gone(self) -> None:
        self._up.fail(
            Error.down(ErrorType.CONNECTION_CLOSED, "the client closed before the response ended")
        )

    async def _relay(self, task: HttpTask) -> bool:
        # Filters a piece and sends it; says whether it was the last.
        match task:
            case BodyTask():
                await self._relay_body(task.data, end=task.end)
                return task.end
            case HeaderTask():
                await self._relay_header(task.header, end=task.end)
                return task.end
            case UpgradedBodyTask():
                if task.data:
                    self._down.send_upgraded(task.data)
                return task.end
            case TrailerTask():
                await self._relay_trailers(task)
            case DoneTask():
                await self._relay_body(None, end=True)
            case FailedTask():
                raise task.error
        return True

    async def _relay_header(self, header: ResponseHeader, *, end: bool) -> None:
        status = header.status
        if status != 101:
            clean_response(header)
        if self._filters is not None:
            await self._filters.header(header, end=end)
            self._filters_body = self._filters.sees_body
        if status == 101 or self._down.request.raw_method == b"CONNECT":
            self._down.send_response_header(header, end=end)
            if not end and (status == 101 or 200 <= status < 300):
                self._switch_protocols()
        elif end and status >= 200 and self._may_add_body(header):
            # Somebody sees the body, if only to be told that there is none.
            self._down.send_response_header(header)
            await self._relay_body(None, end=True)
        else:
            self._down.send_response_header(header, end=end)

    def _may_add_body(self, header: ResponseHeader) -> bool:
        if not self._filters_body or header.status in {204, 304}:
            return False
        return (
            self._down.request.raw_method != b"HEAD" and header.get_raw(b"content-length") is None
        )

    async def _relay_body(self, data: bytes | None, *, end: bool) -> None:
        if self._filters is None or not self._filters_body:
            self._down.send_response_body(data, end=end)
            return
        data, delay = await self._filters.body(data, end=end)
        self._down.send_response_body(data, end=end)
        if delay > 0:
            await asyncio.sleep(delay)

    async def _relay_trailers(self, task: TrailerTask) -> None:
        trailers = task.trailers
        if self._filters is not None:
            tail, trailers = await self._filters.trailers(trailers)
            self._down.send_response_body(tail)
        self._down.send_response_trailers(trailers)

    # ---------------------------------------------------------------- upgrade

    def _switch_protocols(self) -> None:
        self._up.read_timeout = UPGRADED_IDLE
        self._down.watch_disconnect(None)
        self._tunnel = Tunnel(self._down, self._up)
        self._upgrade_task = asyncio.create_task(
            self._tunnel.forward(after=self._upload_task), name="upgraded"
        )
