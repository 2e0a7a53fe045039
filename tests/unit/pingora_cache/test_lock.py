"""The cache lock: one fetches, the others wait, nobody waits for ever.

Source: the tests of pingora-cache/src/lock.rs, and what a single thread adds to them.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from pingora_cache.key import CacheKey
from pingora_cache.lock import CacheLock, LockStatus, ReadLock, WritePermit
from tests.support.cache_scheduler import FakeScheduler
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

KEY = CacheKey("a", user_tag="1")


def permit(lock: CacheLock, key: CacheKey = KEY) -> WritePermit:
    """Ask for a lock that nobody holds."""
    locked = lock.lock(key)
    assert isinstance(locked, WritePermit)
    return locked


def reader(lock: CacheLock, key: CacheKey = KEY) -> ReadLock:
    """Ask for a lock that somebody holds."""
    locked = lock.lock(key)
    assert isinstance(locked, ReadLock)
    return locked


async def settle() -> None:
    """Let all that is ready run."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
def time() -> FakeScheduler:
    """A clock that stands still."""
    return FakeScheduler()


@pytest.fixture
async def tasks() -> AsyncIterator[list[asyncio.Task[LockStatus]]]:
    """Waiters, which must all have ended when the test has."""
    tasks: list[asyncio.Task[LockStatus]] = []
    yield tasks
    hanging = [task for task in tasks if not task.done()]
    for task in hanging:
        task.cancel()
    assert hanging == []


# ---------------------------------------------------------------------- as upstream


def test_get_release(time: FakeScheduler) -> None:
    """The first may write, the second reads, and after the release the next one writes."""
    lock = CacheLock(1000, scheduler=time)
    writer = permit(lock)
    reader(lock)
    writer.release(LockStatus.DONE)
    permit(lock).release(LockStatus.DONE)


async def test_lock(time: FakeScheduler, tasks: list[asyncio.Task[LockStatus]]) -> None:
    """Who waits is told what the writer says."""
    lock = CacheLock(1000, scheduler=time)
    writer = permit(lock)
    waiting = reader(lock)
    assert waiting.status is LockStatus.WAITING
    tasks.append(asyncio.create_task(waiting.wait()))
    await settle()
    writer.release(LockStatus.DONE)
    assert await tasks[0] is LockStatus.DONE


async def test_lock_timeout(time: FakeScheduler, tasks: list[asyncio.Task[LockStatus]]) -> None:
    """A writer that takes too long is replaced, and does no harm when it is done at last."""
    lock = CacheLock(1, scheduler=time)
    old = permit(lock)
    tasks.append(asyncio.create_task(reader(lock).wait()))
    await settle()
    time.advance(2)
    assert await tasks[0] is LockStatus.AGE_TIMEOUT

    new = permit(lock)
    tasks.append(asyncio.create_task(reader(lock).wait()))
    await settle()
    old.release(LockStatus.GIVE_UP)
    await settle()
    assert not tasks[1].done()
    new.release(LockStatus.DONE)
    assert await tasks[1] is LockStatus.DONE


async def test_lock_expired_release(time: FakeScheduler) -> None:
    """A late release makes room: the lock begins anew."""
    lock = CacheLock(1, scheduler=time)
    writer = permit(lock)
    waiting = reader(lock)
    time.advance(2)
    assert waiting.status is LockStatus.AGE_TIMEOUT
    assert await waiting.wait() is LockStatus.AGE_TIMEOUT
    writer.release(LockStatus.DONE)
    assert lock.keys == 0

    writer = permit(lock)
    assert writer.status is LockStatus.WAITING
    assert reader(lock).status is LockStatus.WAITING
    writer.release(LockStatus.DONE)


async def test_lock_expired_no_reader(time: FakeScheduler) -> None:
    """Nobody watches the clock for a lock that nobody waits for, until a reader does."""
    lock = CacheLock(1, scheduler=time)
    writer = permit(lock)
    waiting = reader(lock)
    time.advance(2)
    seen = [writer.status, waiting.status, writer.status]
    assert seen == [LockStatus.WAITING, LockStatus.AGE_TIMEOUT, LockStatus.AGE_TIMEOUT]
    writer.release(LockStatus.DONE)


