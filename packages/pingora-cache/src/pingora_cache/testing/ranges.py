"""Tests of ranges: each is the slice of the body that it says, whatever was read before."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from pingora_cache.testing.harness import Harness, make_body
from pingora_cache.testing.waiting import misused, raises, soon
from pingora_error import Error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pingora_cache.storage import HitHandler

__all__ = ["RangeTests"]

_LARGE = 1_300_007


async def _rest(reader: HitHandler) -> bytes:
    body = bytearray()
    while (piece := await soon(reader.read_body())) is not None:
        assert piece
        body += piece
    return bytes(body)


class RangeTests(Harness):
    """Seeking."""

    @asynccontextmanager
    async def reading(self, body: bytes) -> AsyncIterator[HitHandler]:
        """Write a body and begin to read it, or skip the test.

        Args:
            body: The body.

        Yields:
            A reader that can seek.
        """
        async with self.storage() as storage:
            await self.write(storage, body)
            _, reader = await self.find(storage)
            try:
                self.need(reader.can_seek, "ranges")
                yield reader
            finally:
                reader.close()

    async def test_every_range_of_a_small_body(self) -> None:
        """Every range there is, with and without an end, with one that is beyond the body."""
        body = b"0123456789"
        async with self.storage() as storage:
            await self.write(storage, body, chunk=3)
            for start in range(len(body)):
                for end in [None, *range(start + 1, len(body) + 3)]:
                    _, reader = await self.find(storage)
                    self.need(reader.can_seek, "ranges")
                    reader.seek(start, end)
                    assert await self.drain(reader) == body[start:end]

    async def test_ranges_of_a_large_body(self) -> None:
        """Ranges in any order: random ones, and those that begin and end where pieces may."""
        chance = random.Random(1)  # noqa: S311  # the same ones in each run
        body = make_body("ranges", _LARGE)
        borders = [at + more for at in range(0, _LARGE, 1 << 16) for more in (-1, 0, 1)]
        async with self.reading(body) as reader:
            self.need(reader.can_seek_multipart, "several ranges")
            for turn in range(120):
                points = [chance.choice(borders), chance.randrange(_LARGE)] * (1 + turn % 2)
                start, end = sorted(max(point, 0) for point in chance.sample(points, 2))
                reader.seek(start, end + 1)
                assert await _rest(reader) == body[start : end + 1]

    async def test_a_range_of_one_byte(self) -> None:
        """The first, the last, and one between."""
        body = make_body("one", 600_000)
        async with self.reading(body) as reader:
            self.need(reader.can_seek_multipart, "several ranges")
            for start in (0, 299_999, 599_999):
                reader.seek(start, start + 1)
                assert await _rest(reader) == body[start : start + 1]

    async def test_a_range_without_end_goes_to_the_end(self) -> None:
        """The end of an earlier range is forgotten."""
        body = b"test1test2"
        async with self.reading(body) as reader:
            self.need(reader.can_seek_multipart, "several ranges")
            reader.seek(0, 4)
            assert await _rest(reader) == b"test"
            reader.seek(5)
            assert await _rest(reader) == b"test2"
            reader.seek(4, 5)
            assert await _rest(reader) == b"1"
            reader.seek(0)
            assert await _rest(reader) == body

    async def test_seeking_in_the_middle_of_reading(self) -> None:
        """What was read before plays no part, and the end of a range is an end."""
        body = make_body("middle", 900_000)
        async with self.reading(body) as reader:
            self.need(reader.can_seek_multipart, "several ranges")
            assert await soon(reader.read_body())
            reader.seek(100_000, 400_000)
            assert await soon(reader.read_body())
            reader.seek(50, 700_000)
            assert await _rest(reader) == body[50:700_000]
            assert await soon(reader.read_body()) is None

    async def test_beyond_the_end(self) -> None:
        """A range that begins at the end or behind it is refused; what is read stays readable."""
        async with self.reading(b"12345") as reader:
            for start in (5, 6, 10_000):
                raises(Error, partial(reader.seek, start))
                raises(Error, partial(reader.seek, start, start + 1))
            reader.seek(4, 10_000)
            assert await _rest(reader) == b"5"

    async def test_nothing_is_inside_an_empty_body(self) -> None:
        """Not even its beginning."""
        async with self.reading(b"") as reader:
            raises(Error, partial(reader.seek, 0))
            assert await _rest(reader) == b""

    async def test_what_is_no_range(self) -> None:
        """A negative start and an end that is not behind the start are wrong use."""
        async with self.reading(b"12345") as reader:
            raises(ValueError, partial(reader.seek, -1))
            raises(ValueError, partial(reader.seek, 2, 2))
            raises(ValueError, partial(reader.seek, 2, 1))
            assert await _rest(reader) == b"12345"

    async def test_seeking_after_closing(self) -> None:
        """It is wrong use."""
        async with self.reading(b"12345") as reader:
            reader.close()
            raises(RuntimeError, partial(reader.seek, 0))
            await misused(reader.read_body())

    async def test_a_range_while_the_object_is_replaced(self) -> None:
        """Ranges are cut out of the object that the reader began with."""
        bodies = [make_body(name, 700_000) for name in range(2)]
        async with self.storage() as storage:
            await self.write(storage, bodies[0])
            _, reader = await self.find(storage)
            self.need(reader.can_seek, "ranges")
            await self.write(storage, bodies[1])
            reader.seek(10, 600_000)
            assert await self.drain(reader) == bodies[0][10:600_000]

    async def test_what_cannot_seek_says_so(self) -> None:
        """A reader that cannot seek does not pretend to."""
        async with self.storage() as storage:
            writer = await self.begin(storage)
            await writer.write_body(b"12345", end=False)
            if storage.supports_streaming_partial_write:
                _, reader = await self.find(storage)
                if not reader.can_seek:
                    raises(RuntimeError, partial(reader.seek, 0))
                reader.close()
            await writer.abort()
