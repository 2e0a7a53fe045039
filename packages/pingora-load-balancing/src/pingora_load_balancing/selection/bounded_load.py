"""Consistent hashing with bounded loads.

Theory of operation: a backend takes no more requests at a time than a factor times its fair share
of all that are on their way, rounded up. Where the backend of a key is full, the key goes to the
next on the ring that is not, and comes back when there is room.

Source: Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA 2018
(arXiv:1608.01350): no load exceeds the factor times the average, rounded up.
"""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, Final, final

from pingora_load_balancing._ready_weight import ReadyWeight
from pingora_load_balancing.selection.consistent import KetamaHashing
from pingora_load_balancing.selection.interfaces import prepared

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pingora_load_balancing.backend import Backend
    from pingora_load_balancing.backend_set import BackendSet
    from pingora_load_balancing.selection.interfaces import SelectionBuilder

__all__ = ["BoundedLoad"]

# How far to walk the ring for one request; the paper expects a constant for a factor above 1.
_FARTHEST: Final = 1_024


@final
class BoundedLoad:
    """Gives equal keys to the same backend unless that has far more to do than the others.

    Requests are counted by leases: ``with balancer.lease(backend): ...``.

    Args:
        backends: The set; those of weight 0 get no key.
        inner: Orders the backends by the key: `KetamaHashing` or `MaglevHashing`.
        factor: How much more than its fair share a backend may have on its way, more than 1.

    Raises:
        ValueError: If the factor is not more than 1.

    Examples:
        >>> from functools import partial
        >>> from pingora_load_balancing import LoadBalancer
        >>> balancer = LoadBalancer(
        ...     ["10.0.0.1:80", "10.0.0.2:80"], selection=partial(BoundedLoad, factor=1.25)
        ... )
        >>> home = balancer.select(b"key", 256)
        >>> assert home is not None
        >>> with balancer.lease(home), balancer.lease(home):
        ...     balancer.select(b"key", 256) == home
        False

    Source: see the module; the factor is what HAProxy calls ``hash-balance-factor``.
    """

    __slots__ = ("_factor", "_inner", "_states", "_totals", "_weight")

    def __init__(
        self,
        backends: BackendSet,
        inner: SelectionBuilder = KetamaHashing,
        factor: float = 1.25,
    ) -> None:
        if not factor > 1.0:
            msg = f"factor must be more than 1, not {factor}"
            raise ValueError(msg)
        self._totals = backends.totals
        self._inner = inner(backends)
        self._factor = factor
        self._states = {
            id(backend): state
            for backend, state in zip(backends.backends, backends.states, strict=True)
        }
        self._weight = ReadyWeight(backends)

    def prepare(self) -> Iterator[None]:
        """Build the inner selection in small steps.

        Returns:
            Does at most about a millisecond's work between two items.
        """
        return chain(self._weight.prepare(), prepared(self._inner))

    def iter(self, key: bytes) -> Iterator[Backend]:
        """Order the backends by the key, those that are full last.

        Args:
            key: What to choose by.

        Yields:
            Backends with room in the order of the inner selection, then those without.
        """
        states = self._states
        # Per unit of weight, this request included.
        share = self._factor * (self._totals.in_flight + 1) / (self._weight() or 1)
        full: dict[int, Backend] = {}
        candidates = self._inner.iter(key)
        for backend in islice(candidates, _FARTHEST):
            # Rounded up, one more has room exactly if those that are there are below the bound.
            if states[id(backend)].in_flight < share * backend.weight:
                yield backend
            else:
                full[id(backend)] = backend
        yield from full.values()
        yield from candidates