async def test_lock_concurrent() -> None:
    """Many that lock, work and wait in turn all come to their end."""
    lock = CacheLock(1000)

    async def work() -> int:
        waits = 0
        while True:
            locked = lock.lock(KEY)
            if isinstance(locked, WritePermit):
                await asyncio.sleep(0.0001)
                locked.release(LockStatus.DONE)
                return waits
            assert await locked.wait() is LockStatus.DONE
            waits += 1

    waits = await asyncio.gather(*(work() for _ in range(30)))
    assert sorted(waits) == list(range(30))
    assert (lock.keys, lock.waiters) == (0, 0)


# ---------------------------------------------------------------------- statuses


@pytest.mark.parametrize(
    "status", [status for status in LockStatus if status is not LockStatus.WAITING]
)
async def test_every_status_arrives(
    status: LockStatus, time: FakeScheduler, tasks: list[asyncio.Task[LockStatus]]
) -> None:
    """What the writer releases with is what all who wait are told, and who comes too late."""
    lock = CacheLock(1000, scheduler=time)
    writer = permit(lock)
    late = reader(lock)
    tasks += [asyncio.create_task(reader(lock).wait()) for _ in range(3)]
    await settle()
    writer.release(status)
    assert await asyncio.gather(*tasks) == [status] * 3
    assert await late.wait() is status


def test_a_release_is_a_release(time: FakeScheduler) -> None:
    """A permit cannot be released as waiting, and is released once."""
    lock = CacheLock(1000, scheduler=time)
    writer = permit(lock)
    with pytest.raises(ValueError, match="not waited for"):
        writer.release(LockStatus.WAITING)
    held = [not writer.is_released]
    writer.release(LockStatus.DONE)
    held.append(not writer.is_released)
    writer.release(LockStatus.GIVE_UP)
    assert held == [True, False]
    assert writer.status is LockStatus.DONE


def test_variants_have_locks_of_their_own(time: FakeScheduler) -> None:
    """A variant does not wait for another one, nor for the primary object."""
    lock = CacheLock(1000, scheduler=time)
    writer = permit(lock)
    variant = CacheKey("a")
    variant.variance = bytes(16)
    other = permit(lock, variant)
    assert lock.keys == 2
    writer.release(LockStatus.DONE)
    other.release(LockStatus.DONE)


@pytest.mark.parametrize("age", [0.0, -1.0, float("inf"), float("nan")])
def test_a_writer_has_some_time(age: float) -> None:
    """No lock without an end, so that nobody waits for ever."""
    with pytest.raises(ValueError, match="some time"):
        CacheLock(age)


@pytest.mark.parametrize(("waiters", "keys"), [(-1, 0), (0, -1)])
def test_bounds_are_not_negative(waiters: int, keys: int) -> None:
    """A bound is a number of things."""
    with pytest.raises(ValueError, match="cannot be"):
        CacheLock(1, max_waiters=waiters, max_keys=keys)


# ---------------------------------------------------------------------- waiting


async def test_wait_timeout(time: FakeScheduler, tasks: list[asyncio.Task[LockStatus]]) -> None:
    """One waiter has had enough; the others go on waiting."""
    lock = CacheLock(10, scheduler=time)
    writer = permit(lock)
    tasks.append(asyncio.create_task(reader(lock).wait(2)))
    tasks.append(asyncio.create_task(reader(lock).wait()))
    await settle()
    time.advance(3)
    await settle()
    assert await tasks[0] is LockStatus.WAIT_TIMEOUT
    assert not tasks[1].done()
    assert lock.waiters == 1
    writer.release(LockStatus.DONE)
    assert await tasks[1] is LockStatus.DONE


async def test_no_time_to_wait(time: FakeScheduler) -> None:
    """Who may not wait at all is told so at once, and who comes after the fact is told that."""
    lock = CacheLock(10, scheduler=time)
    writer = permit(lock)
    waiting = reader(lock)
    assert await waiting.wait(0) is LockStatus.WAIT_TIMEOUT
    writer.release(LockStatus.DONE)
    assert await waiting.wait(0) is LockStatus.DONE


