"""Numbered places in doubly linked lists."""

from __future__ import annotations

from collections import deque

from hypothesis import given, settings, strategies as st

from pingora_cache._slots import Slots


def front_to_back(slots: Slots, head: int = 0) -> list[int]:
    found = []
    slot = slots.next[head]
    while slot != head:
        found.append(slot)
        slot = slots.next[slot]
    return found


def back_to_front(slots: Slots, head: int = 0) -> list[int]:
    found = []
    slot = slots.previous[head]
    while slot != head:
        found.append(slot)
        slot = slots.previous[slot]
    return found


def test_insert() -> None:
    """What is pushed to either end of a list is found there, from both sides."""
    slots = Slots(1)
    assert front_to_back(slots) == back_to_front(slots) == []
    two, three, four = slots.take(2), slots.take(3), slots.take(4)

    slots.push_front(0, two)
    slots.push_front(0, three)
    slots.push_back(0, four)

    assert front_to_back(slots) == [three, two, four]
    assert back_to_front(slots) == [four, two, three]
    assert [slots.weights[slot] for slot in (two, three, four)] == [2, 3, 4]


def test_pop() -> None:
    """Places are unlinked from the back one by one, until the list is empty."""
    slots = Slots(1)
    two, three = slots.take(1), slots.take(1)
    slots.push_front(0, two)
    slots.push_front(0, three)

    popped = []
    while (slot := slots.previous[0]) != 0:
        slots.unlink(slot)
        popped.append(slot)

    assert popped == [two, three]
    assert front_to_back(slots) == []


def test_promote() -> None:
    """A place from anywhere in the list is moved to the front; the first one stays."""
    slots = Slots(1)
    two, three, four = slots.take(1), slots.take(1), slots.take(1)
    for slot in (four, two, three):
        slots.push_front(0, slot)

    slots.move_to_front(0, three)
    assert front_to_back(slots) == [three, two, four]
    slots.move_to_front(0, two)
    assert front_to_back(slots) == [two, three, four]
    slots.move_to_front(0, four)
    assert front_to_back(slots) == [four, two, three]
    assert back_to_front(slots) == [three, two, four]


def test_places_are_used_again() -> None:
    """A place that was given back is taken before there are more of them."""
    slots = Slots(2)
    first, second = slots.take(1), slots.take(1)
    memory = slots.memory

    slots.give_back(first)
    assert slots.take(7) == first
    assert slots.weights[first] == 7
    assert second != first
    assert slots.memory == memory


def test_growth() -> None:
    """Places beyond the first are all different, and none is a head."""
    slots = Slots(3)

    taken = [slots.take(1) for _ in range(1000)]

    assert len(set(taken)) == 1000
    assert min(taken) == 3


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["front", "back", "move", "drop"]), st.integers(0, 30)),
        max_size=80,
    )
)
def test_lists_are_as_deques_are(steps: list[tuple[str, int]]) -> None:
    """Two lists in one set of places keep the order that two deques keep."""
    slots = Slots(2)
    models: tuple[deque[int], deque[int]] = (deque(), deque())
    for what, number in steps:
        head = number % 2
        model = models[head]
        if what == "front":
            slot = slots.take(number)
            slots.push_front(head, slot)
            model.appendleft(slot)
        elif what == "back":
            slot = slots.take(number)
            slots.push_back(head, slot)
            model.append(slot)
        elif model:
            slot = model[number % len(model)]
            model.remove(slot)
            if what == "move":
                models[1 - head].appendleft(slot)
                slots.move_to_front(1 - head, slot)
            else:
                slots.unlink(slot)
                slots.give_back(slot)
        for each in (0, 1):
            assert front_to_back(slots, each) == list(models[each])
            assert back_to_front(slots, each) == list(reversed(models[each]))
