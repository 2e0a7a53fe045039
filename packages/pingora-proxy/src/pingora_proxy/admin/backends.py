"""The pool of a load balancer, as the admin interface sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pingora_core.upstreams.peer import PeerAddress
    from pingora_proxy.admin.sources import BackendAction, BackendRow

__all__ = ["PoolBackends", "PoolView"]


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


@final
class PoolBackends:
    """Backends of a pool, such as that of a ``LoadBalancer``.

    Args:
        pool: The pool.
    """

    __slots__ = ("_draining", "_pool")

    def __init__(self, pool: PoolView) -> None:
        self._pool = pool
        # Disabled in order to be emptied; what was disabled for good is shown as such.
        self._draining: set[PeerAddress] = set()

    def rows(self) -> Sequence[BackendRow]:
        """Tell what there is.

        Returns:
            All backends, in the pool's order.
        """
        states = self._pool.states
        self._draining = {
            addr for addr in self._draining if addr in states and not states[addr].is_enabled
        }
        return [self._row(addr, state) for addr, state in states.items()]

    def apply(self, address: str, action: BackendAction) -> bool:
        """Do something with a backend, in this process.

        Args:
            address: Its address, as in the rows.
            action: What.

        Returns:
            False if there is no such backend.
        """
        for addr in self._pool.states:
            if str(addr) == address:
                break
        else:
            return False
        self._draining.discard(addr)
        if action == "drain":
            self._draining.add(addr)
        return self._pool.set_enabled(addr, action == "enable")

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
            if addr not in self._draining:
                return "disabled"
            return "draining" if state.in_flight else "drained"
        if state.backend.weight == 0:
            return "draining" if state.in_flight else "drained"
        if state.is_open:
            return "circuit open"
        if not state.is_healthy:
            return "unhealthy"
        return "ejected" if state.is_ejected else "ready"
