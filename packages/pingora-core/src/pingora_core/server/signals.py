"""What a server is told while it runs: signals of the operating system, or what stands for them."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import deque
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

__all__ = [
    "ControlSignal",
    "ManualShutdownSignal",
    "ServerSignal",
    "ShutdownSignal",
    "ShutdownSignalWatch",
    "UnixShutdownSignalWatch",
]


@final
class ShutdownSignal(Enum):
    """How a server can be asked to stop.

    Attributes:
        GRACEFUL_UPGRADE: Hand the listening sockets to a successor, then stop gracefully.
        GRACEFUL_TERMINATE: Accept no more, finish what is in flight, stop.
        FAST_SHUTDOWN: Stop now.

    Source: pingora-core/src/server/mod.rs.
    """

    GRACEFUL_UPGRADE = "GracefulUpgrade"
    GRACEFUL_TERMINATE = "GracefulTerminate"
    FAST_SHUTDOWN = "FastShutdown"


@final
class ControlSignal(Enum):
    """What a server can be asked to do while it goes on serving. Not in Pingora.

    Attributes:
        RELOAD: Read the configuration and the certificates again.
        REOPEN_LOGS: Close the log files and open them anew, after they were renamed.
        START_SUCCESSOR: Start this program once more and hand the listening sockets to it, then
            stop gracefully.
    """

    RELOAD = "Reload"
    REOPEN_LOGS = "ReopenLogs"
    START_SUCCESSOR = "StartSuccessor"


ServerSignal: TypeAlias = ShutdownSignal | ControlSignal


class ShutdownSignalWatch(Protocol):
    """Where a server learns what it should do."""

    async def recv(self) -> ServerSignal:
        """Wait for the next signal.

        Called once when the server starts, and again after each answer: a further signal while
        the server drains makes it stop at once. A watch with a single answer to give must
        therefore wait for ever when it is asked again.

        Returns:
            What the server should do.
        """
        ...


class _SignalQueue:
    """Signals that wait to be received."""

    __slots__ = ("_arrived", "_pending")

    def __init__(self) -> None:
        self._pending: deque[ServerSignal] = deque()
        self._arrived = asyncio.Event()

    def put(self, received: ServerSignal) -> None:
        self._pending.append(received)
        self._arrived.set()

    async def get(self) -> ServerSignal:
        while not self._pending:
            self._arrived.clear()
            await self._arrived.wait()
        return self._pending.popleft()


@final
class UnixShutdownSignalWatch:
    """Listens to the signals of the operating system.

    They are SIGINT (fast shutdown), SIGTERM (graceful), SIGQUIT (graceful upgrade), SIGHUP
    (reload), SIGUSR1 (reopen logs) and SIGUSR2 (start a successor). To be used as a context manager,
    around the time in which signals should be heard, in the main thread with the event loop running.

    Attributes:
        SIGNALS: What each signal asks for.
    """

    __slots__ = ("_loop", "_received")

    SIGNALS: Final[Mapping[signal.Signals, ServerSignal]] = {
        signal.SIGINT: ShutdownSignal.FAST_SHUTDOWN,
        signal.SIGTERM: ShutdownSignal.GRACEFUL_TERMINATE,
        signal.SIGQUIT: ShutdownSignal.GRACEFUL_UPGRADE,
        signal.SIGHUP: ControlSignal.RELOAD,
        signal.SIGUSR1: ControlSignal.REOPEN_LOGS,
        signal.SIGUSR2: ControlSignal.START_SUCCESSOR,
    }

    def __init__(self) -> None:
        self._received = _SignalQueue()
        self._loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> UnixShutdownSignalWatch:
        if threading.current_thread() is not threading.main_thread():
            msg = "signals reach the main thread only: pass a shutdown_signal to run elsewhere"
            raise RuntimeError(msg)
        self._loop = asyncio.get_running_loop()
        for number, meaning in self.SIGNALS.items():
            self._loop.add_signal_handler(number, self._received.put, meaning)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._loop is not None:
            for number in self.SIGNALS:
                self._loop.remove_signal_handler(number)

    async def recv(self) -> ServerSignal:
        """Wait for the next signal.

        Returns:
            What it means.
        """
        return await self._received.get()


@final
class ManualShutdownSignal:
    """Signals sent by a program itself, from any thread: for tests and for embedding a server."""

    __slots__ = ("_lock", "_loop", "_received", "_sent")

    def __init__(self) -> None:
        self._received = _SignalQueue()
        self._lock = threading.Lock()
        self._sent: list[ServerSignal] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def send(self, request: ServerSignal) -> None:
        """Ask the server to do something; before it listens, this waits for it.

        Args:
            request: What to do.
        """
        with self._lock:
            if self._loop is None:
                self._sent.append(request)
            else:
                # A loop that is closed has nothing left to stop.
                with suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._received.put, request)

    async def recv(self) -> ServerSignal:
        """Wait for the next signal.

        Returns:
            What was sent.
        """
        with self._lock:
            self._loop = asyncio.get_running_loop()
            for request in self._sent:
                self._received.put(request)
            self._sent.clear()
        return await self._received.get()
