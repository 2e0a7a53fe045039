"""Whatever requests do, in whatever order: the lock is released exactly once, nobody waits for
ever, nothing stays open, and a call in a wrong phase changes nothing.

Several requests, and fills that they gave away, on one key of one store that fails now and then.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pingora_cache.lock import CacheLock, LockStatus, WritePermit
from pingora_cache.phase import CachePhase as P, CachePhaseError, HitStatus
from pingora_cache.reason import NoCacheReason
from pingora_error import Error
from pingora_http import ResponseHeader
from tests.support.cache_machine import BODY, CacheRig, state_of
from tests.support.cache_model import FillModel, LockModel, RequestModel

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import TypeVar

    from pingora_cache._lock_core import LockCore
    from pingora_cache.key import CacheKey
    from pingora_cache.lock import ReadLock

    T = TypeVar("T")

AGE = 10.0
REASONS = {
    NoCacheReason.UPSTREAM_ERROR: LockStatus.TRANSIENT_ERROR,
    NoCacheReason.STORAGE_ERROR: LockStatus.TRANSIENT_ERROR,
    NoCacheReason.ORIGIN_NOT_CACHE: LockStatus.GIVE_UP,
    NoCacheReason.custom("so"): LockStatus.GIVE_UP,
    NoCacheReason.CACHE_LOCK_GIVE_UP: None,
    NoCacheReason.CACHE_LOCK_TIMEOUT: None,
}
FAULTS = (
    "lookup",
    "get_miss_handler",
    "lookup_streaming_write",
    "write_body",
    "finish",
    "abort",
    "update_meta",
    "purge",
    "finish_reading",
)
CALLS = (
    "enable",
    "set_cache_key",
    "cache_lookup",
    "bypass",
    "cache_miss",
    "set_cache_meta",
    "set_miss_handler",
    "finish_miss_handler",
    "abort_miss_handler",
    "take_fill",
    "take_write_lock",
    "set_write_lock",
    "cache_lock_wait",
    "revalidate_cache_meta",
    "revalidate_uncacheable",
    "set_stale_updating",
    "finish_hit_handler",
    "purge",
)
WAYS = ("", "looked up", "missed", "filling", "filling", "stale", "stale", "stale")
events = st.sampled_from([4.0, 11.0, -1.0, "fresh", None, *FAULTS])
ways = st.sampled_from(WAYS)
MOVES = {
    "enable": P.UNINIT,
    "set_cache_key": P.CACHE_KEY,
    "bypass": P.BYPASS,
    "cache_miss": P.MISS,
    "revalidate_cache_meta": P.REVALIDATED,
    "revalidate_uncacheable": P.REVALIDATED_NO_CACHE,
    "set_stale_updating": P.STALE_UPDATING,
}
picks = st.integers(min_value=0, max_value=100)


class CountingLock(CacheLock):
    """Counts how often each lock was given back."""

    def __init__(self, rig: CacheRig) -> None:
        super().__init__(AGE, scheduler=rig.time)
        self.cores: list[LockCore] = []
        self.released: list[LockCore] = []

    def lock(self, key: CacheKey, *, stale_writer: bool = False) -> WritePermit | ReadLock:
        locked = super().lock(key, stale_writer=stale_writer)
        if isinstance(locked, WritePermit):
            self.cores.append(locked._core)
        return locked

    def forget(self, core: LockCore) -> None:
        self.released.append(core)
        super().forget(core)


class CacheMachine(RuleBasedStateMachine):
    """The real ones, step by step beside the model."""

    @initialize(streaming=st.booleans(), ways=st.lists(ways, min_size=3, max_size=3))
    def begin(self, streaming: bool, ways: list[str]) -> None:
        self.loop = asyncio.new_event_loop()
        self.rig = CacheRig(streaming=streaming)
        self.real_lock = CountingLock(self.rig)
        self.rig.lock = self.real_lock
        self.streaming = streaming
        self.lock = LockModel(AGE)
        self.requests: list[RequestModel] = []
        self.fills: list[FillModel] = []
        self.permits: list[tuple[int, WritePermit]] = []
        self.waiting: list[tuple[RequestModel, int, asyncio.Task[LockStatus]]] = []
        for way in ways:
            self.come(way)

    def run(self, work: Coroutine[None, None, T]) -> T:
        return self.loop.run_until_complete(work)

    def turn(self) -> None:
        """Let all that is ready run."""

        async def turns() -> None:
            for _ in range(4):
                await asyncio.sleep(0)

        self.run(turns())

    def request(self, pick: int) -> RequestModel | None:
        ready = [request for request in self.requests if not request.is_waiting]
        return ready[pick % len(ready)] if ready else None

    # ------------------------------------------------------------------ the world

    def come(self, way: str) -> None:
        """Another request comes, and gets as far as it can on its way."""
        request = RequestModel(self.rig.request(None), self.lock)
        self.requests.append(request)
        if not way:
            return
        self.call_allowed(request, "set_cache_key")
        if way == "stale":
            self.rig.store.put(self.rig.key(), self.rig.meta(fresh=-1, stale=5), BODY)
        self.call_allowed(request, "cache_lookup")
        if way == "stale":
            self.use(request, HitStatus.EXPIRED)
        elif way != "looked up" and request.has_permit:
            self.call_allowed(request, "cache_miss")
            self.call_allowed(request, "set_cache_meta")
            if way == "filling":
                self.call_allowed(request, "set_miss_handler")

    @rule(event=events)
    def something_happens(self, event: float | str | None) -> None:
        """Time passes, the store breaks, or somebody else stores and purges the object."""
        if event == "fresh":
            self.rig.store.put(self.rig.key(), self.rig.meta(), BODY)
        elif isinstance(event, str):
            self.rig.store.faults[event] = OSError(5, "broken")
        elif event is None or event < 0:
            self.rig.store.objects.clear()
        if event == -1.0:
            self.rig.store.put(self.rig.key(), self.rig.meta(fresh=-1, stale=5), BODY)
        if not isinstance(event, float) or event < 0:
            return
        seconds = event
        self.run(self.later(lambda: self.rig.time.advance(seconds)))
        self.lock.now += seconds

    # ------------------------------------------------------------------ calls

    @rule(calls=st.lists(st.tuples(picks, picks), min_size=1, max_size=8))
    def call_some(self, calls: list[tuple[int, int]]) -> None:
        for pick, other in calls:
            request = self.request(pick)
            if request is not None:
                self.call(request, other)
                self.everything_is_as_it_should_be()

    def call(self, request: RequestModel, other: int) -> None:
        """Mostly what may be called, so that requests get somewhere; now and then what may not."""
        is_right = other % 5 > 0
        chosen = request.would_move if other % 5 > 1 else request.allows
        names = [name for name in CALLS if chosen(name) == is_right]
        if not self.permits:
            names = [name for name in names if name != "set_write_lock"]
        if not names:
            return
        name = names[other % len(names)]
        if is_right:
            self.call_allowed(request, name)
        else:
            self.refused(request, lambda: self.real_call(request, name))

    @rule(pick=picks, status=st.sampled_from(HitStatus))
    def use_what_was_found(self, pick: int, status: HitStatus) -> None:
        request = self.request(pick)
        if request is not None:
            self.use(request, status)

    def use(self, request: RequestModel, status: HitStatus) -> None:
        if "found" not in request.readers:
            return
        found = request.real._found
        assert found is not None
        meta = self.rig.meta(fresh=60, stale=5)
        if not request.allows("cache_found"):
            self.refused(request, lambda: request.real.cache_found(meta, found, status))
            return

        async def use() -> None:
            request.real.cache_found(meta, found, status)

        self.run(use())
        request.readers -= {"found", "hit"}
        if status.is_fresh:
            request.phase = P.HIT
            request.let_go(LockStatus.DONE)
        elif not status.is_treated_as_miss:
            request.phase = P.STALE
        if not status.is_fresh:
            request.ask()
        request.has_meta = not status.is_treated_as_miss
        if request.has_meta:
            request.readers.add("hit")

    @rule(pick=picks, reason=st.sampled_from(list(REASONS)))
    def disable(self, pick: int, reason: NoCacheReason) -> None:
        request = self.request(pick)
        if request is None:
            return
        status = REASONS[reason]
        if request.is_writer and status is None:
            before = state_of(request.real)
            with pytest.raises(ValueError, match="does not stop"):
                request.real.disable(reason)
            assert state_of(request.real) == before
            return
        self.run(self.later(lambda: request.real.disable(reason)))
        if request.phase is not P.DISABLED:
            request.drop_all(status or LockStatus.TRANSIENT_ERROR)
            request.phase = P.DISABLED
            request.has_meta = False

    @rule(pick=picks, reason=st.sampled_from(list(REASONS)))
    def release(self, pick: int, reason: NoCacheReason) -> None:
        request = self.request(pick)
        status = REASONS[reason]
        if request is None or status is None or not request.is_writer:
            return
        self.run(self.later(lambda: request.real.release_write_lock(reason)))
        request.let_go(status)
        if request.fill is not None:
            permit, request.fill.permit = request.fill.permit, None
            self.lock.release(permit, status)

    @rule(pick=picks, way=ways)
    def leave(self, pick: int, way: str) -> None:
        """A request ends; most of the time another one comes in its place."""
        request = self.request(pick)
        if request is None:
            return
        self.run(self.later(request.real.close))
        if not request.is_closed:
            request.is_closed = True
            request.drop_all(LockStatus.TRANSIENT_ERROR)
        if pick % 4:
            self.requests.remove(request)
            self.come(way)

    @precondition(lambda self: self.fills)
    @rule(pick=picks, way=st.sampled_from(["write", "finish", "abort", "close"]))
    def go_on_filling(self, pick: int, way: str) -> None:
        fill = self.fills[pick % len(self.fills)]
        self.fill_call(fill, way)

    async def later(self, call: Callable[[], object]) -> None:
        """Call something where there is a running loop."""
        call()

    # ------------------------------------------------------------------ effects

    def refused(self, request: RequestModel, call: Callable[[], object]) -> None:
        before = state_of(request.real)
        readers, writers = self.rig.store.readers, self.rig.store.writers

        async def wrong() -> None:
            result = call()
            if asyncio.iscoroutine(result):
                await result

        with pytest.raises(CachePhaseError):
            self.run(wrong())
        assert state_of(request.real) == before
        assert (self.rig.store.readers, self.rig.store.writers) == (readers, writers)

    def real_call(self, request: RequestModel, name: str) -> object:
        real = request.real
        arguments: dict[str, tuple[object, ...]] = {
            "set_cache_key": (self.rig.key(),),
            "set_cache_meta": (self.rig.meta(),),
            "set_write_lock": (self.permits[-1][1],) if self.permits else (),
            "revalidate_cache_meta": (self.rig.meta(),),
            "revalidate_uncacheable": (ResponseHeader(200), NoCacheReason.ORIGIN_NOT_CACHE),
        }
        if name == "enable":
            real.enable(self.rig.store, lock=self.real_lock, stats=self.rig.stats)
            return None
        result: object = getattr(real, name)(*arguments.get(name, ()))
        return result

    def call_allowed(self, request: RequestModel, name: str) -> None:
        if name == "cache_lock_wait":
            self.begin_to_wait(request)
            return
        faults = self.rig.store.faults
        broken = {fault for fault in FAULTS if fault in faults}
        result: object = None
        failed = False

        async def right() -> object:
            result = self.real_call(request, name)
            return await result if asyncio.iscoroutine(result) else result

        try:
            result = self.run(right())
        except Error:
            failed = True
        used = {fault for fault in broken if fault not in faults}
        assert failed <= bool(used)
        request.phase = MOVES.get(name, request.phase)
        if name.endswith("_miss_handler"):
            self.after_filling(request, name, used)
        elif hasattr(self, f"after_{name}"):
            getattr(self, f"after_{name}")(request, result)

    def begin_to_wait(self, request: RequestModel) -> None:
        assert request.hold is not None
        permit = request.hold[1]
        request.hold = None
        request.is_waiting = True
        task = self.loop.create_task(request.real.cache_lock_wait())
        self.waiting.append((request, permit, task))
        self.turn()

    def after_cache_lookup(self, request: RequestModel, result: object) -> None:
        request.readers.discard("found")
        if result is None:
            request.ask()
        else:
            request.readers.add("found")

    def after_cache_miss(self, request: RequestModel, _: object) -> None:
        request.has_meta = False
        request.readers.clear()

    def after_set_cache_meta(self, request: RequestModel, _: object) -> None:
        request.has_meta = True
        if request.phase is P.STALE:
            request.phase = P.EXPIRED
            request.readers.discard("hit")

    def after_take_fill(self, request: RequestModel, _: object) -> None:
        assert request.fill is not None
        self.fills.append(request.fill)
        request.fill = None

    def after_take_write_lock(self, request: RequestModel, result: object) -> None:
        assert isinstance(result, WritePermit)
        assert request.hold is not None
        self.permits.append((request.hold[1], result))
        request.hold = None

    def after_set_write_lock(self, request: RequestModel, _: object) -> None:
        request.hold = ("w", self.permits.pop()[0])

    def after_revalidate_cache_meta(self, request: RequestModel, _: object) -> None:
        request.let_go(LockStatus.DONE)

    def after_revalidate_uncacheable(self, request: RequestModel, _: object) -> None:
        request.let_go(LockStatus.GIVE_UP)

    def after_finish_hit_handler(self, request: RequestModel, _: object) -> None:
        request.readers.discard("hit" if "hit" in request.readers else "along")

    def after_enable(self, request: RequestModel, _: object) -> None:
        request.has_begun = False

    def after_filling(self, request: RequestModel, name: str, used: set[str]) -> None:
        fill = request.fill
        if name == "set_miss_handler":
            self.begun(request, used)
        elif fill is not None and not fill.is_ended:
            done = name == "finish_miss_handler" and "finish" not in used
            fill.end(self.lock, LockStatus.DONE if done else LockStatus.TRANSIENT_ERROR)

    def begun(self, request: RequestModel, used: set[str]) -> None:
        if "get_miss_handler" in used:
            return
        request.has_begun = True
        permit = request.hold[1] if request.has_permit and request.hold else None
        if permit is not None:
            request.hold = None
        if not self.streaming:
            assert request.real.miss_handler is not None
            request.fill = FillModel(request.real.miss_handler, permit)
            return
        self.lock.release(permit, LockStatus.DONE)
        if "lookup_streaming_write" not in used:
            assert request.real.miss_handler is not None
            request.fill = FillModel(request.real.miss_handler, None)
            request.readers.add("along")

    def fill_call(self, fill: FillModel, way: str) -> None:
        faults = self.rig.store.faults
        calls: dict[str, Callable[[], Coroutine[None, None, object]]] = {
            "write": lambda: fill.real.write(BODY),
            "finish": fill.real.finish,
            "abort": fill.real.abort,
            "close": lambda: self.later(fill.real.close),
        }
        call = calls[way]
        if fill.is_ended:
            if way in {"write", "finish"}:
                with pytest.raises(RuntimeError, match="has ended"):
                    self.run(call())
            else:
                self.run(call())
            return
        broken = {"write": "write_body"}.get(way, way) in faults
        try:
            self.run(call())
            assert way == "close" or not broken
        except Error:
            assert broken
        if way == "finish" and not broken:
            fill.end(self.lock, LockStatus.DONE)
        elif way != "write" or broken:
            fill.end(self.lock, LockStatus.TRANSIENT_ERROR)

    # ------------------------------------------------------------------ what is always true

    @invariant()
    def everything_is_as_it_should_be(self) -> None:
        if not hasattr(self, "loop"):
            return
        self.turn()
        self.waiters_are_told()
        for request in self.requests:
            real = request.real
            assert real.phase is request.phase
            assert real.is_closed == request.is_closed
            assert real.is_cache_lock_writer == request.is_writer
            assert real.is_cache_locked == (request.hold is not None and request.hold[0] == "r")
            assert (real.maybe_cache_meta is not None) == request.has_meta
        open_fills = [fill for fill in self.all_fills() if not fill.is_ended]
        assert self.rig.store.writers == len(open_fills) == self.rig.stats.fills_active
        assert self.rig.store.readers == sum(len(r.readers) for r in self.requests)
        assert self.real_lock.keys == (self.lock.current is not None)
        assert len(self.real_lock.cores) == len(self.lock.deadlines)
        for permit, core in enumerate(self.real_lock.cores):
            assert self.real_lock.released.count(core) == (permit in self.lock.released)

    def all_fills(self) -> list[FillModel]:
        own = [request.fill for request in self.requests if request.fill is not None]
        return [*self.fills, *own]

    def waiters_are_told(self) -> None:
        still = []
        for request, permit, task in self.waiting:
            statuses = self.lock.may_hear(permit)
            assert task.done() == bool(statuses)
            if task.done():
                assert task.result() in statuses
                request.is_waiting = False
            else:
                still.append((request, permit, task))
        self.waiting = still

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        for request in self.requests:
            self.run(self.later(request.real.close))
        for fill in self.fills:
            self.run(self.later(fill.real.close))
        for _, permit in self.permits:
            permit.release(LockStatus.TRANSIENT_ERROR)
        self.turn()
        assert all(task.done() for _, _, task in self.waiting)
        self.rig.check()
        assert sorted(map(id, self.real_lock.released)) == sorted(map(id, self.real_lock.cores))
        self.loop.close()


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
