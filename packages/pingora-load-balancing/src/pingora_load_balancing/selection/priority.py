"""Priority groups: the first takes all requests it can, the rest spills over to the next.

Theory of operation: a group can take its share of ready backends, by weight, times an
overprovisioning factor, at most everything: with a factor of 1.4 a group carries all requests until
fewer than 1/1.4 = 71 % of it are ready. What it cannot take goes to the next group. If all together
cannot take everything, each takes in proportion. Which requests spill over is decided by the
key, so that equal keys stay together, or by chance if there is none.

Source: Envoy, priority levels and their overprovisioning factor.
"""

from __future__ import annotations

from itertools import accumulate, islice, pairwise
from random import random
from typing import TYPE_CHECKING, Final, final
from zlib import crc32

from pingora_load_balancing._ready_weight import ReadyWeight
from pingora_load_balancing.backend_set import BackendSet
from pingora_load_balancing.selection.interfaces import prepared
from pingora_load_balancing.selection.round_robin import RoundRobin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pingora_load_balancing.backend import Backend
    from pingora_load_balancing.selection.interfaces import BackendSelection, SelectionBuilder
    from pingora_load_balancing.state import BackendState

__all__ = ["PriorityGroups", "ZonePreference"]

# 2**64 divided by the golden ratio: spreads what is close together.
_MIX: Final = 0x9E37_79B9_7F4A_7C15
# As many candidates of one group before the next is asked, for selections that never end.
_CANDIDATES: Final = 64
_SLICE: Final = 512


@final
class _Level:
    """A group while it is put together."""

    __slots__ = ("backends", "states", "weight")

    def __init__(self) -> None:
        self.backends: list[Backend] = []
        self.states: list[BackendState] = []
        self.weight = 0


@final
class PriorityGroups:
    """Sends requests to the most important group, and only what that cannot take to the next.

    Args:
        backends: The set; those of weight 0 count nowhere.
        priority: Tells the group of a backend; 0 before 1 before 2, any numbers will do.
        inner: How to choose within a group; each has a selection of its own.
        overprovisioning: By how much a group is larger than it needs to be, at least 1.

    Raises:
        ValueError: If the factor is below 1.

    Examples:
        >>> from functools import partial
        >>> from pingora_load_balancing import Backend, LoadBalancer
        >>> balancer = LoadBalancer(
        ...     ["10.0.0.1:80", Backend("10.9.0.1:80", metadata="backup")],
        ...     selection=partial(PriorityGroups, priority=lambda b: int(b.metadata == "backup")),
        ... )
        >>> print(balancer.select(b"", 256))
        10.0.0.1:80
        >>> balancer.set_enable(balancer.backends[0], False)
        >>> print(balancer.select(b"", 256))
        10.9.0.1:80
    """

    __slots__ = (
        "_backends",
        "_changes",
        "_inner",
        "_is_prepared",
        "_overprovisioning",
        "_priority",
        "_ready",
        "_selections",
        "_shares",
        "_totals",
        "_weights",
    )

    def __init__(
        self,
        backends: BackendSet,
        *,
        priority: Callable[[Backend], int],
        inner: SelectionBuilder = RoundRobin,
        overprovisioning: float = 1.4,
    ) -> None:
        if not overprovisioning >= 1.0:
            msg = f"overprovisioning must be at least 1, not {overprovisioning}"
            raise ValueError(msg)
        self._backends = backends
        self._priority = priority
        self._inner = inner
        self._overprovisioning = overprovisioning
        self._totals = backends.totals
        self._is_prepared = False
        self._selections: list[BackendSelection] = []
        self._weights: list[int] = []
        self._ready: list[ReadyWeight] = []
        self._changes = -1
        self._shares: Sequence[float] = ()

    @property
    def shares(self) -> tuple[float, ...]:
        """How much of all requests each group takes now, the first group first."""
        self._finish()
        return tuple(high - low for low, high in pairwise((0.0, *self._limits())))

    def prepare(self) -> Iterator[None]:
        """Split the groups and build the inner selections in small steps.

        Yields:
            Nothing, about once a millisecond.
        """
        if self._is_prepared:
            return
        levels: dict[int, _Level] = {}
        members = zip(self._backends.backends, self._backends.states, strict=True)
        for number, (backend, state) in enumerate(members, start=1):
            if backend.weight:
                place = self._priority(backend)
                level = levels.get(place)
                if level is None:
                    level = levels[place] = _Level()
                level.backends.append(backend)
                level.states.append(state)
                level.weight += backend.weight
            if number % _SLICE == 0:
                yield
        selections: list[BackendSelection] = []
        weights: list[int] = []
        sums: list[ReadyWeight] = []
        for place in sorted(levels):
            level = levels.pop(place)
            group = BackendSet(
                tuple(level.backends),
                tuple(level.states),
                self._totals,
                self._backends.generation,
            )
            selection = self._inner(group)
            yield
            yield from prepared(selection)
            ready = ReadyWeight(group)
            yield from ready.prepare()
            selections.append(selection)
            weights.append(level.weight)
            sums.append(ready)
        self._selections, self._weights, self._ready = selections, weights, sums
        self._is_prepared = True

    def iter(self, key: bytes) -> Iterator[Backend]:
        """Choose a group, then from it, then from the others in their order.

        Args:
            key: What to choose by.

        Yields:
            Backends, the best first.
        """
        if not self._is_prepared:
            self._finish()
        if not self._selections:
            return
        limits = self._limits()
        order = self._selections
        if limits[0] < 1.0:
            # Not the checksum itself: the inner selection may go by that.
            place = (
                (crc32(key) * _MIX >> 24 & 0xFFFF_FFFF) / (1 << 32) if key else random()  # noqa: S311  # no secret
            )
            chosen = next(n for n, limit in enumerate(limits) if place < limit)
            order = [order[chosen], *order[:chosen], *order[chosen + 1 :]]
        for selection in order:
            yield from islice(selection.iter(key), _CANDIDATES)
        yield from order[0].iter(key)

    def _finish(self) -> None:
        for _ in self.prepare():
            pass

    def _limits(self) -> Sequence[float]:
        # The sums of the shares of the groups up to each of them.
        if self._totals.changes != self._changes:
            self._changes = self._totals.changes
            self._shares = self._spread()
        return self._shares

    def _spread(self) -> Sequence[float]:
        capacities = [
            min(1.0, self._overprovisioning * ready() / total)
            for ready, total in zip(self._ready, self._weights, strict=True)
        ]
        sums = list(accumulate(capacities))
        everything = sums[-1] if sums else 0.0
        if everything == 0.0:
            # Nobody can be used: whoever asks for unready ones gets the first group's.
            return [1.0] * len(sums)
        return [min(1.0, value / min(1.0, everything)) for value in sums]


