"""The first good answer of several attempts counts; nothing of the others is left behind."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from pingora_error import Error, ErrorType
from pingora_load_balancing import LatencyQuantile, RetryBudget, hedge
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("no_leaks")

_NEVER = 3600.0


class Attempts:
    """Attempts that do what the test says, each in its turn.

    Attributes:
        ended: Numbers of the attempts that have ended, in whatever way.
        discarded: Results that were discarded.
    """

    def __init__(self, *outcomes: str | Error | None) -> None:
        self._outcomes = outcomes
        self.started = 0
        self.ended: list[int] = []
        self.discarded: list[str] = []

    async def __call__(self, number: int) -> str:
        self.started += 1
        try:
            outcome = self._outcomes[number]
            if outcome is None:
                await asyncio.sleep(_NEVER)
            if isinstance(outcome, Error):
                raise outcome
            return outcome or ""
        finally:
            self.ended.append(number)

    async def discard(self, result: str) -> None:
        self.discarded.append(result)


def _refused() -> Error:
    return Error.up(ErrorType.CONNECT_REFUSED)


async def test_a_quick_answer_is_the_only_one() -> None:
    """Nothing is sent twice that is answered in time."""
    attempts = Attempts("one", "two")

    assert await hedge(attempts, delay=_NEVER) == "one"
    assert attempts.started == 1


async def test_a_slow_one_is_overtaken() -> None:
    """It is cancelled, and has ended when the answer is there."""
    attempts = Attempts(None, None, "three")

    assert await hedge(attempts, delay=lambda: 0.001, max_attempts=3) == "three"
    assert sorted(attempts.ended) == [0, 1, 2]


async def test_a_failure_is_followed_at_once() -> None:
    """Nobody waits for the delay when there is nothing to wait for."""
    attempts = Attempts(_refused(), "two")

    assert await hedge(attempts, delay=_NEVER) == "two"


async def test_if_all_fail_the_first_failure_counts() -> None:
    """It says more about the upstreams than those that followed."""
    first = _refused()

    with pytest.raises(Error) as failed:
        await hedge(Attempts(first, _refused()), delay=_NEVER)

    assert failed.value is first


async def test_an_attempt_that_gives_itself_up_has_failed() -> None:
    """It does not cancel whoever waits."""

    async def give_up(number: int) -> str:
        if number == 0:
            raise asyncio.CancelledError
        return "two"

    assert await hedge(give_up, delay=_NEVER) == "two"


async def test_one_that_will_not_do_is_kept_for_the_worst_case() -> None:
    """If nothing better comes, the last of them is the answer; the others are discarded."""
    attempts = Attempts("503 a", "503 b", _refused())

    answer = await hedge(
        attempts,
        delay=_NEVER,
        max_attempts=3,
        accept=lambda result: not result.startswith("503"),
        discard=attempts.discard,
    )

    assert answer == "503 b"
    assert attempts.discarded == ["503 a"]


async def test_what_is_not_returned_is_discarded() -> None:
    """What will not do, when there is something better."""
    attempts = Attempts("503", "200")

    answer = await hedge(
        attempts, delay=_NEVER, accept=lambda result: result == "200", discard=attempts.discard
    )

    assert answer == "200"
    assert attempts.discarded == ["503"]


async def test_two_answers_at_once_are_one_too_many() -> None:
    """The other one is discarded, whether it came before or after the cancellation."""
    go = asyncio.Event()
    discarded: list[int] = []

    async def answer(number: int) -> int:
        try:
            await go.wait()
        except asyncio.CancelledError:
            return number  # It was too late to stop it.
        return number

    async def discard(result: int) -> None:
        discarded.append(result)

    async def race() -> int:
        return await hedge(answer, delay=0.0, max_attempts=3, discard=discard)

    task = asyncio.create_task(race())
    await eventually(lambda: len(asyncio.all_tasks()) == 5)
    go.set()
    winner = await task

    assert sorted([winner, *discarded]) == [0, 1, 2]


async def test_an_answer_that_comes_in_spite_of_all_is_discarded() -> None:
    """Not every attempt can be stopped in the middle."""
    discarded: list[str] = []

    async def stubborn(number: int) -> str:
        if number == 1:
            return "two"
        try:
            await asyncio.sleep(_NEVER)
        except asyncio.CancelledError:
            return "one, late"
        return "one"

    async def discard(result: str) -> None:
        discarded.append(result)

    assert await hedge(stubborn, delay=0.0, discard=discard) == "two"
    assert discarded == ["one, late"]


@pytest.mark.parametrize("has_answer", [False, True])
async def test_a_cancelled_caller_leaves_nothing_behind(has_answer: bool) -> None:
    """All attempts are cancelled, and what has been answered is discarded."""
    attempts = Attempts("503" if has_answer else None, None)
    task = asyncio.create_task(
        hedge(attempts, delay=0.0, accept=lambda _: False, discard=attempts.discard)
    )
    await eventually(lambda: attempts.started == 2)
    await asyncio.sleep(0)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert sorted(attempts.ended) == [0, 1]
    assert attempts.discarded == (["503"] if has_answer else [])


async def test_a_check_that_fails_leaves_nothing_behind() -> None:
    """What the program's own rule raises is raised; the answer is discarded like any other."""
    attempts = Attempts("one")

    def check(result: str) -> bool:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await hedge(attempts, delay=_NEVER, accept=check, discard=attempts.discard)
    assert attempts.discarded == ["one"]


async def test_hedges_are_retries() -> None:
    """The budget knows the request, and refuses what is too much."""
    budget = RetryBudget(1.0, min_per_second=0)
    for _ in range(3):
        await hedge(Attempts(None, "two"), delay=0.0, budget=budget)
    assert (budget.requests, budget.retries) == (3, 3)

    empty = RetryBudget(0.0, min_per_second=0)
    with pytest.raises(Error):
        await hedge(Attempts(_refused(), "two"), delay=0.0, budget=empty)
    assert empty.refused == 1


async def test_there_is_one_attempt_at_least() -> None:
    """Less makes no sense."""
    with pytest.raises(ValueError, match="max_attempts"):
        await hedge(Attempts("one"), delay=0.0, max_attempts=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LatencyQuantile(0.0),
        lambda: LatencyQuantile(1.0),
        lambda: LatencyQuantile(size=0),
        lambda: LatencyQuantile(initially=-1.0),
    ],
)
async def test_a_quantile_makes_sense(make: Callable[[], LatencyQuantile]) -> None:
    """What does not is refused."""
    with pytest.raises(ValueError, match=r"quantile must|wanted size"):
        make()


async def test_a_quantile_is_not_guessed_from_too_little() -> None:
    """Until then the delay is the one given."""
    quantile = LatencyQuantile(0.9, size=100, initially=7.0)
    for _ in range(9):
        quantile.add(0.1)
    assert quantile() == 7.0

    quantile.add(0.1)
    assert quantile() == 0.1


@given(
    latencies=st.lists(st.floats(0.0, 10.0), min_size=16, max_size=200),
    share=st.floats(0.01, 0.99),
)
def test_a_quantile_is_about_the_latest(latencies: list[float], share: float) -> None:
    """So many of them were at most that long."""
    quantile = LatencyQuantile(share, size=32)
    for latency in latencies:
        quantile.add(latency)

    latest = latencies[-32:]
    within = sum(latency <= quantile() for latency in latest)
    assert within >= share * len(latest) - 1e-9
