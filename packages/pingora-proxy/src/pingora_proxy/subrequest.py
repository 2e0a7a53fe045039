"""Having a request go through all phases once more, without its client."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol, Self

from pingora_cache.lock import LockStatus
from pingora_core.protocols.http.subrequest import PipedSubrequest, SubrequestSession
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from pingora_cache.lock import WritePermit
    from pingora_core.protocols.address import SocketAddress
    from pingora_core.protocols.digest import Digest
    from pingora_core.protocols.http.server import ServerSession
    from pingora_core.runtime.shutdown import ShutdownWatch
    from pingora_http import HeaderMap, RequestHeader, ResponseHeader

__all__ = ["ParentRequest", "Subrequest", "SubrequestCtx", "SubrequestProcess", "SubrequestSpawner"]

_logger = logging.getLogger(__name__)

_MAX_RUNNING = 1024
_MAX_WHOLE = 1 << 20


class ParentRequest(Protocol):
    """What a subrequest takes over from the request it is made for; a ``Session`` has it."""

    @property
    def req_header(self) -> RequestHeader:
        """The head."""

    @property
    def client_addr(self) -> SocketAddress | None:
        """Address of the client."""

    @property
    def server_addr(self) -> SocketAddress | None:
        """Local address on which the request came in."""

    @property
    def digest(self) -> Digest:
        """What is known of the client's connection."""

    @property
    def shutdown_watch(self) -> ShutdownWatch:
        """Tells when the server stops."""


class SubrequestCtx:
    """What a subrequest is given along.

    Args:
        user_ctx: Whatever the callbacks of the subrequest are to know.
        cache_write_lock: The right to fetch an object for those who wait for it. Released by
            the subrequest, at its end at the latest.
        on_end: Called when the subrequest is over, or was never started.

    Attributes:
        user_ctx: As given.

    Source: pingora-proxy/src/subrequest/mod.rs.
    """

    __slots__ = ("_cache_write_lock", "_on_end", "user_ctx")

    def __init__(
        self,
        *,
        user_ctx: object | None = None,
        cache_write_lock: WritePermit | None = None,
        on_end: Callable[[], None] | None = None,
    ) -> None:
        self.user_ctx: object | None = user_ctx
        self._cache_write_lock = cache_write_lock
        self._on_end = on_end

    def take_cache_write_lock(self) -> WritePermit | None:
        """Take over the right to fetch the object, once.

        Returns:
            The permit, now the caller's to release; None if there is none.
        """
        permit = self._cache_write_lock
        self._cache_write_lock = None
        return permit

    def end(self) -> None:
        """Say that the subrequest is over: what it has not used is released."""
        permit = self.take_cache_write_lock()
        if permit is not None:
            permit.release(LockStatus.TRANSIENT_ERROR)
        on_end = self._on_end
        self._on_end = None
        if on_end is not None:
            on_end()


class SubrequestProcess(Protocol):
    """What serves one request: ``HttpProxy.process_new_http``."""

    async def __call__(
        self, session: ServerSession, shutdown: ShutdownWatch, subrequest: SubrequestCtx | None
    ) -> bool:
        """Serve it."""


class Subrequest:
    """A subrequest whose response is read; ``SubrequestSpawner.create_subrequest`` makes it.

    It runs from ``async with`` on. Leaving that breaks it off, if it is not over.

    Args:
        spawner: Owns the task.
        piped: Its downstream side.
        shutdown: Tells when the server stops.
        ctx: What it is given along.

    Source: ``SubrequestHandle`` in pingora-proxy/src/subrequest/pipe.rs.
    """

    __slots__ = ("_ctx", "_piped", "_shutdown", "_spawner", "_task")

    def __init__(
        self,
        spawner: SubrequestSpawner,
        piped: PipedSubrequest,
        shutdown: ShutdownWatch,
        ctx: SubrequestCtx,
    ) -> None:
        self._spawner = spawner
        self._piped = piped
        self._shutdown = shutdown
        self._ctx = ctx
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise RuntimeError("a subrequest runs once")
        task = self._spawner.start(self._piped, self._shutdown, self._ctx)
        if task is None:
            msg = "too many subrequests run already"
            raise Error(ErrorType.INTERNAL_ERROR, msg, source=ErrorSource.INTERNAL)
        self._task = task
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait((self._task,))

    async def header(self) -> ResponseHeader:
        """Wait for the final head of the response, which has passed all filters.

        Returns:
            The head, the subrequest's own: copy it before you send it.

        Raises:
            Error: ``CONNECTION_CLOSED`` if there is none.
        """
        return await self._piped.read_response_header()

    async def read_body(self) -> bytes | None:
        """Wait for the next piece of the body. The upstream waits for those who do not read.

        Returns:
            The piece; None at the end.

        Raises:
            Error: ``CONNECTION_CLOSED`` if the response broke off.
        """
        return await self._piped.read_response_body()

    async def read_whole_body(self, limit: int = _MAX_WHOLE) -> bytes:
        """Wait for the rest of the body.

        Args:
            limit: Bytes that it may have.

        Returns:
            The rest.

        Raises:
            Error: ``CONNECTION_CLOSED`` if the response broke off; ``INTERNAL_ERROR`` if it is
                longer than the limit.
        """
        pieces = []
        size = 0
        while (piece := await self.read_body()) is not None:
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                msg = f"the response of a subrequest is longer than {limit} bytes"
                raise Error(ErrorType.INTERNAL_ERROR, msg, source=ErrorSource.INTERNAL)
        return b"".join(pieces)

    @property
    def trailers(self) -> HeaderMap | None:
        """The trailers, once the body was read; None if there are none."""
        return self._piped.response_trailers


