"""Several sources as one: all together, or the first that answers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pingora_error import Error
from pingora_load_balancing import Backend, Static
from pingora_load_balancing.discovery import (
    Backoff,
    Discovered,
    Fallback,
    Mutable,
    Source,
    Union,
)
from tests.support.clock import FakeClock
from tests.support.discovery_watch import addresses, watching
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pingora_load_balancing.discovery import (
        ServiceDiscovery,
    )

pytestmark = pytest.mark.usefixtures("no_leaks")

QUICK = Backoff(initial=0.001, maximum=0.002)


class Switch:
    """A source that answers, fails or stalls as told; it can only be asked."""

    def __init__(self, *backends: str) -> None:
        self.backends: tuple[str, ...] | None = backends
        self.stalls = False
        self.asked = 0

    async def discover(self) -> Discovered:
        self.asked += 1
        if self.stalls:
            await asyncio.Event().wait()
        if self.backends is None:
            raise ConnectionError("down")
        return Discovered(Static(self.backends).backends)


class Closable(Source):
    """A source that knows whether it was closed."""

    def __init__(self) -> None:
        super().__init__(interval=1.0)
        self.closed = 0

    async def _ask(self) -> Discovered:
        return Discovered(())

    async def close(self) -> None:
        self.closed += 1


# ------------------------------------------------------------------------- union


async def test_union() -> None:
    """All backends together; of those with the same address the first source's counts."""
    first = Static([Backend("10.0.0.1:80", 5)])
    second = Static(["10.0.0.2:80", "10.0.0.1:80"])
    found = await Union([first, second]).discover()

    assert found.backends == (Backend("10.0.0.1:80", 5), Backend("10.0.0.2:80"))


async def test_union_of_enablements() -> None:
    """Whether a backend is enabled is said by the source that it is taken from."""

    class Disabling:
        async def discover(self) -> Discovered:
            backends = [Backend("10.0.0.1:80"), Backend("10.0.0.2:80")]
            return Discovered(backends, {backend.addr: False for backend in backends})

    found = await Union([Static(["10.0.0.1:80"]), Disabling()]).discover()

    assert found.enabled == {Backend("10.0.0.2:80").addr: False}


async def test_union_with_a_failing_member(caplog: pytest.LogCaptureFixture) -> None:
    """A source that fails is represented by its last answer, and the failure is seen."""
    good, bad = Switch("10.0.0.1:80"), Switch("10.0.0.2:80")
    union = Union([good, bad])
    await union.discover()
    bad.backends = None
    good.backends = ("10.0.0.3:80",)

    assert addresses(await union.discover()) == ["10.0.0.3:80", "10.0.0.2:80"]
    assert isinstance(union.last_errors[1], ConnectionError)
    assert union.last_errors[0] is None
    assert "one of several, failed: down" in caplog.text


async def test_union_with_a_stalling_member() -> None:
    """A source that says nothing does not hold the others up for long."""
    stalling = Switch()
    stalling.stalls = True
    union = Union([stalling, Static(["10.0.0.1:80"])], timeout=0.02)

    assert addresses(await union.discover()) == ["10.0.0.1:80"]


@pytest.mark.parametrize("kind", [Union, Fallback])
async def test_all_fail(kind: type[Union | Fallback]) -> None:
    """Only when no source has ever answered there is no answer."""
    one, two = Switch(), Switch()
    one.backends = two.backends = None
    combined = kind([one, two])
    with pytest.raises(Error, match="none has an answer cause: ConnectionError: down"):
        await combined.discover()
    async with watching(kind([one, two], backoff=QUICK)) as watch:
        await watch.until(lambda: watch.failures, "a failure")
        two.backends = ("10.0.0.2:80",)
        await watch.shows(["10.0.0.2:80"])


async def test_watching_a_union() -> None:
    """Changes of any source are told; those that cannot be watched are asked."""
    mutable, switch = Mutable(["10.0.0.1:80"]), Switch("10.0.0.2:80")
    union = Union([mutable, switch], frequency=0.005, backoff=QUICK)
    async with watching(union) as watch:
        await watch.shows(["10.0.0.1:80", "10.0.0.2:80"])
        mutable.replace(["10.0.0.3:80"])
        await watch.shows(["10.0.0.3:80", "10.0.0.2:80"])
        switch.backends = ("10.0.0.4:80",)
        await watch.shows(["10.0.0.3:80", "10.0.0.4:80"])
        switch.backends = None
        await eventually(lambda: union.last_errors[1], "a failure")
        mutable.replace([])
        await watch.shows(["10.0.0.4:80"])


async def test_watching_a_union_waits_for_all_at_first() -> None:
    """The first answer is not half of the union, unless a source takes too long."""
    stalling = Switch()
    stalling.stalls = True
    sources: list[ServiceDiscovery] = [Mutable(["10.0.0.1:80"]), stalling]
    async with watching(Union(sources, timeout=0.05)) as watch:
        await watch.shows(["10.0.0.1:80"])


