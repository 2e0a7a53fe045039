"""Work on stores that nobody waits for: purges that follow a fill, or a request that has ended.

Each piece is kept until it is done, and its failure is logged, never raised. Who stops a server
waits for the rest with ``drain_background``.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["drain_background", "in_background"]

logger = logging.getLogger(__name__)

_tasks: set[asyncio.Task[None]] = set()


def in_background(work: Coroutine[None, None, None], context: str) -> None:
    """Do something that nobody waits for.

    Args:
        work: What to do.
        context: What it is, for the log if it fails.
    """
    task = asyncio.get_running_loop().create_task(_do(work, context))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


async def drain_background(timeout: float) -> int:
    """Wait for the work on stores that goes on behind the requests of this event loop.

    Args:
        timeout: How long at most, seconds; what is not done by then is cancelled.

    Returns:
        How many pieces of work had to be cancelled.
    """
    loop = asyncio.get_running_loop()
    tasks = [task for task in _tasks if task.get_loop() is loop]
    if not tasks:
        return 0
    _, late = await asyncio.wait(tasks, timeout=timeout)
    for task in late:
        task.cancel()
    if late:
        await asyncio.wait(late)
    return len(late)


async def _do(work: Coroutine[None, None, None], context: str) -> None:
    try:
        await work
    except Exception:
        logger.warning("%s failed", context, exc_info=True)
