"""What should be true of requests and their locks: the model that the real ones are compared with.

Deliberately naive: no I/O, no waiting, a permit is a number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from pingora_cache.lock import LockStatus
from pingora_cache.phase import CachePhase

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_cache.cache import HttpCache
    from pingora_cache.fill import CacheFill

__all__ = ["FillModel", "LockModel", "RequestModel"]

P = CachePhase
SERVED = (P.HIT, P.STALE, P.STALE_UPDATING, P.REVALIDATED, P.REVALIDATED_NO_CACHE)


@dataclass
class LockModel:
    """The lock of one key.

    Attributes:
        age: How long a writer may hold others, seconds.
        now: The time, seconds.
        current: The permit that is found under the key; None if it is free.
        deadlines: Until when each permit holds others.
        released: What each permit was released with, in the order of the releases.
    """

    age: float
    now: float = 0.0
    current: int | None = None
    deadlines: dict[int, float] = field(default_factory=dict)
    released: dict[int, LockStatus] = field(default_factory=dict)
    numbers: count[int] = field(default_factory=count)

    def ask(self) -> tuple[str, int]:
        """Ask for the lock.

        Returns:
            ``"w"`` and a permit of one's own, or ``"r"`` and the permit to wait for.
        """
        current = self.current
        if current is not None and not self.has_aged(current):
            return "r", current
        permit = self.current = next(self.numbers)
        self.deadlines[permit] = self.now + self.age
        return "w", permit

    def has_aged(self, permit: int) -> bool:
        """Tell whether a writer has had its time.

        Args:
            permit: Its permit.

        Returns:
            Whether it has.
        """
        return self.now >= self.deadlines[permit]

    def release(self, permit: int | None, status: LockStatus) -> None:
        """Give a permit back; nothing if there is none.

        Args:
            permit: The permit.
            status: What to tell.
        """
        if permit is None:
            return
        assert permit not in self.released
        self.released[permit] = status
        if self.current == permit:
            self.current = None

    def may_hear(self, permit: int) -> set[LockStatus]:
        """Tell what those who wait for a permit may be told by now.

        Args:
            permit: The permit.

        Returns:
            The statuses; none as long as they wait.
        """
        statuses = {LockStatus.AGE_TIMEOUT} if self.has_aged(permit) else set()
        if permit in self.released:
            statuses.add(self.released[permit])
        return statuses


@dataclass
class FillModel:
    """A fill.

    Attributes:
        real: The real one.
        permit: The permit that it holds.
        is_ended: Whether it was finished, given up or has failed.
    """

    real: CacheFill
    permit: int | None
    is_ended: bool = False

    def end(self, lock: LockModel, status: LockStatus) -> None:
        """End it.

        Args:
            lock: The lock.
            status: What to tell those who wait.
        """
        self.is_ended = True
        permit, self.permit = self.permit, None
        lock.release(permit, status)


@dataclass
class RequestModel:
    """A request.

    Attributes:
        real: The real one.
        lock: The lock of its key.
        phase: Where it should stand.
        is_closed: Whether it has ended.
        is_waiting: Whether it waits for the lock, so that nothing else can be called.
        hold: What it has of the lock: nothing, ``("r", permit)`` or ``("w", permit)``.
        has_meta: Whether it knows an object.
        found: What its last lookup found and nobody took.
        readers: Its open readers: ``found``, ``hit``, ``along``.
        fill: Its fill, if it has not been taken.
        has_begun: Whether its fill has begun.
    """

    real: HttpCache
    lock: LockModel
    phase: CachePhase = CachePhase.UNINIT
    is_closed: bool = False
    is_waiting: bool = False
    hold: tuple[str, int] | None = None
    has_meta: bool = False
    readers: set[str] = field(default_factory=set)
    fill: FillModel | None = None
    has_begun: bool = False

    @property
    def is_writer(self) -> bool:
        """Whether others wait for it."""
        return self.has_permit or (self.fill is not None and self.fill.permit is not None)

    @property
    def has_permit(self) -> bool:
        """Whether it has the permit itself, not its fill."""
        return self.hold is not None and self.hold[0] == "w"

    def ask(self) -> None:
        """Ask for the lock, unless it has the permit."""
        if not self.has_permit:
            self.hold = self.lock.ask()

    def let_go(self, status: LockStatus) -> None:
        """Give back what it has of the lock.

        Args:
            status: What to tell those who wait.
        """
        hold, self.hold = self.hold, None
        if hold is not None and hold[0] == "w":
            self.lock.release(hold[1], status)

    def drop_all(self, status: LockStatus) -> None:
        """Give back everything.

        Args:
            status: What to tell those who wait.
        """
        self.let_go(status)
        if self.fill is not None:
            self.fill.end(self.lock, status)
            self.fill = None
        self.readers.clear()

    def would_move(self, call: str) -> bool:
        """Tell whether a call is allowed, and would change something.

        Args:
            call: Its name.

        Returns:
            Whether it would.
        """
        match call:
            case "finish_miss_handler" | "abort_miss_handler" | "take_fill":
                idle = self.fill is None or self.fill.is_ended
            case "finish_hit_handler":
                idle = not self.readers & {"hit", "along"}
            case "set_cache_key":
                idle = self.phase is P.CACHE_KEY
            case "cache_lookup":
                idle = "found" in self.readers
            case "set_write_lock":
                idle = self.hold is not None
            case _:
                idle = call == "purge"
        return not idle and self.allows(call)

    def allows(self, call: str) -> bool:
        """Tell whether a call is allowed.

        Args:
            call: Its name.

        Returns:
            Whether it is; if not, it must raise and change nothing.
        """
        return _ALLOWED[call](self)


_FILLING = (P.MISS, P.EXPIRED)
_ALLOWED: dict[str, Callable[[RequestModel], bool]] = {
    "enable": lambda r: r.phase is P.DISABLED and not r.is_closed,
    "set_cache_key": lambda r: r.phase in {P.UNINIT, P.CACHE_KEY} and r.hold is None,
    "bypass": lambda r: r.phase is P.CACHE_KEY and r.hold is None,
    "cache_lookup": lambda r: r.phase in {P.CACHE_KEY, P.STALE} and not r.is_closed,
    "cache_found": lambda r: r.phase in {P.CACHE_KEY, P.STALE} and not r.is_closed,
    "cache_miss": lambda r: r.phase in {P.CACHE_KEY, P.STALE, P.BYPASS},
    "set_cache_meta": lambda r: r.phase in {P.MISS, P.STALE} and not r.has_begun,
    "set_miss_handler": lambda r: (
        r.phase in _FILLING and r.has_meta and not r.has_begun and not r.is_closed
    ),
    "finish_miss_handler": lambda r: r.phase in _FILLING,
    "abort_miss_handler": lambda r: r.phase in _FILLING,
    "take_fill": lambda r: r.fill is not None,
    "take_write_lock": lambda r: r.has_permit,
    "set_write_lock": lambda r: r.phase is not P.DISABLED and not r.is_closed and not r.is_writer,
    "cache_lock_wait": lambda r: r.hold is not None and r.hold[0] == "r",
    "revalidate_cache_meta": lambda r: r.phase is P.STALE and r.has_meta,
    "revalidate_uncacheable": lambda r: r.phase is P.STALE and r.has_meta,
    "set_stale_updating": lambda r: r.phase is P.STALE,
    "finish_hit_handler": lambda r: r.phase in {*_FILLING, *SERVED},
    "purge": lambda r: r.phase is P.CACHE_KEY,
}
