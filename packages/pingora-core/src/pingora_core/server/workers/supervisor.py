"""The supervisor of several workers: it holds the sockets, hears signals, and serves nothing.

Theory of operation: it has one thread, and an event loop that is never running while it forks:
`supervise` runs the loop until a worker is to be forked, forks, and runs it again. So a child
inherits nothing half done, and closes what it inherits in one place. What the server is told
(reload, upgrade, stop) is passed on to the workers, which do it each for itself; `Crew` keeps
them running.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import selectors
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeAlias, final

from pingora_core.server.host import LifecycleHost
from pingora_core.server.orders import Orders
from pingora_core.server.phases import ExecutionPhase
from pingora_core.server.signals import (
    ShutdownSignal,
    UnixShutdownSignalWatch,
)
from pingora_core.server.system.watchdog import SystemdWatchdog
from pingora_core.server.upgrade.upgrade import upgrade
from pingora_core.server.workers._reload_round import ReloadRound
from pingora_core.server.workers.channel import Channel, ReopenLogs
from pingora_core.server.workers.crew import Crew
from pingora_core.server.workers.worker import BEAT_INTERVAL
from pingora_error import Error

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.server.launch import Launch
    from pingora_core.server.live_conf import LiveConfiguration
    from pingora_core.server.phases import PhaseAnnouncer
    from pingora_core.server.signals import ShutdownSignalWatch
    from pingora_core.server.workers._processes import Order

    BeWorker: TypeAlias = Callable[[Channel, int, bool], int]

__all__ = ["Supervisor", "supervise"]

_logger = logging.getLogger(__name__)

_EXIT_MARGIN: Final = 2.0
"""What the processes may take to end beyond the deadlines of their services, seconds."""

_KILL_TIMEOUT: Final = 5.0

_REFUSAL_MARGIN: Final = 0.1


@final
class Supervisor(LifecycleHost):
    """One run of a server with workers.

    Args:
        launched: The process, with the listening sockets.
        conf: The configuration in use.
        phases: Told what phase is entered.
        signals: Where the server is told what to do.

    Attributes:
        crew: The workers.
    """

    def __init__(
        self,
        launched: Launch,
        conf: LiveConfiguration,
        phases: PhaseAnnouncer,
        signals: ShutdownSignalWatch,
    ) -> None:
        fds = self._fds = launched.fds
        self._announcer = launched.announcer
        self._conf = conf
        self._phases = phases
        self._watch = signals
        self._changed = asyncio.Event()
        loop = asyncio.get_running_loop()
        self.crew: Crew = Crew(conf.current, fds, loop, self._changed.set)
        self._reloads = ReloadRound(self.crew)
        self._orders = Orders(self, phases, self._changed.set)
        self._is_forced = False
        self._life = loop.create_task(self._live(), name="supervisor")

    async def next_order(self) -> Order | None:
        """Supervise until a worker has to be forked.

        Returns:
            Which one; None at the end of the server.

        Raises:
            Error: Why the server stopped, if nobody told it to.
        """
        while not self._life.done():
            order = self.crew.take_order()
            if order is not None:
                return order
            changed = asyncio.ensure_future(self._changed.wait())
            try:
                await asyncio.wait([changed, self._life], return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
        await self._life
        return None

    def forget(self) -> None:
        """Close what a child that was just forked must not keep."""
        self.crew.forget()
        self._announcer.forget()

    # ------------------------------------------------------------------------ phases

    async def _live(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self.crew.reap)
        pulse = asyncio.create_task(self._keep_time(), name="pulse")
        self._orders.start(self._watch)
        try:
            self.crew.resize(self._conf.current.worker_count)
            how = await self._serve()
            self._orders.operate_no_more()
            await self._stop(how)
        finally:
            pulse.cancel()
            await asyncio.wait([pulse])
            await self._orders.end()
            loop.remove_signal_handler(signal.SIGCHLD)
        failure = self.crew.failure or self._orders.failure
        if failure is not None:
            raise failure

    async def _serve(self) -> ShutdownSignal:
        is_running = False
        while True:
            if self.crew.failure is not None or self._orders.failure is not None:
                # Its workers may have accepted what a predecessor would have served.
                graceful = ShutdownSignal.GRACEFUL_TERMINATE
                has_clients = is_running or self._fds.is_lent
                return graceful if has_clients else ShutdownSignal.FAST_SHUTDOWN
            if self._orders.shutdowns:
                return self._orders.shutdowns.popleft()
            if self.crew.is_ready and not is_running:
                is_running = True
                self._phases.enter(ExecutionPhase.RUNNING)
                self._running()
                continue
            await self._wait_for_change()

    def _running(self) -> None:
        try:
            self._announcer.ready()
        except Error as error:
            self.crew.failure = error
            return
        self._fds.take_over()
        for key in self._fds.close_unclaimed():
            _logger.warning("inherited socket %s is closed: nothing listens there", key)

    async def _wait_for_change(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    async def _keep_time(self) -> None:
        watchdog = SystemdWatchdog()
        while True:
            await asyncio.sleep(min(BEAT_INTERVAL, watchdog.interval))
            watchdog.feed(asyncio.get_running_loop().time())
            self.crew.check_pulse()

    # ------------------------------------------------------------------------ orders

    def reopen_logs(self) -> None:
        """Close the log files and open them anew, in all processes."""
        self._conf.reopen_logs()
        self.crew.broadcast(ReopenLogs())

    async def reload(self) -> None:
        """Load the configuration again and have all workers take it on.

        Raises:
            Error: If it is wrong, or the first worker refuses it; then nothing has changed.
        """
        self._announcer.reloading()
        try:
            conf = self._conf.load()
            await self._reloads.run(conf)
            self.crew.conf = conf
            self._conf.replace(conf)
            self.crew.resize(conf.worker_count)
        finally:
            self._announcer.reloaded()

    async def upgrade(self, on_transferred: Callable[[], None], *, start_successor: bool) -> None:
        """Hand the listening sockets to a successor; return when it is ready.

        Args:
            on_transferred: Called when it has them.
            start_successor: Whether to start it first.

        Raises:
            Error: If that failed; then everything is as before.
        """
        conf = self._conf.current
        await upgrade(conf, self._fds, on_transferred, start_successor=start_successor)

    # --------------------------------------------------------------------- stopping

    async def _stop(self, how: ShutdownSignal) -> None:
        conf = self._conf.current
        is_upgrade = how is ShutdownSignal.GRACEFUL_UPGRADE
        # A successor serves on, or a predecessor.
        is_whole_server = not is_upgrade and not self._fds.is_lent
        self._announcer.stopping(is_upgrade=is_upgrade)
        lame_duck = 0.0
        if how is ShutdownSignal.GRACEFUL_TERMINATE:
            self._phases.enter(ExecutionPhase.GRACEFUL_TERMINATE)
            lame_duck = 0.0 if self.crew.failure else conf.lame_duck_seconds
        if lame_duck:
            # A little longer, so that the queues grow no more when the workers empty them.
            longer = lame_duck + _REFUSAL_MARGIN
            self.crew.stop(how, lame_duck=longer, is_whole_server=is_whole_server)
            await self._ended_within(lame_duck)
        if is_whole_server:
            self._fds.refuse_connections()
        if not lame_duck:
            self.crew.stop(how, lame_duck=0.0, is_whole_server=is_whole_server)
        self._phases.enter(ExecutionPhase.SHUTDOWN_STARTED)
        # The workers have copies; the last of them to close its own takes the queue with it.
        self._fds.close()
        if how is not ShutdownSignal.FAST_SHUTDOWN and not self._is_forced:
            self._phases.enter(ExecutionPhase.SHUTDOWN_GRACE_PERIOD)
            await self._ended_within(conf.grace_period + _EXIT_MARGIN)
        if self._is_forced:
            fast = ShutdownSignal.FAST_SHUTDOWN
            self.crew.stop(fast, lame_duck=0.0, is_whole_server=is_whole_server)
        self._phases.enter(ExecutionPhase.SHUTDOWN_RUNTIMES)
        self._is_forced = False
        await self._ended_within(conf.graceful_shutdown_timeout + _EXIT_MARGIN)
        self.crew.kill()
        await self._ended_within(_KILL_TIMEOUT)
        self._phases.enter(ExecutionPhase.TERMINATED)

    async def _ended_within(self, limit: float) -> None:
        # Returns early if another signal comes.
        if limit <= 0:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while not self.crew.has_ended:
                    is_unasked = self.crew.failure is not None
                    if self._orders.is_told_to_hurry(began_unasked=is_unasked):
                        self._is_forced = True
                        return
                    await self._wait_for_change()


def supervise(  # noqa: PLR0917 - as long as the list is
    launched: Launch,
    conf: LiveConfiguration,
    phases: PhaseAnnouncer,
    be_worker: BeWorker,
    signals: ShutdownSignalWatch | None = None,
) -> None:
    """Run a server with workers until it is told to stop.

    Args:
        launched: The process, with the listening sockets.
        conf: The configuration in use.
        phases: Told what phase is entered.
        be_worker: Called in each child with the line to the supervisor, the worker's number from
            0, and whether it leads; returns the exit code.
        signals: Where the server is told what to do; None for the operating system's signals.

    Raises:
        Error: Why the server stopped, if nobody told it to.
    """
    # What is there by now is shared with the workers for as long as nobody touches it.
    gc.collect()
    gc.freeze()
    # Polled and not kept in the kernel: a child that closes its copy changes nothing here.
    loop = asyncio.SelectorEventLoop(selectors.PollSelector())
    try:
        watch = UnixShutdownSignalWatch() if signals is None else signals
        supervisor = loop.run_until_complete(_begin(launched, conf, phases, watch))
        while (order := loop.run_until_complete(supervisor.next_order())) is not None:
            _fork(loop, supervisor, be_worker, order)
    finally:
        _close(loop)


async def _begin(
    launched: Launch,
    conf: LiveConfiguration,
    phases: PhaseAnnouncer,
    signals: ShutdownSignalWatch,
) -> Supervisor:
    if isinstance(signals, UnixShutdownSignalWatch):
        signals.__enter__()  # until the loop is closed, here and in each child
    return Supervisor(launched, conf, phases, signals)


def _fork(
    loop: asyncio.AbstractEventLoop,
    supervisor: Supervisor,
    be_worker: BeWorker,
    order: Order,
) -> None:
    is_leader = not supervisor.crew.has_leader
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        ours, theirs = Channel.pair()
    except OSError as error:
        supervisor.crew.fork_failed(order, error)
        return
    try:
        pid = os.fork()
    except OSError as error:
        ours.close()
        theirs.close()
        supervisor.crew.fork_failed(order, error)
        return
    if pid == 0:
        code = 1
        try:
            ours.close()
            supervisor.forget()
            loop.close()
            code = be_worker(theirs, order.index, is_leader)
        except BaseException:
            _logger.exception("worker %d failed", order.index)
        finally:
            # Past everything that the supervisor has on its stack: that is not the worker's.
            logging.shutdown()
            with suppress(OSError, ValueError):
                sys.stdout.flush()
            with suppress(OSError, ValueError):
                sys.stderr.flush()
            os._exit(code)
    theirs.close()
    supervisor.crew.forked(order, pid, ours)


def _close(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=_KILL_TIMEOUT))
    loop.close()
