"""The load balancer chooses ready backends from the last good set."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from itertools import cycle, repeat
from typing import TYPE_CHECKING

import pytest

from pingora_error import Error, ErrorType
from pingora_load_balancing import Backend, Discovered, LoadBalancer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pingora_core.upstreams.peer import PeerAddress
    from pingora_load_balancing import BackendSelection

_A, _B, _C = Backend("10.0.0.1:80"), Backend("10.0.0.2:80"), Backend("10.0.0.3:80")


class _FakeDiscovery:
    """Answers what it is told to answer."""

    def __init__(self, *backends: Backend) -> None:
        self.backends: Sequence[Backend] = backends
        self.enabled: Mapping[PeerAddress, bool] = {}
        self.failure: BaseException | None = None
        self.gate: asyncio.Event | None = None
        self.running = 0
        self.most_running = 0

    async def discover(self) -> Discovered:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.failure is not None:
                raise self.failure
            return Discovered(self.backends, self.enabled)
        finally:
            self.running -= 1


def _select(balancer: LoadBalancer, count: int) -> list[Backend | None]:
    return [balancer.select(b"", 256) for _ in range(count)]


def test_list_of_backends_is_ready_at_once() -> None:
    """The quick start needs no background service."""
    balancer = LoadBalancer(["10.0.0.1:80", _B])

    assert balancer.backends == (_A, _B)
    assert _select(balancer, 3) == [_A, _B, _A]


def test_weights_are_observed() -> None:
    """Smooth weighted round robin is the default."""
    balancer = LoadBalancer([Backend("10.0.0.1:80", 3), _B])

    assert [str(b) for b in _select(balancer, 4)] == [
        "10.0.0.1:80",
        "10.0.0.1:80",
        "10.0.0.2:80",
        "10.0.0.1:80",
    ]


def test_drained_backend_is_not_chosen() -> None:
    """Weight 0 keeps a backend in the set and out of rotation."""
    balancer = LoadBalancer([Backend("10.0.0.1:80", 0), _B])

    assert len(balancer.backends) == 2
    assert _select(balancer, 2) == [_B, _B]


def test_all_drained_is_none() -> None:
    """No weight at all is no choice, not a crash."""
    assert LoadBalancer([Backend("10.0.0.1:80", 0)]).select(b"", 256) is None


def test_disabled_backend_is_passed_over() -> None:
    """What is disabled gets nothing until it is enabled again."""
    balancer = LoadBalancer([_A, _B])

    balancer.set_enable(_A, False)
    assert not balancer.is_ready(_A)
    assert _select(balancer, 2) == [_B, _B]
    balancer.set_enable(_A, True)
    assert balancer.is_ready(_A)
    assert set(_select(balancer, 2)) == {_A, _B}


def test_share_of_a_disabled_backend_goes_to_all_others() -> None:
    """No neighbour has to carry it alone."""
    balancer = LoadBalancer([_A, _B, _C])
    balancer.set_enable(_A, False)

    assert Counter(_select(balancer, 60)) == {_B: 30, _C: 30}


def test_all_disabled_is_none() -> None:
    """The caller decides what to answer then."""
    balancer = LoadBalancer([_A])
    balancer.set_enable(_A, False)

    assert balancer.select(b"", 256) is None


def test_unknown_backend_is_not_ready_and_cannot_be_disabled() -> None:
    """What is not in the set leaves no trace."""
    balancer = LoadBalancer([_A])

    balancer.set_enable(_B, False)

    assert not balancer.is_ready(_B)
    assert "0 disabled" in repr(balancer)


def test_iterations_are_limited() -> None:
    """Each candidate counts, also one that is not ready."""
    balancer = LoadBalancer([_A, _B])
    balancer.set_enable(_A, False)

    assert balancer.select(b"", 0) is None
    assert balancer.select(b"", 1) is None
    assert balancer.select(b"", 1) == _B


class _Scripted:
    """A selection that offers a fixed order, for ever."""

    def __init__(self, backends: Sequence[Backend]) -> None:
        self.backends = backends

    def iter(self, key: bytes) -> Iterator[Backend]:
        order = [self.backends[digit - ord("0")] for digit in key]
        return cycle(order)


def test_key_reaches_the_selection() -> None:
    """A selection of the user's own gets the key and decides the order."""
    balancer = LoadBalancer([_A, _B, _C], selection=_Scripted)

    assert balancer.select(b"2", 1) == _C
    balancer.set_enable(_C, False)
    assert balancer.select(b"221", 2) is None
    assert balancer.select(b"221", 3) == _B


def test_unique_iter_duplicate_items_are_filtered() -> None:
    """The rule is asked about each candidate once."""
    asked: list[Backend] = []

    def refuse(backend: Backend, ready: bool) -> bool:
        asked.append(backend)
        return False

    assert LoadBalancer([_A, _B], selection=_Scripted).select_with(b"0010", 256, refuse) is None
    assert asked == [_A, _B]


