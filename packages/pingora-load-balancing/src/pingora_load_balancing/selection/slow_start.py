"""Slow start: a backend that has just become ready gets its share of requests only by and by.

Theory of operation: in front of any other selection, a candidate that is still warming up is passed
over with a probability that falls to 0 over the window. So it works for turns, chance and hashing
alike, and costs nothing when nobody is warming up.
"""

from __future__ import annotations

from random import random
from typing import TYPE_CHECKING, Final, final

from pingora_load_balancing.selection.interfaces import prepared
from pingora_load_balancing.selection.round_robin import RoundRobin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pingora_load_balancing.backend import Backend
    from pingora_load_balancing.backend_set import BackendSet
    from pingora_load_balancing.selection.interfaces import SelectionBuilder

__all__ = ["SlowStart"]

# So many passed over without anybody warm among the candidates: then they are needed.
_MOST_PASSED_OVER: Final = 8


@final
class SlowStart:
    """Lets backends warm up that have just joined, or become ready again.

    Those that are there when the pool is first filled count as warm.

    Args:
        backends: The set.
        inner: The selection that this one stands in front of.
        window: Seconds until a backend gets its full share.
        minimum: The share of its share that it begins with, above 0 up to 1.

    Raises:
        ValueError: If a value is out of range.

    Examples:
        >>> from functools import partial
        >>> from pingora_load_balancing import LoadBalancer
        >>> balancer = LoadBalancer(["10.0.0.1:80"], selection=partial(SlowStart, window=60.0))

    Source: Envoy's slow start mode, with an aggression of 1.
    """

    __slots__ = ("_inner", "_minimum", "_states", "_totals", "_window")

    def __init__(
        self,
        backends: BackendSet,
        inner: SelectionBuilder = RoundRobin,
        window: float = 30.0,
        minimum: float = 0.1,
    ) -> None:
        if not window > 0 or not 0 < minimum <= 1:
            msg = f"window must be more than 0 and minimum a share, not {window} and {minimum}"
            raise ValueError(msg)
        self._inner = inner(backends)
        self._totals = backends.totals
        self._window = window
        self._minimum = minimum
        self._states = {
            id(backend): state
            for backend, state in zip(backends.backends, backends.states, strict=True)
        }

    def prepare(self) -> Iterator[None]:
        """Build the inner selection in small steps.

        Returns:
            Does at most about a millisecond's work between two items.
        """
        return prepared(self._inner)

    def iter(self, key: bytes) -> Iterator[Backend]:
        """Take the candidates of the inner selection, sparing those that are warming up.

        Args:
            key: What to choose by.

        Returns:
            Backends, the best first.
        """
        totals = self._totals
        candidates = self._inner.iter(key)
        now = totals.clock()
        is_warm = now >= totals.newest + self._window
        return candidates if is_warm else self._sparing(candidates, now)

    def _sparing(self, candidates: Iterator[Backend], now: float) -> Iterator[Backend]:
        passed_over: list[Backend] = []
        for backend in candidates:
            warmth = (now - self._states[id(backend)].since) / self._window
            if warmth >= 1.0 or random() < max(warmth, self._minimum):  # noqa: S311  # no secret
                yield backend
                continue
            passed_over.append(backend)
            if len(passed_over) == _MOST_PASSED_OVER:
                yield from passed_over
                passed_over.clear()
        yield from passed_over
