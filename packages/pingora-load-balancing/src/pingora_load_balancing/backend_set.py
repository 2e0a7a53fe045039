"""One generation of a pool: its backends and their states, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, final, overload

from pingora_load_balancing.backend import Backend, contradiction, distinct_backends
from pingora_load_balancing.state import BackendState, PoolTotals

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping

    from pingora_core.upstreams.peer import PeerAddress

__all__ = ["BackendSet", "SetPlan"]

# About a millisecond's work.
_SLICE: Final = 512


@final
class BackendSet(Sequence[Backend]):
    """The backends of one generation of a pool, in order, with their states beside them.

    Args:
        backends: The backends, no two of them with the same address.
        states: Their states, in the same order.
        totals: The sums of the pool that they belong to.
        generation: The number of the set in its pool.

    Attributes:
        backends: As given.
        states: As given.
        totals: As given.
        generation: As given.
    """

    __slots__ = ("backends", "generation", "states", "totals")

    def __init__(
        self,
        backends: tuple[Backend, ...],
        states: tuple[BackendState, ...],
        totals: PoolTotals,
        generation: int = 0,
    ) -> None:
        self.backends: tuple[Backend, ...] = backends
        self.states: tuple[BackendState, ...] = states
        self.totals: PoolTotals = totals
        self.generation: int = generation

    @classmethod
    def of(cls, backends: Iterable[str | Backend]) -> BackendSet:
        """Make a set that belongs to no pool in use, such as for trying a selection out.

        Args:
            backends: Backends, or their addresses as text.

        Returns:
            The set, all of it ready.

        Raises:
            ValueError: If an address is none, or is given twice with different weight or metadata.
        """
        totals = PoolTotals()
        members = distinct_backends(Backend(b) if isinstance(b, str) else b for b in backends)
        return cls(members, tuple(BackendState(member, totals) for member in members), totals)

    def subset(self, wanted: Callable[[Backend], bool]) -> BackendSet:
        """Leave some out.

        Args:
            wanted: Tells of a backend whether it stays in.

        Returns:
            A set with the same states and sums.
        """
        pairs = [pair for pair in zip(self.backends, self.states, strict=True) if wanted(pair[0])]
        return BackendSet(
            tuple(backend for backend, _ in pairs),
            tuple(state for _, state in pairs),
            self.totals,
            self.generation,
        )

    def __len__(self) -> int:
        return len(self.backends)

    def __iter__(self) -> Iterator[Backend]:
        return iter(self.backends)

    @overload
    def __getitem__(self, index: int) -> Backend: ...
    @overload
    def __getitem__(self, index: slice[int | None]) -> Sequence[Backend]: ...
    def __getitem__(self, index: int | slice[int | None]) -> Backend | Sequence[Backend]:
        return self.backends[index]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.backends)}, generation {self.generation}>"


@final
class SetPlan:
    """What the next generation of a pool will consist of.

    Attributes:
        backends: The backends, in order.
        states: Their states, by address, in the same order.
        newcomers: The states that are new.
        changed: The states whose backend has another weight or other metadata now, and that.
        leavers: The states that are no more in it.
        active: How many of the new ones have a weight.
        sound: How many of these are healthy.
        newest: The latest `BackendState.since` of the new ones.
    """

    __slots__ = (
        "active",
        "backends",
        "changed",
        "leavers",
        "newcomers",
        "newest",
        "sound",
        "states",
    )

    def __init__(self) -> None:
        self.backends: list[Backend] = []
        self.states: dict[PeerAddress, BackendState] = {}
        self.newcomers: list[BackendState] = []
        self.changed: list[tuple[BackendState, Backend]] = []
        self.leavers: list[BackendState] = []
        self.active: int = 0
        self.sound: int = 0
        self.newest: float = -math.inf

    def fill(
        self,
        backends: Iterable[Backend],
        states: Mapping[PeerAddress, BackendState],
        newcomer: Callable[[Backend], BackendState],
    ) -> Iterator[None]:
        """Find the state of each backend, in small steps.

        Args:
            backends: The backends; equal ones count once.
            states: The states that there are; must not change meanwhile.
            newcomer: Makes the state of a backend that has none.

        Yields:
            Nothing, about once a millisecond.

        Raises:
            ValueError: If two backends have the same address but differ in weight or metadata.
        """
        found: dict[int, Backend] = {}
        for number, backend in enumerate(backends, start=1):
            addr = backend.addr
            known = states.get(addr)
            state = self.states.setdefault(addr, known or newcomer(backend))
            if len(self.states) > len(self.backends):
                self.backends.append(backend)
                found[id(state)] = backend
                if known is None:
                    self.newcomers.append(state)
                    self.newest = max(self.newest, state.since)
                    if backend.weight:
                        self.active += 1
                        self.sound += state.is_healthy
                elif state.backend is not backend and state.backend != backend:
                    self.changed.append((state, backend))
            elif found[id(state)] != backend:
                raise ValueError(contradiction(backend))
            if number % _SLICE == 0:
                yield
        if len(self.states) - len(self.newcomers) < len(states):
            for number, (addr, state) in enumerate(states.items(), start=1):
                if addr not in self.states:
                    self.leavers.append(state)
                if number % _SLICE == 0:
                    yield

    def resolve(
        self, flags: Mapping[PeerAddress, bool]
    ) -> Generator[None, None, list[tuple[BackendState, bool]]]:
        """Find the states of some of the backends, in small steps, after `fill`.

        Args:
            flags: What to set, by address.

        Yields:
            Nothing, about once a millisecond.

        Returns:
            What to set, by state; addresses that are in no backend are left out.
        """
        found: list[tuple[BackendState, bool]] = []
        for number, (addr, flag) in enumerate(tuple(flags.items()), start=1):
            state = self.states.get(addr)
            if state is not None:
                found.append((state, flag))
            if number % _SLICE == 0:
                yield
        return found
