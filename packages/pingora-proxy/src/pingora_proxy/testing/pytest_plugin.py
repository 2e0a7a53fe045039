"""Fixtures for pytest: ``pytest_plugins = ["pingora_proxy.testing.pytest_plugin"]``.

They need a plugin that runs coroutines, such as pytest-asyncio or anyio's.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest_asyncio

from pingora_proxy.testing.origin import ScriptedOrigin
from pingora_proxy.testing.proxy import RunningProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from pingora_core.apps.http_app import HttpServerOptions
    from pingora_core.conf import ServerConf
    from pingora_proxy.hooks import CTX, ProxyHttp
    from pingora_proxy.observe import ProxyObserver

__all__ = ["StartProxy", "scripted_origin", "start_proxy"]


class StartProxy:
    """Starts proxies that run until the test is over; what the fixture ``start_proxy`` is.

    Args:
        stack: Ends them.
    """

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def __call__(
        self,
        app: ProxyHttp[CTX],
        *,
        conf: ServerConf | None = None,
        server_options: HttpServerOptions | None = None,
        observers: Sequence[ProxyObserver] = (),
    ) -> RunningProxy[CTX]:
        """Start one.

        Args:
            app: The callbacks.
            conf: The server's configuration.
            server_options: How clients are spoken to; None for the defaults.
            observers: Are told what happens to requests.

        Returns:
            The proxy.
        """
        return await self._stack.enter_async_context(
            RunningProxy(app, conf=conf, server_options=server_options, observers=observers)
        )


@pytest_asyncio.fixture
async def scripted_origin() -> AsyncIterator[ScriptedOrigin]:
    """Run an origin that answers what the test tells it to.

    Yields:
        The origin; it is stopped after the test.
    """
    async with ScriptedOrigin() as origin:
        yield origin


@pytest_asyncio.fixture
async def start_proxy() -> AsyncIterator[StartProxy]:
    """Start proxies that run until the test is over.

    Yields:
        What starts one: ``proxy = await start_proxy(MyProxy())``.
    """
    async with AsyncExitStack() as stack:
        yield StartProxy(stack)
