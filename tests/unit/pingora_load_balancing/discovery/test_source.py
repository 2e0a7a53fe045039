"""What all sources do with answers and failures: believe, refuse, remember, tell."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from pingora_error import Custom, Error, ErrorType
from pingora_load_balancing import Backend
from pingora_load_balancing.discovery import Discovered, Source, SourceOptions
from pingora_load_balancing.discovery.interfaces import (
    ClosableDiscovery,
    WatchableDiscovery,
    count_usable,
)
from tests.support.clock import FakeClock
from tests.support.discovery_watch import FakeTime, addresses, watching
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = pytest.mark.usefixtures("no_leaks")


def some(count: int, *, weight: int = 1) -> Discovered:
    return Discovered([Backend(f"10.0.{n >> 8}.{n & 255}:80", weight) for n in range(count)])


class Scripted(Source):
    """A source that answers as told, the last answer again and again."""

    def __init__(
        self, *answers: Discovered | Exception, options: SourceOptions | None = None
    ) -> None:
        super().__init__(interval=10.0, options=options)
        self.answers = list(answers)
        self.asked = 0

    async def _ask(self) -> Discovered:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_what_is_remembered() -> None:
    """The last good answer, when it came, and what has failed since."""
    clock = FakeClock(100.0)
    source = Scripted(
        some(1), Error(ErrorType.READ_ERROR), some(2), options=SourceOptions(clock=clock)
    )
    assert (source.answer, source.last_error, source.last_success) == (None, None, None)
    first = await source.discover()
    clock.advance(5.0)
    with pytest.raises(Error) as failure:
        await source.discover()

    assert source.answer is first
    remembered = [(source.last_error, source.last_success, source.failures)]
    await source.discover()
    remembered.append((source.last_error, source.last_success, source.failures))
    assert remembered == [(failure.value, 100.0, 1), (None, 105.0, 0)]


async def test_foreign_failures() -> None:
    """Whatever a source raises becomes an error of ours, with the cause."""
    cause = KeyError("oops")
    with pytest.raises(Error, match=r"DiscoveryError .*KeyError: 'oops'") as failure:
        await Scripted(cause).discover()

    assert failure.value.etype == Custom("DiscoveryError")
    assert failure.value.__cause__ is cause


async def test_on_error(caplog: pytest.LogCaptureFixture) -> None:
    """Each failure is told; a callback that fails itself does no harm."""
    heard: list[Error] = []

    def hear(error: Error) -> None:
        heard.append(error)
        raise ZeroDivisionError

    source = Scripted(Error(ErrorType.READ_ERROR), options=SourceOptions(on_error=hear))
    with pytest.raises(Error) as failure:
        await source.discover()

    assert heard == [failure.value]
    assert "the on_error callback of" in caplog.text


async def test_too_few() -> None:
    """An answer below the minimum is refused however long it stays."""
    clock = FakeClock()
    options = SourceOptions(min_backends=2, loss_patience=1.0, clock=clock)
    source = Scripted(some(2), some(1), some(1), some(0), options=options)
    first = await source.discover()
    for usable in (1, 1, 0):
        with pytest.raises(Error, match=f"answer refused: {usable} usable backends, at least 2"):
            await source.discover()
        clock.advance(1000.0)

    assert source.answer is first


async def test_drained_and_disabled_ones_do_not_count() -> None:
    """What gets no requests is not usable."""
    backends = [Backend("10.0.0.1:80", 0), Backend("10.0.0.2:80"), Backend("10.0.0.3:80")]
    found = Discovered(backends, {backends[1].addr: False, backends[2].addr: True})
    assert count_usable(found) == 1
    source = Scripted(found, options=SourceOptions(min_backends=2))
    with pytest.raises(Error, match="1 usable backends"):
        await source.discover()


async def test_a_sudden_loss() -> None:
    """A much smaller answer is believed when the source has insisted for long enough."""
    clock = FakeClock()
    options = SourceOptions(max_loss=0.5, loss_patience=60.0, clock=clock)
    source = Scripted(some(10), some(5), some(1), some(5), some(1), options=options)
    assert len((await source.discover()).backends) == 10
    assert len((await source.discover()).backends) == 5
    with pytest.raises(Error, match=r"1 usable backends, 5 before; .* for 60 s"):
        await source.discover()
    clock.advance(59.0)
    # In between it was well again, so the patience begins anew.
    assert len((await source.discover()).backends) == 5
    with pytest.raises(Error, match="for 60 s"):
        await source.discover()
    clock.advance(59.0)
    with pytest.raises(Error, match="for 1 s"):
        await source.discover()
    clock.advance(1.0)
    assert len((await source.discover()).backends) == 1


async def test_too_many() -> None:
    """The number of backends is bounded."""
    source = Scripted(some(4), options=SourceOptions(max_backends=3))
    with pytest.raises(Error, match="4 backends, at most 3 are allowed"):
        await source.discover()


async def test_an_empty_answer_is_an_answer() -> None:
    """Unless told otherwise, nothing is refused."""
    source = Scripted(some(10), some(0))
    await source.discover()

    assert addresses(await source.discover()) == []


async def test_watch_asks_at_intervals() -> None:
    """Watched, it is asked at the interval, more or less, and only changes are told."""
    time = FakeTime()
    options = SourceOptions(clock=time, sleep=time.sleep, jitter=0.2)
    source = Scripted(some(1), some(1), some(2), options=options)
    began = time()
    async with watching(source) as watch:
        await watch.until(lambda: len(watch.answers) == 2)
        await eventually(lambda: source.asked >= 6)
        asked, passed = source.asked, time() - began

    assert 8.0 * (asked - 1) <= passed <= 12.0 * asked
    assert [len(answer.backends) for answer in watch.answers] == [1, 2]


async def test_watch_compares_large_answers() -> None:
    """Thousands of backends that are equal, or not, are compared beside the event loop."""
    time = FakeTime()
    options = SourceOptions(clock=time, sleep=time.sleep)
    source = Scripted(some(3000), some(3000), some(3000, weight=2), options=options)
    async with watching(source) as watch:
        await watch.until(lambda: len(watch.answers) == 2)

    assert [next(iter(answer.backends)).weight for answer in watch.answers] == [1, 2]


async def test_watch_ends_with_a_failure() -> None:
    """A failure ends the watch; watched again it goes on."""
    time = FakeTime()
    options = SourceOptions(clock=time, sleep=time.sleep)
    source = Scripted(some(1), ValueError("garbage"), some(2), options=options)
    async with watching(source) as watch:
        await watch.until(lambda: len(watch.answers) == 2)

    assert watch.failures == 1
    assert "garbage" in str(watch.error)


async def test_a_watch_of_its_own_that_ends() -> None:
    """A source that stops telling has failed."""

    class Short(Scripted):
        async def _answers(self) -> AsyncGenerator[Discovered, None]:
            yield some(1)

    generator = Short(some(1)).watch()
    await anext(generator)
    with pytest.raises(Error, match="DiscoveryError"):
        await anext(generator)


async def test_flaws(caplog: pytest.LogCaptureFixture) -> None:
    """What is wrong with a part of an answer is told and logged, and the rest is believed."""
    heard: list[Error] = []

    class Flawed(Scripted):
        async def _ask(self) -> Discovered:
            if self.asked < 20:
                self._tolerate(Error(ErrorType.READ_ERROR, "half"))
            return await super()._ask()

    source = Flawed(some(1), options=SourceOptions(on_error=heard.append, clock=FakeClock()))
    for _ in range(20):
        await source.discover()
        assert source.last_error is not None

    assert len(heard) == 20
    # Not a line for each of them.
    assert caplog.text.count("a part of the answer was left out") == 10
    await source.discover()
    assert source.last_error is None


async def test_cancellation_changes_nothing() -> None:
    """A question that is cancelled is no failure."""

    class Slow(Scripted):
        async def _ask(self) -> Discovered:
            await asyncio.sleep(60)
            return await super()._ask()

    source = Slow(some(1))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await source.discover()

    assert (source.last_error, source.failures) == (None, 0)


async def test_interfaces(caplog: pytest.LogCaptureFixture) -> None:
    """A source can be asked, watched and closed."""
    caplog.set_level(logging.DEBUG)
    async with Scripted(some(1)) as source:
        assert isinstance(source, WatchableDiscovery)
        assert isinstance(source, ClosableDiscovery)


@pytest.mark.parametrize(
    "options",
    [
        {"min_backends": -1},
        {"min_backends": 5, "max_backends": 4},
        {"max_loss": 1.5},
        {"loss_patience": -1.0},
        {"max_backends": 0},
        {"max_bytes": 0},
        {"jitter": -0.1},
        {"jitter": float("nan")},
    ],
)
def test_misuse(options: dict[str, float]) -> None:
    """Options are checked when they are made."""
    with pytest.raises(ValueError, match=next(iter(options)) + " must be in"):
        SourceOptions(**options)  # type: ignore[arg-type]
