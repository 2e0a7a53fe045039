"""Listening sockets that workers ask for while they run, and those that none needs any more."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Protocol, final

from pingora_core.server.workers._processes import WorkerState
from pingora_core.server.workers.channel import Supply
from pingora_error import Error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pingora_core.listeners.fds import ListenFds
    from pingora_core.server.workers._processes import WorkerProcess
    from pingora_core.server.workers.channel import Obtain

__all__ = ["SocketSupply"]

_logger = logging.getLogger(__name__)

_SILENT: Final = "listen: the request names no address"


class _Crew(Protocol):
    @property
    def workers(self) -> Sequence[WorkerProcess]: ...


@final
class SocketSupply:
    """Makes and closes the sockets of a supervisor as its workers need them.

    Args:
        fds: The sockets.
        crew: All workers, to know who uses what.
    """

    def __init__(self, fds: ListenFds, crew: _Crew) -> None:
        self._fds = fds
        self._crew = crew
        self._tasks: set[asyncio.Task[None]] = set()
        # Released while a worker was starting, of which it is not known yet where it will listen.
        self._doubtful: set[str] = set()

    def obtain(self, worker: WorkerProcess, request: Obtain) -> None:
        """Give a worker the socket of an address, made if there is none.

        Args:
            worker: Who asks; it uses the address from now on.
            request: Which address.
        """
        # The loop stops while a worker is forked; the task just waits.
        task = asyncio.get_running_loop().create_task(self._obtain(worker, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _obtain(self, worker: WorkerProcess, request: Obtain) -> None:
        address = request.address
        if address is None:
            worker.send(Supply("", _SILENT))
            return
        worker.keys.add(address.key)
        try:
            (await self._fds.acquire(address)).close()  # the table keeps the socket
        except Error as error:
            worker.keys.discard(address.key)
            worker.send(Supply(address.key, str(error)))
            return
        sock = self._fds.sockets[address.key]
        worker.send(Supply(address.key), (sock.fileno(),))

    def released(self, worker: WorkerProcess, key: str) -> None:
        """Close the socket of an address that no worker listens on any more.

        Args:
            worker: Who has just stopped to.
            key: Which address.
        """
        worker.keys.discard(key)
        self._doubtful.add(key)
        self.close_unused()

    def close_unused(self) -> None:
        """Close what was released and nobody uses, as soon as no worker is starting.

        A socket that is kept without anybody accepting from it would let clients wait for ever.
        """
        workers = self._crew.workers
        if any(worker.state is WorkerState.STARTING for worker in workers):
            return
        keys, self._doubtful = self._doubtful, set()
        for key in keys:
            if key in self._fds and not any(key in worker.keys for worker in workers):
                _logger.info("no worker listens on %s any more", key)
                self._fds.drop(key)
