"""Small writes leave at the end of the turn, together and in order."""

from __future__ import annotations

import asyncio

from pingora_core.protocols.l4._batch import BATCH_LIMIT, WriteBatch, get_batch


class _Writer:
    """Counts its flushes, and may fail at them."""

    def __init__(self, *, fails: bool = False) -> None:
        self.flushes = 0
        self.fails = fails

    def flush_writes(self) -> None:
        self.flushes += 1
        if self.fails:
            raise RuntimeError("on purpose")


async def test_streams_are_flushed_once_at_the_end_of_the_turn() -> None:
    """Nothing happens within the turn; each turn has a flush of its own."""
    batch = WriteBatch(asyncio.get_running_loop())
    first, second = _Writer(), _Writer()

    batch.add(first)
    batch.add(second)
    within = (first.flushes, second.flushes)
    await asyncio.sleep(0)
    after = (first.flushes, second.flushes)
    batch.add(first)
    await asyncio.sleep(0)

    assert within == (0, 0)
    assert after == (1, 1)
    assert (first.flushes, second.flushes) == (2, 1)


async def test_one_failure_does_not_keep_the_others_from_being_sent() -> None:
    """It is logged, and the next stream is flushed."""
    batch = WriteBatch(asyncio.get_running_loop())
    broken, sound = _Writer(fails=True), _Writer()

    batch.add(broken)
    batch.add(sound)
    await asyncio.sleep(0)

    assert sound.flushes == 1


async def test_the_streams_of_a_loop_share_a_batch() -> None:
    """There is one per loop."""
    loop = asyncio.get_running_loop()
    batch = get_batch(loop)

    assert get_batch(loop) is batch
    assert batch.loop is loop


def test_large_writes_are_not_held_back() -> None:
    """The limit leaves room for heads and small bodies only."""
    assert 4096 <= BATCH_LIMIT <= 65536
