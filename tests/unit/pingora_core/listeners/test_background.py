"""What acceptors do in the background: never silently dead."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pingora_core.listeners._background import BackgroundTasks
from tests.support.clock import FakeClock
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pingora_core.protocols.interfaces import Stream

pytestmark = pytest.mark.usefixtures("no_leaks")


class Work:
    """Does one step of a script each time it is run, then waits for ever."""

    def __init__(self, *steps: BaseException | None) -> None:
        self.steps = list(steps)
        self.runs = 0
        self.is_cancelled = False

    async def accept(self, stream: Stream, /) -> Stream:
        return stream

    async def run(self) -> None:
        self.runs += 1
        if self.steps:
            step = self.steps.pop(0)
            if step is None:
                return
            raise step
        try:
            await asyncio.Event().wait()
        finally:
            self.is_cancelled = True


class Pauses:
    """Notes pauses instead of making them; the clock moves on as if they were made."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.made: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.made.append(seconds)
        await asyncio.sleep(0)


async def test_what_fails_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    """After a pause that doubles up to a minute; each failure is logged with its traceback."""
    pauses = Pauses()
    work = Work(*(KeyError(f"step {i}") for i in range(8)))
    tasks = BackgroundTasks(pauses.sleep, pauses.clock)

    tasks.keep([work])
    await eventually(lambda: work.runs == 9)

    assert pauses.made == [1, 2, 4, 8, 16, 32, 60, 60]
    assert caplog.text.count("failed in the background") == 8
    assert "KeyError: 'step 7'" in caplog.text
    tasks.keep([])
    await tasks.wait_ended()
    assert work.is_cancelled


async def test_a_long_run_counts_as_a_new_beginning() -> None:
    """The pause after it is the shortest one again."""
    pauses = Pauses()

    class Slow(Work):
        async def run(self) -> None:
            if self.runs == 2:
                pauses.clock.advance(60)
            await super().run()

    work = Slow(*(OSError(5, "EIO") for _ in range(4)))
    tasks = BackgroundTasks(pauses.sleep, pauses.clock)

    tasks.keep([work])
    await eventually(lambda: work.runs == 5)

    assert pauses.made == [1, 2, 1, 2]
    tasks.keep([])
    await tasks.wait_ended()


async def test_a_cancellation_that_nobody_asked_for_is_a_failure() -> None:
    """Something inside was cancelled and let it through."""
    pauses = Pauses()
    work = Work(asyncio.CancelledError())
    tasks = BackgroundTasks(pauses.sleep, pauses.clock)

    tasks.keep([work])
    await eventually(lambda: work.runs == 2)

    assert pauses.made == [1]
    tasks.keep([])
    await tasks.wait_ended()


async def test_what_has_nothing_to_do_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """It returned; that is no failure."""
    work = Work(None)
    tasks = BackgroundTasks()

    tasks.keep([work])
    await eventually(lambda: work.runs == 1)
    await asyncio.sleep(0.01)
    tasks.keep([work])
    await asyncio.sleep(0.01)
    tasks.keep([])
    await tasks.wait_ended()

    assert work.runs == 1
    assert caplog.text == ""


async def test_only_what_has_changed_is_started_or_ended() -> None:
    """The others go on as they are."""
    stays, goes, comes = Work(), Work(), Work()
    tasks = BackgroundTasks()
    tasks.keep([stays, goes])
    await eventually(lambda: goes.runs == 1)

    tasks.keep([stays, comes])
    await eventually(lambda: comes.runs == 1)
    await tasks.wait_ended()

    assert [goes.is_cancelled, stays.is_cancelled] == [True, False]
    assert stays.runs == 1
    tasks.keep([])
    await tasks.wait_ended()
    assert [stays.is_cancelled, comes.is_cancelled] == [True, True]
