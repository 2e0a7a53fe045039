"""Sources behind a load balancer that runs as a service."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.services.service import ServiceReadyNotifier
from pingora_load_balancing import LoadBalancer
from pingora_load_balancing.discovery import (
    Discovered,
    FileDiscovery,
    KubernetesDiscovery,
    Mutable,
    Union,
)
from tests.support.discovery_kubernetes import KubernetesStandIn, endpoint, endpoint_slice
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from pingora_load_balancing import ServiceDiscovery

pytestmark = pytest.mark.usefixtures("no_leaks")


class _Running:
    """A balancer that runs as a background service."""

    def __init__(self, balancer: LoadBalancer) -> None:
        self._balancer = balancer
        self._switch = ShutdownSwitch()

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._balancer.start(self._switch.watch))

    async def __aexit__(self, *_: object) -> None:
        self._switch.start()
        async with asyncio.timeout(30):
            await self._task


def known(balancer: LoadBalancer) -> set[str]:
    return {str(backend) for backend in balancer.backends}


async def test_changes_reach_the_balancer() -> None:
    """What a source tells is what the balancer chooses from, without any frequency."""
    mutable = Mutable(["10.0.0.1:80"])
    balancer = LoadBalancer(discovery=mutable)
    async with _Running(balancer):
        await eventually(lambda: known(balancer) == {"10.0.0.1:80"})
        mutable.replace(["10.0.0.2:80"])
        await eventually(lambda: known(balancer) == {"10.0.0.2:80"})
        assert str(balancer.select(b"", 256)) == "10.0.0.2:80"


async def test_a_bad_file_leaves_the_balancer_alone(tmp_path: Path) -> None:
    """The last good set serves on, and the failure is logged and can be read."""
    path = tmp_path / "backends.yaml"
    path.write_text("[10.0.0.1:80]")
    source = FileDiscovery(path, interval=0.01, settle=0.01)
    balancer = LoadBalancer(discovery=source)
    async with _Running(balancer):
        await eventually(lambda: known(balancer) == {"10.0.0.1:80"})
        path.write_text("[10.0.0.1:")
        await eventually(lambda: source.last_error is not None)
        assert known(balancer) == {"10.0.0.1:80"}
        path.write_text("[10.0.0.2:80]")
        await eventually(lambda: known(balancer) == {"10.0.0.2:80"})


async def test_kubernetes_to_the_balancer() -> None:
    """An endpoint that becomes ready is chosen at once; the connections are closed at the end."""
    async with KubernetesStandIn() as server:
        server.put(endpoint_slice("web-1", endpoint("10.0.0.1", ready=False)))
        sources: list[ServiceDiscovery] = [
            KubernetesDiscovery("web", server.url),
            Mutable(["10.0.0.9:80"]),
        ]
        balancer = LoadBalancer(discovery=Union(sources))
        async with _Running(balancer):
            await eventually(lambda: known(balancer) == {"10.0.0.9:80"})
            await eventually(lambda: server.watches, "a watch")
            server.put(endpoint_slice("web-1", endpoint("10.0.0.1")))
            await eventually(lambda: known(balancer) == {"10.0.0.1:8080", "10.0.0.9:80"})


async def test_a_source_that_says_nothing_does_not_hold_up_the_start() -> None:
    """The balancer counts as ready after the discovery's timeout, with or without backends."""

    class Silent:
        async def discover(self) -> Discovered:
            await asyncio.Event().wait()
            return Discovered(())

        async def watch(self) -> AsyncGenerator[Discovered, None]:
            yield await self.discover()

    balancer = LoadBalancer(discovery=Silent(), discovery_timeout=0.02)
    ready = ServiceReadyNotifier()
    switch = ShutdownSwitch()
    task = asyncio.create_task(balancer.start_with_ready_notifier(switch.watch, ready))
    await eventually(lambda: ready.is_ready)
    switch.start()
    await task


async def test_failures_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """A discovery that always fails is logged ten times, then once a minute."""

    class Down:
        async def discover(self) -> Discovered:
            raise ConnectionError("down")

    balancer = LoadBalancer(discovery=Down())
    for _ in range(30):
        assert not await balancer.update()

    assert len(caplog.records) == 10
