"""A worker process, from the fork to its end, and its side of the line to the supervisor.

Theory of operation: `WorkerLink` is everything that surrounds the services of a worker: the
supervisor's orders come out of it as signals, its own news (ready, a beat every second, a limit
reached) go into it. When the line breaks the supervisor is dead, and the worker stops in the
graceful way: nobody would replace or upgrade it any more.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import random
import resource
import signal
import socket
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from pingora_core.conf import CONFIG_ERROR, ServerConf
from pingora_core.runtime.counters import COUNTERS
from pingora_core.server.host import LifecycleHost
from pingora_core.server.signals import ControlSignal, ShutdownSignal
from pingora_core.server.workers.channel import (
    Beat,
    Failed,
    Lead,
    Obtain,
    Ready,
    Recycle,
    Released,
    Reload,
    Reloaded,
    ReopenLogs,
    Resigned,
    Stop,
    Supply,
    unpack_text,
)
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pingora_core.listeners.fds import ListenFds
    from pingora_core.listeners.l4 import ServerAddress
    from pingora_core.server.signals import ServerSignal
    from pingora_core.server.workers.channel import Channel, FromWorker, ToWorker

__all__ = ["BEAT_INTERVAL", "DUMP_SIGNAL", "WorkerLink", "become_worker"]

_logger = logging.getLogger(__name__)

BEAT_INTERVAL: Final = 1.0
"""Time between two signs of life, seconds."""

DUMP_SIGNAL: Final = signal.SIGUSR2
"""Makes a worker write to standard error what all its threads are doing."""

_OBTAIN_TIMEOUT: Final = 60.0
"""How long the supervisor may take to bind an address, seconds; it may have to wait for it."""

_MAX_MESSAGE: Final = 8192

_STATM: Final = Path("/proc/self/statm")


@final
class WorkerLink(LifecycleHost):
    """The worker's side of the line: host of its services, source of signals and of sockets.

    Args:
        channel: To the supervisor.
        conf: Its recycling limits are heeded.
        inherited: The supervisor's sockets.

    Attributes:
        fds: The listening sockets of the worker.
    """

    def __init__(self, channel: Channel, conf: ServerConf, inherited: ListenFds) -> None:
        self.fds: ListenFds = inherited.for_worker(self)
        self._channel = channel
        self._conf = conf
        self._signals: deque[ServerSignal] = deque()
        self._arrived = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._beat: asyncio.TimerHandle | None = None
        self._lame_duck = 0.0
        self._is_stopping = False
        self._has_asked = False
        self._is_alone = False
        self._new_conf: ServerConf | None = None
        self._waiters: dict[str, asyncio.Future[socket.socket]] = {}
        self._max_requests = _with_jitter(conf)
        self._apply: Callable[[ServerConf], Awaitable[None]] | None = None
        self._reopen: Callable[[], None] | None = None
        self._lead: Callable[[], None] | None = None

    def attach(
        self,
        *,
        lead: Callable[[], None],
        apply: Callable[[ServerConf], Awaitable[None]],
        reopen: Callable[[], None],
    ) -> None:
        """Begin to listen to the supervisor, in the running event loop.

        Args:
            lead: Starts the services that run in one worker only.
            apply: Takes on a configuration.
            reopen: Opens the log files anew.
        """
        self._lead, self._apply, self._reopen = lead, apply, reopen
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._channel.fileno(), self._readable)
        self._loop.add_signal_handler(signal.SIGTERM, self._terminated)
        self._give_sign_of_life()

    def detach(self) -> None:
        """Listen no more; the supervisor sees the end of the process."""
        if self._loop is not None:
            if self._channel.fileno() >= 0:
                self._loop.remove_reader(self._channel.fileno())
            self._loop.remove_signal_handler(signal.SIGTERM)
        if self._beat is not None:
            self._beat.cancel()

    # ---------------------------------------------------------------------- signals

    async def recv(self) -> ServerSignal:
        """Wait for the next order of the supervisor's.

        Returns:
            What it means.
        """
        while not self._signals:
            self._arrived.clear()
            await self._arrived.wait()
        return self._signals.popleft()

    def _put(self, received: ServerSignal) -> None:
        self._signals.append(received)
        self._arrived.set()

    def _stop(self, how: ShutdownSignal) -> None:
        # The operating system and the supervisor may both say it; only a change is news.
        if self._is_stopping and how is not ShutdownSignal.FAST_SHUTDOWN:
            return
        self._is_stopping = True
        self._put(how)

    def _terminated(self) -> None:
        self._stop(ShutdownSignal.GRACEFUL_TERMINATE)

    def _readable(self) -> None:
        while self._loop is not None:
            try:
                received = self._channel.receive_from_supervisor()
            except BlockingIOError:
                return
            except Error as error:
                _logger.error("%s", error)
                continue
            if received is None:
                self._abandoned()
                return
            self._heed(*received)

    def _abandoned(self) -> None:
        assert self._loop is not None
        self._loop.remove_reader(self._channel.fileno())
        self._is_alone = True
        self.fds.take_over()
        self.fds.serves_backlog = True
        if self._is_stopping:
            return
        _logger.error("the supervisor is gone: this worker finishes what is in flight and ends")
        self._stop(ShutdownSignal.GRACEFUL_TERMINATE)

    def _heed(self, message: ToWorker, fds: Sequence[int]) -> None:
        match message:
            case Stop():
                self._lame_duck = message.lame_duck
                self.fds.serves_backlog = message.is_whole_server
                if message.is_whole_server:
                    self.fds.take_over()
                self._stop(message.how)
            case Reload():
                try:
                    self._new_conf = ServerConf.from_yaml(
                        unpack_text(fds), source=message.source, quiet=True
                    )
                except Error as error:
                    self._send(Reloaded(str(error)))
                else:
                    self._put(ControlSignal.RELOAD)
            case ReopenLogs():
                self._put(ControlSignal.REOPEN_LOGS)
            case Lead():
                if self._lead is not None:
                    self._lead()
            case Supply():
                self._supplied(message, fds)

    # -------------------------------------------------------------------------- news

    def _send(self, message: FromWorker) -> None:
        with suppress(Error):  # what cannot be said to a dead supervisor is noticed otherwise
            self._channel.send(message)

    def running(self) -> None:
        """Tell the supervisor that every service is ready, and where they listen."""
        self._send(Ready(tuple(sorted(self.fds.in_use))))

    def failed(self, error: Error) -> None:
        """Tell the supervisor why this worker ends.

        Args:
            error: What stops the server.
        """
        is_config = error.root_etype == CONFIG_ERROR
        message = error.context if error.etype == CONFIG_ERROR else error
        self._send(Failed(" ".join(str(message).split())[:_MAX_MESSAGE], is_config))

    def resigned(self) -> None:
        """Tell the supervisor that another worker may lead."""
        self._send(Resigned())

    def lame_duck(self, conf: ServerConf) -> float:  # noqa: ARG002 - the supervisor decides
        """Tell how long to go on accepting while not ready.

        Args:
            conf: Not looked at.

        Returns:
            What the supervisor said, seconds.
        """
        return self._lame_duck

    def reopen_logs(self) -> None:
        """Open the log files anew."""
        if self._reopen is not None:
            self._reopen()

    async def reload(self) -> None:
        """Take on the configuration that the supervisor has sent, and tell it how that went.

        Raises:
            Error: If something refused it.
        """
        conf, self._new_conf = self._new_conf, None
        if conf is None or self._apply is None:
            return  # two reloads came close together, the later configuration is in place
        self._conf = conf
        self._max_requests = _with_jitter(conf)
        try:
            await self._apply(conf)
        except Exception as error:
            self._send(Reloaded(" ".join(str(error).split())))
            raise
        self._send(Reloaded())

    def _give_sign_of_life(self) -> None:
        assert self._loop is not None
        self._beat = self._loop.call_later(BEAT_INTERVAL, self._give_sign_of_life)
        memory = _resident_memory()
        if not self._is_alone:
            self._send(Beat(COUNTERS.requests, memory))
        if self._is_stopping or self._has_asked:
            return
        reason = ""
        if self._max_requests is not None and COUNTERS.requests >= self._max_requests:
            reason = f"it has served {COUNTERS.requests} requests"
        elif self._conf.worker_max_memory is not None and memory > self._conf.worker_max_memory:
            reason = f"it occupies {memory} bytes"
        if reason:
            self._has_asked = True
            self._send(Recycle(reason))

    # ----------------------------------------------------------------------- sockets

    async def obtain(self, address: ServerAddress) -> socket.socket:
        """Have the supervisor make a listening socket, or get the one it has.

        Args:
            address: Where.

        Returns:
            The socket, the caller's.

        Raises:
            Error: ``BIND_ERROR`` naming the address.
        """
        key = address.key
        waiter: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        self._waiters[key] = waiter
        try:
            self._channel.send(Obtain.of(address))
            async with asyncio.timeout(_OBTAIN_TIMEOUT):
                return await waiter
        except TimeoutError as error:
            context = f"listen on {key}: the supervisor does not answer"
            raise Error(
                ErrorType.BIND_ERROR, context, source=ErrorSource.INTERNAL, cause=error
            ) from error
        finally:
            del self._waiters[key]

    def released(self, address: ServerAddress) -> None:
        """Tell the supervisor that this worker does not listen there any more.

        Args:
            address: Where.
        """
        if not self._is_stopping:
            self._send(Released(address.key))

    def _supplied(self, message: Supply, fds: Sequence[int]) -> None:
        waiter = self._waiters.get(message.key)
        if waiter is None or waiter.done() or len(fds) != 1:
            for fd in fds:
                os.close(fd)
        if waiter is None or waiter.done():
            return
        if len(fds) == 1:
            waiter.set_result(socket.socket(fileno=fds[0]))
            return
        failure = message.failure or f"listen on {message.key}: no socket came"
        waiter.set_exception(Error(ErrorType.BIND_ERROR, failure, source=ErrorSource.INTERNAL))


def _resident_memory() -> int:
    """Tell what this process occupies.

    Returns:
        Bytes in memory; 0 where the system does not say.
    """
    try:
        return int(_STATM.read_bytes().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0


def _with_jitter(conf: ServerConf) -> int | None:
    # Workers that started together must not all be replaced at once.
    if conf.worker_max_requests is None:
        return None
    return conf.worker_max_requests + random.randint(0, conf.worker_max_requests_jitter)  # noqa: S311


def become_worker(index: int, conf: ServerConf) -> None:
    """Make a process that was just forked a worker: its signals and its processors.

    Args:
        index: Its number, from 0.
        conf: Tells the processors.
    """
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
        # Typed at a terminal they go to all processes; what they mean here the supervisor says.
        signal.signal(number, signal.SIG_IGN)
    # What a worker that hangs was doing is told before it is killed.
    faulthandler.register(DUMP_SIGNAL, chain=False)
    cpus = conf.worker_cpus(index)
    if cpus:
        try:
            os.sched_setaffinity(0, cpus)
        except OSError as error:
            _logger.warning("worker %d cannot be bound to CPUs %s: %s", index, sorted(cpus), error)
