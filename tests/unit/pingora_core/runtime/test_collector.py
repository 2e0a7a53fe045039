"""The collector of cyclic garbage lets requests in flight alone."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from pingora_core.runtime.collector import YOUNG_OBJECTS, calm_collector

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((700, 10, 10), (YOUNG_OBJECTS, 10, 10)),
        ((2000, 10, 0), (YOUNG_OBJECTS, 10, 0)),
        ((50_000, 5, 5), (50_000, 5, 5)),
        ((0, 10, 10), (0, 10, 10)),
    ],
    ids=["as Python has it", "as later ones have it", "rarer already", "off"],
)
def test_it_looks_less_often(before: tuple[int, int, int], after: tuple[int, int, int]) -> None:
    """But never more often than whoever runs the program wants it to."""
    gc.set_threshold(*before)
    calm_collector()
    assert gc.get_threshold() == after


def test_what_is_there_is_not_looked_at() -> None:
    """It is no part of any generation any more."""
    held: list[list[object]] = [[] for _ in range(1000)]
    calm_collector()
    assert gc.get_freeze_count() > len(held)
