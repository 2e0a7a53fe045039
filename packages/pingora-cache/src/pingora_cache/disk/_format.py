"""The records in front of the file of an object: how they are written and read.

``_layout`` tells what they are for.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from xxhash import xxh3_64_intdigest

from pingora_cache.disk._layout import (
    BLOCK_SHIFT,
    HEAD_END,
    SUM,
    Damaged,
    Front,
    Layout,
    Pointer,
    State,
)

__all__ = [
    "MARK_AT",
    "STATE_AT",
    "STATE_SIZE",
    "pack_front",
    "pack_mark",
    "pack_pointer",
    "pack_state",
    "pointer_at",
    "read_front",
    "read_state",
    "seed_of",
]

STATE_AT: Final = 64
MARK_AT: Final = 96

_MAGIC: Final = b"pgcache1"
_HEAD: Final = Struct("<8s16s8sIIIIQ")
_STATE: Final = Struct("<QQQQ")
_MARK: Final = Struct("<QdQ")
_POINTER: Final = Struct("<QQQQQQQ")
_POINTERS_AT: Final = 128
_MASK: Final = (1 << 64) - 1
_FILLING: Final = 1
_COMPLETE: Final = 2

STATE_SIZE: Final = _STATE.size
"""Bytes of STATE."""


def _check(record: bytes, seed: int, place: int) -> int:
    # The place goes in too: a pointer is not taken for the other one.
    return xxh3_64_intdigest(record, seed=(seed ^ place) & _MASK)


def _seal(data: bytes, seed: int, place: int) -> bytes:
    record = data[: -SUM.size]
    return record + SUM.pack(_check(record, seed, place))


def _is_whole(data: bytes, at: int, size: int, seed: int) -> bool:
    end = at + size - SUM.size
    return bool(SUM.unpack_from(data, end)[0] == _check(data[at:end], seed, at))


# ---------------------------------------------------------------------------------- writing


def seed_of(tag: bytes) -> int:
    """Tell what the sums of a file are seeded with.

    Args:
        tag: The tag of the write that makes it.

    Returns:
        64 bits.
    """
    return int.from_bytes(tag, "little")


def pack_front(front: Front, meta: bytes) -> bytes:
    """Write all that comes before the sums, of a file with one meta.

    Args:
        front: What it says.
        meta: What its pointer points to: what follows the pointers.

    Returns:
        The bytes from the beginning of the file.
    """
    seed, layout = front.seed, front.layout
    head = _HEAD.pack(
        _MAGIC,
        front.slot,
        front.tag,
        layout.body_at,
        layout.table_at,
        layout.table_size,
        BLOCK_SHIFT,
        0,
    )
    records = (
        _seal(head, 0, 0).ljust(STATE_AT, b"\0"),
        pack_state(front.state, seed).ljust(_POINTERS_AT - STATE_AT, b"\0"),
        pack_pointer(front.pointer, seed).ljust(HEAD_END - _POINTERS_AT, b"\0"),
        meta,
    )
    return b"".join(records)


def pack_state(state: State, seed: int) -> bytes:
    """Write how far a body has come.

    Args:
        state: How far.
        seed: That of the file.

    Returns:
        What goes to ``STATE_AT``.
    """
    done = _COMPLETE if state.complete else _FILLING
    return _seal(_STATE.pack(state.size, state.last_sum, done, 0), seed, STATE_AT)


def pack_mark(number: int, when: float, seed: int) -> bytes:
    """Write a soft purge.

    Args:
        number: That of the pointer whose meta has expired.
        when: When, wall clock seconds.
        seed: That of the file.

    Returns:
        What goes to ``MARK_AT``.
    """
    return _seal(_MARK.pack(number, when, 0), seed, MARK_AT)


def pack_pointer(pointer: Pointer, seed: int) -> bytes:
    """Write a pointer.

    Args:
        pointer: The pointer.
        seed: That of the file.

    Returns:
        What goes to ``pointer_at`` of its number.
    """
    return _seal(_POINTER.pack(*pointer, 0), seed, pointer_at(pointer.number))


def pointer_at(number: int) -> int:
    """Tell where a pointer goes.

    Args:
        number: Its number.

    Returns:
        The place: the two take turns.
    """
    return _POINTERS_AT if number & 1 else _POINTERS_AT + _POINTER.size


# ---------------------------------------------------------------------------------- reading


def read_front(data: bytes) -> Front:
    """Read what is in front of a file.

    Args:
        data: Its first bytes, ``HEAD_END`` or more.

    Returns:
        What they say.

    Raises:
        Damaged: If they are damaged, or are none of ours.
    """
    if len(data) < HEAD_END:
        msg = "head cut off"
        raise Damaged(msg)
    magic, slot, tag, body_at, table_at, table_size, shift, _ = _HEAD.unpack_from(data)
    if magic != _MAGIC or shift != BLOCK_SHIFT or not _is_whole(data, 0, _HEAD.size, 0):
        msg = "head"
        raise Damaged(msg)
    seed = seed_of(tag)
    state = read_state(data[STATE_AT : STATE_AT + _STATE.size], seed)
    if state is None:
        msg = "state"
        raise Damaged(msg)
    first, second = _read_pointer(data, 1, seed), _read_pointer(data, 2, seed)
    if first is None or (second is not None and second.number > first.number):
        first, second = second, first
    if first is None:
        msg = "pointer"
        raise Damaged(msg)
    layout = Layout(table_at, table_size, body_at)
    expired = _read_mark(data, first.number, seed)
    return Front(slot, tag, seed, layout, state, first, second, expired)


def read_state(data: bytes, seed: int) -> State | None:
    """Read how far a body has come.

    Args:
        data: The bytes at ``STATE_AT``, 32 of them.
        seed: That of the file.

    Returns:
        How far; None if they are damaged, or are being written just now.
    """
    if len(data) != _STATE.size:
        return None
    size, last_sum, done, check = _STATE.unpack(data)
    if check != _check(data[: -SUM.size], seed, STATE_AT):
        return None
    return State(size, last_sum, done == _COMPLETE)


def _read_pointer(data: bytes, number: int, seed: int) -> Pointer | None:
    at = pointer_at(number)
    fields = _POINTER.unpack_from(data, at)
    if not fields[0]:
        return None
    if not _is_whole(data, at, _POINTER.size, seed):
        msg = "pointer"
        raise Damaged(msg)
    return Pointer(*fields[:-1])


def _read_mark(data: bytes, number: int, seed: int) -> float:
    marked, when, check = _MARK.unpack_from(data, MARK_AT)
    if not marked and not check:
        return 0.0
    if not _is_whole(data, MARK_AT, _MARK.size, seed):
        msg = "mark"
        raise Damaged(msg)
    return float(when) if marked >= number else 0.0
