"""The numbers of several processes together: sums that never go back, gauges of those that live."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import weakref
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pingora_core.metrics import OverWorkers, Registry, WorkerMetrics, _records
from pingora_core.metrics.loop_lag import LoopLag
from pingora_core.metrics.workers import publish_last
from pingora_error import Error, ErrorSource, ErrorType
from tests.support.clock import FakeClock
from tests.support.forked import Forked
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Counting:
    """What processes of a test share, and do."""

    def __init__(self, max_series: int = 1000) -> None:
        self.metrics = WorkerMetrics(Registry(max_series=max_series))
        registry = self.metrics.registry
        self.hits = registry.counter("hits", "x", labels=("path",))
        self.sizes = registry.histogram("size", "x", unit="By", bounds=(10,))
        self.depth = registry.gauge("depth", "x")
        self.lag = registry.gauge("lag", "x", over_workers=OverWorkers.EACH)

    def start(self) -> str:
        async def start() -> None:
            self.metrics.start()

        asyncio.run(start())
        return self.metrics.worker

    def count(self, path: str, times: int) -> None:
        self.hits.labels(path).inc(times)
        self.sizes.labels().observe(times)
        self.depth.labels().set(times)
        self.lag.labels().set(times)

    def publish(self) -> None:
        self.metrics.publish()

    def end(self) -> None:
        publish_last()

    def read(self, name: str) -> dict[tuple[str, ...], list[float]]:
        families = self.metrics.collect()
        return families[name].series if name in families else {}

    def total(self, path: str = "/") -> float:
        return self.read("hits_total").get((path,), [0.0])[0]

    def child(self) -> Forked:
        names = ("start", "count", "publish", "end", "total", "read")
        return Forked({name: getattr(self, name) for name in names})


@pytest.fixture
def counting() -> Iterator[Counting]:
    """What the processes share; this one takes part from the start."""
    shared = Counting()
    shared.start()
    yield shared
    shared.metrics.close()


def started(child: Forked, path: str, times: int) -> None:
    child.call("start")
    child.call("count", path, times)
    child.call("publish")


def test_whoever_is_asked_knows_all(counting: Counting) -> None:
    """Counters and histograms are added up, gauges as they are described; any process tells."""
    counting.count("/", 1)
    counting.metrics.publish()
    with counting.child() as one, counting.child() as two:
        started(one, "/", 10)
        started(two, "/x", 100)

        assert counting.read("hits_total") == {("/",): [11.0], ("/x",): [100.0]}
        assert counting.read("size_bytes") == {(): [2.0, 1.0, 111.0]}
        assert counting.read("depth") == {(): [111.0]}
        assert set(counting.read("lag")) == {("0",), ("1",), ("2",)}
        assert counting.read("pingora_workers") == {(): [3.0]}
        assert one.call("read", "hits_total") == counting.read("hits_total")
        assert two.call("total") == 11.0


def test_a_worker_that_is_stuck_is_known_by_its_silence(counting: Counting) -> None:
    """Others tell what it has published last, and how long ago that was."""
    with counting.child() as stuck:
        started(stuck, "/", 10)
        (first,) = counting.read("pingora_worker_silence_seconds")["1",]
        (later,) = counting.read("pingora_worker_silence_seconds")["1",]
        assert 0 <= first < later
        stuck.call("publish")
        assert counting.total() == 10
    assert counting.read("pingora_worker_silence_seconds") == {}


def test_what_is_counted_here_needs_no_publication(counting: Counting) -> None:
    """The process that is asked tells what it has counted up to now."""
    counting.count("/", 5)
    assert counting.total() == 5


@pytest.mark.parametrize("is_killed", [True, False])
def test_the_dead_count_and_do_nothing_else(counting: Counting, is_killed: bool) -> None:
    """Counts stay for ever, gauges vanish; whether a process was killed is known."""
    with counting.child() as survivor:
        started(survivor, "/", 1)
        for times in (10, 100, 1000):
            with counting.child() as child:
                started(child, "/", times)
                if not is_killed:
                    child.call("end")
        for _ in range(3):
            assert counting.total() == 1111
            assert survivor.call("total") == 1111
        assert counting.read("depth") == {(): [1.0]}
        assert counting.read("size_bytes") == {(): [2.0, 2.0, 1111.0]}
        assert counting.read("pingora_workers") == {(): [2.0]}
        assert counting.read("pingora_worker_starts_total") == {(): [5.0]}
        reason = "killed" if is_killed else "ended"
        assert counting.read("pingora_worker_ends_total") == {(reason,): [3.0]}


def test_nothing_goes_back_while_processes_come_and_go(counting: Counting) -> None:
    """Readings between births, deaths and places that are used again only grow."""
    last = 0.0
    with ExitStack() as stack:
        reader = stack.enter_context(counting.child())
        started(reader, "/", 1)
        for round_ in range(4):
            children = [stack.enter_context(counting.child()) for _ in range(2)]
            for child in children:
                started(child, "/", 1)
                child.call("count", "/", 1)  # not published: lost if it is killed
                assert counting.total() >= last
                last = counting.total()
            children[0].kill()
            children[1].call("end")
            children[1].kill()
            asked = reader if round_ % 2 else None
            total = counting.total() if asked is None else asked.call("total")
            assert isinstance(total, float)
            assert total >= last
            last = total
    assert counting.total() == last == 1 + 4 * 3
    # Places are used again.
    assert len(counting.metrics._records) <= 6


def test_what_a_worker_has_told_stays_though_it_is_killed(counting: Counting) -> None:
    """A sum that goes back would be taken for a restart, and all of it for new."""
    with counting.child() as child:
        started(child, "/", 1)
        child.call("count", "/", 5)  # not published yet
        assert counting.total() == 1
        assert child.call("total") == 6.0
        assert counting.total() == 6
    assert counting.total() == 6


def test_what_the_dead_leave_is_bounded() -> None:
    """However many come and go with labels of their own; the sum is the same, and it is counted."""
    counting = Counting(max_series=2)
    counting.start()
    for path in ("/a", "/b", "/c", "/d"):
        with counting.child() as child:
            started(child, path, 10)
        assert counting.total(path) == 10 or path > "/b"
    assert counting.read("hits_total") == {("/a",): [10.0], ("/b",): [10.0], ("other",): [20.0]}
    assert counting.read("pingora_metrics_overflows_total")["hits_total",] == [2.0]
    counting.metrics.close()


def test_the_dead_that_find_no_room_hide_nobody(
    counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They count from where they are, and whoever begins takes another place."""
    for _ in range(2):
        with counting.child() as child:
            started(child, "/", 10)
            counting.count("/", 1)
            counting.publish()
            # As if there were too much: the past cannot be written.
            write = counting.metrics._records.write
            monkeypatch.setattr(_records.Records, "write", _refuse_the_past(write))
        assert counting.total() == counting.total()
    assert counting.total() == 22
    assert counting.metrics.publish_failures > 0
    monkeypatch.undo()
    assert counting.total() == 22


