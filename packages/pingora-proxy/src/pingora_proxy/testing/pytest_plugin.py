"""Fixtures for pytest: ``pytest_plugins = ["pingora_proxy.testing.pytest_plugin"]``.

They need a plugin that runs coroutines, such as pytest-asyncio or anyio's.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, TypeVar

import pytest_asyncio

from pingora_proxy.testing.origin import ScriptedOrigin
from pingora_proxy.testing.proxy import RunningProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from pingora_proxy.hooks import ProxyHttp

    CTX = TypeVar("CTX")

__all__ = ["scripted_origin", "start_proxy"]


@pytest_asyncio.fixture
async def scripted_origin() -> AsyncIterator[ScriptedOrigin]:
    """Run an origin that answers what the test tells it to.

    Yields:
        The origin; it is stopped after the test.
    """
    async with ScriptedOrigin() as origin:
        yield origin


@pytest_asyncio.fixture
async def start_proxy() -> AsyncIterator[Callable[[ProxyHttp[CTX]], Awaitable[RunningProxy[CTX]]]]:
    """Start proxies that run until the test is over.

    Yields:
        What starts one: ``proxy = await start(MyProxy())``.
    """
    async with AsyncExitStack() as stack:

        async def run(app: ProxyHttp[CTX]) -> RunningProxy[CTX]:
            return await stack.enter_async_context(RunningProxy(app))

        yield run
