"""The parts of a Redis store that talk to nobody: circuit, frames, names, generations of tags."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings, strategies as st

from pingora_cache._budget import Budget
from pingora_cache.redis._circuit import Circuit
from pingora_cache.redis._frames import DamagedError, Kind, Shape, seal, unseal
from pingora_cache.redis._names import Names
from pingora_cache.redis._shared import RedisTuning
from pingora_cache.redis._tags import compare, pack, unpack
from tests.support.clock import FakeClock

_OWNER = bytes(range(16))


# ------------------------------------------------------------------------- circuit


def test_a_failure_opens_the_circuit_for_a_pause() -> None:
    """Then one question goes through, and no other until its fate is known."""
    clock = FakeClock()
    circuit = Circuit(clock)
    first = circuit.admit()
    assert first is not None

    assert circuit.failed(first)
    assert circuit.is_open
    assert 0.05 <= circuit.pause <= 0.1
    assert circuit.admit() is None

    clock.advance(circuit.pause)
    probe = circuit.admit()
    assert probe is not None
    assert circuit.admit() is None
    assert circuit.succeeded(probe)
    assert (circuit.is_open, circuit.pause) == (False, 0.0)
    assert circuit.admit() is not None


def test_questions_that_fail_together_are_one_failure() -> None:
    """What was asked before the circuit turned says nothing about now, either way."""
    clock = FakeClock()
    circuit = Circuit(clock)
    early = [circuit.admit() for _ in range(100)]
    numbers = [number for number in early if number is not None]
    assert len(numbers) == 100

    assert [circuit.failed(number) for number in numbers] == [True] + 99 * [False]
    assert circuit.pause <= 0.1
    assert not circuit.succeeded(numbers[0])
    assert circuit.is_open


def test_the_pause_doubles_up_to_a_bound() -> None:
    """And begins anew after a success."""
    clock = FakeClock()
    circuit = Circuit(clock)
    pauses = []
    for _ in range(12):
        number = circuit.admit()
        assert number is not None
        circuit.failed(number)
        pauses.append(circuit.pause)
        clock.advance(circuit.pause)
    assert pauses[0] <= 0.1
    assert 2.5 <= pauses[-1] <= 5.0

    number = circuit.admit()
    assert number is not None
    circuit.succeeded(number)
    number = circuit.admit()
    assert number is not None
    circuit.failed(number)
    assert circuit.pause <= 0.1


def test_a_question_that_nobody_waits_for_makes_way() -> None:
    """Another may find out whether anybody is there."""
    clock = FakeClock()
    circuit = Circuit(clock)
    number = circuit.admit()
    assert number is not None
    circuit.failed(number)
    clock.advance(circuit.pause)

    probe = circuit.admit()
    assert probe is not None
    circuit.abandoned(number)  # an old one changes nothing
    assert circuit.admit() is None
    circuit.abandoned(probe)
    assert circuit.admit() is not None


def test_a_committed_question_is_always_admitted() -> None:
    """Its fate does not count while the circuit is open."""
    clock = FakeClock()
    circuit = Circuit(clock)
    number = circuit.admit(committed=True)
    assert number is not None
    circuit.failed(number)

    number = circuit.admit(committed=True)
    assert number is not None
    assert not circuit.failed(number)
    assert not circuit.succeeded(number)
    assert circuit.is_open


# -------------------------------------------------------------------------- frames


@given(parts=st.lists(st.binary(max_size=50), max_size=4), index=st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_a_frame_holds_what_was_put_in(parts: list[bytes], index: int) -> None:
    """However it was cut into pieces."""
    frame = seal(Kind.CHUNK, _OWNER, index, parts)

    assert bytes(unseal(frame, Kind.CHUNK, _OWNER, index)) == b"".join(parts)


@given(at=st.integers(0), bit=st.integers(0, 7))
@settings(max_examples=200)
def test_a_flipped_bit_is_seen(at: int, bit: int) -> None:
    """Wherever it is."""
    frame = bytearray(seal(Kind.META, _OWNER, 3, [b"some content"]))
    frame[at % len(frame)] ^= 1 << bit

    with pytest.raises(DamagedError):
        unseal(bytes(frame), Kind.META, _OWNER, 3)


@pytest.mark.parametrize(
    ("kind", "owner", "index"),
    [(Kind.META, _OWNER, 3), (Kind.CHUNK, bytes(16), 3), (Kind.CHUNK, _OWNER, 2)],
)
def test_another_frame_is_not_taken(kind: Kind, owner: bytes, index: int) -> None:
    """It is whole, and of something else."""
    frame = seal(Kind.CHUNK, _OWNER, 3, [b"content"])

    with pytest.raises(DamagedError, match="that was asked for"):
        unseal(frame, kind, owner, index)


@pytest.mark.parametrize("frame", [None, "text", 7, b"", b"pc", [b"x"]])
def test_what_is_no_frame_is_damaged(frame: object) -> None:
    """Redis may answer anything."""
    with pytest.raises(DamagedError):
        unseal(frame, Kind.CHUNK, _OWNER, 0)


def test_every_shorter_frame_is_damaged() -> None:
    """And every longer one."""
    frame = seal(Kind.CHUNK, _OWNER, 0, [b"content"])
    for size in range(len(frame)):
        with pytest.raises(DamagedError):
            unseal(frame[:size], Kind.CHUNK, _OWNER, 0)
    with pytest.raises(DamagedError):
        unseal(frame + b"x", Kind.CHUNK, _OWNER, 0)


def test_a_shape_tells_how_many_chunks_there_are() -> None:
    """None if the body is with the meta."""
    assert Shape(_OWNER, 0, 0).chunks == 0
    assert Shape(_OWNER, 100, 0).chunks == 0
    assert Shape(_OWNER, 100, 50).chunks == 2
    assert Shape(_OWNER, 101, 50).chunks == 3
    shape = Shape(_OWNER, 2**40, 1 << 17)
    assert Shape.from_bytes(memoryview(shape.to_bytes())) == shape
    with pytest.raises(DamagedError):
        Shape.from_bytes(memoryview(b"short"))


# --------------------------------------------------------------------------- names


def test_the_keys_of_an_object_are_in_one_slot() -> None:
    """The hash of the cache key is their hash tag, and the prefix comes first."""
    names = Names("site", tag_slots=1).of(_OWNER)

    assert names.head == f"site:{{{_OWNER.hex()}}}:h"
    assert names.writers == f"site:{{{_OWNER.hex()}}}:w"
    assert names.body(b"\1" * 16) == f"site:{{{_OWNER.hex()}}}:b:{'01' * 16}"


@pytest.mark.parametrize("prefix", ["", "a{b", "a}b", "x" * 201])
def test_a_bad_prefix_is_misuse(prefix: str) -> None:
    """Braces would put keys of one object into several slots of a cluster."""
    with pytest.raises(ValueError, match="no braces"):
        Names(prefix, tag_slots=1)


def test_tags_spread_over_slots() -> None:
    """Each has one slot, whichever others are asked for, and may be any bytes."""
    tags = [b"tag-%d" % number for number in range(40)] + [b"{x}", b"\0", b"tag-1"]
    one, many = Names("p", tag_slots=1), Names("p", tag_slots=4)

    assert one.tags_by_slot(tags) == [tags[:-1]]
    assert one.tag(b"{x}") == b"p:{tags-0}:{x}"
    groups = many.tags_by_slot(tags)
    assert len(groups) == 4
    assert sorted(tag for group in groups for tag in group) == sorted(set(tags))
    for group in groups:
        assert len({many.tag(tag).split(b":")[1] for tag in group}) == 1
    assert one.tags_by_slot([]) == []
    with pytest.raises(ValueError, match="at least 1 slot"):
        Names("p", tag_slots=0)


# ---------------------------------------------------------------------------- tags


@given(st.dictionaries(st.binary(max_size=20), st.binary(max_size=20), max_size=5))
@settings(max_examples=50)
def test_generations_survive_the_way(generations: dict[bytes, bytes]) -> None:
    """Whatever the tags are."""
    assert unpack(memoryview(pack(generations))) == generations


@given(st.binary(max_size=30))
@settings(max_examples=100)
def test_generations_that_are_cut_are_damaged(data: bytes) -> None:
    """Or some others; but nothing else happens."""
    try:
        generations = unpack(memoryview(data))
    except DamagedError:
        return
    assert len(pack(generations)) <= len(data)


@pytest.mark.parametrize(
    ("current", "expired_at"),
    [
        ({b"a": b"1:", b"b": b"2:"}, math.inf),
        ({b"a": None, b"b": b"2:"}, None),
        ({b"b": b"2:"}, None),
        ({b"a": b"9:", b"b": b"2:"}, None),
        ({b"a": b"1:500.5:n", b"b": b"2:"}, 500.5),
        ({b"a": b"1:500.5:n", b"b": b"2:400.0:n"}, 400.0),
        ({b"a": b"1:500.5:n", b"b": b"3:400.0:n"}, None),
        ({b"a": b"1:nan:n", b"b": b"2:"}, None),
        ({b"a": b"1:x", b"b": b"2:"}, None),
    ],
)
def test_what_has_happened_to_an_object(
    current: dict[bytes, bytes | None], expired_at: float | None
) -> None:
    """A tag that was born again, is gone or makes no sense has purged it; others may expire it."""
    assert compare({b"a": b"1:", b"b": b"2:"}, current) == expired_at


def test_an_object_written_after_a_soft_purge_is_not_expired_by_it() -> None:
    """It keeps what was there when its write began."""
    assert compare({b"a": b"1:500.5:n"}, {b"a": b"1:500.5:n"}) == math.inf
    assert compare({b"a": b"1:500.5:n"}, {b"a": b"1:500.5:m"}) == 500.5


# --------------------------------------------------------------------------- the rest


def test_a_budget_is_kept() -> None:
    """What does not fit is not taken."""
    budget = Budget(100)

    assert budget.take(60)
    assert not budget.take(41)
    assert budget.take(40)
    budget.give(60)
    assert budget.taken == 40


def test_numbers_that_make_no_sense_are_misuse() -> None:
    """Each is refused in one line."""
    for bad in (
        {"chunk_size": 0, "inline_size": 0},
        {"chunk_size": 100, "inline_size": 101},
        {"chunk_size": 2**30},
        {"inline_size": -1},
        {"max_buffered": 1},
    ):
        with pytest.raises(ValueError, match="piece"):
            RedisTuning(**bad)
    for keep, longest in ((-1.0, 1.0), (math.inf, 1.0), (0.0, 0.0), (0.0, math.inf)):
        with pytest.raises(ValueError, match="kept"):
            RedisTuning(keep=keep, max_lifetime=longest)
    for grace, lifetime in ((0.0, 1.0), (1.0, math.nan)):
        with pytest.raises(ValueError, match="some seconds"):
            RedisTuning(reader_grace=grace, write_lifetime=lifetime)