def test_unique_iter_max_iterations_is_correct() -> None:
    """Repeated candidates count for the limit."""
    balancer = LoadBalancer([_A, _B], selection=_Scripted)

    assert balancer.select_with(b"0001", 3, lambda backend, _: backend == _B) is None
    assert balancer.select_with(b"0001", 4, lambda backend, _: backend == _B) == _B


def test_rule_is_told_whether_a_backend_is_ready() -> None:
    """The caller may take one that is not."""
    balancer = LoadBalancer([_A, _B], selection=_Scripted)
    balancer.set_enable(_A, False)

    assert balancer.select_with(b"01", 2, lambda _, ready: ready) == _B
    assert balancer.select_with(b"01", 2, lambda _, ready: not ready) == _A


async def test_discovery_fills_the_set() -> None:
    """Before the first update there is nothing to choose; afterwards what was found."""
    discovery = _FakeDiscovery(_A, _B)
    balancer = LoadBalancer(discovery=discovery)
    assert balancer.select(b"", 256) is None

    assert await balancer.update()

    assert balancer.backends == (_A, _B)
    assert _select(balancer, 2) == [_A, _B]


async def test_backends_callback_only_on_change() -> None:
    """A selection is built when the set changes, and only then: turns go on."""
    built: list[Sequence[Backend]] = []

    def build(backends: Sequence[Backend]) -> BackendSelection:
        built.append(tuple(backends))
        return _Scripted(backends)

    discovery = _FakeDiscovery(_A, _B)
    balancer = LoadBalancer(discovery=discovery, selection=build)
    await balancer.update()
    await balancer.update()
    discovery.backends = (_B,)
    await balancer.update()

    assert built == [(), (_A, _B), (_B,)]
    assert balancer.select(b"0", 1) == _B


@pytest.mark.parametrize(
    "changed", [Backend("10.0.0.1:80", 2), Backend("10.0.0.1:80", metadata="x")], ids=repr
)
async def test_change_of_weight_or_metadata_is_seen_and_keeps_the_state(changed: Backend) -> None:
    """The new backend is chosen, and stays disabled if it was."""
    discovery = _FakeDiscovery(_A)
    balancer = LoadBalancer(discovery=discovery)
    await balancer.update()
    balancer.set_enable(_A, False)
    discovery.backends = (changed,)

    await balancer.update()

    assert balancer.backends == (changed,)
    assert balancer.select(b"", 256) is None
    balancer.set_enable(changed, True)
    assert balancer.select(b"", 256) is changed


async def test_leaving_the_set_forgets_the_state() -> None:
    """A backend that comes back is enabled."""
    discovery = _FakeDiscovery(_A, _B)
    balancer = LoadBalancer(discovery=discovery)
    await balancer.update()
    balancer.set_enable(_A, False)
    discovery.backends = (_B,)
    await balancer.update()
    discovery.backends = (_A, _B)
    await balancer.update()

    assert balancer.is_ready(_A)


async def test_discovery_readiness() -> None:
    """The discovery may enable and disable; what it does not mention stays."""
    discovery = _FakeDiscovery(_A, _B, _C)
    discovery.enabled = {_A.addr: False, Backend("10.9.9.9:80").addr: False}
    balancer = LoadBalancer(discovery=discovery)
    await balancer.update()
    balancer.set_enable(_B, False)
    assert [balancer.is_ready(b) for b in (_A, _B, _C)] == [False, False, True]

    discovery.enabled = {_A.addr: True}
    await balancer.update()

    assert [balancer.is_ready(b) for b in (_A, _B, _C)] == [True, False, True]


