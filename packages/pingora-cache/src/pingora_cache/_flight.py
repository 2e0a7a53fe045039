"""One lookup that others may wait for; part of ``read_through``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar, final

if TYPE_CHECKING:
    from pingora_error import Error

__all__ = ["Flight"]

_V = TypeVar("_V")


@final
class Flight(Generic[_V]):
    """A lookup that is going on.

    Args:
        started: When it began, monotonic time, seconds.

    Attributes:
        started: As given.
        value: What was found, in a tuple.
        error: What went wrong. Without either, it goes on, or who looked up was cancelled.
    """

    __slots__ = ("_waiters", "error", "started", "value")

    def __init__(self, started: float) -> None:
        self.started = started
        self.value: tuple[_V] | None = None
        self.error: Error | None = None
        self._waiters: set[asyncio.Future[None]] = set()

    async def wait(self, timeout: float | None) -> None:
        """Wait until it is over.

        Args:
            timeout: How long at most, seconds; None for as long as it takes.

        Raises:
            TimeoutError: If it takes longer.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(timeout):
                await waiter
        finally:
            self._waiters.discard(waiter)

    def land(self) -> None:
        """Wake those who wait."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
