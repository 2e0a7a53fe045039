"""The loop that keeps a load balancer up to date."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from pingora_load_balancing.discovery.following import follow, jittered

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from pingora_core.runtime.shutdown import ShutdownWatch
    from pingora_load_balancing.discovery.interfaces import Discovered, WatchableDiscovery

__all__ = ["keep_asking", "keep_watching", "until_shutdown"]

# Seconds until the next attempt as long as no backends are known at all.
_FIRST_RETRY: Final = 1.0


async def until_shutdown(work: Coroutine[None, None, None], shutdown: ShutdownWatch) -> None:
    """Work until it is done or the server stops; then it is cancelled.

    Args:
        work: The work.
        shutdown: Tells when the server stops.
    """
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(work)
        unsubscribe = shutdown.subscribe(lambda: _cancel(task))
        task.add_done_callback(lambda _: unsubscribe())


async def keep_asking(
    update: Callable[[], Awaitable[bool]],
    frequency: float | None,
    on_first_update: Callable[[], None],
) -> None:
    """Update at a frequency; at once when called.

    Until an update succeeds for the first time it is tried again every second, or at the frequency
    if that is sooner.

    Args:
        update: Does it; True if it succeeded. It must not raise.
        frequency: Seconds from the end of one update to the next, plus or minus a tenth; None to
            update successfully once and return.
        on_first_update: Called once after the first attempt, whether it succeeded or not.
    """
    has_succeeded = await update()
    on_first_update()
    while not has_succeeded:
        await asyncio.sleep(min(frequency or _FIRST_RETRY, _FIRST_RETRY))
        has_succeeded = await update()
    while frequency is not None:
        await asyncio.sleep(jittered(frequency))
        await update()


async def keep_watching(
    discovery: WatchableDiscovery,
    take: Callable[[Discovered], Awaitable[bool]],
    on_failure: Callable[[Exception], None],
    on_first_update: Callable[[], None],
    *,
    timeout: float,
) -> None:
    """Update whenever the discovery has news.

    Args:
        discovery: The discovery.
        take: Takes an answer over; it must not raise.
        on_failure: Called with each failure of the discovery.
        on_first_update: Called once after the first answer or failure.
        timeout: Seconds after which that is called although the discovery has said nothing.
    """
    is_first = True

    def begin() -> None:
        nonlocal is_first
        if is_first:
            is_first = False
            on_first_update()

    def fail(error: Exception) -> None:
        on_failure(error)
        begin()

    timer = asyncio.get_running_loop().call_later(timeout, begin)
    try:
        async with aclosing(follow(discovery, on_failure=fail)) as answers:
            async for found in answers:
                await take(found)
                begin()
    finally:
        timer.cancel()


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
