"""Round robin is smooth, exact, and never stuck."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import hypothesis.strategies as st
import pytest
from hypothesis import given

from pingora_load_balancing import Backend, RoundRobin
from pingora_load_balancing.selection import round_robin


def _backends(*weights: int) -> list[Backend]:
    """Backends a:80, b:80 … of the given weights."""
    return [Backend(f"{chr(ord('a') + i)}:80", weight) for i, weight in enumerate(weights)]


def _turns(selection: RoundRobin, count: int) -> str:
    """The names of the next first choices."""
    return "".join(str(next(selection.iter(b"")))[0] for _ in range(count))


def _nginx(weights: list[int], count: int) -> list[int]:
    """The algorithm as nginx has it: indices of ``count`` turns."""
    current = [0] * len(weights)
    picks = []
    for _ in range(count):
        current = [value + weight for value, weight in zip(current, weights, strict=True)]
        best = current.index(max(current))
        current[best] -= sum(weights)
        picks.append(best)
    return picks


def test_round_robin_of_equals() -> None:
    """Equal weights, whatever they are, take plain turns in the order given."""
    assert _turns(RoundRobin(_backends(1, 1, 1)), 7) == "abcabca"
    assert _turns(RoundRobin(_backends(7, 7, 7)), 7) == "abcabca"


@pytest.mark.parametrize(
    ("weights", "turns"),
    [
        ((5, 1, 1), "aabacaa" * 2),
        ((10, 2, 2), "aabacaa" * 2),
        ((1, 8, 1), "bbbabbcbbb"),
        ((1, 2), "babbab"),
        ((0, 1, 0, 1), "bdbd"),
        ((3,), "aaa"),
    ],
    ids=str,
)
def test_round_robin_is_smooth(weights: tuple[int, ...], turns: str) -> None:
    """Known answers: a heavy backend's turns are spread, not in a burst."""
    assert _turns(RoundRobin(_backends(*weights)), len(turns)) == turns


@given(st.lists(st.integers(1, 12), min_size=1, max_size=9))
def test_turns_are_those_of_nginx(weights: list[int]) -> None:
    """Grouping by weight and keeping the round change nothing about the turns."""
    backends = _backends(*weights)
    selection = RoundRobin(backends)
    count = 2 * sum(weights) + 3

    picks = [backends.index(next(selection.iter(b""))) for _ in range(count)]

    assert picks == _nginx(weights, count)


@given(st.lists(st.integers(1, 30), min_size=2, max_size=9))
def test_long_rounds_are_even_without_being_kept(weights: list[int]) -> None:
    """Beyond the memory bound the turns are exact over a round and near to it all the time."""
    backends = _backends(*weights)
    first = [turn for part in round_robin._first_turns(backends, 1) for turn in part]
    turns = round_robin._spread_rounds(backends, 1, first)
    total = sum(weights)
    taken = Counter[Backend]()

    for _ in range(2):
        before = taken.copy()
        for turn, backend in enumerate(islice(turns, total), start=1):
            taken[backend] += 1
            due = turn * backend.weight / total
            assert abs(taken[backend] - before[backend] - due) <= 0.5 + len(weights) / 2
        assert [taken[b] - before[b] for b in backends] == weights


def test_weights_in_the_millions() -> None:
    """Large weights without a common divisor cost neither memory nor time up front."""
    selection = RoundRobin(_backends(3_000_017, 1_000_003))

    assert _turns(selection, 8) == "aabaaaba"
    assert _turns(selection, 400).count("b") == 100


def test_candidates_go_on_from_turn_to_turn() -> None:
    """A backend that was passed over has had its turn, so the others keep their proportions."""
    selection = RoundRobin(_backends(6, 2, 1))
    served = Counter[str]()

    for _ in range(90):
        served[next(str(b)[0] for b in selection.iter(b"") if str(b) != "a:80")] += 1

    assert served == {"b": 60, "c": 30}


def test_every_backend_is_offered_whatever_the_weights() -> None:
    """Backends that hold nearly all turns cannot hide the others."""
    selection = RoundRobin(_backends(1_000, 1, 1))

    served = [next(str(b)[0] for b in selection.iter(b"") if str(b) != "a:80") for _ in range(4)]

    assert set(served) == {"b", "c"}


def test_candidates_end() -> None:
    """One request is offered twice as many candidates as there are backends, each at least once."""
    candidates = list(islice(RoundRobin(_backends(1, 3, 0)).iter(b""), 100))

    assert len(candidates) == 4
    assert {str(b) for b in candidates} == {"a:80", "b:80"}


@pytest.mark.parametrize("weights", [(), (0, 0)], ids=["none", "drained"])
def test_nothing_to_choose_from(weights: tuple[int, ...]) -> None:
    """No backend, or none with a weight, is no candidate and no crash."""
    assert list(RoundRobin(_backends(*weights)).iter(b"key")) == []
