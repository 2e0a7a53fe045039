"""Maglev hashing: consistent hashing by a lookup table.

Theory of operation: each backend has a permutation of its own of all places in the table. In turns,
each takes the next place of its permutation that is still free, until the table is full. Each
therefore holds as many places as the others, give or take one, and when one leaves, its places
are filled by the others while nearly all else stays.

The backends take turns in the order of a hash of their address, so that the table does not depend
on the order in which they are listed. Heavier ones take more turns, each backend at least one.

Source: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016,
section 3.4.
"""

from __future__ import annotations

from array import array
from hashlib import blake2b
from heapq import heappush, heapreplace
from itertools import chain, cycle
from typing import TYPE_CHECKING, Final, TypeAlias, final
from zlib import crc32

from pingora_load_balancing.selection.addresses import address_identity

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pingora_load_balancing.backend import Backend

__all__ = ["MaglevHashing"]

# Primes, each about twice the one before, so that the size changes only as the set doubles.
_SIZES: Final = (65_537, 131_071, 262_139, 524_287, 1_048_573)
# "We choose M to be larger than 100 x N to ensure at most a 1% difference in hash space".
_PLACES_PER_BACKEND: Final = 100

_SLICE: Final = 256
_PROBES: Final = 8_192
# What a turn costs beside its probes: it is as long as so many of them.
_PROBES_PER_TURN: Final = 4

# When it is due, whose turn it is, how many it has had.
_Turn: TypeAlias = tuple[float, int, int]


@final
class MaglevHashing:
    """Gives equal keys to the same backend, evenly, and moves few when backends come or go.

    Compared with `KetamaHashing`: a pick is cheaper and the spread nearly perfect, but some keys
    move although their backend stays (below 1 % in all), and the choice is not that of nginx. The
    table takes two bytes a place, four with more than 65,535 backends.

    Args:
        backends: The backends; those of weight 0 get no key.
        table_size: Places in the table: a prime, best 100 times the number of backends or more,
            and the same wherever the same choice is to be made. By default 65,537, and for more
            than 655 backends about twice as many at each doubling, up to 1,048,573.

    Raises:
        ValueError: If the table size is no prime, or is smaller than the number of backends.

    Source: see the module.
    """

    __slots__ = ("_backends", "_size", "_table")

    def __init__(self, backends: Sequence[Backend], table_size: int | None = None) -> None:
        self._backends = [backend for backend in backends if backend.weight]
        count = len(self._backends)
        if table_size is None:
            wanted = _PLACES_PER_BACKEND * count
            table_size = next((size for size in _SIZES if size >= wanted), _SIZES[-1])
        elif not _is_prime(table_size):
            msg = f"table_size must be a prime, not {table_size}"
            raise ValueError(msg)
        if table_size < count:
            msg = f"a table of {table_size} places has none for some of {count} backends"
            raise ValueError(msg)
        self._size = table_size
        self._table: array[int] | None = None

    @property
    def table(self) -> array[int]:
        """The table: places of backends among those with a weight."""
        for _ in self.prepare():
            pass
        assert self._table is not None
        return self._table

    def prepare(self) -> Iterator[None]:
        """Fill the table in small steps.

        Yields:
            Nothing, about once a millisecond.
        """
        if self._table is not None:
            return
        count = len(self._backends)
        free = count
        table = array("H" if count < 1 << 16 else "I", [free])
        if not count:
            self._table = table[:0]
            return
        size = self._size
        table *= size
        # Arrays, not a list of tuples: that many are not freed in one step.
        places, skips, indices = array("Q"), array("Q"), array("L")
        weights: list[int] = []
        for part in self._permutations():
            for offset, skip, index in part:
                places.append(offset)
                skips.append(skip)
                indices.append(index)
                weights.append(self._backends[index].weight)
            yield
        left = _PROBES
        due: list[_Turn] = []
        turns = _turns(weights, due)
        for turn, _ in zip(turns, range(size), strict=False):
            left -= _PROBES_PER_TURN
            if left <= 0:
                left = _PROBES
                yield
            skip = skips[turn]
            place = places[turn]
            while table[place] != free:
                place += skip
                if place >= size:
                    place -= size
                left -= 1
                if left <= 0:
                    left = _PROBES
                    yield
            table[place] = indices[turn]
            places[turn] = place
        while due:
            del due[-_PROBES:]
            yield
        self._table = table

    def iter(self, key: bytes) -> Iterator[Backend]:
        """Look the key up, then go through the table in strides of its own.

        Args:
            key: What to choose by.

        Yields:
            One backend per place: some again and again, for ever.
        """
        table = self._table
        if table is None:
            table = self.table
        if not table:
            return
        backends = self._backends
        size = self._size
        value = crc32(key)
        place = value % size
        yield backends[table[place]]
        # Not the next place: the keys of one backend would all go on to different ones only
        # by the luck of the table.
        stride = 1 + (value * 0x9E37_79B1 >> 7) % (size - 1)
        while True:
            place = (place + stride) % size
            yield backends[table[place]]

    def _permutations(self) -> Iterator[list[tuple[int, int, int]]]:
        """Find offset and skip of each backend.

        Yields:
            These and the index, about a millisecond's worth at a time, ordered by a hash.
        """
        size = self._size
        chunks: list[list[tuple[bytes, int]]] = [[] for _ in range(256)]
        for index, backend in enumerate(self._backends):
            digest = blake2b(address_identity(backend.addr), digest_size=16).digest()
            chunks[digest[0]].append((digest, index))
            if index % _SLICE == _SLICE - 1:
                yield []
        batch: list[tuple[int, int, int]] = []
        chunks.reverse()
        for digest, index in chain.from_iterable(sorted(chunks.pop()) for _ in range(256)):
            offset = int.from_bytes(digest[:8]) % size
            skip = int.from_bytes(digest[8:]) % (size - 1) + 1
            batch.append((offset, skip, index))
            if len(batch) == _SLICE:
                yield batch
                batch = []
        yield batch


def _turns(weights: list[int], due: list[_Turn]) -> Iterator[int]:
    """Tell who takes a turn: each once, then each as often as its weight says.

    Args:
        weights: The weights.
        due: An empty list to work with, which is for the caller to free.

    Yields:
        Indices of the weights, for ever.
    """
    if len(set(weights)) == 1:
        yield from cycle(range(len(weights)))
    for turn, weight in enumerate(weights):
        yield turn
        heappush(due, (1 / weight, turn, 1))
    while True:
        _, turn, taken = due[0]
        yield turn
        taken += 1
        heapreplace(due, (taken / weights[turn], turn, taken))


def _is_prime(number: int) -> bool:
    divisor = 2
    while divisor * divisor <= number:
        if number % divisor == 0:
            return False
        divisor += 1
    return number > 1
