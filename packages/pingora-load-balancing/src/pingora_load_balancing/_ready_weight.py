"""The weight of those backends of a set that are ready, without adding all of them up per request.

Theory of operation: the pool remembers whose readiness has changed lately. Whoever keeps a sum
looks only at these, and adds everything up anew only after more changes than are remembered. So a
backend whose circuit breaker opens and closes with every request costs the same in a pool of ten
and of a hundred thousand.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pingora_load_balancing.backend_set import BackendSet
    from pingora_load_balancing.state import BackendState

__all__ = ["ReadyWeight"]

_SLICE: Final = 2_048


@final
class ReadyWeight:
    """The sum of the weights of those that are ready.

    Args:
        backends: The set.
    """

    __slots__ = ("_ready", "_seen", "_set", "_value", "_weights")

    def __init__(self, backends: BackendSet) -> None:
        self._set = backends
        self._weights: dict[BackendState, int] = {}
        self._ready: set[BackendState] = set()
        # How many changes of the pool are taken into account; -1: not even the backends are.
        self._seen = -1
        self._value = 0

    def prepare(self) -> Iterator[None]:
        """Add them up in small steps.

        Yields:
            Nothing, about once a millisecond.
        """
        if self._seen >= 0:
            return
        seen = self._set.totals.changes
        members = zip(self._set.backends, self._set.states, strict=True)
        for number, (backend, state) in enumerate(members, start=1):
            self._weights[state] = backend.weight
            self._look_at(state)
            if number % _SLICE == 0:
                yield
        self._seen = seen

    def __call__(self) -> int:
        """Tell the sum.

        Returns:
            It, as things are now.
        """
        totals = self._set.totals
        if self._seen != totals.changes:
            for _ in self.prepare():
                pass
            missed = totals.changes - self._seen
            changed = totals.changed
            if missed <= len(changed):
                for state in islice(reversed(changed), missed):
                    self._look_at(state)
            else:
                for state in self._weights:
                    self._look_at(state)
            self._seen = totals.changes
        return self._value

    def _look_at(self, state: BackendState) -> None:
        if state.is_ready:
            if state not in self._ready and state in self._weights:
                self._ready.add(state)
                self._value += self._weights[state]
        elif state in self._ready:
            self._ready.remove(state)
            self._value -= self._weights[state]
