"""Applications on datagrams: what a UDP service runs on each of them.

Theory of operation. A task for each datagram costs more than half of what receiving and answering
it costs. So `DatagramApp` is called, not awaited: what can be answered from memory is answered there.
`AsyncDatagramApp` is for what has to wait: it has a task for each datagram, but not more than its
limit. When there are as many, the endpoints are not read; what comes waits in the socket, where
another worker may take it, and what finds no room there is dropped by the kernel, which counts it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from pingora_core.runtime import timers
from pingora_core.runtime.log_limit import LogLimit
from pingora_error import Error

if TYPE_CHECKING:
    from pingora_core.conf import ServerConf
    from pingora_core.protocols.l4.datagram import Datagram
    from pingora_core.protocols.l4.datagram_endpoint import DatagramEndpoint

__all__ = ["AsyncDatagramApp", "DatagramApp"]

_logger = logging.getLogger(__name__)


class DatagramApp(ABC):
    """An application on datagrams, called with one after the other.

    One object serves all endpoints of its service.
    """

    @abstractmethod
    def datagram_received(self, datagram: Datagram) -> None:
        """Do what a datagram asks for; must not block, since everybody else waits meanwhile.

        What it raises is logged, at a limited rate.

        Args:
            datagram: What has arrived; `Datagram.reply` answers it, now or later.
        """

    def attach(self, endpoint: DatagramEndpoint) -> None:  # noqa: B027 - a hook, not a duty
        """Be told of an endpoint before its first datagram; by default nothing.

        Args:
            endpoint: What will receive.
        """

    async def room(self) -> None:  # noqa: B027 - a hook, not a duty
        """Wait until another datagram can be taken; by default that is always so."""

    async def finish(self) -> None:  # noqa: B027 - a hook, not a duty
        """Wait until everything that was taken is answered; by default nothing is left.

        Called at a shutdown, after the last datagram. It may be cancelled, when the server does
        not wait any longer.
        """

    async def cleanup(self) -> None:  # noqa: B027 - a hook, not a duty
        """Release what the application holds; called once, at the end, on every path."""

    async def reload(self, conf: ServerConf) -> None:  # noqa: B027 - a hook, not a duty
        """Take over what has changed in the configuration; by default nothing.

        Args:
            conf: The new configuration.
        """


class AsyncDatagramApp(DatagramApp):
    """An application that has to wait for something before it can answer.

    Args:
        max_concurrency: How many datagrams are worked on at a time, at least 1.
        timeout: How long one may take, seconds; then it is given up. None for no limit.

    Raises:
        ValueError: If a limit is not positive.

    Attributes:
        max_concurrency: As given; may be changed.
        timeout: As given; may be changed.
    """

    def __init__(self, *, max_concurrency: int = 1024, timeout: float | None = 30.0) -> None:
        if max_concurrency < 1 or (timeout is not None and not timeout > 0):
            msg = f"wanted positive limits, not {max_concurrency} datagrams and {timeout} s"
            raise ValueError(msg)
        self.max_concurrency: int = max_concurrency
        self.timeout: float | None = timeout
        self._endpoints: list[DatagramEndpoint] = []
        # When each was begun, seconds; the oldest first.
        self._tasks: dict[asyncio.Task[None], float] = {}
        self._late: set[asyncio.Task[None]] = set()
        # One for all: they expire in the order in which they were begun.
        self._deadline: timers.Deadline | None = None
        self._log_limit = LogLimit()
        self._has_room = asyncio.Event()
        self._has_room.set()

    @abstractmethod
    async def process(self, datagram: Datagram) -> bytes | None:
        """Do what a datagram asks for, in a task of its own.

        What it raises is logged, at a limited rate.

        Args:
            datagram: What has arrived.

        Returns:
            The answer; None for none, or if `Datagram.reply` was called.
        """

    @property
    def in_work(self) -> int:
        """How many datagrams are being worked on."""
        return len(self._tasks)

    def attach(self, endpoint: DatagramEndpoint) -> None:
        """Take note of an endpoint, which is paused while there is too much to do.

        Args:
            endpoint: What will receive.
        """
        self._endpoints = [each for each in self._endpoints if not each.is_closed]
        self._endpoints.append(endpoint)
        if not self._has_room.is_set():
            endpoint.pause_reading()

    def datagram_received(self, datagram: Datagram) -> None:
        """Begin to work on a datagram.

        Args:
            datagram: What has arrived.
        """
        tasks = self._tasks
        task = asyncio.get_running_loop().create_task(self._run(datagram))
        tasks[task] = time.monotonic()
        task.add_done_callback(self._done)
        if self.timeout is not None:
            deadline = self._deadline
            if deadline is None:
                deadline = timers.Deadline(timers.get_timers(), self._expire)
                self._deadline = deadline
            if not deadline.is_set:
                deadline.set(self.timeout)
        if len(tasks) >= self.max_concurrency and self._has_room.is_set():
            self._has_room.clear()
            for endpoint in self._endpoints:
                endpoint.pause_reading()

    async def room(self) -> None:
        """Wait until another datagram can be taken."""
        await self._has_room.wait()

    async def finish(self) -> None:
        """Wait until nothing is worked on."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def cleanup(self) -> None:
        """Break off what is still worked on."""
        for task in self._tasks:
            task.cancel()
        await self.finish()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._endpoints.clear()

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        self._late.discard(task)
        if not self._has_room.is_set() and len(self._tasks) < self.max_concurrency:
            self._has_room.set()
            for endpoint in self._endpoints:
                endpoint.resume_reading()

    def _expire(self) -> None:
        timeout = self.timeout
        if timeout is None or self._deadline is None:
            return
        now = time.monotonic()
        for task, begun in self._tasks.items():
            if begun + timeout > now:
                self._deadline.set(begun + timeout - now)
                return
            if task not in self._late:
                self._late.add(task)
                task.cancel()

    async def _run(self, datagram: Datagram) -> None:
        try:
            answer = await self.process(datagram)
            if answer is not None:
                datagram.reply(answer)
        except asyncio.CancelledError:
            if asyncio.current_task() not in self._late:
                raise
            self._log(datagram, TimeoutError(f"not done within {self.timeout} s"))
        except Exception as error:  # noqa: BLE001 - an application may raise anything
            self._log(datagram, error)

    def _log(self, datagram: Datagram, error: Exception) -> None:
        # Strangers decide how often this happens, so it is not they who fill the disk.
        suppressed = self._log_limit.admit(time.monotonic())
        if suppressed is not None:
            more = f" (and {suppressed} more that were not logged)" if suppressed else ""
            fault = None if isinstance(error, Error | TimeoutError) else error
            _logger.warning(
                "datagram from %s: %r%s", datagram.peer_addr, error, more, exc_info=fault
            )
