"""What the tests of discovery have in common."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from pingora_load_balancing.discovery import Discovered, WatchableDiscovery

__all__ = ["FakeTime", "Watch", "addresses", "watching"]

_LIMIT = 60.0


class FakeTime(FakeClock):
    """A clock whose sleepers move it."""

    async def sleep(self, seconds: float) -> None:
        """Let the time pass at once.

        Args:
            seconds: How much of it.
        """
        self.advance(seconds)
        # A little, so that what goes round and round leaves room for others.
        await asyncio.sleep(0.001)


def addresses(found: Discovered) -> list[str]:
    """List the addresses of an answer as text.

    Args:
        found: The answer.

    Returns:
        The addresses in order.
    """
    return [str(backend) for backend in found.backends]


class Watch:
    """Answers and failures of a source that is being watched.

    Attributes:
        answers: The answers so far.
        failures: How often it was started again.
        error: The last failure.
    """

    def __init__(self) -> None:
        self.answers: list[Discovered] = []
        self.failures = 0
        self.error: Exception | None = None
        self._news = asyncio.Event()

    def heard(self) -> None:
        """Wake who waits."""
        self._news.set()
        self._news = asyncio.Event()

    @property
    def latest(self) -> list[str]:
        """The addresses of the last answer."""
        return addresses(self.answers[-1]) if self.answers else []

    async def until(self, condition: Callable[[], object], what: str = "it") -> None:
        """Wait until something holds after an answer or a failure.

        Args:
            condition: What.
            what: In words.

        Raises:
            AssertionError: If that takes too long.
        """
        try:
            async with asyncio.timeout(_LIMIT):
                while not condition():
                    await self._news.wait()
        except TimeoutError:
            told = [addresses(answer) for answer in self.answers]
            msg = f"{what} did not happen; answers: {told}, error: {self.error}"
            raise AssertionError(msg) from None

    async def shows(self, expected: Iterable[str]) -> None:
        """Wait until the last answer has these addresses.

        Args:
            expected: The addresses, in any order.
        """
        wanted = sorted(expected)
        await self.until(lambda: self.answers and sorted(self.latest) == wanted, str(wanted))


@asynccontextmanager
async def watching(source: WatchableDiscovery) -> AsyncGenerator[Watch, None]:
    """Watch a source, again at once after each failure.

    Args:
        source: The source.

    Yields:
        What it tells.
    """
    watch = Watch()

    async def follow() -> None:
        while True:
            generator = source.watch()
            try:
                async for found in generator:
                    watch.answers.append(found)
                    watch.heard()
            except Exception as error:  # noqa: BLE001  # kept for the test
                watch.failures += 1
                watch.error = error
                watch.heard()
                await asyncio.sleep(0.005)
            finally:
                await generator.aclose()

    task = asyncio.create_task(follow(), name="watch")
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
