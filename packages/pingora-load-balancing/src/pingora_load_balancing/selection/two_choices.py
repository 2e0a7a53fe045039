"""The power of two choices: draw two backends, take the one with less to do.

Theory of operation: the least loaded backend of all costs a search for every request, and when
several balancers know the same they all run to it. The better of two drawn at random is nearly as
good. Draws are in proportion to the weights, and loads are compared per weight, so that a heavier
backend is both drawn more often and filled further.

Backends that are not ready are drawn in vain. After some vain draws it is drawn from the ready ones
alone, which are kept in a list of their own from then on: one that is ready is found however few
there are.

Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE Transactions on
Parallel and Distributed Systems 12(10), 2001.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from itertools import count
from random import random
from typing import TYPE_CHECKING, Final, final

from pingora_load_balancing.selection._ready_draws import ReadyDraws

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from pingora_load_balancing.backend import Backend
    from pingora_load_balancing.backend_set import BackendSet
    from pingora_load_balancing.state import BackendState

__all__ = ["LeastLatency", "LeastRequest", "alias_table"]

_VAIN_DRAWS: Final = 4
_SLICE: Final = 1_024
# Seconds that an answer counts for while the first one ever is awaited: more than any other.
_UNKNOWN: Final = 1e9


@final
class _Members:
    """Backends to draw from, with their states beside them."""

    __slots__ = ("_aliases", "_count", "_limits", "backends", "is_prepared", "states")

    def __init__(self, backends: Sequence[Backend], states: Sequence[BackendState]) -> None:
        self.backends = backends
        self.states = states
        self._count = len(backends)
        # Empty: all weigh the same.
        self._limits: list[float] = []
        self._aliases: list[int] = []
        self.is_prepared = False

    def prepare(self) -> Iterator[None]:
        if not self.is_prepared:
            weights = [backend.weight for backend in self.backends]
            if len(set(weights)) > 1:
                yield
                self._limits, self._aliases = yield from _alias_steps(weights)
            self.is_prepared = True

    def draw(self) -> tuple[int, int]:
        # Two different ones if the weights are equal and there are two.
        count = self._count
        limits = self._limits
        if not limits:
            one = int(random() * count)  # noqa: S311  # no secret
            other = int(random() * (count - 1))  # noqa: S311
            return (one, other + 1 if other >= one and count > 1 else other)
        place = random() * count  # noqa: S311
        one = int(place)
        if place - one >= limits[one]:
            one = self._aliases[one]
        place = random() * count  # noqa: S311
        other = int(place)
        if place - other >= limits[other]:
            other = self._aliases[other]
        return (one, other)


class _TwoChoices(ABC):
    __slots__ = ("_members", "_ready", "_totals")

    def __init__(self, backends: BackendSet) -> None:
        self._totals = backends.totals
        self._members = _Members(*_weighted(backends))
        self._ready = ReadyDraws(self._members.backends, self._members.states, self._totals)

    def prepare(self) -> Iterator[None]:
        """Prepare the draws in small steps.

        Returns:
            Does at most about a millisecond's work between two items.
        """
        return self._members.prepare()

    @abstractmethod
    def _is_busier(self, one: BackendState, other: BackendState) -> bool:
        """Tell which of two to take.

        Returns:
            True if the first has more to do than the second.
        """

    def iter(self, key: bytes) -> Iterator[Backend]:  # noqa: ARG002  # chance has no key
        """Draw two backends, the better one first, and again.

        Args:
            key: Ignored.

        Yields:
            Ready backends for ever, if there are any; else each backend once.
        """
        members: _Members | ReadyDraws = self._members
        if not members.backends:
            return
        if not self._members.is_prepared:
            _finish(self._members)
        vain = 0
        while True:
            one, other = members.draw()
            states = members.states
            if not states[one].is_ready or (
                states[other].is_ready and self._is_busier(states[one], states[other])
            ):
                one, other = other, one
            if states[one].is_ready:
                yield members.backends[one]
                if states[other].is_ready:
                    yield members.backends[other]
                continue
            vain += 1
            if vain == _VAIN_DRAWS:
                members = self._ready
                members.follow()
                if not len(members):
                    yield from members.backends
                    return
            elif vain > _VAIN_DRAWS:
                # None of those listed is ready any more: the caller has waited in between.
                yield members.backends[one]


@final
class LeastRequest(_TwoChoices):
    """Takes, of two backends drawn at random, the one with fewer requests on their way.

    Requests are counted by leases: ``with balancer.lease(backend): ...``. Without any it
    chooses at random.

    Args:
        backends: The set; those of weight 0 are not drawn.

    Examples:
        >>> from pingora_load_balancing import LoadBalancer
        >>> balancer = LoadBalancer(["10.0.0.1:80", "10.0.0.2:80"], selection=LeastRequest)
        >>> one, two = balancer.backends
        >>> with balancer.lease(one):
        ...     print(balancer.select(b"", 256))
        10.0.0.2:80
    """

    __slots__ = ()

    def _is_busier(self, one: BackendState, other: BackendState) -> bool:
        return one.in_flight * other.backend.weight > other.in_flight * one.backend.weight


@final
class LeastLatency(_TwoChoices):
    """Takes, of two backends drawn at random, the one that will probably answer sooner.

    That is the average time of its answers, times the requests on their way there and this one.
    The average rises with the first slow answer and falls slowly; without any news it falls too,
    so that a backend that was slow once is tried again. One that is new gets one request, and more
    when that is answered.

    Times come from reports and requests from leases: ``balancer.report(backend, latency=0.02)``,
    ``with balancer.lease(backend): ...``.

    Args:
        backends: The set; those of weight 0 are not drawn.
        decay: Seconds after which an average without news has fallen to 1/e of what it was.

    Raises:
        ValueError: If the decay time is not positive.

    Source: Finagle, finagle-core/src/main/scala/com/twitter/finagle/loadbalancer/PeakEwma.scala.
    """

    __slots__ = ("_decay",)

    def __init__(self, backends: BackendSet, decay: float = 10.0) -> None:
        if not decay > 0:
            msg = f"decay must be more than 0 seconds, not {decay}"
            raise ValueError(msg)
        super().__init__(backends)
        self._decay = decay

    def _is_busier(self, one: BackendState, other: BackendState) -> bool:
        now = self._totals.clock()
        return self._cost(one, now) > self._cost(other, now)

    def _cost(self, state: BackendState, now: float) -> float:
        in_flight = state.in_flight
        latency = state.latency
        if latency is None:
            cost = _UNKNOWN + in_flight if in_flight else 0.0
        else:
            age = now - state.latency_at
            if age > 0.0:
                latency *= math.exp(-age / self._decay)
            cost = latency * (in_flight + 1)
        # A weight that was changed to 0 while the selection for it is built.
        return cost / (state.backend.weight or 1)


def _weighted(backends: BackendSet) -> tuple[Sequence[Backend], Sequence[BackendState]]:
    if all(backend.weight for backend in backends):
        return backends.backends, backends.states
    part = backends.subset(lambda backend: backend.weight > 0)
    return part.backends, part.states


def _finish(members: _Members) -> None:
    for _ in members.prepare():
        pass


def alias_table(weights: Sequence[int]) -> tuple[list[float], list[int]]:
    """Prepare drawing by weight in constant time.

    Each number has one compartment of equal size; what a light one leaves free of it belongs to a
    heavy one.

    Args:
        weights: The weights, all positive.

    Returns:
        For each number, the part of its compartment that is its own, and whose the rest is.

    Source: Vose, "A Linear Algorithm For Generating Random Numbers With a Given Distribution",
    IEEE Transactions on Software Engineering 17(9), 1991.
    """
    steps = _alias_steps(weights)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            table: tuple[list[float], list[int]] = end.value
            return table


def _alias_steps(
    weights: Sequence[int],
) -> Generator[None, None, tuple[list[float], list[int]]]:
    scale = len(weights) / sum(weights)
    parts = [weight * scale for weight in weights]
    limits = [1.0] * len(parts)
    aliases = list(range(len(parts)))
    yield
    light = [number for number, part in enumerate(parts) if part < 1.0]
    heavy = [number for number, part in enumerate(parts) if part >= 1.0]
    yield
    for step in count(1):
        if not (light and heavy):
            break
        if step % _SLICE == 0:
            yield
        number, owner = light.pop(), heavy[-1]
        limits[number] = parts[number]
        aliases[number] = owner
        parts[owner] -= 1.0 - parts[number]
        if parts[owner] < 1.0:
            light.append(heavy.pop())
    return limits, aliases