async def test_the_age_ends_a_longer_wait(
    time: FakeScheduler, tasks: list[asyncio.Task[LockStatus]]
) -> None:
    """A waiter with more patience than the lock has time needs no timer of its own."""
    lock = CacheLock(10, scheduler=time)
    writer = permit(lock)
    tasks.append(asyncio.create_task(reader(lock).wait(60)))
    await settle()
    assert time.armed == 1
    time.advance(10)
    assert await tasks[0] is LockStatus.AGE_TIMEOUT
    writer.release(LockStatus.DONE)


async def test_timers_go_with_what_they_are_for(
    time: FakeScheduler, tasks: list[asyncio.Task[LockStatus]]
) -> None:
    """A lock that nobody waits for has no timer; a release takes the timers away."""
    lock = CacheLock(10, scheduler=time)
    writer = permit(lock)
    assert time.armed == 0
    tasks += [asyncio.create_task(reader(lock).wait(5)) for _ in range(3)]
    await settle()
    assert time.armed == 4
    writer.release(LockStatus.DONE)
    await asyncio.gather(*tasks)
    assert time.armed == 0


async def test_a_waiter_that_leaves(time: FakeScheduler) -> None:
    """A cancelled waiter is forgotten, and the others are not disturbed."""
    lock = CacheLock(10, scheduler=time)
    writer = permit(lock)
    first = asyncio.create_task(reader(lock).wait(5))
    second = asyncio.create_task(reader(lock).wait())
    await settle()
    first.cancel()
    await settle()
    assert first.cancelled()
    assert lock.waiters == 1
    writer.release(LockStatus.DONE)
    assert await second is LockStatus.DONE
    assert (lock.waiters, time.armed) == (0, 0)


async def test_a_waiter_that_leaves_while_it_is_woken(time: FakeScheduler) -> None:
    """Cancelled in the very turn of the release: cancelled it is, and nothing is left."""
    lock = CacheLock(10, scheduler=time)
    writer = permit(lock)
    waiters = [asyncio.create_task(reader(lock).wait()) for _ in range(100)]
    await settle()
    writer.release(LockStatus.DONE)
    for waiter in waiters:
        waiter.cancel()
    await asyncio.wait(waiters)
    assert all(waiter.cancelled() for waiter in waiters)
    assert lock.waiters == 0


# ---------------------------------------------------------------------- bounds


async def test_too_many_waiters(time: FakeScheduler, tasks: list[asyncio.Task[LockStatus]]) -> None:
    """Beyond the bound nobody waits: straight to the upstream."""
    lock = CacheLock(10, max_waiters=2, scheduler=time)
    writer = permit(lock)
    tasks += [asyncio.create_task(reader(lock).wait()) for _ in range(2)]
    await settle()
    assert await reader(lock).wait() is LockStatus.GIVE_UP
    writer.release(LockStatus.DONE)
    assert await asyncio.gather(*tasks) == [LockStatus.DONE] * 2
    writer = permit(lock)
    tasks.append(asyncio.create_task(reader(lock).wait()))
    await settle()
    writer.release(LockStatus.DONE)
    assert await tasks[2] is LockStatus.DONE


def test_too_many_keys(time: FakeScheduler) -> None:
    """Beyond the bound a permit is one that nobody waits for; those of before work on."""
    lock = CacheLock(10, max_keys=1, scheduler=time)
    first = permit(lock)
    other = CacheKey("b")
    second, third = permit(lock, other), permit(lock, other)
    assert lock.keys == 1
    second.release(LockStatus.DONE)
    third.release(LockStatus.DONE)
    reader(lock)
    first.release(LockStatus.DONE)
    assert lock.keys == 0


def test_an_aged_lock_is_replaced_in_a_full_table(time: FakeScheduler) -> None:
    """The place of a writer that is too late is taken, however full the table is."""
    lock = CacheLock(10, max_keys=1, scheduler=time)
    old = permit(lock)
    time.advance(11)
    new = permit(lock)
    reader(lock)
    old.release(LockStatus.DONE)
    reader(lock)
    new.release(LockStatus.DONE)


