"""AsyncDatagramApp: the limits of what is worked on."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from pingora_core.apps import AsyncDatagramApp, datagram as app_module
from pingora_core.protocols.l4 import DatagramEndpoint
from pingora_core.protocols.l4.datagram import Datagram
from tests.support.clock import FakeClock
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.usefixtures("no_leaks")


class Waiting(AsyncDatagramApp):
    """Waits for ever, or fails.

    Attributes:
        given_up: What was given up.
    """

    def __init__(self, *, max_concurrency: int = 1024, timeout: float | None = 30.0) -> None:
        super().__init__(max_concurrency=max_concurrency, timeout=timeout)
        self.given_up: list[bytes] = []
        self.cleaned = asyncio.Event()

    async def process(self, datagram: Datagram) -> bytes | None:
        if datagram.data == b"fail":
            raise ZeroDivisionError
        try:
            await asyncio.Event().wait()
        finally:
            self.given_up.append(datagram.data)
            if datagram.data == b"slow to end":
                await self.cleaned.wait()
        return None


@pytest.fixture
async def endpoint() -> AsyncIterator[DatagramEndpoint]:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind(("127.0.0.1", 0))
    made = DatagramEndpoint(sock, lambda _: None)
    yield made
    made.close()


def give(app: Waiting, endpoint: DatagramEndpoint, data: bytes) -> None:
    app.datagram_received(Datagram(data, ("127.0.0.1", 9), endpoint, None))


async def test_work_expires_in_turn(
    monkeypatch: pytest.MonkeyPatch, endpoint: DatagramEndpoint
) -> None:
    """Each datagram has the whole time from when it was begun; what is late is told to end once."""
    clock = FakeClock()
    monkeypatch.setattr(app_module, "time", SimpleNamespace(monotonic=clock))
    app = Waiting(timeout=0.02)
    give(app, endpoint, b"slow to end")
    clock.advance(0.015)
    give(app, endpoint, b"second")
    await asyncio.sleep(0)
    clock.advance(0.01)
    await eventually(lambda: app.given_up == [b"slow to end"])
    clock.advance(0.02)
    await eventually(lambda: app.given_up == [b"slow to end", b"second"])
    give(app, endpoint, b"third")
    await asyncio.sleep(0)
    clock.advance(0.03)
    await eventually(lambda: b"third" in app.given_up)
    await eventually(lambda: app.in_work == 1)
    app.cleaned.set()
    await app.finish()
    await app.cleanup()


async def test_limit_can_be_lifted(endpoint: DatagramEndpoint) -> None:
    """Without a time limit nothing is given up but at the end."""
    app = Waiting(timeout=0.01)
    give(app, endpoint, b"x")
    app.timeout = None
    for _ in range(10):
        await asyncio.sleep(0.005)
    assert app.given_up == []
    await app.cleanup()
    assert app.given_up == [b"x"]


async def test_endpoints_that_come_late_are_paused(endpoint: DatagramEndpoint) -> None:
    """While there is too much to do, an endpoint that is added has to wait as well."""
    app = Waiting(max_concurrency=1, timeout=None)
    give(app, endpoint, b"x")
    app.attach(endpoint)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"y", (endpoint.address.host, endpoint.address.port))
    assert endpoint.read_waiting(1) == 0
    assert endpoint.counts.received == 0
    await app.cleanup()
    assert endpoint.read_waiting(1) == 1


async def test_failures_cannot_fill_the_log(
    caplog: pytest.LogCaptureFixture, endpoint: DatagramEndpoint
) -> None:
    """Failures are logged at a limited rate."""
    app = Waiting()
    for _ in range(50):
        give(app, endpoint, b"fail")
    await app.finish()
    await app.cleanup()

    assert sum("ZeroDivisionError" in line.getMessage() for line in caplog.records) == 10
