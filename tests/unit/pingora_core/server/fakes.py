"""Services whose ends a test decides."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pingora_core.services import Service

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pingora_core.services import ServiceContext

__all__ = ["Draining", "Failing", "Recorder", "Stubborn"]


class Recorder(Service):
    """Writes down its start and its end; ends at the shutdown.

    Args:
        name: Its name.
        journal: Where it writes.
        ready: Set when it may say that it is ready; None to be ready at once.
    """

    def __init__(self, name: str, journal: list[str], ready: asyncio.Event | None = None) -> None:
        super().__init__(name)
        self.notifies_ready = ready is not None
        self.journal = journal
        self.delays: list[float] = []
        self._ready = ready

    def on_startup_delay(self, delay: float) -> None:
        self.delays.append(delay)

    async def start_service(self, context: ServiceContext) -> None:
        self.journal.append(f"{self.name} starts")
        if self._ready is not None:
            await self._ready.wait()
            context.ready.notify_ready()
        try:
            await context.shutdown.wait()
            self.journal.append(f"{self.name} ends")
        except asyncio.CancelledError:
            self.journal.append(f"{self.name} is cancelled")
            raise


class Draining(Recorder):
    """Ends only some time after the shutdown began: when it is let."""

    def __init__(self, name: str, journal: list[str]) -> None:
        super().__init__(name, journal)
        self.drained = asyncio.Event()
        self.shutdown_seen = asyncio.Event()

    async def start_service(self, context: ServiceContext) -> None:
        await super().start_service(context)
        self.shutdown_seen.set()
        try:
            await self.drained.wait()
            self.journal.append(f"{self.name} has drained")
        except asyncio.CancelledError:
            self.journal.append(f"{self.name} is cut off")
            raise


class Stubborn(Service):
    """Does not let itself be cancelled until it is let go."""

    def __init__(self) -> None:
        super().__init__("stubborn")
        self.released = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def start_service(self, context: ServiceContext) -> None:
        while not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                self.cancelled.set()


class Failing(Service):
    """Raises something at each start in turn, then runs until the shutdown.

    Args:
        errors: What to raise.
        is_early: Whether it fails before it is ready.
    """

    def __init__(self, errors: Sequence[BaseException], *, is_early: bool = False) -> None:
        super().__init__("failing")
        self.notifies_ready = is_early
        self.starts = 0
        self._errors = list(errors)

    async def start_service(self, context: ServiceContext) -> None:
        self.starts += 1
        if self._errors:
            raise self._errors.pop(0)
        context.ready.notify_ready()
        await context.shutdown.wait()
