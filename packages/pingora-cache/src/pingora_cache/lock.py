"""One request fetches, the others wait: a lock per key.

Theory of operation
-------------------
Whoever misses asks for the lock of its key. The first gets a ``WritePermit``: it fetches, and then
releases the permit with a status. The others get a ``ReadLock``, wait, and are told the status:

- ``DONE``: look it up. A store that streams partial writes lets the writer say so as soon as it
  has begun, so that the others read along.
- ``TRANSIENT_ERROR``, ``DANGLING``: look it up again; one of those who miss becomes the writer.
- ``GIVE_UP``: it is not cacheable, waiting makes no sense: everybody to the upstream, uncached.
- ``AGE_TIMEOUT``: the writer has had its time; look it up again, one becomes a writer beside it.
- ``WAIT_TIMEOUT``: this one has waited long enough, whatever the writer does.

What is bounded: how long a writer holds others (``age_timeout``, one timer per key that somebody
waits for), how many wait (``max_waiters``, those beyond give up at once), how many keys are locked
(``max_keys``, those beyond get a permit that nobody waits for). A permit that is dropped frees
those who wait for it as ``DANGLING``.

A ``CacheLock`` is for one process; ``pingora_cache.shared_lock`` has one for several.

Waiters are woken in batches, one batch per turn of the event loop: thousands that all look up and
answer in one turn would stop everything else.

Source: pingora-cache/src/lock.rs. Its 16 shards keep threads apart; there is one thread here.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, TypeAlias

from pingora_cache._lock_core import LockCore, LockStatus, ReadLock, Scheduler, WritePermit

if TYPE_CHECKING:
    from pingora_cache.key import CacheKey
    from pingora_cache.reason import NoCacheReason

__all__ = [
    "CacheKeyLock",
    "CacheLock",
    "LockStatus",
    "Locked",
    "ReadLock",
    "Scheduler",
    "WritePermit",
]

Locked: TypeAlias = WritePermit | ReadLock
"""What one gets who asks for a lock. Source: enum Locked in pingora-cache/src/lock.rs."""


class CacheKeyLock(ABC):
    """Gives out the locks of keys.

    Source: trait CacheKeyLock in pingora-cache/src/lock.rs.
    """

    __slots__ = ()

    @abstractmethod
    def lock(self, key: CacheKey, *, stale_writer: bool = False) -> Locked:
        """Ask for the lock of a key.

        Args:
            key: The key, with its variance.
            stale_writer: Whether the caller has a stale object of this key.

        Returns:
            A permit to fetch the object, to be released; or a lock to wait for.
        """

    def custom_lock_status(self, reason: NoCacheReason) -> LockStatus:
        """Decide what waiters are told when the writer stops for a reason of the application's.

        Args:
            reason: One for which ``is_custom`` is true.

        Returns:
            ``GIVE_UP``, unless overridden.
        """
        del reason
        return LockStatus.GIVE_UP


class CacheLock(CacheKeyLock):
    """Gives out the locks of keys, for all requests on one event loop.

    Args:
        age_timeout: How long a writer may hold others, seconds.
        max_waiters: The most requests that wait at a time, over all keys.
        max_keys: The most keys that are locked at a time.
        scheduler: For time and timers; None for the running event loop.

    Raises:
        ValueError: If the timeout is not positive and finite, or a bound is negative.

    Source: struct CacheLock in pingora-cache/src/lock.rs.
    """

    __slots__ = (
        "_max_keys",
        "_max_waiters",
        "_scheduler",
        "_table",
        "_waiters",
        "age_timeout",
    )

    def __init__(
        self,
        age_timeout: float,
        *,
        max_waiters: int = 65_536,
        max_keys: int = 65_536,
        scheduler: Scheduler | None = None,
    ) -> None:
        if not 0 < age_timeout < math.inf:
            msg = f"a writer holds others for some time, not for {age_timeout} s"
            raise ValueError(msg)
        if max_waiters < 0 or max_keys < 0:
            msg = f"{max_waiters} waiters and {max_keys} keys cannot be"
            raise ValueError(msg)
        self.age_timeout: float = age_timeout
        self._max_waiters = max_waiters
        self._max_keys = max_keys
        self._scheduler = scheduler
        self._table: dict[bytes, LockCore] = {}
        self._waiters = 0

    @property
    def keys(self) -> int:
        """Keys that are locked now."""
        return len(self._table)

    @property
    def waiters(self) -> int:
        """Requests that wait now."""
        return self._waiters

    def lock(self, key: CacheKey, *, stale_writer: bool = False) -> WritePermit | ReadLock:
        """Ask for the lock of a key.

        Args:
            key: The key, with its variance.
            stale_writer: Whether the caller has a stale object of this key; told to nobody here.

        Returns:
            A permit to fetch the object, to be released; or a lock to wait for. A writer that has
            held the lock for too long is replaced.
        """
        del stale_writer
        table = self._table
        hashed = key.combined_hash
        core = table.get(hashed)
        is_kept = True
        if core is None:
            is_kept = len(table) < self._max_keys
        elif core.look() is LockStatus.WAITING:
            return ReadLock(core)
        replaced = core
        core = LockCore(self, hashed, self.scheduler.time() + self.age_timeout)
        if is_kept:
            table[hashed] = core
            if not self._claim(core, replaced):
                return ReadLock(core)
        return WritePermit(core)

    def _claim(self, core: LockCore, replaced: LockCore | None) -> bool:  # noqa: ARG002
        """Claim the key for this process.

        Args:
            core: The lock that was made for it.
            replaced: The lock in whose place that is.

        Returns:
            False if another process fetches the object: then the lock is settled when it has.
        """
        return True

    @property
    def scheduler(self) -> Scheduler:
        """What tells the time here."""
        scheduler = self._scheduler
        return asyncio.get_running_loop() if scheduler is None else scheduler

    # ------------------------------------------------------------ for the locks of the table

    def forget(self, core: LockCore) -> None:
        """Let a lock not be found any more; for the lock itself.

        Args:
            core: The lock; one that has replaced it stays.
        """
        if self._table.get(core.key) is core:
            del self._table[core.key]

    def enter(self) -> bool:
        """Count one more that waits; for the lock that is waited for.

        Returns:
            False if there are too many already.
        """
        if self._waiters >= self._max_waiters:
            return False
        self._waiters += 1
        return True

    def leave(self) -> None:
        """Count one less that waits; for the lock that was waited for."""
        self._waiters -= 1

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.keys} keys, {self.waiters} waiters>"