def _refuse_the_past(write: Callable[[int, bytes], None]) -> Callable[[object, int, bytes], None]:
    def refuse(records: object, place: int, content: bytes) -> None:
        del records
        if not place:
            raise Error(ErrorType.INTERNAL_ERROR, "too much", source=ErrorSource.INTERNAL)
        write(place, content)

    return refuse


def test_a_process_that_dies_before_it_publishes_leaves_nothing(counting: Counting) -> None:
    """Nor does one that was never asked to take part."""
    with counting.child() as silent, counting.child() as idle:
        silent.call("start")
        silent.call("count", "/", 7)
        idle.call("count", "/", 7)
        assert counting.total() == 0
    assert counting.total() == 0


def test_a_damaged_record_is_left_out(counting: Counting, caplog: pytest.LogCaptureFixture) -> None:
    """The others are told, and the failure is counted."""
    counting.count("/", 3)
    with counting.child() as child, caplog.at_level(logging.ERROR):
        started(child, "/", 4)
        records = counting.metrics._records
        records.write(2, b"\x93\x01\xc2\xc4\x03abc")
        assert counting.total() == 3
        assert counting.metrics.publish_failures == 1
        # Half of a record: its check sum tells.
        os.pwrite(records._fd, b"x" * 8, 2 * _records._PLACE)
        assert counting.total() == 3
        child.call("publish")
        assert counting.total() == 7
    assert "cannot be shared" in caplog.text


