"""What begins is counted until it ends, exactly once, however it ends."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from pingora_limits import Inflight
from pingora_limits.shared import SharedInflight

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_limits import Guard

    AnyInflight = Callable[[int], Inflight | SharedInflight]

both = pytest.mark.parametrize(
    "make",
    [
        pytest.param(Inflight, id="local"),
        pytest.param(lambda keys: SharedInflight(processes=2, expected_keys=keys), id="shared"),
    ],
)


@both
def test_inflight_count(make: AnyInflight) -> None:
    """Guards of one key add up, and each takes its own away."""
    inflight = make(10)

    first, count = inflight.incr("a", 1)
    assert count == 1
    second, count = inflight.incr("a", 2)
    assert count == 3
    first.release()
    assert second.get() == 2
    second.release()
    third, count = inflight.incr("a", 1)
    assert count == 1
    third.release()


@both
def test_a_context_manager_releases(make: AnyInflight) -> None:
    """The amount is gone at the end of the block, also after an error."""
    inflight = make(10)

    def fail() -> None:
        with inflight.incr("a", 5)[0]:
            assert inflight.get("a") == 5
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert inflight.get("a") == 0


@both
def test_a_dropped_guard_releases(make: AnyInflight) -> None:
    """As in the original, where going out of scope is the way to release."""
    inflight = make(10)

    assert inflight.incr("a")[1] == 1
    gc.collect()

    assert inflight.get("a") == 0


@both
def test_a_guard_releases_once(make: AnyInflight) -> None:
    """A second release, and the end of the guard, take nothing from others."""
    inflight = make(10)
    other, _ = inflight.incr("a")
    guard, _ = inflight.incr("a", 3)

    guard.release()
    guard.release()
    assert guard.amount == 0
    del guard

    assert other.get() == 1


@both
def test_what_a_guard_adds_it_takes_away(make: AnyInflight) -> None:
    """In the original, what the guard's own incr added stays for ever."""
    inflight = make(10)
    guard, _ = inflight.incr("a", 2)

    assert guard.incr(3) == 5
    assert guard.amount == 5
    guard.release()

    assert inflight.get("a") == 0
    with pytest.raises(RuntimeError, match="released already"):
        guard.incr()
    assert inflight.get("a") == 0


@both
def test_keys_beyond_the_room_are_estimated(make: AnyInflight) -> None:
    """Never too low, back to nothing when all has ended, and exact again then."""
    inflight = make(4)
    guards = [inflight.incr(key, key + 1)[0] for key in range(40)]

    assert all(inflight.get(key) >= key + 1 for key in range(40))
    for guard in guards:
        guard.release()

    assert [inflight.get(key) for key in range(40)] == [0] * 40
    assert inflight.incr("new", 7)[1] == 7


@both
def test_a_key_on_both_sides_is_summed(make: AnyInflight) -> None:
    """What was counted while there was no room is not forgotten when there is again."""
    inflight = make(1)
    blocker, _ = inflight.incr("blocker")
    early, count = inflight.incr("a", 2)
    assert count >= 2
    blocker.release()

    late, count = inflight.incr("a", 3)

    assert count >= 5
    early.release()
    assert inflight.get("a") == late.get() == 3


@both
@pytest.mark.parametrize("value", [0, -1, 2**32 + 1])
def test_an_amount_out_of_range_is_misuse(make: AnyInflight, value: int) -> None:
    """Nothing, less than nothing and too much are refused; nothing is counted then."""
    inflight = make(10)
    guard, _ = inflight.incr("a")

    with pytest.raises(ValueError, match="between 1 and 4294967296"):
        inflight.incr("a", value)
    with pytest.raises(ValueError, match="between 1 and 4294967296"):
        guard.incr(value)

    assert guard.get() == guard.amount == 1


@both
def test_no_room_is_misuse(make: AnyInflight) -> None:
    """At least one key is expected."""
    with pytest.raises(ValueError, match="at least 1 key"):
        make(0)


@both
def test_memory_is_bounded(make: AnyInflight) -> None:
    """However much is in flight, the counts take what was said."""
    inflight = make(500)
    guards = [inflight.incr(f"{number}" * 20)[0] for number in range(3_000)]

    assert 0 < inflight.memory <= inflight.max_memory
    for guard in guards:
        guard.release()


def test_the_error_bound_tells_when_counts_are_estimates() -> None:
    """It is 0 as long as all keys have a count of their own."""
    inflight = Inflight(1)
    first, _ = inflight.incr("a")
    assert inflight.error_bound == 0

    second, _ = inflight.incr("b", 4)

    assert inflight.error_bound > 0
    second.release()
    assert inflight.error_bound == 0
    first.release()


def test_repr() -> None:
    """Its repr tells how many keys it knows; that of a guard what it holds."""
    inflight = Inflight()
    guard, _ = inflight.incr("a", 2)

    assert repr(guard) == "<Guard of 2>"
    assert repr(inflight) == f"<Inflight of 1 keys, {inflight.memory} bytes>"
    guard.release()


@both
@given(
    keys=st.integers(1, 4),
    steps=st.lists(
        st.tuples(st.sampled_from(["incr", "more", "release"]), st.integers(0, 8)), max_size=60
    ),
)
def test_model(make: AnyInflight, keys: int, steps: list[tuple[str, int]]) -> None:
    """Any order of beginnings and ends: never too low, and right once there is room for all."""
    inflight = make(keys)
    held: list[tuple[int, Guard]] = []
    for step, number in steps:
        if step == "incr":
            guard, count = inflight.incr(number, number + 1)
            held.append((number, guard))
            assert count == guard.get()
        elif held and step == "more":
            held[number % len(held)][1].incr(number + 1)
        elif held:
            held.pop(number % len(held))[1].release()
        truth = [sum(guard.amount for key, guard in held if key == wanted) for wanted in range(9)]
        assert all(inflight.get(key) >= truth[key] for key in range(9))
        if not held:
            assert [inflight.get(key) for key in range(9)] == truth
    for _, guard in held:
        guard.release()
    assert not any(inflight.get(key) for key in range(9))
    if isinstance(inflight, SharedInflight):
        inflight.close()
