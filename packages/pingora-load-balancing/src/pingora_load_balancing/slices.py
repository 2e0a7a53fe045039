"""Long work done a bit at a time, so that nobody else waits for it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, Generic, TypeVar, final

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["Slices"]

T = TypeVar("T")

# Seconds at a time, between which the event loop does everything else that is due.
_SLICE: Final = 0.001


@final
class Slices(Generic[T]):
    """Work that is written as a generator: it yields often, and returns the result.

    Args:
        steps: The work.

    Examples:
        >>> def count(limit):
        ...     for _ in range(limit):
        ...         yield
        ...     return "done"
        >>> Slices(count(3)).finish()
        'done'
    """

    __slots__ = ("_results", "_steps")

    def __init__(self, steps: Generator[None, None, T]) -> None:
        self._results: list[T] = []
        self._steps = self._work(steps)

    def advance(self, seconds: float = _SLICE) -> bool:
        """Do some of it.

        Args:
            seconds: About how long.

        Returns:
            True if all of it is done.
        """
        deadline = time.perf_counter() + seconds
        return all(time.perf_counter() < deadline for _ in self._steps)

    def finish(self) -> T:
        """Do all that is left.

        Returns:
            The result.
        """
        for _ in self._steps:
            pass
        return self._results[0]

    async def finish_in_slices(self) -> T:
        """Do all that is left, letting the event loop go on in between.

        Returns:
            The result.
        """
        while not self.advance():  # noqa: ASYNC110  # waits for nothing, lets others go on
            await asyncio.sleep(0)
        return self._results[0]

    def _work(self, steps: Generator[None, None, T]) -> Generator[None, None, None]:
        self._results.append((yield from steps))
