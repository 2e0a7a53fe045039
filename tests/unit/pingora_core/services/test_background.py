"""Background services: readiness, names, the shared task object."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pingora_core.conf import ServerConf
from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.services import (
    STOP_SERVER,
    BackgroundService,
    Placement,
    Restart,
    ServiceContext,
    background_service,
)

if TYPE_CHECKING:
    from pingora_core.runtime.shutdown import ShutdownWatch
    from pingora_core.services import (
        ServiceReadyNotifier,
    )


class Counter(BackgroundService):
    """Counts its starts, then waits for the end."""

    def __init__(self) -> None:
        self.starts = 0

    async def start(self, shutdown: ShutdownWatch) -> None:
        self.starts += 1
        await shutdown.wait()


class Slow(Counter):
    """Is ready only when the event is set."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded = asyncio.Event()

    async def start_with_ready_notifier(
        self, shutdown: ShutdownWatch, ready: ServiceReadyNotifier
    ) -> None:
        await self.loaded.wait()
        ready.notify_ready()
        await self.start(shutdown)


def test_the_service_carries_the_task() -> None:
    """The object given is reachable, to be shared with other services."""
    task = Counter()

    service = background_service("counter", task)

    assert service.task is task
    assert (service.name, service.threads) == ("BG counter", 1)
    assert service.on_failure == STOP_SERVER
    assert service.placement is Placement.EVERY_WORKER
    other = background_service("x", task, on_failure=Restart(), placement=Placement.ONE_WORKER)
    assert (other.on_failure, other.placement) == (Restart(), Placement.ONE_WORKER)


async def test_by_default_it_is_ready_at_once_and_runs_until_the_shutdown() -> None:
    """start() alone makes a service that dependents need not wait for."""
    switch = ShutdownSwitch()
    context = ServiceContext(shutdown=switch.watch)
    service = background_service("counter", Counter())

    running = asyncio.create_task(service.start_service(context))
    await context.ready.wait()
    await asyncio.sleep(0)

    assert service.task.starts == 1
    switch.start()
    await running


async def test_it_can_say_itself_when_it_is_ready() -> None:
    """start_with_ready_notifier() keeps dependents waiting for what they need."""
    switch = ShutdownSwitch()
    context = ServiceContext(shutdown=switch.watch)
    service = background_service("slow", Slow())

    running = asyncio.create_task(service.start_service(context))
    await asyncio.sleep(0)
    assert not context.ready.is_ready
    service.task.loaded.set()
    await context.ready.wait()

    switch.start()
    await running


async def test_a_reload_is_passed_on_to_the_work() -> None:
    """The work takes over what has changed; by default that is nothing."""

    class Reloading(Counter):
        async def reload(self, conf: ServerConf) -> None:
            seen.append(conf)

    seen: list[ServerConf] = []
    conf = ServerConf()

    await background_service("plain", Counter()).reload(conf)
    await background_service("reloading", Reloading()).reload(conf)

    assert seen == [conf]
