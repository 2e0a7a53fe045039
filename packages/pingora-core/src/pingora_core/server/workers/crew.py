"""The workers of a supervisor: which are to be started, which live, and who leads them.

Theory of operation: a worker has a place, its index. `Crew` decides that a place is to be filled
and queues an `Order`; whoever can fork carries it out and reports with `forked`. From then on the
worker's messages, its signs of life and its end come in here. Of a planned replacement the new
worker is ready before the old one is stopped; there is one of these at a time.
"""

from __future__ import annotations

import logging
import os
import signal
from collections import deque
from typing import TYPE_CHECKING, Final, final

from pingora_core.conf import CONFIG_ERROR
from pingora_core.server.signals import ShutdownSignal
from pingora_core.server.workers._leadership import Leadership
from pingora_core.server.workers._processes import (
    Order,
    RecycleQueue,
    RestartPolicy,
    WorkerProcess,
    WorkerState,
    describe_exit,
)
from pingora_core.server.workers._pulse import Pulse
from pingora_core.server.workers._supply import SocketSupply
from pingora_core.server.workers.channel import (
    Beat,
    Failed,
    Obtain,
    Ready,
    Recycle,
    Released,
    Reloaded,
    Resigned,
    Stop,
)
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from pingora_core.conf import ServerConf
    from pingora_core.listeners.fds import ListenFds
    from pingora_core.server.workers.channel import Channel, FromWorker, ToWorker

__all__ = ["Crew"]

_logger = logging.getLogger(__name__)

_RESIGN_TIMEOUT: Final = 5.0
"""After which a worker that was told to stop is no leader any more, seconds."""


