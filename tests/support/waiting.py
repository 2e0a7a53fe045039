"""Waiting for what another party does, with a deadline and a reason."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["eventually"]


async def eventually(
    predicate: Callable[[], object], what: str = "the condition", *, timeout: float = 60.0
) -> None:
    """Wait until a condition holds.

    Args:
        predicate: The condition; must not change anything. While what it looks for is not in
            a list or a mapping it does not hold.
        what: What is waited for, for the message.
        timeout: Seconds.

    Raises:
        AssertionError: If it does not hold in time.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while not _holds(predicate):
        if loop.time() > deadline:
            msg = f"{what} did not come true within {timeout} s"
            raise AssertionError(msg)
        await asyncio.sleep(0.002)


def _holds(predicate: Callable[[], object]) -> bool:
    try:
        return bool(predicate())
    except LookupError:  # the first of something of which there is none yet
        return False
