"""Having a request go through all phases once more, without its client."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from pingora_core.protocols.http.subrequest import SubrequestSession

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pingora_core.protocols.address import SocketAddress
    from pingora_core.protocols.http.server import ServerSession
    from pingora_core.runtime.shutdown import ShutdownWatch
    from pingora_http import RequestHeader

__all__ = ["ParentRequest", "SubrequestSpawner"]

logger = logging.getLogger(__name__)

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
    def shutdown_watch(self) -> ShutdownWatch:
        """Tells when the server stops."""


class SubrequestSpawner:
    """Runs subrequests of one service, each in a task that the service owns.

    Args:
        process: What serves one request: ``HttpProxy.process_new_http``.
        max_running: Subrequests that may run at the same time; more are refused.
    """

    def __init__(
        self,
        process: Callable[[ServerSession, ShutdownWatch], Awaitable[bool]],
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

    def spawn_background_subrequest(self, session: ParentRequest) -> bool:
        """Send a copy of a request's head through all phases in the background.

        The copy has no body; its response is dropped. It is a request like others: all callbacks
        run for it, with a context of its own, ``logging`` included, and
        ``session.is_subrequest`` is true.

        Args:
            session: The request to copy.

        Returns:
            False when too many run already, so that nothing was started.
        """
        if len(self._tasks) >= self._max_running:
            logger.warning("too many subrequests: %d run already", len(self._tasks))
            return False
        copy = SubrequestSession(
            session.req_header, client_addr=session.client_addr, server_addr=session.server_addr
        )
        copy.shutdown_watch = session.shutdown_watch
        task = asyncio.create_task(self._run(copy, session.shutdown_watch), name="subrequest")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _run(self, copy: SubrequestSession, shutdown: ShutdownWatch) -> None:
        try:
            await self._process(copy, shutdown)
        except Exception:
            logger.exception("a subrequest failed: %s", copy.request_summary())

    async def close(self) -> None:
        """Break off the subrequests that run, and wait for their end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
