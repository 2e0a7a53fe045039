"""What is known about a backend beside what its discovery says: health, load, latency.

A state is kept by address and lives as long as the address is in the set, whatever becomes of the
weight and the metadata. Everything here is changed in place, so that a selection that holds the
state of a backend sees the newest figures without asking anybody.
"""

from __future__ import annotations

import math
import time
from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Self

    from pingora_load_balancing.backend import Backend

__all__ = ["BackendState", "Lease", "PoolTotals"]

# Finagle's default: after this many seconds a latency seen once weighs 1/e.
_LATENCY_DECAY: Final = 10.0
# As many changes of readiness are remembered for those that keep sums of their own.
_REMEMBERED: Final = 1_024
_IN_FLIGHT: Final = attrgetter("in_flight")


@final
class PoolTotals:
    """Sums over the backends of one pool, shared by all that look at it.

    Args:
        clock: Tells the time of the pool in seconds, monotonically.

    Attributes:
        clock: As given.
        version: Changes whenever the set or the readiness of a backend does.
        in_flight: Leases that are out now.
        active: Backends that are enabled and have a weight.
        sound: How many of the active ones are healthy and not ejected.
        newest: The latest `BackendState.since` that there ever was.
        changes: How often a backend has become ready, or ceased to be.
        changed: Which ones did last, one entry for each of the latest changes.
    """

    __slots__ = (
        "active",
        "changed",
        "changes",
        "clock",
        "in_flight",
        "newest",
        "sound",
        "version",
    )

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock: Callable[[], float] = clock
        self.version: int = 0
        self.in_flight: int = 0
        self.active: int = 0
        self.sound: int = 0
        self.newest: float = -math.inf
        self.changes: int = 0
        self.changed: deque[BackendState] = deque(maxlen=_REMEMBERED)

    def count(self, state: BackendState) -> None:
        """Take a backend into `active` and `sound`.

        Args:
            state: Its state.
        """
        if state.is_enabled and state.backend.weight:
            self.active += 1
            self.sound += state.is_healthy and not state.is_ejected

    def uncount(self, state: BackendState) -> None:
        """Take a backend out of `active` and `sound`.

        Args:
            state: Its state, as it was counted.
        """
        if state.is_enabled and state.backend.weight:
            self.active -= 1
            self.sound -= state.is_healthy and not state.is_ejected

    def dismiss(self, states: Sequence[BackendState]) -> None:
        """Have backends take no part in these sums any more; leases that are out count elsewhere.

        Args:
            states: Their states, as they were counted.
        """
        # All at once: in a pool that is replaced as a whole there are as many as there can be.
        active = [state for state in states if state.is_enabled and state.backend.weight]
        self.active -= len(active)
        self.sound -= len([state for state in active if state.is_healthy and not state.is_ejected])
        # One for all of them: nobody reads the sums of those that are gone.
        gone = PoolTotals(self.clock)
        gone.in_flight = sum(map(_IN_FLIGHT, states))
        self.in_flight -= gone.in_flight
        for state in states:
            state.totals = gone

    def flip(self, states: Iterable[BackendState], *, in_panic: bool) -> None:
        """Bring `BackendState.is_ready` of all up to date when the panic begins or ends.

        Args:
            states: All backends, as they were ready before.
            in_panic: Whether the pool disregards health and ejection now.
        """
        flipped = [
            state
            for state in states
            if (state.is_ejected or not state.is_healthy) and state.is_enabled and not state.is_open
        ]
        for state in flipped:
            state.is_ready = in_panic
        self.changes += len(flipped)
        self.changed.extend(flipped[-_REMEMBERED:])


