"""A cache lock for all workers of a server, and all processes of a machine: each fetches in turn.

Theory of operation: whoever becomes the writer of a key in its process claims the key in a file
that all processes share: one byte of it is locked, at a place that the hash of the key tells. The
kernel keeps these locks (``F_OFD_SETLK``, fcntl(2)), which takes a microsecond or two, and gives them
back when their process ends, however it ends. Nothing is ever written to the file.

If another process has claimed the key, nobody here is the writer: all wait, while a timer tries now
and then whether the key is free. Then they look it up; where the store is shared as well they find
the object, or the write of it, and whoever finds nothing is the next writer. The wait is bounded by
``age_timeout`` as ever. A claim lasts a moment longer than its permit, until what was begun in the
store can be seen by others.

A file that cannot be locked costs nothing but this: each process fetches for itself, as with a
``CacheLock``, and the log has a line.
"""

from __future__ import annotations

import fcntl
import logging
import os
from struct import Struct
from typing import TYPE_CHECKING, Final, final

from pingora_cache._lock_core import LockStatus
from pingora_cache.lock import CacheLock

if TYPE_CHECKING:
    from pingora_cache._lock_core import LockCore, Scheduler

__all__ = ["SharedCacheLock"]

_logger = logging.getLogger(__name__)

_FLOCK: Final = Struct("hhqqi4x")  # struct flock, fcntl(2): type, whence, start, length, pid
_PLACES: Final = (1 << 62) - 1
# Seconds between two looks at a key that another process has claimed: at first, and at most.
_SOON: Final = 0.005
_SELDOM: Final = 0.05
# Seconds that a claim lasts after its permit.
_LINGER: Final = 0.05


@final
class SharedCacheLock(CacheLock):
    """Gives out the locks of keys, for all processes that name the same file.

    Made before or after the workers are forked: each opens the file for itself.

    Args:
        path: The file; made if it is not there. On a local file system.
        age_timeout: How long a writer may hold others, seconds, in whatever process they are.
        max_waiters: As for ``CacheLock``; for each process.
        max_keys: As for ``CacheLock``; for each process.
        scheduler: For time and timers; None for the running event loop.

    Raises:
        ValueError: As ``CacheLock`` does.

    Examples:
        >>> lock = SharedCacheLock("/run/shop/cache.lock", 5.0)
        >>> lock.keys
        0
    """

    __slots__ = ("_claims", "_complained", "_fd", "_is_closed", "_path", "_pid")

    def __init__(
        self,
        path: str | os.PathLike[str],
        age_timeout: float,
        *,
        max_waiters: int = 65_536,
        max_keys: int = 65_536,
        scheduler: Scheduler | None = None,
    ) -> None:
        super().__init__(
            age_timeout, max_waiters=max_waiters, max_keys=max_keys, scheduler=scheduler
        )
        self._path = os.fspath(path)
        self._fd = -1
        self._pid = 0
        self._claims: dict[bytes, LockCore] = {}
        self._complained = False
        self._is_closed = False

    def close(self) -> None:
        """Give all claims back; from now on this process fetches without regard to others."""
        self._is_closed = True
        self._drop()

    def _drop(self) -> None:
        self._claims.clear()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def forget(self, core: LockCore) -> None:
        """Let a lock not be found any more, and give its claim back in a moment.

        Args:
            core: The lock; one that has replaced it stays.
        """
        super().forget(core)
        if self._claims.get(core.key) is not core:
            return
        try:
            scheduler = self.scheduler
            scheduler.call_at(scheduler.time() + _LINGER, lambda: self._give_back(core))
        except RuntimeError:  # collected as garbage where no loop runs
            self._give_back(core)

    # ------------------------------------------------------------------------- claims

    def _claim(self, core: LockCore, replaced: LockCore | None) -> bool:
        aged = replaced is not None and replaced.status is LockStatus.AGE_TIMEOUT
        if self._try(core.key, fcntl.F_WRLCK):
            self._claims[core.key] = core
        elif not aged:
            self._look_later(core, _SOON)
            return False
        return True

    def _look_later(self, core: LockCore, pause: float) -> None:
        scheduler = self.scheduler
        scheduler.call_at(scheduler.time() + pause, lambda: self._look(core, pause))

    def _look(self, core: LockCore, pause: float) -> None:
        if core.look() is LockStatus.AGE_TIMEOUT:
            # Who comes next replaces it; if nobody does, it is not kept for ever.
            scheduler = self.scheduler
            when = scheduler.time() + self.age_timeout
            scheduler.call_at(when, lambda: CacheLock.forget(self, core))
        elif self._try(core.key, fcntl.F_WRLCK):
            self._try(core.key, fcntl.F_UNLCK)
            super().forget(core)
            core.settle(LockStatus.DONE)
        else:
            self._look_later(core, min(2 * pause, _SELDOM))

    def _give_back(self, core: LockCore) -> None:
        # Not if another request of this process has claimed the key since.
        if self._claims.get(core.key) is core:
            del self._claims[core.key]
            self._try(core.key, fcntl.F_UNLCK)

    def _try(self, key: bytes, kind: int) -> bool:
        if self._is_closed:
            return True
        try:
            if self._pid != os.getpid():
                # The parent's: what is locked there would be taken for locked by this process.
                self._drop()
                self._pid = os.getpid()
            if self._fd < 0:
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
                self._fd = os.open(self._path, flags, 0o600)
            place = int.from_bytes(key[:8], "big") & _PLACES
            request = _FLOCK.pack(kind, os.SEEK_SET, place, 1, 0)
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, request)
        except BlockingIOError:
            return False
        except OSError as error:
            if not self._complained:
                self._complained = True
                _logger.warning(
                    "the cache lock in %s is of this process only: %s", self._path, error
                )
        return True
