"""Selectors follow the pool that they share; large ones are rebuilt beside the one in use."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from pingora_load_balancing import Backend, Backends, KetamaHashing, RoundRobin, Selector
from pingora_load_balancing.slices import Slices
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from pingora_load_balancing import BackendSelection, BackendSet

_A, _B, _C = Backend("10.0.0.1:80"), Backend("10.0.0.2:80"), Backend("10.0.0.3:80")


class _Slow:
    """Takes as many steps to build as it is told to, and is never quick enough at once."""

    steps = 0
    gate = True
    failure: Exception | None = None
    prepared = 0

    def __init__(self, backends: BackendSet) -> None:
        self.backends = backends.backends

    def prepare(self) -> Iterator[None]:
        for _ in range(self.steps):
            Slices(_spin()).finish()
            yield
        while not _Slow.gate:
            Slices(_spin()).finish()
            yield
        if _Slow.failure is not None:
            raise _Slow.failure
        _Slow.prepared += 1

    def iter(self, key: bytes) -> Iterator[Backend]:
        return iter(self.backends)


def _spin() -> Generator[None, None, None]:
    yield


@pytest.fixture(autouse=True)
def _slow() -> Iterator[None]:
    _Slow.steps, _Slow.gate, _Slow.failure, _Slow.prepared = 0, True, None, 0
    yield
    _Slow.gate, _Slow.failure = True, None


def test_selectors_share_set_and_health() -> None:
    """One change is seen by all of them at once."""
    pool = Backends([_A, _B])
    turns, ring = Selector(pool), Selector(pool, KetamaHashing)

    pool.set_healthy(_A.addr, False)
    assert {turns.select(b"k", 256), ring.select(b"k", 256)} == {_B}
    pool.replace([_A, _C])

    assert turns.backends == ring.backends == (_A, _C)
    assert {turns.select(b"k", 256), ring.select(b"k", 256)} == {_C}
    assert not ring.is_ready(_A)
    state = ring.state(_A)
    assert state is not None
    assert not state.is_healthy
    assert ring.state(_B) is None


async def test_small_change_is_seen_at_once_in_a_loop() -> None:
    """What is quickly built needs no task."""
    pool = Backends([_A])
    selector = Selector(pool)

    pool.replace([_B])

    assert selector.select(b"", 256) == _B
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_large_set() -> None:
    """All of it is known by its identity."""
    many = [Backend(f"10.1.{n >> 8}.{n & 255}:80") for n in range(5_000)]
    selector = Selector(Backends(many))

    assert [selector.select(b"", 1) for _ in many] == many


async def test_large_change_is_built_beside_the_one_in_use() -> None:
    """Requests go on being served from the old set; changes in between are not lost."""
    pool = Backends([_A])
    selector = Selector(pool, _Slow)
    _Slow.gate = False
    pool.replace([_B])
    await asyncio.sleep(0.01)
    assert selector.select(b"", 256) == _A
    pool.replace([_C])
    assert selector.backends == (_A,)

    _Slow.gate = True
    await eventually(lambda: selector.select(b"", 256) == _C, "the new set")

    assert selector.backends == (_C,)


async def test_catching_up_waits_for_the_new_set() -> None:
    """Afterwards the newest set is in use."""
    pool = Backends([_A])
    selector = Selector(pool, _Slow)
    _Slow.gate = False
    pool.replace([_B])
    assert selector.backends == (_A,)
    _Slow.gate = True

    assert await selector.catch_up()
    assert selector.backends == (_B,)
    assert not await selector.catch_up()


async def test_state_is_that_of_the_moment_while_building() -> None:
    """Old backends that become unhealthy during a build are passed over."""
    pool = Backends([_A, _B])
    selector = Selector(pool, _Slow)
    _Slow.gate = False
    pool.replace([_A, _B, _C])

    pool.set_healthy(_A.addr, False)

    assert selector.select(b"", 256) == _B
    selector.close()


@pytest.mark.parametrize("late", [False, True])
async def test_selection_that_cannot_be_built(late: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The failure is logged, the last selection stays, and the next change is tried."""
    pool = Backends([_A])
    selector = Selector(pool, _Slow)
    _Slow.failure = ZeroDivisionError("a bug")
    _Slow.gate = not late

    pool.replace([_A, _B])
    _Slow.gate = True
    await eventually(lambda: "a bug" in caplog.text, "the failure in the log")

    assert selector.backends == (_A,)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "the one of the last 1 backends stays" in caplog.text
    _Slow.failure = None
    pool.replace([_C])
    await eventually(lambda: selector.backends == (_C,), "the next set")


async def test_closed_selector_follows_no_more() -> None:
    """It keeps its set; a build under way ends."""
    pool = Backends([_A])
    selector = Selector(pool, _Slow)
    _Slow.gate = False
    pool.replace([_B])
    selector.close()
    selector.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    _Slow.gate = True
    pool.replace([_C])
    await asyncio.sleep(0.01)
    selector.close()

    assert selector.backends == (_A,)
    assert asyncio.all_tasks() == {asyncio.current_task()}


class _Foreign:
    """Offers backends that are equal to those of the set, but not the same objects."""

    def __init__(self, backends: BackendSet) -> None:
        self.texts = [str(backend) for backend in backends]

    def iter(self, key: bytes) -> Iterator[Backend]:
        return map(Backend, [*self.texts, "10.9.9.9:80"])


def test_selection_that_makes_backends_up() -> None:
    """Their addresses are looked up then; one that is in no set is not ready."""
    pool = Backends([_A, _B])
    selector = Selector(pool, _Foreign)
    pool.set_healthy(_A.addr, False)
    seen: list[tuple[str, bool]] = []

    def refuse(backend: Backend, ready: bool) -> bool:
        seen.append((str(backend), ready))
        return False

    assert selector.select(b"", 256) == _B
    selector.select_with(b"", 256, refuse)
    pool.set_healthy(_B.addr, False)

    assert selector.select(b"", 256) is None
    assert seen == [("10.0.0.1:80", False), ("10.0.0.2:80", True), ("10.9.9.9:80", False)]


def test_leases_and_reports_reach_the_pool() -> None:
    """They are those of the pool, for all that share it."""
    pool = Backends([_A])
    selector = Selector(pool)

    with selector.lease(_A):
        assert pool.totals.in_flight == 1
    selector.report(_A, latency=0.5)

    assert pool.states[_A.addr].latency == 0.5


def test_slices_do_all_of_the_work() -> None:
    """At once or bit by bit, the result is the same."""

    def work(log: list[int]) -> Generator[None, None, str]:
        for number in range(5):
            log.append(number)
            yield
        return "done"

    at_once: list[int] = []
    bit_by_bit: list[int] = []
    assert Slices(work(at_once)).finish() == "done"
    slices = Slices(work(bit_by_bit))
    advances = 1
    while not slices.advance(0.0):
        advances += 1

    assert slices.finish() == "done"
    assert advances == 6
    assert at_once == bit_by_bit == [0, 1, 2, 3, 4]


def test_default_is_smooth_round_robin() -> None:
    """As for a load balancer."""
    pool = Backends([_A, _B])

    turns = [Selector(pool).select(b"", 1), Selector(pool, RoundRobin).select(b"", 1)]

    assert turns == [_A, _A]
    assert "2 backends, 0 disabled" in repr(Selector(pool))


def _unused(_: BackendSelection) -> None:
    """Every selection here is one, for the type checker."""


def test_selections_have_the_right_form() -> None:
    """The protocol is met."""
    _unused(_Slow(Backends().current))
    _unused(_Foreign(Backends().current))
