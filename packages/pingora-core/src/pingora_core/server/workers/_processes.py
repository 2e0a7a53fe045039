"""What the supervisor knows of its workers: each process, and when to start one again."""

from __future__ import annotations

import os
import signal
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, final

from pingora_core.server.signals import ShutdownSignal
from pingora_core.server.workers.channel import Stop
from pingora_error import Error

if TYPE_CHECKING:
    from pingora_core.conf import ServerConf
    from pingora_core.server.workers.channel import Channel, Failed, ToWorker

__all__ = [
    "Order",
    "RecycleQueue",
    "RestartPolicy",
    "WorkerProcess",
    "WorkerState",
    "describe_exit",
]

_FIRST_PAUSE: Final = 0.1
_MAX_PAUSE: Final = 30.0

_STOP_MARGIN: Final = 5.0
"""What a worker may take to stop beyond the sum of its own deadlines, seconds."""


class WorkerState(Enum):
    """How far a worker has come.

    Attributes:
        STARTING: Forked, not ready yet.
        READY: Serving.
        STOPPING: Told to stop.
    """

    STARTING = auto()
    READY = auto()
    STOPPING = auto()


@final
@dataclass(slots=True, eq=False, kw_only=True)
class WorkerProcess:
    """One worker, from fork to exit.

    Attributes:
        pid: Its process.
        index: Its number; a replacement has that of the worker it replaces.
        channel: The line to it.
        generation: How many reloads had been done when it was forked.
        last_beat: When it gave the last sign of life, seconds of the supervisor's clock.
        state: How far it has come.
        is_leader: Whether it runs the services that run in one worker only.
        replaces: The worker that is stopped when this one is ready; None for none.
        keys: Where it listens.
        failure: What it said before it ended; None for nothing.
        kill_at: When it is killed if it has not ended; None while it may live. Seconds.
    """

    pid: int
    index: int
    channel: Channel
    generation: int
    last_beat: float
    state: WorkerState = WorkerState.STARTING
    is_leader: bool = False
    replaces: WorkerProcess | None = None
    keys: set[str] = field(default_factory=set)
    failure: Failed | None = None
    kill_at: float | None = None

    def send(self, message: ToWorker, fds: tuple[int, ...] = ()) -> bool:
        """Say something to it.

        Args:
            message: What.
            fds: Descriptors that go with it; they stay the caller's.

        Returns:
            Whether it can be heard; one that is dead, or hangs, cannot.
        """
        try:
            self.channel.send(message, fds)
        except Error:
            return False
        return True

    def stop(self, now: float, conf: ServerConf) -> None:
        """Tell it to stop in the graceful way, while others go on.

        Args:
            now: The time, seconds.
            conf: Tells how long that may take.
        """
        self.state = WorkerState.STOPPING
        self.kill_at = now + conf.grace_period + conf.graceful_shutdown_timeout + _STOP_MARGIN
        self.send(Stop(ShutdownSignal.GRACEFUL_TERMINATE, is_whole_server=False))

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal.

        Args:
            number: Which one.
        """
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def __str__(self) -> str:
        return f"worker {self.index} ({self.pid})"


@final
@dataclass(frozen=True, slots=True)
class Order:
    """A worker to be forked.

    Attributes:
        index: Its number.
        replaces: The worker that serves until this one is ready; None for none.
    """

    index: int
    replaces: WorkerProcess | None = None


@final
class RestartPolicy:
    """When one worker's place is filled again after a crash, and when no more.

    The first restart is immediate; then the pause doubles, up to half a minute.

    Args:
        limit: Crashes within the window that are put up with.
        window: What counts as recent, seconds.
    """

    def __init__(self, limit: int, window: float) -> None:
        self._limit = limit
        self._window = window
        self._crashes: deque[float] = deque()

    def crashed(self, now: float) -> float | None:
        """Note a crash.

        Args:
            now: The time, seconds.

        Returns:
            How long to wait before the next start, seconds; None if there were too many.
        """
        self._crashes.append(now)
        while self._crashes[0] <= now - self._window:
            self._crashes.popleft()
        count = len(self._crashes)
        if count > self._limit:
            return None
        return 0.0 if count == 1 else min(_FIRST_PAUSE * 2 ** min(count - 2, 16), _MAX_PAUSE)


@final
class RecycleQueue:
    """Workers that ask to be replaced, one of whom is at a time."""

    def __init__(self) -> None:
        self._waiting: deque[WorkerProcess] = deque()

    def ask(self, worker: WorkerProcess) -> WorkerProcess | None:
        """Put a worker in the queue.

        Args:
            worker: It serves.

        Returns:
            It, if it is to be replaced now; None if another one is.
        """
        self._waiting.append(worker)
        return worker if len(self._waiting) == 1 else None

    def done(self, old: WorkerProcess) -> WorkerProcess | None:
        """Take a worker out of the queue that was replaced, or could not be.

        Args:
            old: Which one.

        Returns:
            The next one to be replaced; None for none. Those that ended meanwhile are not.
        """
        if old in self._waiting:
            self._waiting.remove(old)
        while self._waiting and self._waiting[0].state is not WorkerState.READY:
            self._waiting.popleft()
        return self._waiting[0] if self._waiting else None


def describe_exit(status: int) -> str:
    """Word the end of a process.

    Args:
        status: As ``waitpid`` gives it.

    Returns:
        Such as ``exit code 1`` or ``SIGKILL``.
    """
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