class SubrequestSpawner:
    """Runs subrequests of one service, each in a task that the service owns.

    Args:
        process: What serves one request: ``HttpProxy.process_new_http``.
        max_running: Subrequests that may run at the same time; more are refused.
    """

    def __init__(
        self,
        process: SubrequestProcess,
        *,
        max_running: int = _MAX_RUNNING,
    ) -> None:
        self._process = process
        self._max_running = max_running
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> int:
        """How many subrequests run now."""
        return len(self._tasks)

    def spawn_background_subrequest(
        self, session: ParentRequest, ctx: SubrequestCtx | None = None
    ) -> bool:
        """Send a copy of a request's head through all phases in the background.

        The copy has no body; its response is dropped. It is a request like others: all callbacks
        run for it, with a context of its own, ``logging`` included, and
        ``session.is_subrequest`` is true.

        Args:
            session: The request to copy.
            ctx: What it is given along, as ``session.subrequest_ctx``.

        Returns:
            False when too many run already, so that nothing was started.
        """
        copy = SubrequestSession(
            session.req_header,
            client_addr=session.client_addr,
            server_addr=session.server_addr,
            digest=session.digest,
        )
        return self.start(copy, session.shutdown_watch, ctx or SubrequestCtx()) is not None

    def create_subrequest(
        self,
        session: ParentRequest,
        request: RequestHeader | None = None,
        body: bytes = b"",
        *,
        ctx: SubrequestCtx | None = None,
    ) -> Subrequest:
        """Make a request of one's own, to go through all phases, and whose response is read.

        It is a request like others: all callbacks run for it, with a context of its own, and
        ``session.is_subrequest`` is true. Whoever asks for subrequests there too has to see to
        their end. It has no deadline of its own beside those of its upstream; ``asyncio.timeout``
        around its ``async with`` breaks it off.

        Args:
            session: The request on whose behalf it is made.
            request: The head; None for a copy of that of ``session``. It is copied without what
                tells of a body or a connection.
            body: The body.
            ctx: What it is given along, as ``session.subrequest_ctx``.

        Returns:
            The subrequest, to be entered with ``async with``, which raises ``INTERNAL_ERROR`` when
            too many run already.

        Source: ``create_subrequest`` in pingora-proxy/src/subrequest/mod.rs.
        """
        piped = PipedSubrequest(
            session.req_header if request is None else request,
            body,
            client_addr=session.client_addr,
            server_addr=session.server_addr,
            digest=session.digest,
        )
        return Subrequest(self, piped, session.shutdown_watch, ctx or SubrequestCtx())

    def start(
        self, copy: SubrequestSession, shutdown: ShutdownWatch, ctx: SubrequestCtx
    ) -> asyncio.Task[None] | None:
        """Serve a subrequest in a task that is the spawner's.

        Args:
            copy: Its downstream side.
            shutdown: Tells when the server stops.
            ctx: What it is given along; ended with it.

        Returns:
            The task; None when too many run already.
        """
        if len(self._tasks) >= self._max_running:
            _logger.warning("too many subrequests: %d run already", len(self._tasks))
            ctx.end()
            return None
        copy.shutdown_watch = shutdown
        task = asyncio.create_task(self._run(copy, shutdown, ctx), name="subrequest")
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            # Here and not in the task, which may be cancelled before it begins.
            self._tasks.discard(task)
            ctx.end()
            if isinstance(copy, PipedSubrequest):
                copy.end()

        task.add_done_callback(ended)
        return task

    async def _run(
        self, copy: SubrequestSession, shutdown: ShutdownWatch, ctx: SubrequestCtx
    ) -> None:
        try:
            await self._process(copy, shutdown, ctx)
        except Exception:
            _logger.exception("a subrequest failed: %s", copy.request_summary())

    async def close(self) -> None:
        """Break off the subrequests that run, and wait for their end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
