"""What a two-level store remembers while something is under way."""

from __future__ import annotations

import asyncio

from pingora_cache._tiered_marks import Marks, Recent, Turns


def test_marks() -> None:
    """A mark hears of its key, of its tags, and of any tag as long as it has none of its own."""
    marks = Marks()
    new = marks.set(b"k", frozenset([b"a"]), is_copy=False)
    copy = marks.set(b"k", None, is_copy=True)
    marks.purge(b"other", None)
    marks.purge_tag(b"b", 7.0)
    assert (new.is_void, new.expired_at, copy.is_void) == (False, None, True)
    marks.supersede(b"k")
    marks.purge(b"k", None, copies_only=True)
    marks.purge_tag(b"a", 7.0)
    marks.purge(b"k", 8.0)
    assert (new.is_void, new.expired_at) == (False, 7.0)
    marks.purge(b"k", None)
    assert [new.is_void, copy.is_void] == [True, True]
    for _ in range(2):
        marks.remove(new)
        marks.remove(copy)
    assert len(marks) == 0


async def test_turns() -> None:
    """One at a time for a key, and nothing is kept of it afterwards."""
    turns = Turns()
    order: list[int] = []

    async def take(number: int) -> None:
        async with turns.take(b"k"):
            order.append(number)
            await asyncio.sleep(0)
            order.append(number)

    tasks = [asyncio.create_task(take(number)) for number in range(4)]
    await asyncio.sleep(0)
    assert turns.is_taken(b"k")
    tasks[2].cancel()
    await asyncio.wait(tasks)
    assert order == [0, 0, 1, 1, 3, 3]
    assert not turns.is_taken(b"k")


def test_recent() -> None:
    """The oldest notes make way."""
    recent = Recent(2)
    for number, key in enumerate((b"a", b"b", b"a", b"c")):
        recent.note(key, number)
    assert [recent.get(key) for key in (b"a", b"b", b"c")] == [2, None, 3]
    recent.forget(b"a")
    recent.forget(b"a")
    assert recent.get(b"a") is None
