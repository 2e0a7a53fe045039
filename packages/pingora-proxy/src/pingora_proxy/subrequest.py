"""Having a request go through all phases once more, without its client."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from pingora_cache.lock import LockStatus
from pingora_core.protocols.http.subrequest import SubrequestSession

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_cache.lock import WritePermit
    from pingora_core.protocols.address import SocketAddress
    from pingora_core.protocols.digest import Digest
    from pingora_core.protocols.http.server import ServerSession
    from pingora_core.runtime.shutdown import ShutdownWatch
    from pingora_http import RequestHeader

__all__ = ["ParentRequest", "SubrequestCtx", "SubrequestProcess", "SubrequestSpawner"]

_logger = logging.getLogger(__name__)

_MAX_RUNNING = 1024


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
        ctx = ctx or SubrequestCtx()
        if len(self._tasks) >= self._max_running:
            _logger.warning("too many subrequests: %d run already", len(self._tasks))
            ctx.end()
            return False
        copy = SubrequestSession(
            session.req_header,
            client_addr=session.client_addr,
            server_addr=session.server_addr,
            digest=session.digest,
        )
        copy.shutdown_watch = session.shutdown_watch
        task = asyncio.create_task(self._run(copy, session.shutdown_watch, ctx), name="subrequest")
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            # Here and not in the task, which may be cancelled before it begins.
            self._tasks.discard(task)
            ctx.end()

        task.add_done_callback(ended)
        return True

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
