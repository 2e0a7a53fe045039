"""Tests of writes that fail: nothing of them is ever found."""

from __future__ import annotations

import asyncio
import gc
import warnings
from typing import TYPE_CHECKING

from pingora_cache.storage import RESPONSE_TOO_LARGE
from pingora_cache.testing.harness import Harness, StorageOptions, make_body, make_key
from pingora_cache.testing.waiting import misused, settled, soon

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from pingora_cache.storage import MissHandler, Storage

__all__ = ["FailingTests", "ways_to_die"]


async def _abort(writer: MissHandler) -> None:
    await soon(writer.abort())


async def _close(writer: MissHandler) -> None:
    writer.close()


async def _abort_twice(writer: MissHandler) -> None:
    writer.close()
    await soon(writer.abort())
    await soon(writer.abort())
    writer.close()


def ways_to_die() -> list[Callable[[MissHandler], Awaitable[None]]]:
    """List how a writer can give up.

    Returns:
        What does it, for each.
    """
    return [_abort, _close, _abort_twice]


class FailingTests(Harness):
    """Failed writes."""

    async def _nothing_is_left(self, storage: Storage) -> None:
        assert await soon(storage.lookup(make_key())) is None
        if self.counts:
            await settled(lambda: storage.stats.used_bytes == 0)
            assert storage.stats.objects == 0
        await self.write(storage, b"a later write is as good as ever")
        assert await self.read(storage) == b"a later write is as good as ever"

    async def test_a_write_that_is_given_up(self) -> None:
        """Nothing is found, nothing is left, and the key is as good as new."""
        for die in ways_to_die():
            for chunks in (0, 1, 40):
                async with self.storage() as storage:
                    writer = await self.begin(storage)
                    for number in range(chunks):
                        await writer.write_body(make_body(number, 20_000), end=False)
                    await die(writer)

                    await misused(writer.finish())
                    await self._nothing_is_left(storage)

    async def test_a_write_that_is_given_up_at_its_end(self) -> None:
        """A body that is complete, but was not finished, is not published."""
        async with self.storage() as storage:
            writer = await self.begin(storage)
            await writer.write_body(b"complete", end=True)
            await writer.abort()

            await self._nothing_is_left(storage)

    async def test_a_writer_that_nobody_holds(self) -> None:
        """A writer that is collected as garbage has given up."""
        with warnings.catch_warnings():
            # A store may well complain about whoever does that.
            warnings.simplefilter("ignore", ResourceWarning)
            async with self.storage() as storage:
                writer = await self.begin(storage)
                await writer.write_body(b"some", end=False)
                del writer
                gc.collect()

                await settled(lambda: storage.stats.aborted_writes == 1)
                await self._nothing_is_left(storage)

    async def test_a_writer_that_is_cancelled(self) -> None:
        """A fill whose task is cancelled, or fails otherwise, leaves nothing."""

        async def fill(storage: Storage) -> None:
            writer = await self.begin(storage)
            try:
                while True:
                    await writer.write_body(b"some", end=False)
                    await asyncio.sleep(0.001)
            finally:
                writer.close()

        async with self.storage() as storage:
            task = asyncio.create_task(fill(storage))
            await asyncio.sleep(0.02)
            task.cancel()
            await asyncio.wait([task])

            await self._nothing_is_left(storage)

    async def test_what_was_there_stays(self) -> None:
        """A write that fails takes nothing away."""
        async with self.storage() as storage:
            await self.write(storage, b"before")
            for die in ways_to_die():
                writer = await self.begin(storage)
                await writer.write_body(b"after", end=False)
                await die(writer)

                assert await self.read(storage) == b"before"

    # ------------------------------------------------------------------------------- sizes

    async def test_an_object_of_the_largest_size(self) -> None:
        """The limit itself is allowed."""
        async with self._limited(100_000) as storage:
            body = make_body("limit", 100_000)
            await self.write(storage, body, chunk=33_333)

            assert await self.read(storage) == body

    async def test_an_object_that_is_too_large(self) -> None:
        """The piece that exceeds the limit is refused, and the write is over."""
        async with self._limited(100_000) as storage:
            writer = await self.begin(storage)
            await writer.write_body(make_body("limit", 100_000), end=False)
            await self.refused(writer.write_body(b"x", end=True), RESPONSE_TOO_LARGE)
            await self.refused(writer.finish())
            writer.close()

            await self._nothing_is_left(storage)

    async def test_an_object_larger_than_the_store(self) -> None:
        """It is refused, and what is there is not thrown away for it."""
        self.need(self.bounded, "limit")
        async with self.storage(StorageOptions(max_bytes=1_000_000)) as storage:
            await self.write(storage, b"stays", key=make_key("small"))
            writer = await self.begin(storage)
            await self.refused(
                writer.write_body(make_body("large", 1_100_000), end=True), RESPONSE_TOO_LARGE
            )
            await self.refused(writer.finish())
            writer.close()

            assert await soon(storage.lookup(make_key())) is None
            assert await self.read(storage, make_key("small")) == b"stays"

    def _limited(self, size: int) -> AbstractAsyncContextManager[Storage]:
        self.need(self.limits_objects, "limit of the size of objects")
        return self.storage(StorageOptions(max_object_size=size))
