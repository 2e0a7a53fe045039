"""Following a source whatever happens, and leaving it alone when it fails."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from pingora_error import Error, ErrorType
from pingora_load_balancing import Static
from pingora_load_balancing.discovery import Backoff, Discovered, Mutable, follow
from pingora_load_balancing.discovery.following import FailureLog, jittered
from tests.support.clock import FakeClock
from tests.support.discovery_watch import addresses, watching

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = pytest.mark.usefixtures("no_leaks")

QUICK = Backoff(initial=0.001, maximum=0.002)
ONE, TWO = (
    Discovered(Static(["10.0.0.1:80"]).backends),
    Discovered(Static(["10.0.0.2:80"]).backends),
)


class Asked:
    """A source that can only be asked."""

    def __init__(self, *answers: Discovered | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def discover(self) -> Discovered:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Watched(Asked):
    """A source that can be watched: each watch tells what is in one list."""

    def __init__(self, *scripts: list[Discovered | Exception]) -> None:
        super().__init__(ONE)
        self.scripts = list(scripts)
        self.closed = 0

    async def watch(self) -> AsyncGenerator[Discovered, None]:
        try:
            for answer in self.scripts.pop(0):
                if isinstance(answer, Exception):
                    raise answer
                yield answer
            if not self.scripts:
                await asyncio.Event().wait()
        finally:
            self.closed += 1


async def take(source: Asked, count: int, frequency: float | None = None) -> tuple[list[str], int]:
    """Take so many answers, and count the failures before them."""
    failures: list[Exception] = []
    taken: list[str] = []
    answers = follow(source, frequency=frequency, backoff=QUICK, on_failure=failures.append)
    async with aclosing(answers):
        async for found in answers:
            taken += addresses(found)
            if len(taken) == count:
                break
    return taken, len(failures)


async def test_asking_at_a_frequency() -> None:
    """Each answer is passed on; failures are told and survived."""
    source = Asked(ONE, ValueError(), Error(ErrorType.READ_ERROR), TWO)

    assert await take(source, 3, 0.001) == (["10.0.0.1:80", "10.0.0.2:80", "10.0.0.2:80"], 2)


async def test_asking_once() -> None:
    """What cannot be watched is asked until it has answered once."""
    source = Asked(ValueError(), ONE)
    async with asyncio.timeout(30):
        assert await take(source, 99) == (["10.0.0.1:80"], 1)
    assert source.asked == 2


async def test_watching() -> None:
    """A watch that fails or ends is begun again, and closed each time."""
    source = Watched([ONE, ValueError()], [TWO], [ONE])

    assert await take(source, 3) == (["10.0.0.1:80", "10.0.0.2:80", "10.0.0.1:80"], 2)
    assert (source.closed, source.asked) == (3, 0)


async def test_a_frequency_means_asking() -> None:
    """What could be watched is asked if a frequency is given."""
    source = Watched([TWO])

    assert await take(source, 2, 0.001) == (["10.0.0.1:80", "10.0.0.1:80"], 0)
    assert source.asked == 2


async def test_a_source_that_stalls() -> None:
    """A question that nobody answers is given up."""

    class Stalled(Asked):
        async def discover(self) -> Discovered:
            if self.asked == 0:
                self.asked += 1
                await asyncio.Event().wait()
            return ONE

    answers = follow(Stalled(ONE), backoff=QUICK, timeout=0.02)
    async with aclosing(answers), asyncio.timeout(30):
        assert addresses(await anext(answers)) == ["10.0.0.1:80"]


async def test_failures_are_logged_but_not_all(caplog: pytest.LogCaptureFixture) -> None:
    """Without anybody to tell, failures go to the log; tracebacks only of what is a defect."""
    source = Watched([Error(ErrorType.READ_ERROR, "gone")], [KeyError("defect")], [ONE])
    answers = follow(source, backoff=QUICK)
    async with aclosing(answers):
        await anext(answers)

    gone, defect = caplog.records
    assert "gone" in gone.message
    assert gone.exc_info is None
    assert defect.exc_info is not None


def test_failure_log(caplog: pytest.LogCaptureFixture) -> None:
    """Ten lines at once, then one a minute with the number of those left out."""
    clock = FakeClock()
    log = FailureLog(logging.getLogger("test"), clock)
    for _ in range(50):
        log.write("it failed", TimeoutError())
    clock.advance(60.0)
    log.write("it failed", TimeoutError())

    assert len(caplog.records) == 11
    assert caplog.messages[0] == "it failed: TimeoutError"
    assert caplog.messages[-1] == "it failed: TimeoutError (40 failures before it were not logged)"


@given(st.integers(1, 10_000), st.floats(0.001, 100), st.floats(1, 100))
def test_backoff(failures: int, initial: float, factor: float) -> None:
    """The wait doubles up to the maximum, and is never less than half of that."""
    backoff = Backoff(initial=initial, maximum=initial * factor)
    full = min(initial * 2.0 ** min(failures - 1, 100), initial * factor)

    assert full * 0.5 <= backoff.delay(failures) <= full


@given(st.floats(0, 1e6), st.floats(0, 1))
def test_jitter(seconds: float, jitter: float) -> None:
    """Times vary by no more than the share given."""
    assert (1 - jitter) * seconds <= jittered(seconds, jitter) * 1.0000001
    assert jittered(seconds, jitter) <= (1 + jitter) * seconds * 1.0000001


@pytest.mark.parametrize(("initial", "maximum"), [(0, 1), (2, 1), (float("nan"), 1)])
def test_misuse(initial: float, maximum: float) -> None:
    """Times that make no sense are refused."""
    with pytest.raises(ValueError, match="backoff needs"):
        Backoff(initial=initial, maximum=maximum)


# --------------------------------------------------------------------- what the program changes


async def test_mutable() -> None:
    """A list that the program replaces is told to all who watch."""
    mutable = Mutable(["10.0.0.1:80"])
    async with watching(mutable) as one, watching(mutable) as other:
        await one.shows(["10.0.0.1:80"])
        mutable.replace(["10.0.0.2:80", "10.0.0.3:80"])
        for watch in (one, other):
            await watch.shows(["10.0.0.2:80", "10.0.0.3:80"])
        mutable.replace([])
        await one.shows([])

    assert mutable.backends == ()
    assert addresses(await mutable.discover()) == []


async def test_a_bad_replacement_changes_nothing() -> None:
    """What is refused is not taken over, not even in part."""
    mutable = Mutable(["10.0.0.1:80"])
    with pytest.raises(ValueError, match="no port"):
        mutable.replace(["10.0.0.2:80", "10.0.0.3"])

    assert addresses(await mutable.discover()) == ["10.0.0.1:80"]
