"""Readiness, and what every service does unless it says otherwise."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pingora_core.conf import ServerConf
from pingora_core.services import (
    STOP_SERVER,
    Placement,
    Service,
    ServiceReadyNotifier,
)

if TYPE_CHECKING:
    from pingora_core.services import (
        ServiceContext,
    )


async def test_whoever_waits_is_released_when_the_service_is_ready() -> None:
    """wait() lasts until notify_ready(), and not at all afterwards."""
    ready = ServiceReadyNotifier()
    waiter = asyncio.create_task(ready.wait())
    await asyncio.sleep(0)

    assert not waiter.done()
    assert not ready.is_ready
    ready.notify_ready()
    await waiter
    await ready.wait()
    assert ready.is_ready


def test_the_callback_hears_of_readiness_once() -> None:
    """Being ready twice is being ready once."""
    calls: list[None] = []
    ready = ServiceReadyNotifier(lambda: calls.append(None))

    ready.notify_ready()
    ready.notify_ready()

    assert len(calls) == 1


async def test_the_hooks_do_nothing_by_default() -> None:
    """A service need not do more than run: everywhere, listening nowhere, stopping the server."""

    class Plain(Service):
        async def start_service(self, context: ServiceContext) -> None:
            raise AssertionError

    service = Plain("plain")
    service.check()
    service.on_startup_delay(1.0)
    await service.reload(ServerConf())

    assert service.name == "plain"
    assert service.listen_addresses == ()
    assert service.placement is Placement.EVERY_WORKER
    assert service.on_failure is STOP_SERVER