def test_too_much_is_told_and_changes_nothing(
    counting: Counting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Numbers that do not fit stay in their process; what was published before stays."""
    with counting.child() as child:
        child.call("start")
        counting.count("/", 3)
        counting.publish()
        monkeypatch.setattr(_records, "_HALF", 100)
        with caplog.at_level(logging.ERROR):
            counting.publish()
        monkeypatch.undo()
        assert counting.metrics.publish_failures == 1
        assert child.call("total") == 3.0
    with pytest.raises(Error, match="too much"):
        counting.metrics._records.write(1, bytes(_records._HALF + 1))


async def test_it_publishes_by_itself_until_it_is_dropped() -> None:
    """A timer publishes; one that nobody keeps does not go on for ever."""
    metrics = WorkerMetrics(interval=0.01)
    hits = metrics.registry.counter("hits", "x").labels()
    metrics.start()
    metrics.start()
    hits.inc()
    records = metrics._records
    await eventually(lambda: b"hits" in records.read(1))
    before = records.read(1)
    await eventually(lambda: records.read(1) != before)

    gone = weakref.ref(metrics)
    del metrics, hits
    gc.collect()
    assert gone() is None


def test_a_forked_process_counts_from_nothing(counting: Counting) -> None:
    """What the parent has counted is the parent's, also in series that somebody keeps."""
    counting.count("/", 5)
    kept = counting.hits.labels("/")
    with Forked({"count": lambda: kept.inc(2), "start": counting.start, "total": counting.total,
                 "publish": counting.publish}) as child:  # fmt: skip
        child.call("count")
        child.call("start")
        child.call("publish")
        assert child.call("total") == 2  # the parent has not published
        assert counting.total() == 7
        assert child.call("total") == 7  # whoever is asked publishes


async def test_it_starts_again_after_a_stop() -> None:
    """A process that has left may come back; what it has counted is not counted twice."""
    metrics = WorkerMetrics()
    hits = metrics.registry.counter("hits", "x").labels()
    metrics.start()
    hits.inc()
    metrics.stop()
    metrics.stop()
    metrics.publish()  # without a place: nothing happens
    assert metrics.collect()["hits_total"].series == {(): [1.0]}
    metrics.close()
    metrics.close()


async def test_the_lag_of_the_loop_is_measured() -> None:
    """What a timer is late is what requests wait; the worst is remembered for a while."""
    clock = FakeClock()
    registry = Registry()
    lag = LoopLag(registry, interval=0.001, clock=clock)
    name = "pingora_event_loop_lag"

    def looks() -> float:
        return sum(registry.collect()[f"{name}_seconds"].series[()][:-1])

    def worst() -> float:
        return registry.collect()[f"{name}_worst_seconds"].series[()][0]

    def has_looked(times: float) -> bool:
        return looks() >= times

    lag.start()
    lag.start()
    try:
        await eventually(lambda: looks() > 2)
        clock.advance(0.7)
        await eventually(lambda: worst() > 0.69)
        clock.advance(11)  # late as well: 11 s
        await eventually(lambda: worst() > 10)
        seen = looks()
        await eventually(lambda: looks() > seen + 2)
        # The loop is on time again: the next window but one knows nothing of it.
        for _ in range(60):
            clock.advance(0.5)
            await eventually(partial(has_looked, looks() + 1))
        assert worst() <= 0.5
    finally:
        lag.stop()
    assert registry.collect()[f"{name}_seconds"].series[()][-1] > 11


def test_what_the_system_knows_of_the_process() -> None:
    """Processor time, memory, descriptors and age are plausible."""
    found = WorkerMetrics().registry.collect()

    assert found["process_cpu_time_seconds_total"].series[("user",)][0] > 0
    assert found["process_memory_usage_bytes"].series[()][0] > 1 << 20
    assert found["process_unix_file_descriptor_count"].series[()][0] >= 3
    assert 0 < found["process_uptime_seconds"].series[()][0] < 100_000