async def test_a_stampede_wakes_in_order_and_in_batches(time: FakeScheduler) -> None:
    """Thousands wake in the order in which they came, a part of them in each turn of the loop."""
    lock = CacheLock(10, scheduler=time)
    writer = permit(lock)
    order: list[int] = []

    async def wait(number: int) -> LockStatus:
        status = await reader(lock).wait(5)
        order.append(number)
        return status

    waiters = [asyncio.create_task(wait(number)) for number in range(2_000)]
    await eventually(lambda: lock.waiters == 2_000)
    writer.release(LockStatus.DONE)
    progress = [0]
    while len(order) < 2_000:
        await asyncio.sleep(0)
        progress.append(len(order))
    assert order == list(range(2_000))
    assert max(after - before for before, after in pairwise(progress)) <= 100
    assert set(await asyncio.gather(*waiters)) == {LockStatus.DONE}
    assert (lock.keys, lock.waiters, time.armed) == (0, 0, 0)


async def test_a_timeout_in_between(time: FakeScheduler) -> None:
    """Whose time is over while its batch is not due hears how it went, not that it timed out."""
    lock = CacheLock(10, scheduler=time)
    writer = permit(lock)
    waiters = [asyncio.create_task(reader(lock).wait(5)) for _ in range(200)]
    await eventually(lambda: lock.waiters == 200)
    writer.release(LockStatus.DONE)
    time.advance(5)
    assert set(await asyncio.gather(*waiters)) == {LockStatus.DONE}


# ---------------------------------------------------------------------- dropped permits


async def test_a_dropped_permit(
    time: FakeScheduler,
    tasks: list[asyncio.Task[LockStatus]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A writer that goes away without a word frees those who wait, and leaves no entry."""
    lock = CacheLock(10, scheduler=time)
    writer = [permit(lock)]
    tasks.append(asyncio.create_task(reader(lock).wait()))
    await settle()
    writer.clear()
    gc.collect()
    assert await tasks[0] is LockStatus.DANGLING
    assert "dropped" in caplog.text
    assert (lock.keys, time.armed) == (0, 0)


def test_a_dropped_permit_that_nobody_waits_for(time: FakeScheduler) -> None:
    """Without waiters the entry just goes; a reader of it is told."""
    lock = CacheLock(10, scheduler=time)
    writer = [permit(lock)]
    late = reader(lock)
    writer.clear()
    gc.collect()
    assert late.status is LockStatus.DANGLING
    permit(lock).release(LockStatus.DONE)


async def test_a_permit_dropped_in_another_thread(
    time: FakeScheduler, tasks: list[asyncio.Task[LockStatus]]
) -> None:
    """The garbage collector runs where it pleases; waiters wake in their own thread."""
    lock = CacheLock(10, scheduler=time)
    writer = [permit(lock)]
    tasks.append(asyncio.create_task(reader(lock).wait()))
    await settle()
    thread = threading.Thread(target=writer.clear)
    thread.start()
    thread.join()
    assert await tasks[0] is LockStatus.DANGLING


def test_a_permit_dropped_after_its_loop() -> None:
    """A loop that is closed has nobody to wake."""
    lock = CacheLock(10)
    writer: list[WritePermit] = []

    async def leave_behind() -> asyncio.Future[LockStatus]:
        writer.append(permit(lock))
        waiting = asyncio.ensure_future(reader(lock).wait())
        await settle()
        return waiting

    loop = asyncio.new_event_loop()
    waiting = loop.run_until_complete(leave_behind())
    waiting.cancel()
    loop.close()
    writer.clear()
    gc.collect()
    assert lock.keys == 0


async def test_an_aged_permit_that_is_dropped(
    time: FakeScheduler, tasks: list[asyncio.Task[LockStatus]]
) -> None:
    """What has aged is not told again, and its entry goes unless it was replaced."""
    lock = CacheLock(10, scheduler=time)
    writer = [permit(lock)]
    tasks.append(asyncio.create_task(reader(lock).wait()))
    await settle()
    time.advance(10)
    assert await tasks[0] is LockStatus.AGE_TIMEOUT
    writer.clear()
    gc.collect()
    assert lock.keys == 0


def test_what_they_show(time: FakeScheduler) -> None:
    """The objects tell in short how they stand."""
    lock = CacheLock(10, scheduler=time)
    writer = permit(lock)
    assert repr(lock) == "<CacheLock 1 keys, 0 waiters>"
    assert repr(reader(lock)) == "<ReadLock WAITING>"
    assert repr(writer) == "<WritePermit WAITING>"
    assert writer.key == KEY.combined_hash
    writer.release(LockStatus.DONE)
    assert repr(writer) == "<WritePermit released>"
