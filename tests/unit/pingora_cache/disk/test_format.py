"""The file of an object: what is written is read back, and what was changed is noticed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from pingora_cache.disk._format import (
    MARK_AT,
    STATE_AT,
    STATE_SIZE,
    pack_front,
    pack_mark,
    pack_pointer,
    pack_state,
    pointer_at,
    read_front,
    read_state,
    seed_of,
)
from pingora_cache.disk._layout import (
    BLOCK,
    HEAD_END,
    META_AT,
    SUM,
    Damaged,
    Front,
    Layout,
    Pointer,
    State,
    block_sum,
    is_in_table,
    meta_sum,
    plan,
    sum_place,
)

_SLOT = bytes(range(16))
_TAG = b"\x01\x02\x03\x04\x05\x06\x07\x08"
_SEED = seed_of(_TAG)
_META = b"all that is known"


def _front(size: int = 1000, *, complete: bool = True) -> Front:
    pointer = Pointer(1, META_AT, len(_META), 7, 8, meta_sum(_META, _SEED))
    state = State(size, 99, complete)
    return Front(_SLOT, _TAG, _SEED, plan(len(_META), size), state, pointer, None, 0.0)


@given(st.integers(0, 2**50), st.integers(0, 2**64 - 1), st.booleans(), st.binary(max_size=1000))
def test_what_is_written_is_read_back(size: int, last: int, complete: bool, meta: bytes) -> None:
    """All parts come back as they were."""
    pointer = Pointer(1, META_AT, len(meta), 2**63, 3, meta_sum(meta, _SEED))
    layout = plan(len(meta), size)
    front = Front(_SLOT, _TAG, _SEED, layout, State(size, last, complete), pointer, None, 0.0)

    data = pack_front(front, meta)

    assert read_front(data) == front
    assert data[META_AT : META_AT + len(meta)] == meta
    assert len(data) <= layout.table_at
    assert read_state(data[STATE_AT : STATE_AT + STATE_SIZE], _SEED) == front.state


@settings(max_examples=300)
@given(st.integers(0, HEAD_END - 1), st.integers(1, 255))
def test_a_changed_byte_is_noticed(at: int, change: int) -> None:
    """No byte of the records can change without being seen; padding says nothing."""
    data = bytearray(pack_front(_front(), _META))
    data[at] ^= change

    try:
        front = read_front(bytes(data))
    except Damaged:
        return
    assert front == _front()
    assert not any(pack_front(_front(), _META)[at : at + 1])


@pytest.mark.parametrize("length", [0, 1, 63, 64, HEAD_END - 1])
def test_a_file_that_was_cut_off_is_noticed(length: int) -> None:
    """A head that is not all there is damaged."""
    with pytest.raises(Damaged):
        read_front(pack_front(_front(), _META)[:length])


def test_a_record_of_another_file_is_noticed() -> None:
    """Records are seeded with the tag of the write: those of another write do not pass."""
    data = bytearray(pack_front(_front(), _META))
    other = seed_of(b"somebody")
    data[STATE_AT : STATE_AT + STATE_SIZE] = pack_state(State(5, 5, complete=True), other)

    with pytest.raises(Damaged):
        read_front(bytes(data))


def test_the_later_meta_counts() -> None:
    """Pointers take turns; the one with the higher number is taken, the other one is spare."""
    front = _front()
    data = bytearray(pack_front(front, _META))
    first = front.pointer
    for number in range(2, 6):
        new = Pointer(number, 4096 * number, 10, 7, 9, 11)
        packed = pack_pointer(new, _SEED)
        data[pointer_at(number) : pointer_at(number) + len(packed)] = packed

        read = read_front(bytes(data))

        assert (read.pointer, read.spare) == (new, first)
        first = new


def test_a_torn_pointer_is_noticed() -> None:
    """While a pointer is being written, the file looks damaged; not like one with the old meta."""
    data = bytearray(pack_front(_front(), _META))
    packed = pack_pointer(Pointer(2, 4096, 10, 7, 9, 11), _SEED)
    data[pointer_at(2) : pointer_at(2) + 20] = packed[:20]

    with pytest.raises(Damaged):
        read_front(bytes(data))


def test_a_mark_holds_for_the_metas_up_to_its_own() -> None:
    """A soft purge applies to the meta that it names and those before, not to later ones."""
    data = bytearray(pack_front(_front(), _META))
    mark = pack_mark(1, 1234.5, _SEED)
    data[MARK_AT : MARK_AT + len(mark)] = mark
    assert read_front(bytes(data)).expired == 1234.5

    packed = pack_pointer(Pointer(2, 4096, 10, 7, 9, 11), _SEED)
    data[pointer_at(2) : pointer_at(2) + len(packed)] = packed
    assert read_front(bytes(data)).expired == 0.0


def test_sums_depend_on_the_place() -> None:
    """The same bytes in another block, or in another file, have another sum."""
    sums = {block_sum(b"x" * BLOCK, seed, number) for seed in (1, 2**63) for number in range(4)}

    assert len(sums) == 8


@given(st.integers(0, 200_000), st.none() | st.integers(0, 2**40))
def test_bodies_begin_where_sockets_like_it(meta_size: int, body_size: int | None) -> None:
    """Large bodies, and those of unknown size, at a page; what comes before does not overlap."""
    layout = plan(meta_size, body_size)

    assert layout.table_at >= META_AT + meta_size
    assert layout.body_at >= layout.table_at + SUM.size * layout.table_size
    assert layout.body_at % (4096 if body_size is None or body_size > 65536 else 64) == 0


@given(st.integers(0, 100_000), st.integers(0, 100_000), st.integers(0, 8))
def test_sums_in_the_table_are_those_asked_for(size: int, blocks: int, ahead: int) -> None:
    """While a body grows, a sum that is said to be in the table has not been overwritten."""
    layout = Layout(240, size % 1100, 100_000)
    written = {sum_place(layout, number): number for number in range(max(blocks - 2208, 0), blocks)}
    # The writer is ahead of what STATE says by so many blocks.
    said = max(blocks - ahead, 0)
    for number in range(max(said - 2200, 0), said):
        if is_in_table(layout, number, said):
            assert written[sum_place(layout, number)] == number


@pytest.mark.parametrize("blocks", [0, 1, 63, 64, 65, 1000, 1024, 1025])
def test_where_the_sums_of_a_complete_body_are(blocks: int) -> None:
    """In front if they fit, behind the body otherwise; the file is as long as it needs to be."""
    front = _front(blocks * BLOCK + 1)
    fits = blocks <= front.layout.table_size

    assert front.sums_at == (front.layout.table_at if fits else front.body_end)
    assert front.end == front.body_end + (0 if fits else SUM.size * blocks)
    assert fits == (blocks <= 1024)
