"""Fixtures of the integration tests; all of them run on uvloop, as the server does."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
import uvloop

from tests.support.cache_proxy import CacheRig
from tests.support.leaks import LeakCheck
from tests.support.origin import Origin
from tests.support.origin_routes import rig
from tests.support.proxy import RigProxy, RunningProxy

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from tests.support.client import RawClient
    from tests.support.proxy import RigContext


# Releases of pytest-asyncio before 1.5 do not ask: then it is the loop that Python brings.
@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every test on the loop that the server uses."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
async def _no_leaks() -> AsyncIterator[None]:
    """Every test closes what it opens: no socket and no task outlives it."""
    async with LeakCheck(collect=False):
        yield


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    """An origin with the rig's routes."""
    async with Origin(rig) as running:
        yield running


@pytest.fixture
def dead() -> Iterator[str]:
    """An address that refuses connections."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{unused.getsockname()[1]}"


@pytest.fixture
def app(origin: Origin) -> RigProxy:
    """The rig's proxy application in front of ``origin``."""
    return RigProxy(origin)


@pytest.fixture
async def proxy(app: RigProxy) -> AsyncIterator[RunningProxy[RigContext]]:
    """A running proxy with ``app``."""
    async with RunningProxy(app) as running:
        yield running


@pytest.fixture
async def client(proxy: RunningProxy[RigContext]) -> AsyncIterator[RawClient]:
    """A client connected to ``proxy``."""
    async with await proxy.connect() as connected:
        yield connected


@pytest.fixture
async def cache() -> AsyncIterator[CacheRig]:
    """An origin, a proxy that caches in front of it, and clocks that stand still."""
    async with CacheRig() as rig:
        yield rig
