"""Waiting, with a limit, and expecting what has to fail."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["misused", "raises", "settled", "soon"]

_T = TypeVar("_T")

# Long enough for the slowest machine.
_PATIENCE: Final = 20.0


async def soon(doing: Awaitable[_T]) -> _T:
    """Wait, but not for ever: what hangs fails.

    Args:
        doing: What is waited for.

    Returns:
        What it came to.
    """
    async with asyncio.timeout(_PATIENCE):
        return await doing


async def misused(doing: Awaitable[object]) -> None:
    """Do what is wrong use of a handler.

    Args:
        doing: What.

    Raises:
        AssertionError: If it is not told by a ``RuntimeError``.
    """
    try:
        result = await soon(doing)
    except RuntimeError:
        return
    msg = f"wrong use was not told, but came to {result!r}"
    raise AssertionError(msg)


def raises(expected: type[Exception], doing: Callable[[], object]) -> None:
    """Do what has to fail at once.

    Args:
        expected: The exception.
        doing: What.

    Raises:
        AssertionError: If it does not fail with it.
    """
    try:
        result = doing()
    except expected:
        return
    msg = f"it did not fail with {expected.__name__} but came to {result!r}"
    raise AssertionError(msg)


async def settled(predicate: Callable[[], bool]) -> None:
    """Wait until a condition holds.

    Args:
        predicate: The condition.

    Raises:
        TimeoutError: If it does not hold in time.
    """
    async with asyncio.timeout(_PATIENCE):
        while not predicate():  # noqa: ASYNC110  # of any store: there is no event to wait for
            await asyncio.sleep(0.002)
