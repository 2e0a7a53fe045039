"""Answers about buckets that make no sense, and decisions while nobody runs the limiter."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from pingora_limits.redis import RedisTokenBucket


class _Redis:
    def __init__(self, answer: object) -> None:
        self.answer = answer

    async def execute_command(self, *_: bytes | str | float) -> object:
        return self.answer


@pytest.mark.parametrize(
    "answer", [None, [], [1], [1, 2], [1, b"x"], ["x", b"1"], [1, b"nan"], {}], ids=repr
)
async def test_garbage_is_no_answer(answer: object) -> None:
    """The decision is made here, and Redis is left alone for a while."""
    async with RedisTokenBucket(_Redis(answer), 1.0, 2, name="a") as limiter:
        decisions = [await limiter.acquire("a") for _ in range(3)]

    assert [decision.is_allowed for decision in decisions] == [True, True, False]
    assert (limiter.local, limiter.is_away, limiter.failures) == (3, True, 1)


async def test_an_answer_decoded_or_not() -> None:
    """Clients that decode answers are as good."""
    for answer in ([1, b"1.5"], ["1", "1.5"]):
        async with RedisTokenBucket(_Redis(answer), 0.5, 4, name="a", timeout=5.0) as limiter:
            decision = await limiter.acquire("a")

        assert (decision.is_allowed, decision.remaining, decision.reset_after) == (True, 2, 3.0)


async def test_misuse_is_told_before_anything_else() -> None:
    """With Redis or without."""
    limiter = RedisTokenBucket(_Redis(None), 1.0, 2, name="a")

    with pytest.raises(ValueError, match="between 1 and"):
        await limiter.acquire("a", 0)
    with pytest.raises(TypeError, match="str, bytes or int"):
        await limiter.acquire(None)  # type: ignore[arg-type]
    assert limiter.local == 0


@given(st.floats(0, 100), st.integers(1, 50))
async def test_a_refusal_tells_how_long_to_wait(debt: float, cost: int) -> None:
    """Until the debt is low enough, or for ever."""
    async with RedisTokenBucket(_Redis([0, repr(debt)]), 2.0, 20, name="a", timeout=5.0) as limiter:
        decision = await limiter.acquire("a", cost)

    assert not decision.is_allowed
    if cost > 20:
        assert decision.retry_after == float("inf")
    else:
        assert decision.retry_after == pytest.approx(max(0, (debt + cost - 20) / 2))
    assert decision.remaining == max(0, int(20 - debt + 1e-6))
