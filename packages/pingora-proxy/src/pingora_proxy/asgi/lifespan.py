"""The lifespan of an ASGI application: its start-up and shutdown (ASGI lifespan 2.0)."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pingora_proxy.asgi._errors import application_error

if TYPE_CHECKING:
    from pingora_proxy.asgi.types import ASGIApp, Message, Scope

__all__ = ["Lifespan"]

_logger = logging.getLogger(__name__)


class Lifespan:
    """Runs the lifespan of an application, in a task of its own.

    Args:
        app: The application.
        timeout: Seconds that start-up and shutdown may take, each.

    Attributes:
        state: What the application has put aside at its start-up, for requests.
    """

    def __init__(self, app: ASGIApp, *, timeout: float = 30.0) -> None:
        self._app = app
        self._timeout = timeout
        self.state: dict[str, object] = {}
        self._started: asyncio.Future[str | None] | None = None
        self._stopped: asyncio.Future[str | None] | None = None
        self._stopping = asyncio.Event()
        self._asked = 0
        self._task: asyncio.Task[None] | None = None

    async def startup(self) -> None:
        """Tell the application to start, and wait until it has.

        An application that knows no lifespan is fine.

        Raises:
            Error: If it says that it cannot start, or takes too long.
        """
        loop = asyncio.get_running_loop()
        self._started = loop.create_future()
        self._stopped = loop.create_future()
        self._task = asyncio.create_task(self._run(), name="asgi lifespan")
        await asyncio.wait(
            (self._started, self._task), timeout=self._timeout, return_when="FIRST_COMPLETED"
        )
        if self._started.done():
            failure = self._started.result()
            if failure is not None:
                await self._end()
                error = application_error(f"the application did not start: {failure}")
                raise error
        elif not self._task.done():
            await self._end()
            message = f"the application did not start in {self._timeout} s"
            error = application_error(message)
            raise error

    async def shutdown(self) -> None:
        """Tell the application to stop, and wait until it has; what goes wrong is logged."""
        task = self._task
        if task is None or self._stopped is None:
            return
        self._stopping.set()
        await asyncio.wait(
            (self._stopped, task), timeout=self._timeout, return_when="FIRST_COMPLETED"
        )
        if self._stopped.done() and (failure := self._stopped.result()) is not None:
            _logger.error("the application failed at its shutdown: %s", failure)
        elif not self._stopped.done() and not task.done():
            _logger.error("the application did not stop in %s s", self._timeout)
        await self._end()

    async def _end(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    async def _run(self) -> None:
        scope: Scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self._app(scope, self._receive, self._send)
        except Exception as error:
            if self._started is not None and self._started.done():
                _logger.exception("the lifespan of the application failed")
            else:
                # The specification's way of saying that there is no lifespan.
                _logger.debug("the application has no lifespan: %r", error)

    async def _receive(self) -> Message:
        self._asked += 1
        if self._asked == 1:
            return {"type": "lifespan.startup"}
        await self._stopping.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        kind = str(message["type"])
        waiting = self._started if kind.startswith("lifespan.startup.") else self._stopped
        failure = str(message.get("message", "")) or kind if kind.endswith(".failed") else None
        if waiting is not None and not waiting.done():
            waiting.set_result(failure)
