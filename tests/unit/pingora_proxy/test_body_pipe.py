"""The pipe between the task that fills the cache and the one that serves its client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

from pingora_cache.key import CacheKey
from pingora_cache.memory import MemoryStorage
from pingora_cache.meta import CacheMeta
from pingora_cache.storage import HitHandler
from pingora_error import Error, ErrorType
from pingora_http import ResponseHeader
from pingora_proxy._body_pipe import BodyPipe

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pingora_cache.storage import MissHandler


async def read_all(pipe: BodyPipe) -> bytes:
    pieces: list[bytes] = []
    while (piece := await pipe.read_body()) is not None:
        pieces.append(piece)
    return b"".join(pieces)


async def started(storage: MemoryStorage) -> tuple[MissHandler, HitHandler]:
    key = CacheKey("a")
    meta = CacheMeta(ResponseHeader(200), created=0.0, fresh_until=1.0)
    writer = await storage.get_miss_handler(key, meta)
    found = await storage.lookup_streaming_write(key, writer.streaming_write_tag)
    assert found is not None
    return writer, found[1]


async def test_pieces_pass() -> None:
    """What is written is read, in order, and so is the end."""
    pipe = BodyPipe()
    reader = asyncio.create_task(read_all(pipe))
    for piece in (b"a", b"bc", b"d"):
        await pipe.write(piece)
        await asyncio.sleep(0)
    pipe.end()

    assert await reader == b"abcd"
    assert await pipe.read_body() is None


async def test_an_error_comes_after_what_was_written() -> None:
    """The reader gets all there is, and then the error of the writing end."""
    pipe = BodyPipe()
    await pipe.write(b"a")
    error = Error.up(ErrorType.CONNECTION_CLOSED)
    pipe.end(error)

    assert await pipe.read_body() == b"a"
    with pytest.raises(Error) as caught:
        await pipe.read_body()
    assert caught.value is error


async def test_the_writing_end_waits_without_a_store() -> None:
    """A reader that lags behind too far holds the writing end up, until it reads on."""
    pipe = BodyPipe(max_lag=4)
    await pipe.write(b"abcd")
    writing = asyncio.create_task(pipe.write(b"ef"))
    await asyncio.sleep(0)
    assert not writing.done()
    assert await pipe.read_body() == b"abcd"
    await writing
    pipe.end()

    assert await read_all(pipe) == b"ef"


async def test_a_piece_larger_than_the_bound_passes_alone() -> None:
    """The bound never stops a body whose pieces are larger than it."""
    pipe = BodyPipe(max_lag=1)
    await pipe.write(b"abc")
    writing = asyncio.create_task(pipe.write(b"def"))

    assert await pipe.read_body() == b"abc"
    await writing
    pipe.end()
    assert await read_all(pipe) == b"def"


async def test_closing_lets_the_writing_end_go() -> None:
    """Nobody waits for a reader that has gone, and what is written then is dropped."""
    pipe = BodyPipe(max_lag=1)
    await pipe.write(b"a")
    writing = asyncio.create_task(pipe.write(b"b"))
    await asyncio.sleep(0)
    pipe.close()
    await writing
    await pipe.write(b"c")

    assert await pipe.read_body() is None


async def test_closing_lets_the_reading_end_go() -> None:
    """A read that waits ends when the pipe is closed."""
    pipe = BodyPipe()
    reader = asyncio.create_task(pipe.read_body())
    await asyncio.sleep(0)
    pipe.close()

    assert await reader is None


@given(
    st.lists(st.binary(min_size=1, max_size=9), max_size=12),
    st.lists(st.booleans(), max_size=24),
    st.integers(1, 12),
)
@settings(max_examples=40, deadline=None)
def test_a_slow_reader_goes_on_with_the_store(
    pieces: list[bytes], reads: list[bool], lag: int
) -> None:
    """However reads and writes alternate, the reader gets each byte once, and nobody waits for it."""

    async def run() -> None:
        async with MemoryStorage(1 << 20) as storage:
            writer, stored = await started(storage)
            pipe = BodyPipe(stored, max_lag=lag)
            reader = asyncio.create_task(_in_turns(pipe, iter(reads)))
            for piece in pieces:
                await writer.write_body(piece, end=False)
                async with asyncio.timeout(30):
                    await pipe.write(piece)
                await asyncio.sleep(0)
            await writer.finish()
            pipe.end()
            assert await reader == b"".join(pieces)
            pipe.close()

    asyncio.run(run())


async def _in_turns(pipe: BodyPipe, reads: Iterator[bool]) -> bytes:
    out: list[bytes] = []
    while True:
        if not next(reads, True):
            await asyncio.sleep(0)
            continue
        piece = await pipe.read_body()
        if piece is None:
            return b"".join(out)
        out.append(piece)


async def test_patience_is_for_all_of_the_body() -> None:
    """The writing end waits for a reader that is slow, but no longer altogether than it was told."""
    async with MemoryStorage(1 << 20) as storage:
        writer, stored = await started(storage)
        pipe = BodyPipe(stored, max_lag=2, patience=0.03)
        for piece in (b"ab", b"cd", b"ef"):
            await writer.write_body(piece, end=False)
        await pipe.write(b"ab")
        writing = asyncio.create_task(pipe.write(b"cd"))
        await asyncio.sleep(0)
        assert not writing.done()
        assert await pipe.read_body() == b"ab"
        await writing
        async with asyncio.timeout(30):
            await pipe.write(b"ef")  # nobody reads
        await writer.finish()
        pipe.end()

        assert [await pipe.read_body(), await pipe.read_body()] == [b"cd", b"ef"]
        assert await pipe.read_body() is None
        pipe.close()


async def left_behind(storage: MemoryStorage) -> tuple[MissHandler, BodyPipe]:
    """Start a pipe whose reader has got nothing yet, and goes on with the store."""
    writer, stored = await started(storage)
    pipe = BodyPipe(stored, max_lag=2)
    for piece in (b"ab", b"cd"):
        await writer.write_body(piece, end=False)
        await pipe.write(piece)
    return writer, pipe


async def test_a_slow_reader_comes_back_from_a_store_that_fails() -> None:
    """It reads there what there is, and the writing end waits for it from then on."""
    async with MemoryStorage(1 << 20) as storage:
        writer, pipe = await left_behind(storage)
        await writer.abort()
        pipe.drop_store()
        assert await pipe.read_body() == b"ab"
        await pipe.write(b"ef")
        writing = asyncio.create_task(pipe.write(b"gh"))
        await asyncio.sleep(0)
        assert not writing.done()
        assert [await pipe.read_body(), await pipe.read_body()] == [b"cd", b"ef"]
        await writing
        pipe.end()

        assert await read_all(pipe) == b"gh"
        pipe.close()
        assert storage.stats.used_bytes == 0


async def test_a_reader_that_hears_first_that_the_store_has_failed() -> None:
    """It waits until the writing end knows as well."""
    async with MemoryStorage(1 << 20) as storage:
        writer, pipe = await left_behind(storage)
        reading = asyncio.create_task(read_all(pipe))
        await writer.abort()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not reading.done()
        pipe.drop_store()
        await pipe.write(b"ef")
        pipe.end()

        assert await reading == b"abcdef"
        pipe.close()


async def test_a_store_that_fails_after_the_last_byte() -> None:
    """The reader has all of the body, and its end."""
    async with MemoryStorage(1 << 20) as storage:
        writer, pipe = await left_behind(storage)
        await writer.abort()
        pipe.end()

        assert await read_all(pipe) == b"abcd"
        pipe.close()


async def test_a_broken_write_is_never_taken_for_the_end() -> None:
    """Not if the writing end has failed as well, nor if it goes on and does not know."""
    error = Error.up(ErrorType.CONNECTION_CLOSED)
    async with MemoryStorage(1 << 20) as storage:
        writer, pipe = await left_behind(storage)
        await writer.write_body(b"e", end=False)
        await pipe.write(b"e")
        await writer.abort()
        await pipe.write(b"f")  # never stored
        pipe.end(error)
        with pytest.raises(Error) as failure:
            await read_all(pipe)
        assert failure.value is error
        pipe.close()

        writer, pipe = await left_behind(storage)
        reading = asyncio.create_task(read_all(pipe))
        await writer.abort()
        for _ in range(5):
            await asyncio.sleep(0)
        await pipe.write(b"ef")
        with pytest.raises(Error):
            await reading
        pipe.close()


class _Broken(HitHandler):
    """A reader that finds nothing but trouble."""

    body_size = None

    async def read_body(self) -> bytes | None:
        raise Error.internal(ErrorType.READ_ERROR)

    def close(self) -> None:
        """Nothing is held."""


async def test_a_reader_that_fails_after_all_was_written() -> None:
    """What only the store had is not left out as if the body had ended before."""
    pipe = BodyPipe(_Broken(), max_lag=4)
    for piece in (b"abcd", b"ef"):
        await pipe.write(piece)
    pipe.end()

    assert await pipe.read_body() == b"abcd"
    with pytest.raises(Error):
        await pipe.read_body()


async def test_a_reader_that_leaves_while_it_waits_for_word() -> None:
    """Closed, it gets nothing more and keeps nothing."""
    async with MemoryStorage(1 << 20) as storage:
        writer, pipe = await left_behind(storage)
        reading = asyncio.create_task(read_all(pipe))
        await writer.abort()
        for _ in range(5):
            await asyncio.sleep(0)
        pipe.close()

        assert await reading == b"abcd"
        assert storage.stats.used_bytes == 0


class Failing:
    """A pipe, and a store that fails at one of the pieces."""

    def __init__(self, storage: MemoryStorage, failing: int) -> None:
        self.storage = storage
        self.failing = failing
        self.allowed = asyncio.Semaphore(0)
        self.got: list[bytes] = []

    async def start(self) -> None:
        self.writer, stored = await started(self.storage)
        self.pipe = BodyPipe(stored, max_lag=4)

    async def read(self) -> None:
        await self.allowed.acquire()
        while (piece := await self.pipe.read_body()) is not None:
            self.got.append(piece)
            await self.allowed.acquire()

    async def fill(self, steps: Iterable[tuple[bytes, int, bool]]) -> None:
        for number, (piece, reads, yields) in enumerate(steps):
            for _ in range(reads):
                self.allowed.release()
            if number == self.failing:
                self.writer.close()
                await asyncio.sleep(0)
                self.pipe.drop_store()
            elif number < self.failing:
                await self.writer.write_body(piece, end=False)
            await self.pipe.write(piece)
            if yields:
                await asyncio.sleep(0)
        self.pipe.end()


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(st.binary(min_size=1, max_size=6), st.integers(0, 3), st.booleans()),
        min_size=1,
        max_size=25,
    ),
    st.integers(0, 25),
    st.integers(1, 12),
)
def test_a_slow_reader_gets_all_whenever_the_store_fails(
    steps: list[tuple[bytes, int, bool]], failing: int, pace: int
) -> None:
    """In order, each byte once, however its reads fall between the writes."""

    async def run() -> bytes:
        async with MemoryStorage(1 << 20) as storage:
            both = Failing(storage, failing)
            await both.start()
            reading = asyncio.create_task(both.read())
            filling = asyncio.create_task(both.fill(steps))
            while not reading.done():
                for _ in range(pace):
                    await asyncio.sleep(0)
                both.allowed.release()
                if filling.done():
                    await both.writer.abort()
            await asyncio.gather(reading, filling)
            both.pipe.close()
            return b"".join(both.got)

    assert asyncio.run(run()) == b"".join(piece for piece, _, _ in steps)


async def test_it_cannot_seek() -> None:
    """A pipe passes by once, and its length is not known."""
    pipe = BodyPipe()

    assert (pipe.can_seek, pipe.body_size, pipe.is_partial) == (False, None, True)
    with pytest.raises(RuntimeError):
        pipe.seek(1)
