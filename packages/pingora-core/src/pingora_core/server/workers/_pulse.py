"""Which workers have to be killed because they do not answer, or would not end."""

from __future__ import annotations

import logging
import signal
from functools import partial
from typing import TYPE_CHECKING, Final, final

from pingora_core.server.workers.worker import BEAT_INTERVAL, DUMP_SIGNAL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pingora_core.server.workers._processes import WorkerProcess

__all__ = ["Pulse"]

_logger = logging.getLogger(__name__)

_DUMP_TIME: Final = 0.5
"""How long a worker that hangs has to say what it was doing, seconds."""


@final
class Pulse:
    """Looks after the workers' signs of life.

    Args:
        now: The time, seconds.
    """

    def __init__(self, now: float) -> None:
        self._last = now

    def check(
        self,
        workers: Sequence[WorkerProcess],
        now: float,
        timeout: float,
        later: Callable[[float, Callable[[], None]], None],
    ) -> None:
        """Kill the workers that do not answer or would not end; to be called every second.

        Args:
            workers: All that live.
            now: The time, seconds.
            timeout: How long a worker may be silent, seconds.
            later: Calls a function after some seconds.
        """
        elapsed, self._last = now - self._last, now
        if elapsed > 5 * BEAT_INTERVAL:
            # It was this process that slept, or the whole machine: their beats are not read yet.
            for worker in workers:
                worker.last_beat = now
            return
        for worker in workers:
            if worker.kill_at is not None and now >= worker.kill_at:
                _logger.error("%s would not end and is killed", worker)
                worker.kill_at = None
                worker.signal(signal.SIGKILL)
            elif now - worker.last_beat > timeout:
                _logger.error("%s has not answered for %.0f s and is killed", worker, timeout)
                worker.last_beat = now
                worker.signal(DUMP_SIGNAL)
                later(_DUMP_TIME, partial(worker.signal, signal.SIGKILL))