@final
class ZonePreference:
    """Keeps requests in the nearest zone as long as enough of its backends are ready.

    What that cannot take goes to the next zone of the list, and at last to all others. A zone
    must be able to carry what begins in it: make it as large as its share of the requests.

    Args:
        backends: The set; those of weight 0 count nowhere.
        zones: The zones, the nearest first.
        zone_of: Tells the zone of a backend; None if it has none.
        inner: How to choose within a zone; each has a selection of its own.
        overprovisioning: By how much a zone is larger than it needs to be, at least 1.

    Raises:
        ValueError: If the factor is below 1.

    Examples:
        >>> from functools import partial
        >>> from pingora_load_balancing import Backend, LoadBalancer
        >>> balancer = LoadBalancer(
        ...     [Backend("10.1.0.1:80", metadata="a"), Backend("10.2.0.1:80", metadata="b")],
        ...     selection=partial(
        ...         ZonePreference, zones=["b"], zone_of=lambda backend: backend.metadata_as(str)
        ...     ),
        ... )
        >>> print(balancer.select(b"", 256))
        10.2.0.1:80
    """

    __slots__ = ("_groups",)

    def __init__(
        self,
        backends: BackendSet,
        *,
        zones: Sequence[str],
        zone_of: Callable[[Backend], str | None],
        inner: SelectionBuilder = RoundRobin,
        overprovisioning: float = 1.4,
    ) -> None:
        places = {zone: place for place, zone in reversed(list(enumerate(zones)))}

        def priority(backend: Backend) -> int:
            zone = zone_of(backend)
            return len(zones) if zone is None else places.get(zone, len(zones))

        self._groups = PriorityGroups(
            backends, priority=priority, inner=inner, overprovisioning=overprovisioning
        )

    def prepare(self) -> Iterator[None]:
        """Build the inner selections in small steps.

        Returns:
            Does at most about a millisecond's work between two items.
        """
        return self._groups.prepare()

    def iter(self, key: bytes) -> Iterator[Backend]:
        """Choose a zone, then from it, then from the others in their order.

        Args:
            key: What to choose by.

        Returns:
            Backends, the best first.
        """
        return self._groups.iter(key)
