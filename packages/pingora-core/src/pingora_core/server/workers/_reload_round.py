"""One reload of all workers: each is sent the configuration and says how it took it."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Final, final

from pingora_core.server.workers.channel import Reload, pack_text
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from pingora_core.conf import ServerConf
    from pingora_core.server.workers._processes import WorkerProcess
    from pingora_core.server.workers.crew import Crew

__all__ = ["ReloadRound"]

_logger = logging.getLogger(__name__)

_TIMEOUT: Final = 60.0
"""How long one worker may take, seconds."""


@final
class ReloadRound:
    """Takes a configuration to the workers.

    The first worker is asked alone: if it refuses, nothing has changed for the others. Workers
    that are forked meanwhile are sent it when they are ready.

    Args:
        crew: The workers.
    """

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._latest: ServerConf | None = None
        self._answers: dict[int, asyncio.Future[str | None]] = {}
        crew.on_reloaded = self._answered
        crew.on_late = self._catch_up

    async def run(self, conf: ServerConf) -> None:
        """Have all workers take on a configuration.

        Args:
            conf: The new one, valid.

        Raises:
            Error: If the first one refuses it; then it is not in use anywhere.
        """
        workers = self._crew.serving
        if workers:
            failure = await self._ask(workers[0], conf)
            if failure is not None:
                context = f"{workers[0]} refused it: {failure}"
                raise Error(ErrorType.INTERNAL_ERROR, context, source=ErrorSource.INTERNAL)
        self._latest = conf
        self._crew.generation += 1
        for worker in workers[:1]:
            worker.generation = self._crew.generation
        rest = workers[1:]
        answers = await asyncio.gather(*(self._ask(worker, conf) for worker in rest))
        for worker, answer in zip(rest, answers, strict=True):
            worker.generation = self._crew.generation
            if answer is not None:
                _logger.error("%s did not take on the configuration: %s", worker, answer)

    async def _ask(self, worker: WorkerProcess, conf: ServerConf) -> str | None:
        answer = asyncio.get_running_loop().create_future()
        self._answers[worker.pid] = answer
        try:
            if not _send(worker, conf):
                return "it does not listen"
            async with asyncio.timeout(_TIMEOUT):
                failure: str | None = await answer
        except TimeoutError:
            return "it does not answer"
        else:
            return failure
        finally:
            del self._answers[worker.pid]

    def _answered(self, worker: WorkerProcess, failure: str | None) -> None:
        answer = self._answers.get(worker.pid)
        if answer is not None and not answer.done():
            answer.set_result(failure)
        elif failure is not None:
            _logger.error("%s did not take on the configuration: %s", worker, failure)

    def _catch_up(self, worker: WorkerProcess) -> None:
        worker.generation = self._crew.generation
        if self._latest is not None:
            _send(worker, self._latest)


def _send(worker: WorkerProcess, conf: ServerConf) -> bool:
    fd = pack_text(conf.to_yaml())
    try:
        return worker.send(Reload(conf.source), (fd,))
    finally:
        os.close(fd)
