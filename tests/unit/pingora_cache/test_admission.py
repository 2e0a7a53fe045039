"""Policies that decide what is worth storing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pingora_cache.admission import Admission, AlwaysAdmit, NthRequest, TinyLfuAdmission
from tests.support.cache_eviction import key_for
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from pingora_cache.admission import AdmissionPolicy

DEFER, READY = Admission.DEFER, Admission.READY


def observe(policy: AdmissionPolicy, name: str | int, times: int = 1) -> list[Admission]:
    return [policy.observe(key_for(name), None) for _ in range(times)]


def test_always() -> None:
    """Everything is stored at once."""
    assert observe(AlwaysAdmit(), "a", 2) == [READY, READY]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_nth_request(n: int) -> None:
    """From its n-th request on an object is stored; others do not count for it."""
    policy = NthRequest(n)

    assert observe(policy, "a", 5) == [DEFER] * (n - 1) + [READY] * (6 - n)
    assert observe(policy, "b", 1) == [READY if n == 1 else DEFER]


def test_variants_are_counted_apart() -> None:
    """A variant of an object is an object of its own."""
    policy = NthRequest(2)
    plain, variant = key_for("a"), key_for("a", variance=b"v" * 16)

    assert policy.observe(plain, 5) is DEFER
    assert policy.observe(variant, 5) is DEFER
    assert policy.observe(variant, 5) is READY


def test_nth_request_forgets_when_many_others_come() -> None:
    """Memory is bounded: what was not asked for while many others were is forgotten."""
    policy = NthRequest(2, keys=10)
    observe(policy, "a")
    for number in range(9):
        observe(policy, number)
    assert observe(policy, "a") == [READY]

    for number in range(100, 200):
        observe(policy, number)
        assert len(policy._younger) + len(policy._older) <= 20
    assert observe(policy, "a") == [DEFER]


def test_nth_request_forgets_with_time() -> None:
    """A request counts for one to two windows."""
    clock = FakeClock()
    policy = NthRequest(2, window=60.0, clock=clock)
    observe(policy, "a")
    observe(policy, "b")
    observe(policy, "c")
    clock.advance(59.0)
    assert observe(policy, "a") == [READY]
    clock.advance(2.0)
    assert observe(policy, "b") == [READY]
    clock.advance(61.0)
    assert observe(policy, "c") == [DEFER]
    assert observe(policy, "b") == [READY]

    clock.advance(1000.0)
    assert observe(policy, "b") == [DEFER]


def test_a_full_generation_begins_a_window() -> None:
    """What is remembered is not forgotten sooner than a window after it filled a generation."""
    clock = FakeClock()
    policy = NthRequest(2, keys=2, window=60.0, clock=clock)
    clock.advance(59.0)
    observe(policy, "a")
    observe(policy, "b")
    clock.advance(59.0)

    assert observe(policy, "a") == [READY]


def test_tiny_lfu() -> None:
    """An object is stored once it was asked for often enough; its fame fades."""
    policy = TinyLfuAdmission(3, keys=100)
    assert observe(policy, "a", 4) == [DEFER, DEFER, READY, READY]

    for number in range(1700):
        observe(policy, number)
    assert observe(policy, "a") == [DEFER]


def test_bad_numbers() -> None:
    """Numbers out of their ranges are refused."""
    for n, keys, window in ((0, 1, None), (1, 0, None), (1, 1, 0.0)):
        with pytest.raises(ValueError, match="at least 1"):
            NthRequest(n, keys=keys, window=window)
    for requests, keys in ((0, 1), (256, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            TinyLfuAdmission(requests, keys=keys)
