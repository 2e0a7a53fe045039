"""The phases of a server's life, and how to be told of them."""

from __future__ import annotations

import asyncio
import logging
from enum import Enum
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ExecutionPhase", "PhaseAnnouncer", "PhaseWatch"]

_logger = logging.getLogger(__name__)


@final
class ExecutionPhase(Enum):
    """Where a server is in its life, in this order.

    A fast shutdown has neither ``GRACEFUL_TERMINATE`` nor ``SHUTDOWN_GRACE_PERIOD``.

    Attributes:
        SETUP: Made, and being told what to run.
        BOOTSTRAP: Checking everything before anything is started.
        BOOTSTRAP_COMPLETE: All of it is in order.
        RUNNING: Signals are heard and every service is ready.
        GRACEFUL_UPGRADE_TRANSFERRING_FDS: Handing the listening sockets to a successor.
        GRACEFUL_UPGRADE_CLOSE_TIMEOUT: Serving beside the successor for a moment.
        GRACEFUL_TERMINATE: Asked to stop without breaking off what is in flight.
        SHUTDOWN_STARTED: The services are being told to stop.
        SHUTDOWN_GRACE_PERIOD: Waiting until nothing is in flight.
        SHUTDOWN_RUNTIMES: Breaking off what is left.
        TERMINATED: Nothing runs any more.

    Source: pingora-core/src/server/mod.rs.
    """

    SETUP = "Setup"
    BOOTSTRAP = "Bootstrap"
    BOOTSTRAP_COMPLETE = "BootstrapComplete"
    RUNNING = "Running"
    GRACEFUL_UPGRADE_TRANSFERRING_FDS = "GracefulUpgradeTransferringFds"
    GRACEFUL_UPGRADE_CLOSE_TIMEOUT = "GracefulUpgradeCloseTimeout"
    GRACEFUL_TERMINATE = "GracefulTerminate"
    SHUTDOWN_STARTED = "ShutdownStarted"
    SHUTDOWN_GRACE_PERIOD = "ShutdownGracePeriod"
    SHUTDOWN_RUNTIMES = "ShutdownRuntimes"
    TERMINATED = "Terminated"

    def __str__(self) -> str:
        return self.value


@final
class PhaseWatch:
    """The phases that a server enters from now on, to be iterated with ``async for``.

    Phases that come while nobody iterates are kept. The iteration ends after ``TERMINATED``. For
    the event loop that the server runs in; other threads subscribe a callback instead.
    """

    __slots__ = ("_phases",)

    def __init__(self) -> None:
        self._phases: asyncio.Queue[ExecutionPhase | None] = asyncio.Queue()

    def __aiter__(self) -> PhaseWatch:
        return self

    async def __anext__(self) -> ExecutionPhase:
        phase = await self._phases.get()
        if phase is None:
            self._phases.put_nowait(None)
            raise StopAsyncIteration
        return phase

    def push(self, phase: ExecutionPhase) -> None:
        """Add a phase; for the announcer.

        Args:
            phase: What the server has entered.
        """
        self._phases.put_nowait(phase)
        if phase is ExecutionPhase.TERMINATED:
            self._phases.put_nowait(None)


@final
class PhaseAnnouncer:
    """Keeps the phase a server is in and tells those who want to know."""

    __slots__ = ("_callbacks", "_level", "_phase")

    def __init__(self) -> None:
        self._phase = ExecutionPhase.SETUP
        self._level = logging.INFO
        self._callbacks: dict[object, Callable[[ExecutionPhase], None]] = {}

    @property
    def phase(self) -> ExecutionPhase:
        """Where the server is now."""
        return self._phase

    def enter(self, phase: ExecutionPhase) -> None:
        """Go on to a phase and tell it.

        Args:
            phase: The next one.
        """
        self._phase = phase
        _logger.log(self._level, "phase %s", phase.value)
        for callback in tuple(self._callbacks.values()):
            try:
                callback(phase)
            except Exception:
                _logger.exception("a phase callback failed: %r", callback)

    def lower_voice(self) -> None:
        """Log phases for debugging only; for a worker, one of many that all enter the same."""
        self._level = logging.DEBUG

    def subscribe(self, callback: Callable[[ExecutionPhase], None]) -> Callable[[], None]:
        """Have a function called with each phase that is entered from now on.

        Args:
            callback: Called in the server's thread; must not block; what it raises is logged.

        Returns:
            A function that takes the subscription back.
        """
        token = object()
        self._callbacks[token] = callback

        def unsubscribe() -> None:
            self._callbacks.pop(token, None)

        return unsubscribe

    def watch(self) -> PhaseWatch:
        """Watch the phases from now on.

        Returns:
            Something to iterate with ``async for``.
        """
        watch = PhaseWatch()
        self.subscribe(watch.push)
        return watch
