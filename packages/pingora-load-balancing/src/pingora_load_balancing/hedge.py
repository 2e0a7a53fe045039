"""Hedging: a request that takes unusually long is sent a second time, and the first answer counts.

Theory of operation: the slowest few of many requests are often slow by bad luck, such as a pause of
one backend, and a second try would be done long before. Sent only after the time in which nearly all
requests are answered, it costs a few per cent more requests. These count as retries, so that a budget
keeps slow upstreams from getting twice the load. Only requests that may be executed twice can be
hedged.

Source: Dean and Barroso, "The Tail at Scale", Communications of the ACM 56(2), 2013; Finagle,
finagle-core/src/main/scala/com/twitter/finagle/client/BackupRequestFilter.scala; gRPC proposal A6,
"Hedging policy".
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar, final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from pingora_load_balancing.retry.budget import RetryBudget

__all__ = ["hedge"]

T = TypeVar("T")


async def hedge(
    attempt: Callable[[int], Coroutine[None, None, T]],
    *,
    delay: float | Callable[[], float],
    max_attempts: int = 2,
    budget: RetryBudget | None = None,
    accept: Callable[[T], bool] | None = None,
    discard: Callable[[T], Awaitable[None]] | None = None,
) -> T:
    """Try something that may be done twice; try it again when it takes too long, side by side.

    The first acceptable result counts. The other attempts are cancelled, and have ended when this
    returns, or is cancelled itself. An attempt that fails is followed by the next one at once.

    Args:
        attempt: Makes an attempt, given its number from 0. Let it choose another backend each
            time, and release what it holds when it is cancelled.
        delay: Seconds from one attempt to the next, or what tells them, such as a
            `LatencyQuantile`.
        max_attempts: How many at most, the first one included.
        budget: Grants all but the first; None grants any.
        accept: Tells whether a result will do; None takes any.
        discard: Closes a result that is not returned.

    Returns:
        The first acceptable result, or else the last one.

    Raises:
        ValueError: If there may be no attempt.
        Exception: What the first attempt to fail has raised, if all failed.

    Examples:
        >>> async def answer(number):
        ...     await asyncio.sleep(10.0 if number == 0 else 0.0)
        ...     return f"attempt {number}"
        >>> asyncio.run(hedge(answer, delay=0.01))
        'attempt 1'
    """
    if max_attempts < 1:
        msg = f"max_attempts must be at least 1, not {max_attempts}"
        raise ValueError(msg)
    race = _Race(attempt, accept, discard)
    if budget is not None:
        budget.deposit()
    is_done = False
    try:
        race.start()
        for _ in range(max_attempts - 1):
            if await race.run(delay() if callable(delay) else delay):
                break
            if budget is not None and not budget.withdraw():
                break
            race.start()
        await race.run(None)
        is_done = True
    finally:
        await race.end(returns=is_done)
    return race.result()


@final
class _Race(Generic[T]):
    """Attempts that run side by side."""

    __slots__ = (
        "_accept",
        "_attempt",
        "_count",
        "_discard",
        "_error",
        "_running",
        "_second",
        "_won",
    )

    def __init__(
        self,
        attempt: Callable[[int], Coroutine[None, None, T]],
        accept: Callable[[T], bool] | None,
        discard: Callable[[T], Awaitable[None]] | None,
    ) -> None:
        self._attempt = attempt
        self._accept = accept
        self._discard = discard
        self._count = 0
        self._running: set[asyncio.Task[T]] = set()
        # Those that have a result: the one that counts, or the last one that will not do.
        self._won: asyncio.Task[T] | None = None
        self._second: asyncio.Task[T] | None = None
        self._error: BaseException | None = None

    def start(self) -> None:
        name = f"hedge {self._count}"
        self._running.add(asyncio.create_task(self._attempt(self._count), name=name))
        self._count += 1

    async def run(self, seconds: float | None) -> bool:
        """Wait for the winner; with a limit, no longer than until an attempt has failed.

        Returns:
            True if there is one.
        """
        while self._won is None and self._running:
            done, self._running = await asyncio.wait(
                self._running, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                await self._take(task)
            if seconds is not None:
                break
        return self._won is not None

    async def _take(self, task: asyncio.Task[T]) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            self._error = self._error or error
        elif self._won is not None:
            await self._drop(task)
        else:
            # Until it is known to be good, so that it is discarded if the check raises.
            before, self._second = self._second, task
            await self._drop(before)
            if self._accept is None or self._accept(task.result()):
                self._won, self._second = task, None

    async def _drop(self, task: asyncio.Task[T] | None) -> None:
        if task is not None and self._discard is not None:
            await self._discard(task.result())

    async def end(self, *, returns: bool) -> None:
        """Cancel what still runs, and discard what is not returned."""
        for task in self._running:
            task.cancel()
        if self._running:
            done, self._running = await asyncio.wait(self._running)
            for task in done:
                if not task.cancelled() and task.exception() is None:
                    await self._drop(task)
        if self._won is not None or not returns:
            await self._drop(self._second)
        if not returns:
            await self._drop(self._won)

    def result(self) -> T:
        task = self._won or self._second
        if task is not None:
            return task.result()
        assert self._error is not None
        raise self._error
