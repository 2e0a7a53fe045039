"""The original's selections over a weighted list: in runs, at random, by hash.

Theory of operation: the first candidate comes from the list in which each backend stands as often
as its weight says, at a number that the algorithm makes of the key; further ones come from the plain
list, at numbers that it makes of the number before. The long list is never written out: the sums of the
weights up to each backend tell which one stands at a place, whatever the weights.

Source: pingora-load-balancing/src/selection/{algorithms,weighted}.rs.
"""

from __future__ import annotations

import heapq
from bisect import bisect
from random import random
from typing import TYPE_CHECKING, Final, final

from pingora_load_balancing.selection.addresses import address_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pingora_load_balancing.backend import Backend
    from pingora_load_balancing.selection.addresses import AddressOrder

__all__ = ["FNVHash", "OriginalRoundRobin", "Random", "fnv1a"]

# FNV-1a with 64 bits: http://www.isthe.com/chongo/tech/comp/fnv/
_FNV_OFFSET: Final = 0xCBF2_9CE4_8422_2325
_FNV_PRIME: Final = 0x0000_0100_0000_01B3
_64_BITS: Final = 0xFFFF_FFFF_FFFF_FFFF

_SLICE: Final = 512


class _Weighted:
    """Backends with a weight, in the original's order: by address."""

    __slots__ = ("_backends", "_given", "_sums", "_total")

    def __init__(self, backends: Sequence[Backend]) -> None:
        self._given: Sequence[Backend] = tuple(backends)
        self._backends: list[Backend] = []
        self._sums: list[int] = []
        self._total = 0

    def prepare(self) -> Iterator[None]:
        """Sort the backends in small steps.

        Yields:
            Nothing, about once a millisecond.
        """
        given = self._given
        if not given:
            return
        runs: list[list[tuple[AddressOrder, int]]] = []
        for start in range(0, len(given), _SLICE):
            part = enumerate(given[start : start + _SLICE], start=start)
            runs.append(
                sorted((address_order(backend.addr), n) for n, backend in part if backend.weight)
            )
            yield
        backends: list[Backend] = []
        sums: list[int] = []
        total = 0
        for number, (_, index) in enumerate(heapq.merge(*runs), start=1):
            backends.append(given[index])
            total += given[index].weight
            sums.append(total)
            if number % _SLICE == 0:
                yield
        self._backends, self._sums, self._total = backends, sums, total
        self._given = ()

    def _ordered(self) -> list[Backend]:
        # HOT: once per pick.
        if self._given:
            for _ in self.prepare():
                pass
        return self._backends

    def _first(self, number: int) -> Backend:
        return self._backends[bisect(self._sums, number % self._total)]


@final
class OriginalRoundRobin(_Weighted):
    """Takes the backends in turns like the original: one of weight 8 gets eight in a row.

    For those that need the very order; `RoundRobin` spreads the turns. The key is ignored.

    Args:
        backends: The backends; those of weight 0 get no turn.
    """

    __slots__ = ("_turn",)

    def __init__(self, backends: Sequence[Backend]) -> None:
        super().__init__(backends)
        self._turn = -1

    def iter(self, key: bytes) -> Iterator[Backend]:  # noqa: ARG002  # turns have no key
        """Take turns, beginning with the one whose turn it is.

        Args:
            key: Ignored.

        Yields:
            One backend per turn, for ever.
        """
        backends = self._ordered()
        if not backends:
            return
        self._turn += 1
        yield self._first(self._turn)
        while True:
            self._turn += 1
            yield backends[self._turn % len(backends)]


@final
class Random(_Weighted):
    """Draws a backend at random, each as often as its weight says. The key is ignored.

    Args:
        backends: The backends; those of weight 0 are not drawn.
    """

    __slots__ = ()

    def iter(self, key: bytes) -> Iterator[Backend]:  # noqa: ARG002  # chance has no key
        """Draw backends.

        Args:
            key: Ignored.

        Yields:
            Backends, the first with regard to the weights, for ever.
        """
        backends = self._ordered()
        if not backends:
            return
        yield self._first(int(random() * self._total))  # noqa: S311  # no secret
        while True:
            yield backends[int(random() * len(backends))]  # noqa: S311


@final
class FNVHash(_Weighted):
    """Gives equal keys to the same backend, as long as the set stays the same.

    When a backend comes or goes nearly all keys move; `KetamaHashing` and `MaglevHashing` move
    few, and are quicker for long keys.

    Args:
        backends: The backends; those of weight 0 get no key.
    """

    __slots__ = ()

    def iter(self, key: bytes) -> Iterator[Backend]:
        """Find the backend of the key, then others in an order that the key determines.

        Args:
            key: What to choose by.

        Yields:
            Backends, for ever.
        """
        backends = self._ordered()
        if not backends:
            return
        number = fnv1a(key)
        yield self._first(number)
        while True:
            number = fnv1a(number.to_bytes(8, "little"))
            yield backends[number % len(backends)]


def fnv1a(data: bytes) -> int:
    """Compute the FNV-1a hash of 64 bits.

    Args:
        data: Any bytes.

    Returns:
        The hash.
    """
    value = _FNV_OFFSET
    for byte in data:
        value = (value ^ byte) * _FNV_PRIME & _64_BITS
    return value
