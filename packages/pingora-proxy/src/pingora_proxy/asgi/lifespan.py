"""The lifespan of an ASGI application: its start-up and shutdown (ASGI lifespan 2.0)."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from pingora_proxy.asgi._errors import application_error

if TYPE_CHECKING:
    from pingora_error import Error
    from pingora_proxy.asgi.types import ASGIApp, Message, Scope

__all__ = ["Lifespan"]

_logger = logging.getLogger(__name__)

# Seconds that an application may take to end once it was cancelled.
_CANCEL_TIME: Final = 1.0


class Lifespan:
    """Runs the lifespan of an application, in a task of its own.

    Args:
        app: The application.
        timeout: Seconds that start-up and shutdown may take, each.
        required: Whether an application that knows no lifespan is refused.

    Attributes:
        state: What the application has put aside at its start-up, for requests.
    """

    def __init__(self, app: ASGIApp, *, timeout: float = 30.0, required: bool = False) -> None:
        self._app = app
        self._timeout = timeout
        self._required = required
        self.state: dict[str, object] = {}
        self._started: asyncio.Future[str | None] | None = None
        self._stopped: asyncio.Future[str | None] | None = None
        self._stopping = asyncio.Event()
        self._asked = 0
        self._task: asyncio.Task[BaseException | None] | None = None

    async def startup(self) -> None:
        """Tell the application to start, and wait until it has.

        An application that knows no lifespan is fine, unless it has to.

        Raises:
            Error: If it says that it cannot start, or takes too long.
        """
        loop = asyncio.get_running_loop()
        self._started = loop.create_future()
        self._stopped = loop.create_future()
        self._stopping.clear()
        self._asked = 0
        self._task = asyncio.create_task(self._run(), name="asgi lifespan")
        try:
            await asyncio.wait(
                (self._started, self._task), timeout=self._timeout, return_when="FIRST_COMPLETED"
            )
            error = self._failure(self._started, self._task)
        except BaseException:
            await self._end()
            raise
        if error is not None:
            await self._end()
            raise error

    def _failure(
        self, started: asyncio.Future[str | None], task: asyncio.Task[BaseException | None]
    ) -> Error | None:
        if started.done():
            failure = started.result()
            if failure is not None:
                return application_error(f"the application did not start: {failure}")
            return None
        if not task.done():
            return application_error(f"the application did not start in {self._timeout} s")
        problem = None if task.cancelled() else task.result()
        if self._required or isinstance(problem, SystemExit):
            said = "it knows no lifespan" if problem is None else repr(problem)
            return application_error(f"the application did not start: {said}", cause=problem)
        if problem is not None and self._asked:
            # It is to be tolerated, but it may well be a bug in what it does at its start.
            _logger.warning("the application's lifespan is not used", exc_info=problem)
        else:
            _logger.info("the application has no lifespan: %r", problem)
        return None

    async def shutdown(self) -> None:
        """Tell the application to stop, and wait until it has; what goes wrong is logged."""
        task = self._task
        if task is None or self._stopped is None:
            return
        self._stopping.set()
        try:
            await asyncio.wait(
                (self._stopped, task), timeout=self._timeout, return_when="FIRST_COMPLETED"
            )
            if self._stopped.done() and (failure := self._stopped.result()) is not None:
                _logger.error("the application failed at its shutdown: %s", failure)
            elif not self._stopped.done() and not task.done():
                _logger.error("the application did not stop in %s s", self._timeout)
        finally:
            await self._end()

    async def _end(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            _, running = await asyncio.wait((task,), timeout=_CANCEL_TIME)
            if running:
                _logger.error("the application's lifespan goes on although it was cancelled")

    async def _run(self) -> BaseException | None:
        scope: Scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self._app(scope, self._receive, self._send)
        except (Exception, SystemExit) as problem:
            if self._started is not None and self._started.done() and not self._has_failed():
                _logger.exception("the lifespan of the application failed")
            return problem
        return None

    def _has_failed(self) -> bool:
        # Whether the application has said so itself; what it raises then is the same once more.
        return any(
            future is not None and future.done() and future.result() is not None
            for future in (self._started, self._stopped)
        )

    async def _receive(self) -> Message:
        self._asked += 1
        if self._asked == 1:
            return {"type": "lifespan.startup"}
        await self._stopping.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        match message["type"]:
            case "lifespan.startup.complete" | "lifespan.startup.failed" as kind:
                waiting = self._started
            case "lifespan.shutdown.complete" | "lifespan.shutdown.failed" as kind:
                waiting = self._stopped
            case kind:
                error = application_error(f"the application's lifespan sent {kind!r}")
                raise error
        failure = None
        if kind in {"lifespan.startup.failed", "lifespan.shutdown.failed"}:
            failure = str(message.get("message", "")) or str(kind)
        if waiting is not None and not waiting.done():
            waiting.set_result(failure)
