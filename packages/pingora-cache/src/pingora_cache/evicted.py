"""What a bounded collection has parted with."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

__all__ = ["Evicted"]

_K = TypeVar("_K")
_V = TypeVar("_V")


class Evicted(NamedTuple, Generic[_K, _V]):
    """An entry that is not in a collection any more.

    Attributes:
        key: Its key.
        value: Its value.
        weight: Its weight.
    """

    key: _K
    value: _V
    weight: int
