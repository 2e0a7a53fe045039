"""One attempt: a request sent to an upstream and its response relayed to the client.

Theory of operation. The task of the client's connection relays the response. The request body
is sent by the same task as long as its bytes are here already; only a body that is still being
uploaded gets a second task, and so do the client's raw bytes after an upgrade. While the client
has nothing more to send, its stream reports a disconnect through a callback, which interrupts
the wait for the upstream. Both directions stop reading when the other side's send buffer is
full.

Rules of this file: a second task never outlives :meth:`Exchange.run`, or :meth:`Exchange.abandon`
where its steps are taken one by one; whatever it fails with is turned into an interruption of the
relay, which alone decides how the request ends.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from pingora_core.protocols.http.task import (
    BodyTask,
    DoneTask,
    FailedTask,
    HeaderTask,
    TrailerTask,
    UpgradedBodyTask,
)
from pingora_error import Error, ErrorSource, ErrorType
from pingora_proxy._open_ended import OpenEnded, boundaries_of
from pingora_proxy._request_half import RequestHalf
from pingora_proxy._tunnel import UPGRADED_IDLE, Tunnel
from pingora_proxy._upstream_request import clean_response
from pingora_proxy._websocket import WebSocketTunnel
from pingora_proxy.hooks import CTX

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.protocols.http.stream_boundaries import Boundaries
    from pingora_core.protocols.http.task import HttpTask
    from pingora_http import ResponseHeader

__all__ = ["Exchange"]


class Exchange(RequestHalf[CTX]):
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
    _upgrade_task: asyncio.Task[None] | None = None
    _tunnel: Tunnel | None = None
    _open_ended: OpenEnded | None = None
    _unsubscribe: Callable[[], None] | None = None
    _waited_out: Error | None = None
    _held: list[HeaderTask] | None = None
    _upstream_filtered = False

    async def run(self) -> None:  # noqa: C901, PLR0912 - in one piece, for speed
        """Send the request and relay the response to its end.

        What :meth:`send_and_await_head` and :meth:`relay` have done already is left out.

        Raises:
            Error: From upstream, downstream or a callback; a response head may have been sent.
        """
        up = self._up
        down = self._down
        try:
            if not self._is_sent:
                # The same lines stand in `send_and_await_head`. Each coroutine, for them or for the
                # loop below, would cost 0.1 us per request (2026-11).
                request = self._make_request()
                if self._overrides.upstream_request_filter:
                    self._session.phase = "upstream_request_filter"
                    await self._app.upstream_request_filter(self._session, request, self._ctx)
                if not self._send_head(request):
                    await self._send_first_body()
            while True:
                task = up.next_task()
                if task is None:
                    try:
                        task = await up.wait_task()
                    except Error as error:
                        if self._unsubscribe is not None and await self._ends_with(error):
                            break
                        self._judge_read_error(error)
                        continue
                # The two kinds of which every response is made come first, and a coroutine is made
                # only for those who filter.
                if type(task) is BodyTask and not self._sees_body:
                    end = task.end
                    down.send_response_body(task.data, end=end)
                elif (
                    type(task) is HeaderTask
                    and self._filters is None
                    and task.header.status >= 200
                    and down.request.raw_method != b"CONNECT"
                ):
                    end = task.end
                    header = task.header
                    if self.record is not None:
                        self.record.head = time.monotonic()
                        self.record.status = header.status
                    boundaries = None
                    if not clean_response(header) and not end:
                        boundaries = boundaries_of(down.request, header)
                    down.send_response_header(header, end=end)
                    if boundaries is not None:
                        self._follow(boundaries)
                else:
                    end = await self._relay(task)
                if end:
                    break
                if type(task) is not HeaderTask and down.needs_drain:  # a head fills no buffer
                    await down.drain()
            if self._has_helpers and self._tunnel is not None and self._tunnel.is_ending:
                await self._end_tunnel(self._tunnel)
        finally:
            if self._is_watching:
                self._down.watch_disconnect(None)
            if self._has_helpers:
                await self.abandon()

    # ----------------------------------------------------------- run, in three steps

    async def send_and_await_head(self) -> HeaderTask:
        """Send the request and wait for the final head of the response.

        Informational heads on the way are relayed to the client, unless :meth:`hold_back` was
        called. Whoever calls this calls :meth:`abandon` in the end, whatever happens.

        Returns:
            The first head that is not informational (a 101 is not), as the upstream has sent it:
            no filter has seen it, hop-by-hop fields are still there.

        Raises:
            Error: As :meth:`run` does.
        """
        up = self._up
        down = self._down
        request = self._make_request()
        if self._overrides.upstream_request_filter:
            self._session.phase = "upstream_request_filter"
            await self._app.upstream_request_filter(self._session, request, self._ctx)
        if not self._send_head(request):
            await self._send_first_body()
        while True:
            task = up.next_task()
            if task is None:
                try:
                    task = await up.wait_task()
                except Error as error:
                    self._judge_read_error(error)
                    continue
            if not isinstance(task, HeaderTask):
                await self._relay(task)  # a failure; nothing else comes first
                continue
            if task.header.status >= 200 or task.header.status == 101:
                return task
            if self._held is not None:
                self._held.append(task)  # the sessions bound their number
                continue
            await self._relay(task)
            if down.needs_drain:
                await down.drain()

    def hold_back(self) -> None:
        """Keep informational heads from now on, until :meth:`relay` sends them first."""
        if self._held is None:
            self._held = []

    async def relay(self, head: HeaderTask) -> None:
        """Relay the response to its end: what was held back, the head, and all that follows.

        Args:
            head: From :meth:`send_and_await_head`; the filters see it now.

        Raises:
            Error: As :meth:`run` does.
        """
        await self._relay_held()
        if not await self._relay(head):
            if self._down.needs_drain:
                await self._down.drain()
            self._is_sent = True
            await Exchange.run(self)  # not of a subclass, which has other things to do first
        elif self._tunnel is not None and self._tunnel.is_ending:
            await self._end_tunnel(self._tunnel)

    async def _relay_held(self) -> None:
        for informational in self._held or ():
            await self._relay(informational)
        self._held = None

    async def abandon(self) -> None:
        """End what serves this exchange besides its own task; again does nothing.

        The upstream's session stays with whoever made it: giving it back to the connector closes
        what was not read to the end.
        """
        if self._unsubscribe is not None:
            self._release_end()
        if self._is_watching:
            self._is_watching = False
            self._down.watch_disconnect(None)
        for task in (self._upload_task, self._upgrade_task):
            if task is not None:
                task.cancel()
                await asyncio.wait((task,))
        self._upload_task = self._upgrade_task = None

    # --------------------------------------------------------------- response

    def _judge_read_error(self, error: Error) -> None:
        """Raise what an error of the upstream means, or return to read on."""
        # A deadline that is over is another error each time; one that comes again is for good,
        # such as what a callback has interrupted the exchange with.
        if error.etype is ErrorType.READ_TIMEDOUT and error is not self._waited_out:
            self._waited_out = error
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

    async def _relay(self, task: HttpTask) -> bool:
        # Filters a piece and sends it; says whether it was the last.
        match task:
            case BodyTask():
                if self._open_ended is not None and task.data and not task.end:
                    return await self._relay_open_ended(self._open_ended, task.data)
                await self._relay_body(task.data, end=task.end)
                return task.end
            case HeaderTask():
                await self._relay_header(task.header, end=task.end)
                return task.end
            case UpgradedBodyTask():
                if task.data and self._tunnel is not None:
                    self._tunnel.send_to_client(task.data)
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
        if self.record is not None and (status >= 200 or status == 101):
            self.record.head = time.monotonic()
            self.record.status = status
        boundaries: Boundaries | None = None
        is_websocket = False
        if status == 101:
            is_websocket = (header.get_raw(b"upgrade") or b"").lower() == b"websocket"
        elif not clean_response(header) and not end and status >= 200:
            boundaries = boundaries_of(self._down.request, header)
        if self._filters is not None:
            await self._filters.header(header, end=end, upstream_done=self._upstream_filtered)
            self._sees_body = self._filters.sees_body
        if status == 101 or self._down.request.raw_method == b"CONNECT":
            self._down.send_response_header(header, end=end)
            if not end and (status == 101 or 200 <= status < 300):
                self._switch_protocols(is_websocket=is_websocket)
        elif end and status >= 200 and self._may_add_body(header):
            # Somebody sees the body, if only to be told that there is none.
            self._down.send_response_header(header)
            await self._relay_body(None, end=True)
        else:
            self._down.send_response_header(header, end=end)
            if boundaries is not None:
                self._follow(boundaries)

    def _may_add_body(self, header: ResponseHeader) -> bool:
        if not self._sees_body or header.status in {204, 304}:
            return False
        return (
            self._down.request.raw_method != b"HEAD" and header.get_raw(b"content-length") is None
        )

    async def _relay_body(self, data: bytes | None, *, end: bool) -> None:
        if self._filters is None or not self._filters.sees_body:
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

    def _switch_protocols(self, *, is_websocket: bool) -> None:
        if self._session.load_permit is not None:
            # Where it has become a tunnel it is no request any more, however long it lasts.
            self._session.load_permit.release()
        self._up.read_timeout = UPGRADED_IDLE
        self._down.watch_disconnect(None)
        kind = WebSocketTunnel if is_websocket else Tunnel
        self._has_helpers = True
        self._tunnel = tunnel = kind(self._down, self._up)
        self._upgrade_task = asyncio.create_task(
            tunnel.forward(after=self._upload_task), name="upgraded"
        )
        self._unsubscribe = self._session.shutdown_watch.subscribe_end_of_streams(tunnel.end)

    # ------------------------------------------------- ended by the server's stop

    def _follow(self, boundaries: Boundaries) -> None:
        # The response has no end of its own: it is looked at piece by piece from now on.
        self._open_ended = open_ended = OpenEnded(boundaries, self._down, self._up)
        self._sees_body = self._has_helpers = True
        watch = self._session.shutdown_watch
        self._unsubscribe = watch.subscribe_end_of_streams(open_ended.end)

    async def _relay_open_ended(self, open_ended: OpenEnded, data: bytes) -> bool:
        rest = open_ended.take(data)
        if rest < 0:
            await self._relay_body(data, end=False)
            return False
        if rest:
            await self._relay_body(data[:rest], end=False)
        await self._finish_open_ended(open_ended)
        return True

    async def _finish_open_ended(self, open_ended: OpenEnded) -> None:
        self._session.shutdown_note = open_ended.note
        trailers = open_ended.make_trailers()
        if trailers is None:
            await self._relay_body(None, end=True)
        else:
            await self._relay_trailers(TrailerTask(trailers))
        self._up.close()

    async def _ends_with(self, error: Error) -> bool:
        # Whether an error of the upstream's is how the server ends the exchange; done then.
        open_ended = self._open_ended
        if open_ended is not None and error is open_ended.ended:
            await self._finish_open_ended(open_ended)
            return True
        return self._tunnel is not None and self._tunnel.ends_with(error)

    async def _end_tunnel(self, tunnel: Tunnel) -> None:
        self._session.shutdown_note = tunnel.note
        if self._upgrade_task is not None:
            await tunnel.settle(self._upgrade_task)
        self._up.close()

    def _release_end(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        for ending in (self._tunnel, self._open_ended):
            if ending is not None:
                ending.release()