@final
class BackendState:
    """What is known about one backend now. Read it; `Backends` changes it.

    Args:
        backend: The backend.
        totals: The sums to take part in.
        is_healthy: Whether it counts as healthy before the first check.
        since: When it became ready, if it is.

    Attributes:
        backend: The backend, with the weight and metadata of the last update.
        is_healthy: What the health checks say.
        is_enabled: What the discovery and the operator say.
        is_ejected: Taken out because of what requests met, for the time being.
        is_open: The circuit breaker of the backend refuses requests now.
        is_ready: It may be chosen: enabled and not open, and also healthy and not ejected unless
            the pool is in panic.
        in_flight: Leases that are out now.
        latency: Peak-sensitive moving average in seconds; None before the first report.
        latency_at: When `latency` was last brought up to date, on the pool's clock.
        since: When it last became healthy, enabled and not ejected all at once, on the pool's
            clock; minus infinity if it was so from the start, and needs no warming up. One whose
            circuit breaker was open had enough to do to stay warm.
    """

    __slots__ = (
        "backend",
        "in_flight",
        "is_ejected",
        "is_enabled",
        "is_healthy",
        "is_open",
        "is_ready",
        "latency",
        "latency_at",
        "since",
        "totals",
    )

    def __init__(
        self,
        backend: Backend,
        totals: PoolTotals | None = None,
        *,
        is_healthy: bool = True,
        since: float = -math.inf,
    ) -> None:
        self.backend: Backend = backend
        self.totals: PoolTotals = PoolTotals() if totals is None else totals
        self.is_healthy: bool = is_healthy
        self.is_enabled: bool = True
        self.is_ejected: bool = False
        self.is_open: bool = False
        self.is_ready: bool = is_healthy
        self.in_flight: int = 0
        self.latency: float | None = None
        self.latency_at: float = -math.inf
        self.since: float = since

    def __repr__(self) -> str:
        words = [
            word
            for word, holds in (
                ("unhealthy", not self.is_healthy),
                ("disabled", not self.is_enabled),
                ("ejected", self.is_ejected),
                ("open", self.is_open),
            )
            if holds
        ]
        condition = " ".join(words) or "ready"
        return f"<{type(self).__name__} {self.backend} {condition}, {self.in_flight} in flight>"

    def observe_latency(self, latency: float, now: float, decay: float = _LATENCY_DECAY) -> None:
        """Take one measurement into the average.

        A higher one is believed at once, lower ones only over time, so that a backend that
        becomes slow is noticed with its first slow answer.

        Args:
            latency: Seconds.
            now: The time on the pool's clock, in seconds.
            decay: Seconds after which what was known before weighs 1/e.

        Source: Finagle, finagle-core/src/main/scala/com/twitter/finagle/loadbalancer/PeakEwma.scala.
        """
        before = self.latency
        if before is None or latency > before:
            self.latency = latency
        else:
            kept = math.exp(-max(now - self.latency_at, 0.0) / decay)
            self.latency = before * kept + latency * (1.0 - kept)
        self.latency_at = now

    @property
    def is_sound(self) -> bool:
        """Whether it is fit for use, though it may have enough to do."""
        return self.is_healthy and self.is_enabled and not self.is_ejected

    def settle(self, *, in_panic: bool) -> None:
        """Bring `is_ready` up to date.

        Args:
            in_panic: Whether the pool disregards health and ejection now.
        """
        is_ready = (
            self.is_enabled
            and not self.is_open
            and (in_panic or (self.is_healthy and not self.is_ejected))
        )
        if is_ready is not self.is_ready:
            self.is_ready = is_ready
            totals = self.totals
            totals.changes += 1
            totals.changed.append(self)


@final
class Lease:
    """One request on its way at a backend, counted there until it is released.

    Args:
        state: The state of the backend.

    Attributes:
        backend: The backend, as it was when the lease was taken.

    Examples:
        >>> from pingora_load_balancing import BackendSet
        >>> [state] = BackendSet.of(["10.0.0.1:80"]).states
        >>> with Lease(state):
        ...     state.in_flight
        1
        >>> state.in_flight
        0
    """

    __slots__ = ("_state", "backend")

    def __init__(self, state: BackendState) -> None:
        self._state: BackendState | None = state
        self.backend: Backend = state.backend
        state.in_flight += 1
        state.totals.in_flight += 1

    def release(self) -> None:
        """End it; again does nothing."""
        state, self._state = self._state, None
        if state is not None:
            state.in_flight -= 1
            state.totals.in_flight -= 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
