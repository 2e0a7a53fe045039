"""A check that a test pulls the strings of, a running checker, and listeners that misbehave."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

import pytest

from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.services.service import ServiceReadyNotifier
from pingora_error import Custom, Error, ErrorType
from pingora_load_balancing import Backend
from pingora_load_balancing.health import TcpHealthCheck

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pingora_core.upstreams.peer import PeerAddress
    from pingora_load_balancing.health import HealthCheck, HealthChecker
    from pingora_load_balancing.health._network import NetworkCheck

__all__ = ["TIMED_OUT", "Puppet", "Running", "Silent", "address", "closing", "refused", "running"]

# On a machine that is busy a short deadline may be over before the connection stands.
TIMED_OUT = {ErrorType.CONNECT_TIMEDOUT, ErrorType.READ_TIMEDOUT}
_DEFAULT_TIMEOUT = TcpHealthCheck().timeout


def address(text: str) -> PeerAddress:
    return Backend(text).addr


class Puppet:
    """A health check that does what the test says.

    Attributes:
        sick: Addresses that are not well.
        error: What a check of those raises.
        held: Addresses whose checks hang until `release`.
        started: Each check that was begun, in order.
        cancelled: Each check that was cancelled, in order.
        under_way: Checks under way now.
        most: Most checks that were under way at a time.
        weights: The weight that the backend of each check had.
        is_closed: Whether it was closed.
    """

    def __init__(self) -> None:
        self.sick: set[str] = set()
        self.error: Exception = Error.up(Custom("Sick"))
        self.held: set[str] = set()
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.under_way = 0
        self.most = 0
        self.weights: list[int] = []
        self.is_closed = False
        self._released = asyncio.Event()

    async def check(self, backend: Backend) -> None:
        name = str(backend)
        self.started.append(name)
        self.weights.append(backend.weight)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            if name in self.held:
                await self._released.wait()
            else:
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        finally:
            self.under_way -= 1
        if name in self.sick:
            raise self.error

    def release(self) -> None:
        self.held = set()
        self._released.set()

    async def close(self) -> None:
        self.is_closed = True


class Running:
    """A checker that runs.

    Attributes:
        switch: Stops it.
        ready: Told when it is ready.
        task: Its service.
    """

    def __init__(self, checker: HealthChecker) -> None:
        self.switch = ShutdownSwitch()
        self.ready = ServiceReadyNotifier()
        self.task = asyncio.create_task(
            checker.start_with_ready_notifier(self.switch.watch, self.ready)
        )

    async def stop(self) -> None:
        self.switch.start()
        await asyncio.wait_for(self.task, 30)


@asynccontextmanager
async def running(checker: HealthChecker) -> AsyncIterator[Running]:
    """Run a checker as a server would."""
    run = Running(checker)
    try:
        yield run
    finally:
        await run.stop()


@asynccontextmanager
async def closing(check: NetworkCheck) -> AsyncIterator[NetworkCheck]:
    """Close a check in the end; machines may be busy, so that the default deadline is too near."""
    if check.timeout == _DEFAULT_TIMEOUT:
        check.timeout = 20.0
    try:
        yield check
    finally:
        await check.close()


async def refused(check: HealthCheck, backend: str) -> Error:
    """Check a backend that fails the check.

    Returns:
        Why.
    """
    with pytest.raises(Error) as caught:
        await check.check(Backend(backend))
    return caught.value


class Silent:
    """A listener whose connections the kernel accepts, and to which nobody ever answers.

    Attributes:
        address: Where it listens.
    """

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
