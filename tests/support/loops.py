"""Running a test on both event loops, and checking that it leaves nothing behind."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import uvloop

from tests.support.leaks import LeakCheck

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

__all__ = ["no_leaks", "pytest_asyncio_loop_factories"]


# Releases of pytest-asyncio before 1.5 do not ask: then it is the loop that Python brings.
@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every async test on the loop that the server uses and on the one Python brings."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.SelectorEventLoop}


@pytest.fixture
async def no_leaks() -> AsyncIterator[None]:
    """Fail the test if it leaves a socket, a file or a task behind."""
    async with LeakCheck():
        yield
