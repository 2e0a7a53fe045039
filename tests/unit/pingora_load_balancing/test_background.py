"""As a background service the load balancer keeps itself up to date until the server stops."""

from __future__ import annotations

import asyncio

import pytest

from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.services.service import ServiceReadyNotifier
from pingora_load_balancing import Backend, Discovered, LoadBalancer, background


class _Counting:
    """Fails as often as it is told to, then answers; counts the questions."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.count = 0
        self.asked = asyncio.Condition()
        self.hangs = False

    async def discover(self) -> Discovered:
        async with self.asked:
            self.count += 1
            self.asked.notify_all()
        if self.hangs:
            await asyncio.Event().wait()
        if self.count <= self.failures:
            raise OSError("not yet")
        return Discovered([Backend("10.0.0.1:80")])

    async def until(self, count: int) -> None:
        async with self.asked:
            await self.asked.wait_for(lambda: self.count >= count)


async def test_updates_once_without_a_frequency() -> None:
    """The service ends when the backends are known."""
    discovery = _Counting()
    balancer = LoadBalancer(discovery=discovery)

    await balancer.start(ShutdownSwitch().watch)

    assert discovery.count == 1
    assert len(balancer.backends) == 1


async def test_tries_again_until_backends_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A discovery that is not up yet does not leave the balancer empty for ever."""
    monkeypatch.setattr(background, "_FIRST_RETRY", 0.001)
    discovery = _Counting(failures=2)
    balancer = LoadBalancer(discovery=discovery)

    await balancer.start(ShutdownSwitch().watch)

    assert discovery.count == 3
    assert len(balancer.backends) == 1


async def test_updates_at_the_frequency_until_the_shutdown() -> None:
    """The loop goes on, and ends at once when the server stops."""
    switch = ShutdownSwitch()
    discovery = _Counting()
    balancer = LoadBalancer(discovery=discovery, update_frequency=0.001)
    service = asyncio.create_task(balancer.start(switch.watch))

    await discovery.until(4)
    switch.start()

    await asyncio.wait_for(service, 30)


async def test_shutdown_ends_a_long_sleep() -> None:
    """Nobody waits for the next update to notice the end."""
    switch = ShutdownSwitch()
    discovery = _Counting()
    balancer = LoadBalancer(discovery=discovery, update_frequency=3600)
    service = asyncio.create_task(balancer.start(switch.watch))
    await discovery.until(1)
    await asyncio.sleep(0)

    switch.start()

    await asyncio.wait_for(service, 30)


async def test_shutdown_ends_an_update_on_its_way() -> None:
    """A discovery that hangs does not hold up the stop."""
    switch = ShutdownSwitch()
    discovery = _Counting()
    discovery.hangs = True
    balancer = LoadBalancer(discovery=discovery, update_frequency=1)
    service = asyncio.create_task(balancer.start(switch.watch))
    await discovery.until(1)

    switch.start()

    await asyncio.wait_for(service, 30)


async def test_shutdown_before_the_start() -> None:
    """A server that stops already asks nothing."""
    switch = ShutdownSwitch()
    switch.start()
    discovery = _Counting()

    await LoadBalancer(discovery=discovery, update_frequency=1).start(switch.watch)

    assert discovery.count == 0


async def test_cancelled_service_leaves_no_task() -> None:
    """The loop has an owner: it ends with it."""
    discovery = _Counting()
    balancer = LoadBalancer(discovery=discovery, update_frequency=3600)
    service = asyncio.create_task(balancer.start(ShutdownSwitch().watch))
    await discovery.until(1)

    service.cancel()
    with pytest.raises(asyncio.CancelledError):
        await service

    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("failures", [0, 1])
async def test_ready_after_the_first_attempt(
    failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dependents start when the backends are known, or known not to be known."""
    monkeypatch.setattr(background, "_FIRST_RETRY", 0.001)
    discovery = _Counting(failures)
    asked_when_ready: list[int] = []

    ready = ServiceReadyNotifier(lambda: asked_when_ready.append(discovery.count))

    await LoadBalancer(discovery=discovery).start_with_ready_notifier(ShutdownSwitch().watch, ready)

    assert asked_when_ready == [1]
    assert discovery.count == failures + 1
