"""The pool of a load balancer, as the admin interface sees it.

Theory of operation. What the operator decides is about an address, and outlives what discovery does: a
backend that leaves and comes back within some minutes is still disabled, and one that discovery itself would
enable is not. After that an address may belong to somebody else, and the decision is forgotten.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol, final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pingora_core.upstreams.peer import PeerAddress
    from pingora_proxy.admin.sources import BackendAction, BackendRow

__all__ = ["PoolBackends", "PoolView"]

_FORGOTTEN_AFTER: Final = 600.0
_MAX_ABSENT: Final = 4096


class _Backend(Protocol):
    @property
    def weight(self) -> int: ...


class _State(Protocol):
    @property
    def backend(self) -> _Backend: ...
    @property
    def is_healthy(self) -> bool: ...
    @property
    def is_enabled(self) -> bool: ...
    @property
    def is_ejected(self) -> bool: ...
    @property
    def is_open(self) -> bool: ...
    @property
    def is_ready(self) -> bool: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def latency(self) -> float | None: ...


class PoolView(Protocol):
    """The part of ``pingora_load_balancing.Backends`` that is used here."""

    @property
    def states(self) -> Mapping[PeerAddress, _State]:
        """What is known of each backend, by its address."""

    def set_enabled(self, addr: PeerAddress, enabled: bool) -> bool:  # noqa: FBT001 - as there
        """Take a backend out, or back in.

        Args:
            addr: Its address.
            enabled: False to take it out.

        Returns:
            False if it is not there.
        """

    def subscribe(self, callback: Callable[[PoolView], None]) -> Callable[[], None]:
        """Hear of every change of the set or of a state.

        Args:
            callback: Called with the pool.

        Returns:
            Ends the subscription.
        """


@final
class PoolBackends:
    """Backends of a pool, such as that of a ``LoadBalancer``.

    What is disabled here stays so until it is enabled here, whatever discovery says.

    Args:
        pool: The pool.
        clock: Seconds that only grow.
    """

    __slots__ = ("_absent", "_addrs", "_clock", "_decided", "_is_settling", "_pool")

    def __init__(self, pool: PoolView, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._clock = clock
        # Disabled in order to be emptied, or for good; by address, those that are gone included.
        self._decided: dict[str, BackendAction] = {}
        self._addrs: dict[str, PeerAddress] = {}
        self._absent: dict[str, float] = {}
        self._is_settling = False
        pool.subscribe(self._settle)

    def rows(self) -> Sequence[BackendRow]:
        """Tell what there is.

        Returns:
            All backends, in the pool's order.
        """
        return [self._row(addr, state) for addr, state in self._pool.states.items()]

    def apply(self, address: str, action: BackendAction) -> bool:
        """Do something with a backend, in this process.

        Args:
            address: Its address, as in the rows.
            action: What.

        Returns:
            False if there is no such backend.
        """
        addr = self._find(address)
        if addr is None:
            return False
        self._forget(address)
        if action != "enable":
            self._decided[address] = action
            self._addrs[address] = addr
        return self._pool.set_enabled(addr, action == "enable")

    def keep(self, address: str, action: BackendAction) -> None:
        """Do what was decided before this process began, now or when the backend is found.

        Args:
            address: Of the backend.
            action: What.
        """
        if self.apply(address, action):
            return
        self._forget(address)
        if action != "enable":
            self._decided[address] = action
            self._note_absence(address)

    def _find(self, address: str) -> PeerAddress | None:
        for addr in self._pool.states:
            if str(addr) == address:
                return addr
        return None

    def _forget(self, address: str) -> None:
        for each in (self._decided, self._addrs, self._absent):
            each.pop(address, None)

    def _note_absence(self, address: str) -> None:
        self._absent.setdefault(address, self._clock())
        if len(self._absent) > _MAX_ABSENT:
            self._forget(min(self._absent, key=self._absent.__getitem__))

    def _settle(self, pool: PoolView) -> None:
        # Discovery has replaced the set, or somebody a state: what was decided holds.
        if not self._decided or self._is_settling:
            return
        self._is_settling = True
        try:
            forgotten = self._clock() - _FORGOTTEN_AFTER
            for address in [each for each, since in self._absent.items() if since < forgotten]:
                self._forget(address)
            if len(self._addrs) < len(self._decided):
                wanted = self._decided.keys() - self._addrs.keys()
                self._addrs |= {str(addr): addr for addr in pool.states if str(addr) in wanted}
            for address in tuple(self._decided):
                self._settle_one(address, pool)
        finally:
            self._is_settling = False

    def _settle_one(self, address: str, pool: PoolView) -> None:
        addr = self._addrs.get(address)
        state = None if addr is None else pool.states.get(addr)
        if addr is None or state is None:
            self._note_absence(address)
            return
        self._absent.pop(address, None)
        if state.is_enabled:
            pool.set_enabled(addr, False)

    def _row(self, addr: PeerAddress, state: _State) -> BackendRow:
        return {
            "address": str(addr),
            "state": self._describe(addr, state),
            "is_ready": state.is_ready and state.backend.weight > 0,
            "is_enabled": state.is_enabled,
            "weight": state.backend.weight,
            "in_flight": state.in_flight,
            "latency": state.latency,
        }

    def _describe(self, addr: PeerAddress, state: _State) -> str:
        if not state.is_enabled:
            if self._decided.get(str(addr)) != "drain":
                return "disabled"
            return "draining" if state.in_flight else "drained"
        if state.backend.weight == 0:
            return "draining" if state.in_flight else "drained"
        if state.is_open:
            return "circuit open"
        if not state.is_healthy:
            return "unhealthy"
        return "ejected" if state.is_ejected else "ready"
