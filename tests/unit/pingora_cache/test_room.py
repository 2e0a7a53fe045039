"""Memory that grows without being copied."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings, strategies as st

from pingora_cache._room import Numbers, Room

_LARGE = 300_000


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 40_000), min_size=1, max_size=12))
def test_what_is_there_stays(steps: list[int]) -> None:
    """Bytes keep their values through all growth, and what is added is zeros."""
    room = Room(3)
    room.buffer[0:3] = b"abc"
    size = 3
    for step in steps:
        room.extend(step)
        size += step
        assert len(room.buffer) == size
        assert bytes(room.buffer[0:3]) == b"abc"
        assert not any(room.buffer[size - step : size] if step else b"")
    room.buffer[size - 1 : size] = b"z"
    room.extend(100_000)
    assert bytes(room.buffer[size - 1 : size + 1]) == b"z\0"


@pytest.mark.parametrize("code", ["I", "Q"])
def test_numbers_grow_without_a_copy(code: str) -> None:
    """From some size on the numbers lie in a mapping, which the system moves."""
    numbers = Numbers("I" if code == "I" else "Q", 2)
    numbers.items[1] = 2**32 - 1
    assert type(numbers._room.buffer).__name__ == "bytearray"

    numbers.extend(_LARGE)
    first = numbers._room.buffer
    numbers.items[_LARGE] = 7
    numbers.extend(_LARGE)

    assert type(first).__name__ == "mmap"
    assert numbers._room.buffer is first
    assert len(numbers.items) == 2 * _LARGE + 2
    assert numbers.memory == len(numbers.items) * (4 if code == "I" else 8)
    assert (numbers.items[1], numbers.items[_LARGE], numbers.items[-1]) == (2**32 - 1, 7, 0)


def test_a_forked_process_has_its_own() -> None:
    """What a child changes is not changed for its parent."""
    numbers = Numbers("Q", _LARGE)
    numbers.extend(_LARGE)
    numbers.items[5] = 1
    pid = os.fork()
    if not pid:
        numbers.items[5] = 2
        os._exit(numbers.items[5] + 1)
    _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == 3
    assert numbers.items[5] == 1
