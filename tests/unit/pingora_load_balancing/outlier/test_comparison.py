"""At the end of an interval the backends are compared with each other."""

from __future__ import annotations

import asyncio
import math
import time
import tracemalloc
from functools import partial

import pytest
from hypothesis import given, strategies as st

from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_load_balancing import OutlierSettings
from tests.support.waiting import eventually
from tests.unit.pingora_load_balancing.outlier.rig import Rig

_settings = partial(OutlierSettings, consecutive_errors=None, max_ejected_share=1.0, jitter=0.0)


def test_a_success_rate_far_below_the_others_ejects() -> None:
    """One of five that fails half of the time, while the others fail now and then."""
    rig = Rig(5, _settings())
    for number in range(4):
        rig.report(number, ok=99, failed=1)
    rig.report(4, ok=50, failed=50)

    assert rig.ejected == []
    rig.pass_time(10.0)
    assert rig.ejected == [4]


def test_what_all_suffer_from_is_nobody_s_fault() -> None:
    """If everything fails, whatever is behind the backends is broken."""
    rig = Rig(5, _settings())
    for number in range(5):
        rig.report(number, ok=50, failed=50)

    rig.pass_time(10.0)
    assert rig.ejected == []


@pytest.mark.parametrize(("count", "requests"), [(4, 100), (5, 99)])
def test_a_comparison_needs_enough(count: int, requests: int) -> None:
    """With fewer backends or requests, chance would decide."""
    rig = Rig(count, _settings())
    for number in range(count - 1):
        rig.report(number, ok=requests)
    rig.report(count - 1, failed=requests)

    rig.pass_time(10.0)
    assert rig.ejected == []


def test_each_interval_counts_for_itself() -> None:
    """Requests of the one before are not mixed in."""
    rig = Rig(5, _settings())
    for _ in range(2):
        for number in range(5):
            rig.report(number, ok=60 * (number < 4), failed=60 * (number == 4))
        rig.pass_time(10.0)

    assert rig.ejected == []


@given(
    rates=st.lists(st.integers(0, 100), min_size=5, max_size=12),
    factor=st.sampled_from([1.0, 1.9, 2.5]),
)
def test_the_threshold_is_envoy_s(rates: list[int], factor: float) -> None:
    """Mean minus so many standard deviations, as its detector computes them."""
    rig = Rig(len(rates), _settings(success_rate_deviations=factor))
    for number, rate in enumerate(rates):
        rig.report(number, ok=rate, failed=100 - rate)
    mean = sum(rates) / len(rates)
    variance = sum((rate - mean) ** 2 for rate in rates) / len(rates)
    threshold = mean - factor * math.sqrt(variance)

    rig.pass_time(10.0)

    clear = {number for number, rate in enumerate(rates) if rate < threshold - 1e-6}
    possible = {number for number, rate in enumerate(rates) if rate < threshold + 1e-6}
    assert clear <= set(rig.ejected) <= possible


def test_a_share_of_failures_ejects() -> None:
    """Whatever the others do, and however few they are."""
    rig = Rig(3, _settings(failure_share=0.85, success_rate_deviations=None))
    rig.report(0, ok=7, failed=43)
    rig.report(1, ok=8, failed=42)
    rig.report(2, failed=49)

    rig.pass_time(10.0)
    assert rig.ejected == [0]


def test_a_latency_far_above_the_others_ejects() -> None:
    """More than so many times the usual one, on average."""
    rig = Rig(4, _settings(latency_factor=3.0))
    for number in range(3):
        rig.report(number, ok=20, latency=0.1 + number / 100)
    rig.report(3, ok=20, latency=0.4)
    rig.report(2, ok=1)  # Without a latency: no part of the average.

    rig.pass_time(10.0)
    assert rig.ejected == [3]


