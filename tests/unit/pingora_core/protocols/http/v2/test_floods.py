from __future__ import annotations

from hypothesis import given, strategies as st

from pingora_core.protocols.http.v2._floods import FloodGuard
from pingora_core.protocols.http.v2.options import FloodLimit


def test_a_burst_is_tolerated_and_one_more_is_not() -> None:
    """Exactly as many frames at once as the limit names."""
    guard = FloodGuard({"ping": FloodLimit(3, 1.0)})

    assert [guard.count("ping", 10.0) for _ in range(4)] == [False, False, False, True]


def test_what_is_old_is_forgotten() -> None:
    """At the limit's rate, however long the connection lives."""
    guard = FloodGuard({"ping": FloodLimit(2, 2.0)})

    assert not any(guard.count("ping", second / 2) for second in range(1000))
    assert [guard.count("ping", 499.6) for _ in range(2)] == [False, True]


def test_kinds_are_counted_apart_and_unlisted_ones_are_free() -> None:
    """One kind uses up nothing of another."""
    guard = FloodGuard({"ping": FloodLimit(1, 0.1), "settings": FloodLimit(1, 0.1)})

    assert not guard.count("ping", 0.0)
    assert not guard.count("settings", 0.0)
    assert guard.count("ping", 0.0)
    assert not any(guard.count("priority", 0.0) for _ in range(1000))


def test_what_this_side_has_caused_is_forgiven() -> None:
    """But nothing is saved up for later."""
    guard = FloodGuard({"window": FloodLimit(2, 0.0)})
    guard.forgive("window", 100.0)

    assert [guard.count("window", 0.0) for _ in range(2)] == [False, False]
    guard.forgive("window", 1.0)
    assert [guard.count("window", 0.0) for _ in range(2)] == [False, True]


@given(st.lists(st.floats(0, 10), max_size=200), st.integers(1, 20))
def test_never_more_than_burst_and_rate_allow(gaps: list[float], burst: int) -> None:
    """Over any stretch of time, what passes is at most the burst and what the rate forgets."""
    guard = FloodGuard({"x": FloodLimit(burst, 1.0)})
    now = passed = 0.0

    for gap in gaps:
        now += gap
        if guard.count("x", now):
            break
        passed += 1
        assert passed <= burst + now + 1e-6
