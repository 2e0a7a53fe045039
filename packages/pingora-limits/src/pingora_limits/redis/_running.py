"""Something that talks to Redis in one task, which somebody owns."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Self

__all__ = ["Running"]


class Running(ABC):
    """Use it as an async context manager, or await ``run`` in a task of your own.

    Run it in the process that counts, after the fork: nothing of a process goes over to those that
    are forked from it.
    """

    __slots__ = ("__weakref__", "_task")

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    @abstractmethod
    async def run(self) -> None:
        """Talk to Redis until cancelled; then once more, within the timeout, to leave in order."""

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.run(), name=f"{type(self).__name__}.run")
        try:
            await asyncio.sleep(0)  # from here on it runs
        except asyncio.CancelledError:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def _stop(self) -> None:
        task, self._task = self._task, None
        assert task is not None
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()  # it has failed before
