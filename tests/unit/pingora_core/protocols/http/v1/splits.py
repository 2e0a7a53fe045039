"""Ways in which the same bytes can arrive."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_ALL_TRIPLES_UP_TO = 40


def splits(data: bytes) -> Iterator[list[bytes]]:
    """Yield the data whole, byte by byte, in all pairs, and if it is short in all triples."""
    yield [data]
    yield [data[at : at + 1] for at in range(len(data))]
    for at in range(1, len(data)):
        yield [data[:at], data[at:]]
    if len(data) <= _ALL_TRIPLES_UP_TO:
        for first, second in combinations(range(1, len(data)), 2):
            yield [data[:first], data[first:second], data[second:]]
