"""The loop that keeps a load balancer up to date."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pingora_core.runtime.shutdown import ShutdownWatch

__all__ = ["keep_updated"]

# Seconds until the next attempt as long as no backends are known at all.
_FIRST_RETRY: Final = 1.0


async def keep_updated(
    update: Callable[[], Awaitable[bool]],
    frequency: float | None,
    shutdown: ShutdownWatch,
    on_first_update: Callable[[], None],
) -> None:
    """Update at a frequency until the server stops; at once when called.

    Until an update succeeds for the first time it is tried again every second, or at the frequency
    if that is sooner. When the server stops, an update on its way is cancelled.

    Args:
        update: Does it; True if it succeeded. It must not raise.
        frequency: Seconds from the end of one update to the next; None to update successfully once
            and return.
        shutdown: Tells when the server stops.
        on_first_update: Called once after the first attempt, whether it succeeded or not.
    """
    async with asyncio.TaskGroup() as tasks:
        updates = tasks.create_task(_update_forever(update, frequency, on_first_update))
        unsubscribe = shutdown.subscribe(lambda: _cancel(updates))
        updates.add_done_callback(lambda _: unsubscribe())


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


async def _update_forever(
    update: Callable[[], Awaitable[bool]],
    frequency: float | None,
    on_first_update: Callable[[], None],
) -> None:
    has_succeeded = await update()
    on_first_update()
    while not has_succeeded:
        await asyncio.sleep(min(frequency or _FIRST_RETRY, _FIRST_RETRY))
        has_succeeded = await update()
    while frequency is not None:
        await asyncio.sleep(frequency)
        await update()
