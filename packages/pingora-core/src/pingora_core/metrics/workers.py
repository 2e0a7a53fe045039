"""The metrics of all worker processes together.

Theory of operation: every process publishes its numbers once a second, when it is asked, and at its
end, in `Records` that it shares with the others. Whoever wants to see them adds up what the processes
that live have published, what those that have ended have counted, and what this one counts now. So
that sums never go back, the counts of ended processes are kept: whoever first meets the place of one
adds them to the past, which is a place of its own, and names there what it has added; the place may
be used again then. A process that is killed counts up to its last second.

Rules of this file: whoever changes the past holds its lock; whoever reads it makes sure afterwards
that it has not changed meanwhile. Nobody waits for a lock.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import weakref
from typing import TYPE_CHECKING, Final, final

import msgspec

from pingora_core.metrics._records import MOST, Records
from pingora_core.metrics.description import Description, OverWorkers
from pingora_core.metrics.loop_lag import LoopLag
from pingora_core.metrics.process import read_process
from pingora_core.metrics.registry import OVERFLOWS, Registry
from pingora_core.metrics.snapshot import Reading, decode, encode, gather, merge
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pingora_core.metrics.snapshot import Families

__all__ = ["DESCRIPTIONS", "WorkerMetrics", "publish_last"]

_logger = logging.getLogger(__name__)

WORKERS: Final = Description.gauge("pingora.workers", "Processes that serve now.", unit="{process}")
STARTS: Final = Description.counter(
    "pingora.worker.starts",
    "Processes that have begun to serve, restarts included.",
    unit="{process}",
)
ENDS: Final = Description.counter(
    "pingora.worker.ends",
    "Processes that have ended: in order, or killed.",
    "reason",
    unit="{process}",
)
PUBLISH_FAILURES: Final = Description.counter(
    "pingora.metrics.publish.failures",
    "How often numbers could not be shared with the other workers.",
)

SILENCE: Final = Description.gauge(
    "pingora.worker.silence",
    "For how long a worker has published nothing; of one that is stuck this grows.",
    unit="s",
    over=OverWorkers.EACH,
)

DESCRIPTIONS: Final = (WORKERS, STARTS, ENDS, PUBLISH_FAILURES, SILENCE)

_PAST: Final = 0
_READS: Final = 20


class _Published(msgspec.Struct, array_like=True):
    # What a process leaves in its place. ``life`` is different for each process; ``moment`` is
    # CLOCK_MONOTONIC, which all processes of a system share.
    life: int
    is_last: bool
    families: bytes
    moment: float


class _Past(msgspec.Struct, array_like=True):
    # The counts of processes that have ended, and whose they are, by place.
    added: dict[int, int]
    families: bytes


_encoder: Final = msgspec.msgpack.Encoder()
_published: Final = msgspec.msgpack.Decoder(_Published)
_past: Final = msgspec.msgpack.Decoder(_Past)


@final
class WorkerMetrics:
    """Brings the numbers of all workers together; made before they are forked.

    Args:
        registry: The numbers of this process; None for new ones.
        interval: From one publication to the next, seconds.

    Attributes:
        registry: As given.
        publish_failures: How often publishing has failed.

    Raises:
        Error: ``INTERNAL_ERROR`` if the system gives no memory to share.
    """

    def __init__(self, registry: Registry | None = None, *, interval: float = 1.0) -> None:
        self.registry: Registry = Registry() if registry is None else registry
        self.publish_failures: int = 0
        self._interval = interval
        self._records = Records()
        self._lag = LoopLag(self.registry)
        self._place: int | None = None
        self._pid = 0
        self._life = 0
        self._timer: asyncio.TimerHandle | None = None
        self.registry.add_source(read_process)
        self.registry.add_source(self._read)
        _living.add(self)

    # ------------------------------------------------------------- publishing

    @property
    def worker(self) -> str:
        """What this process is called in the label ``worker``; a replacement may be called alike."""
        return "0" if self._place is None else str(self._place - 1)

    def start(self) -> None:
        """Begin to publish, in the running event loop; again does nothing.

        It goes on until the process ends: services end before the connections of others do.
        """
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        self._life = int.from_bytes(os.urandom(8), "big")
        try:
            self._place = self._take_place()
        except Error as error:
            self._failed(error)
        self._lag.start()
        self._publish_later()

    def stop(self) -> None:
        """Publish for the last time, and let go of what this process holds; twice does nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._lag.stop()
        if self._pid == os.getpid() and self._place is not None:
            self.publish(is_last=True)
            self._records.unlock(self._place)
            self._place = None
        self._pid = 0

    def close(self) -> None:
        """Stop, and forget everything."""
        self.stop()
        self._records.close()

    def publish(self, *, is_last: bool = False) -> None:
        """Let the other workers see the numbers of this one.

        Args:
            is_last: Whether the process ends.
        """
        if self._place is not None:
            self._share(self._place, self.registry.collect(), is_last=is_last)

    def _share(self, place: int, families: Families, *, is_last: bool = False) -> None:
        try:
            packed = encode(families)
            published = _Published(self._life, is_last, packed, time.monotonic())
            self._records.write(place, _encoder.encode(published))
        except (Error, ValueError, OverflowError) as error:  # what cannot be packed, too
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self.publish_failures += 1
        if self.publish_failures & (self.publish_failures - 1) == 0:
            _logger.error("metrics cannot be shared: %s", error)

    def _publish_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._interval, _publish, weakref.ref(self))

    def forked(self) -> None:
        """Begin anew, in a process that was just forked: the parent counts its own."""
        self.registry.reset()
        self.publish_failures = 0
        self._place = None
        self._pid = 0
        self._timer = None
        self._lag.forked()

    def publish_and_go_on(self) -> None:
        """Publish, and again after the interval; the timer calls this."""
        self.publish()
        self._publish_later()

    def _take_place(self) -> int:
        # The first place that nobody has, and in which nothing is that is not in the past yet.
        for place in range(_PAST + 1, MOST):
            if self._records.try_lock(place):
                if not self._records.read(place) or self._try_to_add(place):
                    return place
                self._records.unlock(place)
        context = "there are too many workers"
        raise Error(ErrorType.INTERNAL_ERROR, context, source=ErrorSource.INTERNAL)

    def _read(self) -> Iterator[Reading]:
        yield Reading(WORKERS, 1)
        yield Reading(STARTS, 1)
        yield Reading(PUBLISH_FAILURES, self.publish_failures)

    # ---------------------------------------------------------------- reading

    def collect(self) -> Families:
        """Add up the numbers of all workers.

        Returns:
            The sums.

        Raises:
            Error: ``INTERNAL_ERROR`` if the system fails.
        """
        families: Families = {}
        own = self.registry.collect()
        if self._place is None:
            merge(own, families, worker=self.worker)
            return families
        # What was told once must be known to the others, or their sums go back if this one is killed.
        self._share(self._place, own)
        for _ in range(_READS):
            before = self._records.read(_PAST)
            families = {}
            self._add_others(families, before)
            if self._records.read(_PAST) == before:
                break
        merge(own, families, worker=self.worker)
        return families

    def _add_others(self, families: Families, past: bytes) -> None:
        added: dict[int, int] = {}
        if past:
            known = _past.decode(past)
            added = known.added
            merge(decode(known.families), families, worker=None)
        for place in range(_PAST + 1, len(self._records)):
            if place == self._place:
                continue
            # A lock that can be had was left by a process that has ended.
            is_over = self._records.try_lock(place)
            try:
                found = self._published(place)
                if found is None or added.get(place) == found.life:
                    continue
                read = decode(found.families)
                merge(read, families, worker=str(place - 1), counts_only=is_over)
                if is_over:
                    merge(_end_of(found), families, worker=None)
                    self._try_to_add(place)
                else:
                    silence = max(0.0, time.monotonic() - found.moment)
                    gather([Reading(SILENCE, silence, (str(place - 1),))], families, MOST, {})
            except msgspec.MsgspecError as error:
                # One worker's fault must not hide the others.
                self._failed(error)
            finally:
                if is_over:
                    self._records.unlock(place)

    def _published(self, place: int) -> _Published | None:
        content = self._records.read(place)
        return _published.decode(content) if content else None

    def _try_to_add(self, place: int) -> bool:
        # Without room for it there it stays where it is, and counts from there.
        try:
            return self._add_to_past(place)
        except Error as error:
            self._failed(error)
            return False

    def _add_to_past(self, place: int) -> bool:
        """Keep the counts of a process that has ended; the caller holds its place.

        Args:
            place: Which.

        Returns:
            Whether the place is free now.
        """
        if not self._records.try_lock(_PAST):
            return False
        try:
            content = self._records.read(_PAST)
            past = _past.decode(content) if content else _Past({}, encode({}))
            found = self._published(place)
            if found is not None and past.added.get(place) != found.life:
                sums = decode(past.families)
                ended = decode(found.families)
                room = self.registry.max_series
                # However many processes come and go, what they leave is bounded as one of them is.
                lost = merge(ended, sums, worker=None, counts_only=True, max_series=room)
                gather([Reading(OVERFLOWS, lost[name], (name,)) for name in lost], sums, room, {})
                merge(_end_of(found), sums, worker=None)
                past.added[place] = found.life
                past.families = encode(sums)
                self._records.write(_PAST, _encoder.encode(past))
            self._records.write(place, b"")
        finally:
            self._records.unlock(_PAST)
        return True


def _end_of(found: _Published) -> Families:
    registry = Registry()
    ends = registry.add_counter(ENDS)
    ends.labels("ended" if found.is_last else "killed").inc()
    return {ENDS.name: ends.read()}


def _publish(metrics: weakref.ref[WorkerMetrics]) -> None:
    # Whoever forgets to stop it must not keep it going for ever.
    publishing = metrics()
    if publishing is not None:
        publishing.publish_and_go_on()


_living: Final[weakref.WeakSet[WorkerMetrics]] = weakref.WeakSet()


def _after_fork() -> None:
    for metrics in tuple(_living):
        metrics.forked()


os.register_at_fork(after_in_child=_after_fork)


def publish_last() -> None:
    """Publish what this process has counted up to its end; the server calls this in each worker."""
    for metrics in tuple(_living):
        metrics.stop()
