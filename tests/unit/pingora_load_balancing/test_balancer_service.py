"""A load balancer as a service: sharing a pool, watching a discovery, checking health."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.services.service import ServiceReadyNotifier
from pingora_error import Error, ErrorType
from pingora_load_balancing import Backend, Backends, Discovered, KetamaHashing, LoadBalancer
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Sequence

_A, _B = Backend("10.0.0.1:80"), Backend("10.0.0.2:80")


class _Found:
    """Finds what it is told to find."""

    def __init__(self, *backends: Backend) -> None:
        self.backends = backends

    async def discover(self) -> Discovered:
        return Discovered(self.backends)


def test_balancers_share_a_pool() -> None:
    """One has the list; the others see it, and what becomes of it."""
    pool = Backends()
    first = LoadBalancer([_A, _B], pool=pool)
    second = LoadBalancer(pool=pool, selection=KetamaHashing)

    first.set_enable(_A, False)

    assert second.backends == (_A, _B)
    assert not second.is_ready(_A)
    assert second.select(b"any", 256) == _B
    assert first.health is second.health is None


async def test_balancer_over_a_pool_that_others_fill_has_nothing_to_ask() -> None:
    """Its update succeeds without doing anything; as a service it ends at once."""
    balancer = LoadBalancer(pool=Backends([_A]))

    assert await balancer.update()
    await balancer.start(ShutdownSwitch().watch)

    assert balancer.last_update_timing is None


async def test_discovery_fills_a_shared_pool() -> None:
    """All balancers over the pool have the new set when the update is done."""
    pool = Backends()
    first = LoadBalancer(discovery=_Found(_A), pool=pool)
    second = LoadBalancer(pool=pool)

    await first.update()

    assert first.select(b"", 256) == second.select(b"", 256) == _A


class _Build:
    """A selection that takes many steps to build, until it is told to be done."""

    is_done = False

    def __init__(self, backends: Sequence[Backend]) -> None:
        self.backends = list(backends)

    def prepare(self) -> Iterator[None]:
        while self.backends and not _Build.is_done:
            yield

    def iter(self, key: bytes) -> Iterator[Backend]:
        return iter(self.backends)


async def test_cancelled_update_does_not_lose_a_new_set() -> None:
    """When only the build is left, it goes on without the one who asked for it."""
    _Build.is_done = False
    balancer = LoadBalancer(discovery=_Found(_A), selection=_Build)
    update = asyncio.create_task(balancer.update())
    await eventually(lambda: len(balancer.pool.current) == 1, "the new set")

    update.cancel()
    with pytest.raises(asyncio.CancelledError):
        await update
    assert balancer.backends == ()
    _Build.is_done = True

    await eventually(lambda: balancer.select(b"", 256) == _A, "the new selection")


async def test_long_build_does_not_hold_up_the_loop() -> None:
    """Others run many times while a large selection is built."""
    _Build.is_done = False
    balancer = LoadBalancer(discovery=_Found(_A), selection=_Build)
    update = asyncio.create_task(balancer.update())

    for _ in range(20):
        await asyncio.sleep(0)
    assert not update.done()
    _Build.is_done = True

    assert await update


class _Check:
    """Finds the backends unhealthy that it is told to find so."""

    def __init__(self, *bad: Backend) -> None:
        self.bad = set(bad)
        self.closed = 0

    async def check(self, backend: Backend) -> None:
        if backend in self.bad:
            raise Error.up(ErrorType.CONNECT_REFUSED)

    async def close(self) -> None:
        self.closed += 1


async def test_health_check_runs_with_the_service() -> None:
    """A backend that fails its check gets nothing; the check is closed when the service ends."""
    check = _Check(_A)
    balancer = LoadBalancer([_A, _B], health_check=check, health_check_frequency=0.01)
    switch = ShutdownSwitch()
    ready = ServiceReadyNotifier()
    service = asyncio.create_task(balancer.start_with_ready_notifier(switch.watch, ready))
    await eventually(lambda: not balancer.is_ready(_A), "the verdict")

    assert ready.is_ready
    assert {balancer.select(b"", 256) for _ in range(3)} == {_B}
    assert balancer.health is not None
    assert balancer.health.frequency == 0.01
    check.bad.clear()
    await eventually(lambda: balancer.is_ready(_A), "recovery")
    switch.start()
    await asyncio.wait_for(service, 30)
    assert check.closed == 1


async def test_contradicting_answer_of_a_watched_discovery(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What a watch brings is checked like an answer to a question."""
    watched = _Watched(Discovered([_A]), Discovered([_A, Backend(_A.addr, 2)]), Discovered([_B]))
    balancer = LoadBalancer(discovery=watched)
    switch = ShutdownSwitch()
    ready = ServiceReadyNotifier()
    service = asyncio.create_task(balancer.start_with_ready_notifier(switch.watch, ready))

    await eventually(lambda: balancer.backends == (_B,), "the last answer")
    switch.start()
    await asyncio.wait_for(service, 30)

    assert ready.is_ready
    assert "given twice" in caplog.text
    assert watched.closed == 1


class _Watched:
    """Tells a list of answers, one after the other, then nothing more."""

    def __init__(self, *answers: Discovered | Exception) -> None:
        self.answers = answers
        self.closed = 0

    async def discover(self) -> Discovered:
        raise AssertionError("a discovery that can be watched is not asked")

    async def watch(self) -> AsyncGenerator[Discovered, None]:
        for answer in self.answers:
            if isinstance(answer, Exception):
                raise answer
            yield answer
        await asyncio.Event().wait()

    async def close(self) -> None:
        self.closed += 1


async def test_watched_discovery_that_fails_at_first(caplog: pytest.LogCaptureFixture) -> None:
    """The service is ready all the same, and the failure is in the log."""
    balancer = LoadBalancer(discovery=_Watched(Error.internal(ErrorType.CONNECT_ERROR, "no")))
    switch = ShutdownSwitch()
    ready = ServiceReadyNotifier()
    service = asyncio.create_task(balancer.start_with_ready_notifier(switch.watch, ready))

    await ready.wait()
    switch.start()
    await asyncio.wait_for(service, 30)

    assert "the update of the backends failed, the last 0 stay" in caplog.text


async def test_watched_discovery_that_fails_later(caplog: pytest.LogCaptureFixture) -> None:
    """The last answer stays."""
    watched = _Watched(Discovered([_A]), Error.internal(ErrorType.CONNECT_ERROR, "gone"))
    balancer = LoadBalancer(discovery=watched)
    switch = ShutdownSwitch()
    service = asyncio.create_task(balancer.start(switch.watch))

    await eventually(lambda: "the last 1 stay" in caplog.text, "the failure in the log")
    switch.start()
    await asyncio.wait_for(service, 30)

    assert balancer.backends == (_A,)
