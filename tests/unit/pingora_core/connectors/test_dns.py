from __future__ import annotations

import asyncio
import logging

import pytest

from pingora_core.connectors import Answer, CachingResolver, LookupFailed
from pingora_core.protocols.address import InetAddress
from pingora_error import Error, ErrorSource, ErrorType
from tests.support.clock import FakeClock

pytestmark = pytest.mark.usefixtures("no_leaks")


class Scripted:
    """A lookup that answers as told.

    Attributes:
        answers: What it says, by name.
        asked: The names it was asked for.
        gate: Where it waits first; open unless a test closes it.
    """

    def __init__(self, **answers: Answer | Exception) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def lookup(self, host: str) -> Answer:
        self.asked.append(host)
        await self.gate.wait()
        answer = self.answers.get(host, LookupFailed("no such name", 5.0))
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_addresses_come_with_the_port() -> None:
    """In the order of the answer."""
    resolver = CachingResolver(Scripted(a=Answer(("192.0.2.1", "2001:db8::1"), 60)))

    assert await resolver.resolve("a", 80) == [
        InetAddress("192.0.2.1", 80),
        InetAddress("2001:db8::1", 80),
    ]


async def test_an_answer_holds_for_its_ttl() -> None:
    """The next question waits until then, whatever the port."""
    clock = FakeClock()
    lookup = Scripted(a=Answer(("192.0.2.1",), 30))
    resolver = CachingResolver(lookup, clock=clock)
    await resolver.resolve("a", 80)
    clock.advance(29.9)
    assert await resolver.resolve("a", 443) == [InetAddress("192.0.2.1", 443)]
    asked_before = len(lookup.asked)
    lookup.answers["a"] = Answer(("192.0.2.2",), 30)
    clock.advance(0.1)

    assert await resolver.resolve("a", 80) == [InetAddress("192.0.2.2", 80)]
    assert (asked_before, len(lookup.asked)) == (1, 2)


@pytest.mark.parametrize(("ttl", "holds", "gone"), [(0.0, 0.9, 1.1), (1e9, 3599.0, 3601.0)])
async def test_extreme_ttls_are_bounded(ttl: float, holds: float, gone: float) -> None:
    """A second at least, an hour at most."""
    clock = FakeClock()
    lookup = Scripted(a=Answer(("192.0.2.1",), ttl))
    resolver = CachingResolver(lookup, clock=clock)
    await resolver.resolve("a", 80)
    clock.advance(holds)
    await resolver.resolve("a", 80)
    assert len(lookup.asked) == 1
    clock.advance(gone - holds)
    await resolver.resolve("a", 80)
    assert len(lookup.asked) == 2


async def test_a_failure_is_an_error_from_upstream() -> None:
    """It says which name and why; each caller gets an error of its own."""
    resolver = CachingResolver(Scripted())
    errors: list[Error] = []
    for _ in range(2):
        with pytest.raises(Error, match="DNS lookup of nowhere: no such name") as caught:
            await resolver.resolve("nowhere", 80)
        errors.append(caught.value)

    assert errors[0].etype is ErrorType.CONNECT_ERROR
    assert errors[0].esource is ErrorSource.UPSTREAM
    assert errors[0] is not errors[1]


async def test_a_failure_is_remembered_for_a_while() -> None:
    """A missing name costs one question, and its coming into being is noticed."""
    clock = FakeClock()
    lookup = Scripted()
    resolver = CachingResolver(lookup, clock=clock)
    for _ in range(3):
        with pytest.raises(Error):
            await resolver.resolve("a", 80)
    assert lookup.asked == ["a"]
    lookup.answers["a"] = Answer(("192.0.2.1",), 60)
    clock.advance(5.1)

    assert await resolver.resolve("a", 80)


async def test_one_question_for_all_who_wait() -> None:
    """A hundred requests to a new name ask once."""
    lookup = Scripted(a=Answer(("192.0.2.1",), 60))
    lookup.gate.clear()
    resolver = CachingResolver(lookup)
    waiting = [asyncio.ensure_future(resolver.resolve("a", 80)) for _ in range(100)]
    await asyncio.sleep(0)
    lookup.gate.set()
    results = await asyncio.gather(*waiting)

    assert lookup.asked == ["a"]
    assert all(result == [InetAddress("192.0.2.1", 80)] for result in results)


async def test_a_cancelled_waiter_leaves_the_others_alone() -> None:
    """Its question goes on, for the others and for the cache."""
    lookup = Scripted(a=Answer(("192.0.2.1",), 60))
    lookup.gate.clear()
    resolver = CachingResolver(lookup)
    first, second = (asyncio.ensure_future(resolver.resolve("a", 80)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    lookup.gate.set()

    assert await second
    assert first.cancelled()


async def test_the_cache_is_bounded() -> None:
    """The name used longest ago is forgotten first."""
    lookup = Scripted(**{name: Answer(("192.0.2.1",), 60) for name in "abc"})
    resolver = CachingResolver(lookup, max_entries=2)
    for name in ("a", "b", "a", "c", "a"):
        await resolver.resolve(name, 80)
    assert len(resolver) == 2
    assert lookup.asked == ["a", "b", "c"]
    await resolver.resolve("b", 80)

    assert lookup.asked == ["a", "b", "c", "b"]


async def test_questions_at_the_same_time_are_bounded() -> None:
    """One too many fails at once and is not remembered."""
    lookup = Scripted(a=Answer(("192.0.2.1",), 60), b=Answer(("192.0.2.2",), 60))
    lookup.gate.clear()
    resolver = CachingResolver(lookup, max_lookups=1)
    first = asyncio.ensure_future(resolver.resolve("a", 80))
    await asyncio.sleep(0)
    with pytest.raises(Error, match="too many lookups"):
        await resolver.resolve("b", 80)
    lookup.gate.set()
    await first

    assert await resolver.resolve("b", 80)


@pytest.mark.parametrize(("entries", "lookups"), [(0, 1), (1, 0)])
def test_bounds_are_positive(entries: int, lookups: int) -> None:
    """Zero would mean that nothing works."""
    with pytest.raises(ValueError, match="at least 1"):
        CachingResolver(Scripted(), max_entries=entries, max_lookups=lookups)


async def test_a_defect_in_a_lookup_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The request fails like any other; the log has the traceback."""
    resolver = CachingResolver(Scripted(a=RuntimeError("defect")))
    with caplog.at_level(logging.ERROR), pytest.raises(Error, match="defect"):
        await resolver.resolve("a", 80)

    assert "Traceback" in caplog.text


async def test_an_answer_without_addresses_is_a_failure() -> None:
    """Nobody has to check for an empty list."""
    resolver = CachingResolver(Scripted(a=Answer((), 60)))

    with pytest.raises(Error, match="no address"):
        await resolver.resolve("a", 80)


async def test_closing_stops_what_runs() -> None:
    """No task is left, and whoever waits gets an error; it is not taken for a cancellation."""
    lookup = Scripted()
    lookup.gate.clear()
    resolver = CachingResolver(lookup)
    waiting = asyncio.ensure_future(resolver.resolve("a", 80))
    cancelled = asyncio.ensure_future(resolver.resolve("a", 80))
    await asyncio.sleep(0)
    cancelled.cancel()
    await resolver.close()
    await asyncio.wait([waiting, cancelled])

    assert cancelled.cancelled()
    with pytest.raises(Error, match="closed"):
        waiting.result()
