"""The pool: which backends there are, and what is known about each of them.

Theory of operation: the set is replaced as a whole (`BackendSet` is one immutable generation of
it), what is known about a backend is changed in place and kept by address. Health checks, outlier
detection, circuit breakers and operators each have a flag of their own, so that none of them undoes
what another one decided. Load balancers, any number of them, read the same states.

Panic: when too few backends are fit for use, sending all requests to these breaks them as well.
Below a threshold the pool disregards health and ejection: all that are enabled are ready.
"""

from __future__ import annotations

import logging
import math
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypeVar, final

from pingora_load_balancing.backend import Backend
from pingora_load_balancing.backend_set import BackendSet, SetPlan
from pingora_load_balancing.state import BackendState, Lease, PoolTotals

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping

    from pingora_core.upstreams.peer import PeerAddress

__all__ = ["Backends"]

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_Flag: TypeAlias = Literal["is_healthy", "is_enabled", "is_ejected", "is_open"]

_NOTHING: Final[Mapping[PeerAddress, bool]] = MappingProxyType({})


@final
class Backends:
    """A pool of backends: the set that there is now, and the state of each.

    Share one between load balancers that choose in different ways, and health is checked once for
    all of them. Not for use from several threads at once.

    Args:
        backends: The first set: backends, or their addresses as text. May be empty.
        initially_healthy: What a backend counts as until the first health check of it.
        panic_threshold: Choose among all when fewer than this share of the backends is healthy
            and not ejected, from 0 to 1; 0: never. Those that are disabled or drained count on
            neither side and stay out, those that their circuit breaker refuses stay out.
        clock: Tells the time in seconds, monotonically.

    Attributes:
        initially_healthy: As given; may be changed, for backends that are yet to come.
        is_in_panic: Whether so few are fit for use now that all of them are ready.
        clock: As given.
        totals: Sums over the backends; ``totals.in_flight`` among them.

    Raises:
        ValueError: If an address is none, or is given twice with different weight or metadata, or
            if the threshold is no share.

    Examples:
        >>> pool = Backends(["10.0.0.1:80", "10.0.0.2:80"])
        >>> addr = pool.current[0].addr
        >>> pool.set_healthy(addr, False)
        True
        >>> pool.states[addr]
        <BackendState 10.0.0.1:80 unhealthy, 0 in flight>

    Source: pingora-load-balancing/src/lib.rs. Unlike there, a change of weight keeps the health,
    and one of metadata is seen. The panic is Envoy's ``healthy_panic_threshold``, except that it is
    off unless asked for.
    """

    __slots__ = (
        "_current",
        "_observers",
        "_panic_threshold",
        "_states",
        "_subscribers",
        "clock",
        "initially_healthy",
        "is_in_panic",
        "totals",
    )

    def __init__(
        self,
        backends: Iterable[str | Backend] = (),
        *,
        initially_healthy: bool = True,
        panic_threshold: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0.0 <= panic_threshold <= 1.0:
            msg = f"panic_threshold must be a share from 0 to 1, not {panic_threshold}"
            raise ValueError(msg)
        self.initially_healthy: bool = initially_healthy
        self.is_in_panic: bool = False
        self.clock: Callable[[], float] = clock
        self.totals: PoolTotals = PoolTotals(clock)
        self._panic_threshold = panic_threshold
        self._current = BackendSet((), (), self.totals)
        self._states: dict[PeerAddress, BackendState] = {}
        self._subscribers: list[Callable[[Backends], None]] = []
        self._observers: list[Callable[[BackendState, float | None, bool], None]] = []
        self.replace(Backend(b) if isinstance(b, str) else b for b in backends)

    def __repr__(self) -> str:
        ready = sum(state.is_ready for state in self._current.states)
        return f"<{type(self).__name__} {ready} of {len(self._current)} ready>"

    # ---------------------------------------------------------------------- reading

    @property
    def current(self) -> BackendSet:
        """The set that there is now."""
        return self._current

    @property
    def states(self) -> Mapping[PeerAddress, BackendState]:
        """The state of each backend of the current set, by address."""
        return MappingProxyType(self._states)

    @property
    def version(self) -> int:
        """Changes with every change of the set or of what is known about its readiness."""
        return self.totals.version

    @property
    def generation(self) -> int:
        """Changes with every change of the set: of addresses, weights or metadata."""
        return self._current.generation

    def is_ready(self, addr: PeerAddress) -> bool:
        """Tell whether a backend may be chosen.

        Args:
            addr: Its address.

        Returns:
            True if it is in the set and ready to be used.
        """
        state = self._states.get(addr)
        return state is not None and state.is_ready

    def subscribe(self, callback: Callable[[Backends], None]) -> Callable[[], None]:
        """Hear of every change of the set or of the readiness of a backend.

        Args:
            callback: Called with this pool after the change; must be quick. What it raises is
                logged.

        Returns:
            Ends the subscription; again does nothing.
        """
        return _register(self._subscribers, callback)

    # ---------------------------------------------------------------------- requests

    def lease(self, backend: Backend) -> Lease:
        """Count a request as on its way at a backend, until it is released.

        Args:
            backend: Where it goes; its address counts. One that has left is counted for itself.

        Returns:
            What to release, best as a context manager.
        """
        return Lease(self._states.get(backend.addr) or BackendState(backend))

    def report(
        self, backend: Backend, *, latency: float | None = None, failed: bool = False
    ) -> None:
        """Tell how a request went.

        Args:
            backend: Where it went; its address counts. One that has left is ignored.
            latency: Seconds it took, if known; for selections that look at it. The time of a
                failure counts only if it is longer than usual: failing fast is no merit.
            failed: Whether it failed through the fault of the backend.
        """
        state = self._states.get(backend.addr)
        if state is None:
            return
        if latency is not None and not (failed and latency < (state.latency or 0.0)):
            state.observe_latency(latency, self.clock())
        for observer in tuple(self._observers):
            try:
                observer(state, latency, failed)
            except Exception:
                _logger.exception("an observer of %r failed", self)

    def observe(
        self, callback: Callable[[BackendState, float | None, bool], None]
    ) -> Callable[[], None]:
        """Hear how each request went that is reported.

        Args:
            callback: Called with the state of the backend, the seconds if known, and whether it
                failed; must be quick. What it raises is logged.

        Returns:
            Ends it; again does nothing.
        """
        return _register(self._observers, callback)

    # ---------------------------------------------------------------------- what is known

    def set_healthy(self, addr: PeerAddress, healthy: bool) -> bool:  # noqa: FBT001  # a setter
        """Tell what the health checks found.

        Args:
            addr: The address of the backend.
            healthy: Whether it is.

        Returns:
            False if no such backend is in the set (any more); nothing has happened then.
        """
        return self._set(addr, "is_healthy", healthy)

    def set_enabled(self, addr: PeerAddress, enabled: bool) -> bool:  # noqa: FBT001  # a setter
        """Take a backend out of rotation by hand, or back in.

        Args:
            addr: The address of the backend.
            enabled: False to take it out.

        Returns:
            False if no such backend is in the set; nothing has happened then.
        """
        return self._set(addr, "is_enabled", enabled)

    def set_ejected(self, addr: PeerAddress, ejected: bool) -> bool:  # noqa: FBT001  # a setter
        """Take a backend out because of what requests met there, or back in.

        Args:
            addr: The address of the backend.
            ejected: True to take it out.

        Returns:
            False if no such backend is in the set (any more); nothing has happened then.
        """
        return self._set(addr, "is_ejected", ejected)

    def set_open(self, addr: PeerAddress, is_open: bool) -> bool:  # noqa: FBT001  # a setter
        """Tell whether the circuit breaker of a backend refuses requests.

        Args:
            addr: The address of the backend.
            is_open: Whether it does.

        Returns:
            False if no such backend is in the set (any more); nothing has happened then.
        """
        return self._set(addr, "is_open", is_open)

    def _set(self, addr: PeerAddress, flag: _Flag, value: bool) -> bool:  # noqa: FBT001
        state = self._states.get(addr)
        if state is not None and self._change(state, flag, value):
            self._changed()
        return state is not None

    def _change(self, state: BackendState, flag: _Flag, value: bool) -> bool:  # noqa: FBT001
        if getattr(state, flag) is value:
            return False
        was_sound = state.is_sound
        self.totals.uncount(state)
        setattr(state, flag, value)
        self.totals.count(state)
        if state.is_sound and not was_sound:
            state.since = self.totals.newest = self.clock()
        state.settle(in_panic=self.is_in_panic)
        return True

    def _changed(self) -> None:
        totals = self.totals
        is_in_panic = totals.sound < self._panic_threshold * totals.active
        if is_in_panic is not self.is_in_panic:
            self.is_in_panic = is_in_panic
            totals.flip(self._current.states, in_panic=is_in_panic)
            _logger.warning(
                "%d of %d backends are fit for use: %s",
                totals.sound,
                totals.active,
                "requests go to all of them" if is_in_panic else "requests go to these again",
            )
        totals.version += 1
        for callback in tuple(self._subscribers):
            try:
                callback(self)
            except Exception:
                _logger.exception("a subscriber of %r failed", self)

    # ---------------------------------------------------------------------- the set

    def replace(
        self, backends: Iterable[Backend], enabled: Mapping[PeerAddress, bool] = _NOTHING
    ) -> bool:
        """Put another set in place of this one.

        Args:
            backends: All backends there are; equal ones count once. The order alone is no change.
            enabled: Which of them to enable or disable. Those not in here stay as they are;
                unknown addresses are ignored.

        Returns:
            True if the set changed, False if at most the readiness did.

        Raises:
            ValueError: If two backends have the same address but differ in weight or metadata;
                nothing has changed then.
        """
        steps = self.replacing(backends, enabled)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return bool(end.value)

    def replacing(
        self, backends: Iterable[Backend], enabled: Mapping[PeerAddress, bool] = _NOTHING
    ) -> Generator[None, None, bool]:
        """Do what `replace` does in small steps, the change itself in the last of them.

        Args:
            backends: As for `replace`.
            enabled: As for `replace`.

        Yields:
            Nothing, about once a millisecond.

        Returns:
            As `replace`.

        Raises:
            ValueError: As `replace`.
        """
        given = tuple(backends)
        plan = SetPlan()
        wishes: list[tuple[BackendState, bool]] = []
        before = None
        while before is not self._current:
            # Again if somebody else replaced the set between two steps.
            before = self._current
            plan = SetPlan()
            yield from plan.fill(given, self._states, self._newcomer)
            wishes = yield from plan.resolve(enabled)
            yield  # Frees what the preparation needed for itself.
        has_changed = self._commit(plan)
        is_enabling = False
        for state, wanted in wishes:
            if state.is_enabled is not wanted and self._change(state, "is_enabled", wanted):
                is_enabling = True
        if has_changed or is_enabling:
            self._changed()
        return has_changed

    def _newcomer(self, backend: Backend) -> BackendState:
        since = self.clock() if self._current.generation else -math.inf
        return BackendState(backend, self.totals, is_healthy=self.initially_healthy, since=since)

    def _commit(self, plan: SetPlan) -> bool:
        if not plan.newcomers and not plan.changed and not plan.leavers:
            return False
        totals = self.totals
        if self.is_in_panic:
            for state in plan.newcomers:
                state.is_ready = True
        totals.active += plan.active
        totals.sound += plan.sound
        totals.newest = max(totals.newest, plan.newest)
        for state, backend in plan.changed:
            if backend.weight and state.backend.weight:
                state.backend = backend
            else:
                totals.uncount(state)
                state.backend = backend
                totals.count(state)
        totals.dismiss(plan.leavers)
        self._states = plan.states
        self._current = BackendSet(
            tuple(plan.backends),
            tuple(plan.states.values()),
            totals,
            self._current.generation + 1,
        )
        return True


def _register(callbacks: list[_T], callback: _T) -> Callable[[], None]:
    callbacks.append(callback)

    def unregister() -> None:
        if callback in callbacks:
            callbacks.remove(callback)

    return unregister
