"""One lock for several processes: whoever claims a key fetches, and the others wait."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from pingora_cache.key import CacheKey
from pingora_cache.lock import LockStatus, ReadLock, WritePermit
from pingora_cache.shared_lock import SharedCacheLock
from tests.support.cache_scheduler import FakeScheduler

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Claims a key, says so, and stays.
_CLAIM = """
import asyncio, sys
from pingora_cache.key import CacheKey
from pingora_cache.shared_lock import SharedCacheLock

async def main():
    permit = SharedCacheLock(sys.argv[1], 5.0).lock(CacheKey("a"))
    print(type(permit).__name__, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


class Pair:
    """The locks of two processes, here in one, on a clock that the test moves."""

    def __init__(self, path: Path, age_timeout: float = 5.0) -> None:
        self.time = FakeScheduler()
        self.one = SharedCacheLock(path, age_timeout, scheduler=self.time)
        self.two = SharedCacheLock(path, age_timeout, scheduler=self.time)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path / "lock")
    yield made
    made.one.close()
    made.two.close()


async def test_one_process_fetches_and_the_others_wait(pair: Pair) -> None:
    """Until the permit is given back, and what was begun can be seen; then they look it up."""
    permit = pair.one.lock(CacheKey("a"))
    assert type(permit) is WritePermit
    waits = [pair.two.lock(CacheKey("a")) for _ in range(3)]
    assert {type(wait) for wait in waits} == {ReadLock}
    other = pair.two.lock(CacheKey("b"))
    assert type(other) is WritePermit
    other.release(LockStatus.DONE)
    waiting = asyncio.create_task(waits[0].wait())  # type: ignore[union-attr]
    pair.time.advance(1.0)
    await asyncio.sleep(0)
    assert not waiting.done()

    permit.release(LockStatus.DONE)
    assert type(pair.two.lock(CacheKey("a"))) is ReadLock
    pair.time.advance(0.2)

    assert await waiting is LockStatus.DONE
    assert pair.one.keys == pair.two.keys == 0
    following = pair.two.lock(CacheKey("a"))
    assert type(following) is WritePermit
    following.release(LockStatus.DONE)


async def test_a_writer_elsewhere_that_takes_too_long(pair: Pair) -> None:
    """It is waited for as long as one here, and then one here fetches beside it."""
    permit = pair.one.lock(CacheKey("a"))
    assert type(permit) is WritePermit
    wait = pair.two.lock(CacheKey("a"))
    assert type(wait) is ReadLock
    waiting = asyncio.create_task(wait.wait())
    await asyncio.sleep(0)
    pair.time.advance(5.1)

    assert await waiting is LockStatus.AGE_TIMEOUT
    beside = pair.two.lock(CacheKey("a"))
    assert type(beside) is WritePermit
    assert type(pair.two.lock(CacheKey("a"))) is ReadLock
    beside.release(LockStatus.DONE)
    permit.release(LockStatus.DONE)
    pair.time.advance(20.0)
    assert pair.one.keys == pair.two.keys == 0
    assert not pair.one._claims
    assert not pair.two._claims


async def test_nobody_comes_after_a_writer_that_took_too_long(pair: Pair) -> None:
    """Nothing is kept of it for ever."""
    permit = pair.one.lock(CacheKey("a"))
    assert type(permit) is WritePermit
    assert type(pair.two.lock(CacheKey("a"))) is ReadLock
    pair.time.advance(30.0)

    assert pair.two.keys == 0
    permit.release(LockStatus.GIVE_UP)
    pair.time.advance(1.0)


async def test_a_key_that_is_claimed_again_before_it_was_given_back(pair: Pair) -> None:
    """The earlier claim ends, the later one stays."""
    for _ in range(2):
        permit = pair.one.lock(CacheKey("a"))
        assert type(permit) is WritePermit
        permit.release(LockStatus.TRANSIENT_ERROR)
    permit = pair.one.lock(CacheKey("a"))
    pair.time.advance(1.0)

    assert type(pair.two.lock(CacheKey("a"))) is ReadLock
    assert type(permit) is WritePermit
    permit.release(LockStatus.DONE)
    pair.time.advance(1.0)
    assert pair.two.keys == 0


async def test_looks_become_seldom(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is fetched for seconds is looked at some twenty times in each."""
    permit = pair.one.lock(CacheKey("a"))
    assert type(permit) is WritePermit
    assert type(pair.two.lock(CacheKey("a"))) is ReadLock
    looks = 0
    real = fcntl.fcntl

    def look(fd: int, command: int, request: bytes) -> bytes:
        nonlocal looks
        looks += 1
        return real(fd, command, request)

    monkeypatch.setattr(fcntl, "fcntl", look)
    for _ in range(400):
        pair.time.advance(0.01)

    assert 60 <= looks <= 90
    permit.release(LockStatus.DONE)
    pair.time.advance(1.0)


async def test_a_file_that_cannot_be_locked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each process fetches for itself, and the log says so once."""
    pair = Pair(tmp_path / "missing" / "lock")
    permits = [pair.one.lock(CacheKey("a")), pair.two.lock(CacheKey("a"))]
    permits.append(pair.one.lock(CacheKey("b")))
    assert [type(permit) for permit in permits] == [WritePermit] * 3
    for permit in permits:
        permit.release(LockStatus.DONE)  # type: ignore[union-attr]
    pair.time.advance(1.0)

    assert len(caplog.records) == 2


async def test_a_lock_that_was_closed(pair: Pair) -> None:
    """It holds nobody any more, and opens nothing again."""
    permit = pair.one.lock(CacheKey("a"))
    assert type(pair.two.lock(CacheKey("a"))) is ReadLock
    pair.one.close()
    pair.time.advance(1.0)
    assert pair.two.keys == 0
    assert type(permit) is WritePermit
    permit.release(LockStatus.DONE)
    beside = pair.one.lock(CacheKey("a"))
    assert type(beside) is WritePermit
    beside.release(LockStatus.DONE)

    assert pair.one._fd == -1


async def test_a_process_that_is_killed(tmp_path: Path) -> None:
    """Its claim ends with it."""
    path = tmp_path / "lock"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _CLAIM, str(path), stdout=asyncio.subprocess.PIPE
    )
    lock = SharedCacheLock(path, 30.0)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            assert await process.stdout.readline() == b"WritePermit\n"
        wait = lock.lock(CacheKey("a"))
        assert type(wait) is ReadLock
        process.send_signal(signal.SIGKILL)
        async with asyncio.timeout(20):
            assert await wait.wait() is LockStatus.DONE
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        lock.close()


def test_a_forked_process_claims_for_itself(pair: Pair) -> None:
    """What its parent has claimed it has not."""
    permit = pair.one.lock(CacheKey("a"))
    pid = os.fork()
    if not pid:
        os._exit(3 if pair.one._try(CacheKey("a").combined_hash, 1) else 4)
    _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == 4
    assert type(permit) is WritePermit
    permit.release(LockStatus.DONE)
    pair.time.advance(1.0)