@pytest.mark.parametrize(
    ("slow", "count", "requests"), [(0.09, 4, 20), (0.5, 2, 20), (0.5, 4, 19), (0.03, 4, 20)]
)
def test_what_is_fast_enough_or_rare_stays(slow: float, count: int, requests: int) -> None:
    """Below the floor, among too few, seen too seldom, or within the factor."""
    rig = Rig(count, _settings(latency_factor=4.0))
    for number in range(count - 1):
        rig.report(number, ok=20, latency=0.01)
    rig.report(count - 1, ok=requests, latency=slow)

    rig.pass_time(10.0)
    assert rig.ejected == []


def test_nothing_is_compared_that_nobody_asked_for() -> None:
    """All criteria can be switched off."""
    rig = Rig(5, _settings(success_rate_deviations=None))
    for number in range(5):
        rig.report(number, ok=500 * (number < 4), failed=500 * (number == 4), latency=number)

    rig.pass_time(10.0)
    assert rig.ejected == []


def test_one_that_is_an_outlier_in_every_way_is_ejected_once() -> None:
    """What else is held against it makes no difference."""
    rig = Rig(5, _settings(failure_share=0.5, latency_factor=2.0))
    for number in range(4):
        rig.report(number, ok=100, latency=0.01)
    rig.report(4, failed=100, latency=1.0)

    rig.pass_time(10.0)
    assert rig.detector.ejections == 1
    assert rig.changes == [(4, True)]


def test_only_backends_with_requests_are_watched() -> None:
    """A record is dropped after an interval without any, or when its backend has left."""
    rig = Rig(5, OutlierSettings(consecutive_errors=2, jitter=0.0))
    rig.report(0, ok=1)
    rig.report(1, failed=1)
    rig.report(2, failed=2)
    rig.report(3, ok=1)
    rig.pool.replace(rig.backends[:3])
    for watched in (3, 2):  # 0 had requests in the first interval; 1 may fail again; 2 is out.
        rig.pass_time(10.0)
        assert repr(rig.detector).endswith(f"ejected, {watched} watched>")


def test_a_comparison_may_be_carried_by_reports() -> None:
    """Each does a small part, and may come from a callback of an ejection."""
    rig = Rig(1000, _settings(failure_share=0.5))
    rig.pool.subscribe(lambda _: rig.report(999, ok=1))
    for number in range(1000):
        rig.report(number, failed=50 * (number % 100 == 0), ok=50)
    rig.clock.advance(10.0)

    for _ in range(50):
        rig.report(1, ok=1)

    assert rig.ejected == list(range(0, 1000, 100))


async def test_as_a_service_it_needs_no_requests() -> None:
    """Comparison and readmission come in time; it ends when the server stops."""
    rig = Rig(5, _settings(interval=0.01))
    switch = ShutdownSwitch()
    service = asyncio.create_task(rig.detector.start(switch.watch))
    for number in range(5):
        rig.report(number, ok=100 * (number < 4), failed=100 * (number == 4))

    rig.clock.advance(0.01)
    await eventually(lambda: rig.ejected == [4], "the ejection")
    rig.clock.advance(30.0)
    await eventually(lambda: rig.ejected == [], "the readmission")
    switch.start()
    async with asyncio.timeout(30):
        await service


async def test_a_hundred_thousand_backends() -> None:
    """All of them watched take little memory, and no step of a comparison takes long."""
    rig = Rig(100_000, _settings(failure_share=0.9, failure_share_requests=1, latency_factor=3.0))
    tracemalloc.start()
    try:
        for number, backend in enumerate(rig.backends):
            rig.pool.report(backend, failed=number % 1000 == 0)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept / 100_000 < 400

    rig.clock.advance(10.0)
    steps: list[float] = []
    while len(rig.detector.ejected) < 100:
        began = time.thread_time()
        rig.detector.advance()
        steps.append(time.thread_time() - began)
    assert len(steps) > 500
    assert sorted(steps)[len(steps) // 2] < 0.005
