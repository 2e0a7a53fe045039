"""A token bucket allows its burst, then its rate, and says when there will be enough again."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from pingora_limits import Decision, TokenBucket
from pingora_limits.shared import SharedTokenBucket
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    AnyBucket = type[TokenBucket | SharedTokenBucket]

both = pytest.mark.parametrize(
    "make", [pytest.param(TokenBucket, id="local"), pytest.param(SharedTokenBucket, id="shared")]
)


class _Model:
    """A token bucket as the books have it, in exact numbers."""

    def __init__(self, rate: Fraction, burst: int) -> None:
        self.rate = rate
        self.burst = burst
        self.tokens = Fraction(burst)
        self.at = Fraction(0)

    def acquire(self, cost: int, now: Fraction) -> bool:
        self.tokens = min(Fraction(self.burst), self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < cost:
            return False
        self.tokens -= cost
        return True


@both
def test_burst_then_rate(make: AnyBucket) -> None:
    """A full bucket is emptied at once; then tokens come one by one."""
    clock = FakeClock()
    limiter = make(2.0, 3, clock=clock)

    assert [limiter.acquire("a").is_allowed for _ in range(4)] == [True, True, True, False]
    clock.advance(0.5)
    assert [limiter.acquire("a").is_allowed for _ in range(2)] == [True, False]
    assert limiter.acquire("b").is_allowed
    clock.advance(100)
    assert [limiter.acquire("a").is_allowed for _ in range(4)] == [True, True, True, False]
    assert (limiter.limit, limiter.window) == (3, 1.5)


@both
def test_a_decision_tells_all(make: AnyBucket) -> None:
    """What is left, when the same would be allowed, when the bucket is full again."""
    clock = FakeClock()
    limiter = make(2.0, 10, clock=clock)

    assert limiter.acquire("a", 8) == Decision(True, 10, 2, 0.0, 4.0)
    assert limiter.acquire("a", 3) == Decision(False, 10, 2, 0.5, 4.0)
    clock.advance(0.75)
    assert limiter.acquire("a", 3) == Decision(True, 10, 0, 0.0, 4.75)
    assert limiter.acquire("a", 11) == Decision(False, 10, 0, math.inf, 4.75)


@both
def test_peek_takes_nothing(make: AnyBucket) -> None:
    """Asking is free."""
    limiter = make(1.0, 2, clock=FakeClock())

    assert limiter.peek("a") == limiter.peek("a") == Decision(True, 2, 2, 0.0, 0.0)
    limiter.acquire("a", 2)
    assert limiter.peek("a") == Decision(False, 2, 0, 1.0, 2.0)


@both
@given(
    rate=st.sampled_from([Fraction(1, 4), Fraction(1), Fraction(3), Fraction(64)]),
    burst=st.integers(1, 9),
    steps=st.lists(st.tuples(st.integers(0, 200), st.integers(1, 4)), max_size=60),
)
def test_as_the_books_have_it(
    make: AnyBucket, rate: Fraction, burst: int, steps: list[tuple[int, int]]
) -> None:
    """The same decisions as a bucket of exact tokens, and waiting as long as told helps."""
    clock = FakeClock(1_000.0)
    limiter, model = make(float(rate), burst, clock=clock), _Model(rate, burst)
    passed = Fraction(0)
    for pause, cost in steps:
        passed += Fraction(pause, 64)
        clock.now = 1_000.0 + float(passed)
        decision = limiter.acquire("a", cost)
        assert decision.is_allowed == model.acquire(cost, passed)
        assert decision.remaining == int(model.tokens)
        assert decision.reset_after == pytest.approx(float((burst - model.tokens) / rate))
        if not decision.is_allowed and cost <= burst:
            clock.now += decision.retry_after
            assert limiter.peek("a", cost).is_allowed
    if isinstance(limiter, SharedTokenBucket):
        limiter.close()


@given(
    st.floats(0.01, 1e6),
    st.integers(1, 50),
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 10)), min_size=1, max_size=60),
)
def test_never_more_than_burst_and_rate(
    rate: float, burst: int, steps: list[tuple[float, int]]
) -> None:
    """Whatever the rate: within any stretch of time no more than burst + rate x time."""
    clock = FakeClock(123.456)
    limiter = TokenBucket(rate, burst, clock=clock)
    allowed: list[tuple[float, int]] = []
    for pause, cost in steps:
        clock.advance(pause)
        if limiter.acquire("a", cost).is_allowed:
            allowed.append((clock.now, cost))
            for start, _ in allowed:
                taken = sum(cost for at, cost in allowed if at >= start)
                assert taken <= burst + rate * (clock.now - start) + 1e-3


@both
def test_what_is_forgotten_is_full(make: AnyBucket) -> None:
    """Keys are dropped only when their buckets would be full; those still in debt are kept."""
    clock = FakeClock()
    limiter = make(1.0, 10, clock=clock)
    limiter.acquire("late", 1)
    clock.advance(9.5)
    limiter.acquire("a", 10)

    for _ in range(9):
        clock.advance(1)
        assert limiter.acquire("a").is_allowed
        assert not limiter.acquire("a").is_allowed
    clock.advance(10)

    assert limiter.peek("a").remaining == 10


@both
def test_keys_beyond_the_room_share(make: AnyBucket) -> None:
    """Never more than the burst, also for keys that came when there was no room."""
    clock = FakeClock()
    limiter = make(1.0, 5, expected_keys=2, clock=clock)
    for key in range(50):
        assert sum(limiter.acquire(key).is_allowed for _ in range(10)) <= 5
    clock.advance(2)
    for key in range(50):
        assert sum(limiter.acquire(key).is_allowed for _ in range(10)) <= 2

    clock.advance(10)

    assert all(limiter.peek(key).remaining == 5 for key in range(50))


@both
def test_keys_beyond_the_room_do_not_pay_for_those_of_long_ago(make: AnyBucket) -> None:
    """What was taken two fill times ago has left the sketch, whoever shares it."""
    clock = FakeClock()
    limiter = make(1.0, 5, expected_keys=50, clock=clock)
    clock.advance(4.75)  # late in the first of the epochs of five seconds
    for key in range(200):
        limiter.acquire(key)

    clock.advance(5.5)
    for key in range(50):
        limiter.acquire(-key)
    limiter.acquire("crowded")

    assert sum(limiter.peek(key).remaining == 5 for key in range(100, 200)) > 90


def test_innocent_keys_beyond_the_room_are_served() -> None:
    """With twice as many keys as expected nobody who keeps to half its rate is refused."""
    clock = FakeClock()
    limiter = TokenBucket(1.0, 20, expected_keys=1_000, clock=clock)
    refused = 0
    for _ in range(4):
        clock.advance(2.5)
        refused += sum(not limiter.acquire(key, 2).is_allowed for key in range(2_000))

    assert refused == 0


def test_a_key_moves_to_the_sketch_and_back() -> None:
    """Its debt goes with it when its place was taken in between."""
    clock = FakeClock()
    limiter = TokenBucket(1.0, 10, expected_keys=1, clock=clock)
    limiter.acquire("a", 10)
    clock.advance(10)  # the next generation begins, "a" is in the one before
    limiter.acquire("b", 1)  # takes the only place
    limiter.acquire("a", 10)
    assert not limiter.acquire("a").is_allowed

    clock.advance(9.5)
    assert limiter.acquire("a", 9).is_allowed
    clock.advance(0.5)  # the next generation: room again
    assert limiter.acquire("a", 1).is_allowed
    assert not limiter.acquire("a").is_allowed


@both
def test_a_clock_that_jumps_ahead_fills_buckets(make: AnyBucket) -> None:
    """As after a pause."""
    clock = FakeClock()
    limiter = make(1.0, 3, clock=clock)
    limiter.acquire("a", 3)

    clock.advance(1_000_000)

    assert limiter.acquire("a", 3).is_allowed


@both
@pytest.mark.parametrize("back", [0.5, 1.5, 1_000_000.0])
@pytest.mark.parametrize("expected_keys", [1, 100])
def test_a_clock_that_goes_back_does_not_lock_anybody_out(
    make: AnyBucket, back: float, expected_keys: int
) -> None:
    """No bucket stays empty for longer than twice the time it takes to fill."""
    clock = FakeClock()
    limiter = make(2.0, 4, expected_keys=expected_keys, clock=clock)
    for key in "ab":
        limiter.acquire(key, 4)
        clock.advance(1)
        limiter.acquire(key, 2)

    clock.now -= back
    for key in "ab":
        limiter.acquire(key)
    clock.advance(2)
    for key in "ab":
        limiter.acquire(key)
    clock.advance(2)

    assert limiter.peek("a").remaining == limiter.peek("b").remaining >= 3


@both
@pytest.mark.parametrize("rate", [0.0, -1.0, math.inf, math.nan])
def test_a_rate_out_of_range_is_misuse(make: AnyBucket, rate: float) -> None:
    """Tokens flow, and not infinitely fast."""
    with pytest.raises(ValueError, match="rate above 0"):
        make(rate, 1)


@both
def test_amounts_out_of_range_are_misuse(make: AnyBucket) -> None:
    """A bucket holds a token at least, and so much is asked for."""
    limiter = make(1.0, 1)

    with pytest.raises(ValueError, match="between 1 and"):
        make(1.0, 0)
    for method in (limiter.acquire, limiter.peek):
        with pytest.raises(ValueError, match="between 1 and"):
            method("a", 0)


@both
def test_memory_is_bounded(make: AnyBucket) -> None:
    """However many keys come, and it is given back when they are gone."""
    clock = FakeClock()
    limiter = make(1.0, 2, expected_keys=100, clock=clock)
    empty = limiter.memory
    for number in range(2_000):
        limiter.acquire(number)

    assert empty < limiter.memory <= limiter.max_memory
    if isinstance(limiter, TokenBucket):
        clock.advance(100)
        limiter.acquire("a")
        assert limiter.memory < empty + 1_000


def test_repr() -> None:
    """Its repr tells the burst and the time it takes to fill."""
    assert repr(TokenBucket(2.0, 3)) == "<TokenBucket of 3, filled in 1.5 s>"