# ------------------------------------------------------------------------- fallback


async def test_fallback() -> None:
    """The next source is asked only when the one before fails or knows too few."""
    first, second = Switch("10.0.0.1:80"), Switch("10.0.0.2:80")
    fallback = Fallback([first, second])

    assert addresses(await fallback.discover()) == ["10.0.0.1:80"]
    assert second.asked == 0
    first.backends = None
    assert addresses(await fallback.discover()) == ["10.0.0.2:80"]
    first.backends = ()
    assert addresses(await fallback.discover()) == ["10.0.0.2:80"]
    first.backends = ("10.0.0.3:80",)
    assert addresses(await fallback.discover()) == ["10.0.0.3:80"]


async def test_fallback_holds() -> None:
    """A source that fails for a moment keeps its place."""
    clock = FakeClock()
    first, second = Switch("10.0.0.1:80"), Switch("10.0.0.2:80")
    fallback = Fallback([first, second], hold=30.0, clock=clock)
    await fallback.discover()
    first.backends = None
    assert addresses(await fallback.discover()) == ["10.0.0.1:80"]
    clock.advance(29.0)
    assert addresses(await fallback.discover()) == ["10.0.0.1:80"]
    clock.advance(1.0)
    assert addresses(await fallback.discover()) == ["10.0.0.2:80"]


async def test_fallback_when_nothing_is_left() -> None:
    """When all sources fail, the last answer of the best one that has backends counts."""
    first, second = Switch("10.0.0.1:80"), Switch("10.0.0.2:80")
    fallback = Fallback([first, second])
    await fallback.discover()
    first.backends = None
    await fallback.discover()
    second.backends = None
    assert addresses(await fallback.discover()) == ["10.0.0.1:80"]
    first.backends = ()
    assert addresses(await fallback.discover()) == ["10.0.0.2:80"]


async def test_fallback_believes_nothing_if_told() -> None:
    """With a minimum of 0 an empty first source is an answer."""
    fallback = Fallback([Static([]), Static(["10.0.0.1:80"])], min_backends=0)

    assert addresses(await fallback.discover()) == []


async def test_watching_a_fallback() -> None:
    """The change to the next source, and back, is told when it happens."""
    first, second = Mutable(["10.0.0.1:80"]), Mutable(["10.0.0.2:80"])
    async with watching(Fallback([first, second])) as watch:
        await watch.shows(["10.0.0.1:80"])
        first.replace([])
        await watch.shows(["10.0.0.2:80"])
        second.replace(["10.0.0.3:80"])
        await watch.shows(["10.0.0.3:80"])
        first.replace(["10.0.0.4:80"])
        await watch.shows(["10.0.0.4:80"])

    assert watch.failures == 0


async def test_watching_a_fallback_whose_hold_ends() -> None:
    """The end of the hold is noticed although nothing else happens then."""
    first, second = Switch("10.0.0.1:80"), Mutable(["10.0.0.2:80"])
    fallback = Fallback([first, second], hold=0.05, frequency=0.005, backoff=QUICK)
    async with watching(fallback) as watch:
        await watch.shows(["10.0.0.1:80"])
        first.backends = None
        await watch.shows(["10.0.0.2:80"])


async def test_watching_a_fallback_does_not_wait_for_a_stalling_source() -> None:
    """A preferred source that says nothing is passed over after the timeout."""
    first = Switch("10.0.0.1:80")
    first.stalls = True
    async with watching(Fallback([first, Mutable(["10.0.0.2:80"])], timeout=0.03)) as watch:
        await watch.shows(["10.0.0.2:80"])


# ------------------------------------------------------------------------- both


@pytest.mark.parametrize("kind", [Union, Fallback])
async def test_closing(kind: type[Union | Fallback]) -> None:
    """Closing closes those members that can be."""
    closable = Closable()
    await kind([closable, Static([])]).close()

    assert closable.closed == 1


async def test_nesting() -> None:
    """Combinations can be combined."""
    down = Switch()
    down.backends = None
    nested = Union([Fallback([down, Static(["10.0.0.1:80"])]), Mutable(["10.0.0.2:80"])])
    assert addresses(await nested.discover()) == ["10.0.0.1:80", "10.0.0.2:80"]
    async with watching(nested) as watch:
        await watch.shows(["10.0.0.1:80", "10.0.0.2:80"])


def test_misuse() -> None:
    """What cannot be meant is refused at once."""
    with pytest.raises(ValueError, match="no sources"):
        Union([])
    with pytest.raises(ValueError, match="times must be"):
        Union([Static([])], frequency=0)
    with pytest.raises(ValueError, match="must not be negative"):
        Fallback([Static([])], hold=-1)