@pytest.mark.parametrize(
    ("failure", "text", "has_traceback"),
    [
        (Error.up(ErrorType.CONNECT_REFUSED, "to the registry"), "Upstream ConnectRefused", False),
        (ZeroDivisionError("a bug"), "a bug", True),
        (TimeoutError(), "TimeoutError", False),
    ],
    ids=["error", "bug", "timeout"],
)
async def test_failed_discovery_keeps_the_last_set(
    failure: Exception, text: str, has_traceback: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure is seen in the log, once, and requests go on."""
    discovery = _FakeDiscovery(_A)
    balancer = LoadBalancer(discovery=discovery)
    await balancer.update()
    discovery.failure = failure

    assert not await balancer.update()

    assert balancer.select(b"", 256) == _A
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "the last 1 stay" in record.getMessage()
    assert text in record.getMessage()
    assert bool(record.exc_info) is has_traceback


async def test_contradicting_answer_counts_as_failure(caplog: pytest.LogCaptureFixture) -> None:
    """Garbage from a discovery does not replace a good set."""
    discovery = _FakeDiscovery(_A)
    balancer = LoadBalancer(discovery=discovery)
    await balancer.update()
    discovery.backends = (_B, Backend("10.0.0.2:80", 7))

    assert not await balancer.update()

    assert balancer.backends == (_A,)
    assert "given twice" in caplog.text


async def test_failing_selection_counts_as_failure(caplog: pytest.LogCaptureFixture) -> None:
    """A selection that cannot be built leaves the last one in place."""

    def build(backends: Sequence[Backend]) -> BackendSelection:
        if _B in backends:
            raise RuntimeError("no place for it")
        return _Scripted(backends)

    discovery = _FakeDiscovery(_A)
    balancer = LoadBalancer(discovery=discovery, selection=build)
    await balancer.update()
    discovery.backends = (_A, _B)

    assert not await balancer.update()

    assert balancer.backends == (_A,)
    assert "no place for it" in caplog.text


async def test_unanswered_discovery_counts_as_failure(caplog: pytest.LogCaptureFixture) -> None:
    """A discovery that hangs is given up."""
    discovery = _FakeDiscovery(_A)
    discovery.gate = asyncio.Event()
    balancer = LoadBalancer(discovery=discovery, discovery_timeout=0.01)

    assert not await balancer.update()

    assert "TimeoutError" in caplog.text
    assert discovery.running == 0


async def test_overlapping_updates_are_served_one_by_one() -> None:
    """An older answer never overwrites a newer one."""
    discovery = _FakeDiscovery(_A)
    balancer = LoadBalancer(discovery=discovery)

    assert all(await asyncio.gather(*(balancer.update() for _ in repeat(None, 5))))

    assert discovery.most_running == 1


async def test_cancelled_update_changes_nothing() -> None:
    """Cancelling leaves the set, and the next update works."""
    discovery = _FakeDiscovery(_A)
    discovery.gate = asyncio.Event()
    balancer = LoadBalancer(discovery=discovery)
    update = asyncio.create_task(balancer.update())
    await asyncio.sleep(0)

    update.cancel()
    with pytest.raises(asyncio.CancelledError):
        await update
    discovery.gate.set()

    assert len(balancer.backends) == 0
    assert await balancer.update()


@pytest.mark.parametrize(
    ("backends", "words"),
    [((), "0 found"), ((Backend("10.0.0.1:80", 0),), "1 found, all of weight 0")],
    ids=["empty", "drained"],
)
async def test_set_without_a_choice_is_warned_of(
    backends: tuple[Backend, ...], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An empty answer is an answer, but somebody should know."""
    discovery = _FakeDiscovery(_A)
    balancer = LoadBalancer(discovery=discovery)
    await balancer.update()
    discovery.backends = backends

    assert await balancer.update()

    assert balancer.select(b"", 256) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert words in caplog.text


async def test_lb_update_stores_timing() -> None:
    """The parts of an update are timed; building counts only if something was built."""
    balancer = LoadBalancer(discovery=_FakeDiscovery(_A))
    timings = [balancer.last_update_timing]
    for _ in range(2):
        await balancer.update()
        timings.append(balancer.last_update_timing)

    before, first, second = timings

    assert before is None
    assert first is not None
    assert first.discovery_duration > 0
    assert first.build_duration > 0
    assert second is not None
    assert second.build_duration == 0


async def test_consistency() -> None:
    """Whoever sees that there are backends can choose one of just these."""
    discovery = _FakeDiscovery(*(Backend(f"10.0.{i >> 8}.{i & 255}:80") for i in range(3000)))
    balancer = LoadBalancer(discovery=discovery)
    discovery.gate = asyncio.Event()
    update = asyncio.create_task(balancer.update())
    await asyncio.sleep(0)
    assert balancer.select(b"", 256) is None

    discovery.gate.set()
    await update

    assert len(balancer.backends) == 3000
    assert balancer.select(b"", 256) in discovery.backends


def test_one_source_of_backends() -> None:
    """Neither none nor two."""
    with pytest.raises(TypeError, match="either backends or a discovery"):
        LoadBalancer()
    with pytest.raises(TypeError, match="either backends or a discovery"):
        LoadBalancer(["10.0.0.1:80"], discovery=_FakeDiscovery())


def test_empty_list_is_refused() -> None:
    """A balancer that can never choose anything is a mistake in the configuration."""
    with pytest.raises(ValueError, match="at least one backend"):
        LoadBalancer([])


def test_bad_address_is_refused() -> None:
    """The message quotes the address."""
    with pytest.raises(ValueError, match=r"'10\.0\.0\.1'"):
        LoadBalancer(["10.0.0.1"])


def test_times_must_be_positive() -> None:
    """The message names the argument."""
    with pytest.raises(ValueError, match="update_frequency must be more than 0 seconds, not 0"):
        LoadBalancer([_A], update_frequency=0)
    with pytest.raises(ValueError, match="discovery_timeout must be more than 0 seconds, not -1"):
        LoadBalancer([_A], discovery_timeout=-1)