@final
class Crew:
    """The workers of a server.

    Args:
        conf: How many, and their limits.
        fds: The listening sockets.
        loop: The supervisor's event loop.
        on_change: Called when the properties may have changed.
        clock: Tells the time, seconds; None for the loop's.

    Attributes:
        conf: As given; replaced by a reload.
        failure: Why the server has to stop; None as long as it has not. The first one stays.
        generation: How many reloads there were; the supervisor counts.
        on_reloaded: Called with a worker and its answer to a reload.
        on_late: Called with a worker that became ready and was forked before the last reload.
    """

    def __init__(
        self,
        conf: ServerConf,
        fds: ListenFds,
        loop: asyncio.AbstractEventLoop,
        on_change: Callable[[], None],
        *,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.conf: ServerConf = conf
        self.failure: Error | None = None
        self.generation: int = 0
        self.on_reloaded: Callable[[WorkerProcess, str | None], None] | None = None
        self.on_late: Callable[[WorkerProcess], None] | None = None
        self._loop = loop
        self._clock = loop.time if clock is None else clock
        self._on_change = on_change
        self._supply = SocketSupply(fds, self)
        self._workers: dict[int, WorkerProcess] = {}
        self._places: dict[int, RestartPolicy] = {}
        self._orders: deque[Order] = deque()
        self._recycling = RecycleQueue()
        self._timers: set[asyncio.TimerHandle] = set()
        self._leadership = Leadership()
        self._was_ready = False
        self._is_stopping = False
        self._pulse = Pulse(self._clock())

    # ------------------------------------------------------------------------- state

    @property
    def workers(self) -> list[WorkerProcess]:
        """All that live."""
        return list(self._workers.values())

    @property
    def serving(self) -> list[WorkerProcess]:
        """Those that are ready, by index."""
        ready = [each for each in self._workers.values() if each.state is WorkerState.READY]
        return sorted(ready, key=lambda worker: worker.index)

    @property
    def is_ready(self) -> bool:
        """Whether every place has been filled with a worker that was ready."""
        return self._was_ready

    @property
    def has_ended(self) -> bool:
        """Whether no worker lives."""
        return not self._workers

    @property
    def has_leader(self) -> bool:
        """Whether a worker leads; the next one to be forked does if none."""
        return not self._leadership.is_vacant

    def take_order(self) -> Order | None:
        """Tell which worker is to be forked next.

        Returns:
            It, for once; None if none is.
        """
        return self._orders.popleft() if self._orders else None

    # ----------------------------------------------------------------------- control

    def resize(self, count: int) -> None:
        """Fill as many places; stop the workers of those that are too many.

        Args:
            count: How many, at least 1.
        """
        limit, window = self.conf.worker_restart_limit, self.conf.worker_restart_window_seconds
        for index in range(count):
            if index not in self._places:
                self._places[index] = RestartPolicy(limit, window)
                self._order(Order(index))
        self._places = {i: policy for i, policy in self._places.items() if i < count}
        for worker in self.workers:
            if worker.index >= count:
                self._stop_one(worker)

    def stop(self, how: ShutdownSignal, *, lame_duck: float, is_whole_server: bool) -> None:
        """Tell all workers to stop, and start no more.

        Args:
            how: In which way.
            lame_duck: How long they go on accepting, seconds.
            is_whole_server: Whether no successor has the sockets.
        """
        self._is_stopping = True
        self._orders.clear()
        for timer in self._timers:
            timer.cancel()
        if how is not ShutdownSignal.FAST_SHUTDOWN:
            how = ShutdownSignal.GRACEFUL_TERMINATE  # a successor is not the workers' business
        self.broadcast(Stop(how, lame_duck, is_whole_server))

    def kill(self) -> None:
        """Kill all workers that are left."""
        for worker in self.workers:
            _logger.error("%s would not end and is killed", worker)
            worker.signal(signal.SIGKILL)

    def broadcast(self, message: ToWorker) -> None:
        """Say something to all workers.

        Args:
            message: What.
        """
        for worker in self.workers:
            worker.send(message)

    def forget(self) -> None:
        """Close this process's copies of the lines; in a child that was just forked."""
        for worker in self.workers:
            worker.channel.close()

    # --------------------------------------------------------------------- lifecycle

    def forked(self, order: Order, pid: int, channel: Channel) -> None:
        """Be told that a worker was started.

        Args:
            order: Which one.
            pid: Its process.
            channel: The line to it.
        """
        worker = WorkerProcess(
            pid=pid,
            index=order.index,
            channel=channel,
            generation=self.generation,
            last_beat=self._clock(),
            replaces=order.replaces,
        )
        self._workers[pid] = worker
        if self._leadership.is_vacant:
            self._leadership.born_with(worker)
        self._loop.add_reader(channel.fileno(), self._readable, worker)
        _logger.info("%s started", worker)

    def fork_failed(self, order: Order, error: OSError) -> None:
        """Be told that a worker could not be started.

        Args:
            order: Which one.
            error: Why.
        """
        if order.replaces is not None:
            _logger.error("worker %d is not replaced: %s", order.index, error.strerror)
            self._recycling_done(order.replaces)
            return
        self._restart(order, f"worker {order.index} cannot be started: {error.strerror}")

    def reap(self) -> None:
        """Look which workers have ended."""
        for worker in self.workers:
            try:
                pid, status = os.waitpid(worker.pid, os.WNOHANG)
            except ChildProcessError:  # somebody else has waited for it
                pid, status = worker.pid, 0
            if pid:
                self._readable(worker)  # its last words
                self._ended(worker, status)

    def _ended(self, worker: WorkerProcess, status: int) -> None:
        del self._workers[worker.pid]
        self._loop.remove_reader(worker.channel.fileno())
        worker.channel.close()
        self._leadership.resign(worker)
        what = f"{worker} ended with {describe_exit(status)}"
        if self._is_stopping or worker.state is WorkerState.STOPPING:
            _logger.info("%s", what)
        elif worker.failure is not None and (
            worker.state is WorkerState.READY or not self._was_ready
        ):
            self._fail(worker.failure)
        elif worker.replaces is not None:
            _logger.error("%s before it was ready: %s goes on", what, worker.replaces)
        elif status == 0:
            _logger.warning("%s without being told to", what)
            self._order(Order(worker.index))
        else:
            why = f"{what}: {worker.failure.message}" if worker.failure else what
            self._restart(Order(worker.index), why)
        if worker.replaces is not None:
            self._recycling_done(worker.replaces)
        self._supply.close_unused()
        self._choose_leader()
        self._on_change()

    def _restart(self, order: Order, why: str) -> None:
        policy = self._places.get(order.index)
        if policy is None or self._is_stopping:
            return
        pause = policy.crashed(self._clock())
        if pause is None and not self.serving:
            limit = self.conf.worker_restart_limit
            often = f"more than {limit} times within {self.conf.worker_restart_window_seconds:g} s"
            self._fail(Failed(f"{why}; this happened {often}", is_config=False))
            return
        if pause is None:
            pause = self.conf.worker_restart_window_seconds
        _logger.error("%s; it is started again in %.1f s", why, pause)
        if pause == 0:
            self._order(order)
        else:
            self._later(pause, lambda: self._order(order))

    def _order(self, order: Order) -> None:
        if order.index in self._places and not self._is_stopping:
            self._orders.append(order)
        self._on_change()

    def _fail(self, failed: Failed) -> None:
        if self.failure is None:
            kind = CONFIG_ERROR if failed.is_config else ErrorType.INTERNAL_ERROR
            self.failure = Error(kind, failed.message, source=ErrorSource.INTERNAL)
        self._on_change()

    def _later(self, pause: float, act: Callable[[], None]) -> None:
        def run() -> None:
            self._timers.discard(timer)
            act()

        timer = self._loop.call_later(pause, run)
        self._timers.add(timer)

    # ---------------------------------------------------------------------- messages

    def _readable(self, worker: WorkerProcess) -> None:
        while True:
            try:
                received = worker.channel.receive_from_worker()
            except BlockingIOError:
                return
            except (Error, OSError) as error:
                _logger.error("%s: %s", worker, error)
                return
            if received is None:
                self._loop.remove_reader(worker.channel.fileno())
                return
            message, fds = received
            for fd in fds:  # nothing that a worker has to say needs any
                os.close(fd)
            self._heard(worker, message)

    def _heard(self, worker: WorkerProcess, message: FromWorker) -> None:
        worker.last_beat = self._clock()
        match message:
            case Beat():
                pass
            case Ready():
                self._is_now_ready(worker, message.keys)
            case Recycle():
                self._recycle(worker, message.reason)
            case Resigned():
                self._resigned(worker)
            case Reloaded():
                if self.on_reloaded is not None:
                    self.on_reloaded(worker, message.failure)
            case Failed():
                worker.failure = message
            case Obtain():
                self._supply.obtain(worker, message)
            case Released():
                self._supply.released(worker, message.key)

    def _is_now_ready(self, worker: WorkerProcess, keys: Sequence[str]) -> None:
        worker.keys = set(keys)
        if worker.state is WorkerState.STARTING:
            worker.state = WorkerState.READY
        if worker.replaces is not None:
            old, worker.replaces = worker.replaces, None
            self._recycling_done(old)
            self._stop_one(old)
        self._supply.close_unused()
        filled = {each.index for each in self._workers.values() if each.state is WorkerState.READY}
        self._was_ready = self._was_ready or filled >= set(self._places)
        if worker.generation != self.generation and self.on_late is not None:
            self.on_late(worker)
        self._choose_leader()
        self._on_change()

    # --------------------------------------------------------------------- recycling

    def _recycle(self, worker: WorkerProcess, reason: str) -> None:
        if worker.state is not WorkerState.READY or self._is_stopping:
            return
        _logger.info("%s is replaced: %s", worker, reason)
        self._replace_next(self._recycling.ask(worker))

    def _recycling_done(self, old: WorkerProcess) -> None:
        self._replace_next(self._recycling.done(old))

    def _replace_next(self, worker: WorkerProcess | None) -> None:
        if worker is not None:
            self._order(Order(worker.index, replaces=worker))

    def _stop_one(self, worker: WorkerProcess) -> None:
        if worker.pid not in self._workers or worker.state is WorkerState.STOPPING:
            return
        worker.stop(self._clock(), self.conf)
        if self._leadership.is_held_by(worker):
            self._later(_RESIGN_TIMEOUT, lambda: self._resigned(worker))

    # -------------------------------------------------------------------- leadership

    def _resigned(self, worker: WorkerProcess) -> None:
        self._leadership.resign(worker)
        self._choose_leader()

    def _choose_leader(self) -> None:
        if not self._is_stopping:
            self._leadership.fill(self.serving)

    # ------------------------------------------------------------------------- pulse

    def check_pulse(self) -> None:
        """Kill the workers that do not answer or would not end; to be called every second."""
        timeout = self.conf.worker_heartbeat_timeout_seconds
        self._pulse.check(self.workers, self._clock(), timeout, self._later)
