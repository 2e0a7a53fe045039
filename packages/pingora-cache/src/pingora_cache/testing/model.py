"""Tests by chance: long random histories, compared step by step with a model that is plainly right."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pingora_cache.storage import PurgeAction
from pingora_cache.testing.harness import Harness, make_body, make_key, make_meta
from pingora_cache.testing.waiting import soon
from pingora_error import Error

if TYPE_CHECKING:
    from pingora_cache.key import CacheKey
    from pingora_cache.storage import HitHandler, MissHandler, Storage

__all__ = ["ModelTests"]

_TAGS = [b"red", b"green", b"blue"]
_STEPS = 250
_SIZES = [0, 1, 100, 5_000, 70_000, 300_000]


@dataclass(eq=False)
class _Object:
    """What the model knows about an object, or a write that becomes one."""

    name: str
    key: CacheKey
    tags: list[bytes]
    fresh: bool
    body: bytes = b""
    writer: MissHandler | None = None
    deleted: bool = False
    failed: bool = False


@dataclass(eq=False)
class _Reader:
    handler: HitHandler
    source: _Object
    position: int = 0


@dataclass(eq=False)
class _History:
    """One random history of a store, and what the model makes of it."""

    storage: Storage
    chance: random.Random
    streams: bool
    has_tags: bool
    tells_purges: bool
    keys: list[CacheKey] = field(default_factory=lambda: [make_key(str(n)) for n in range(4)])
    objects: dict[str, _Object] = field(default_factory=dict)
    writes: list[_Object] = field(default_factory=list)
    readers: list[_Reader] = field(default_factory=list)
    count: int = 0

    async def step(self) -> None:
        """Do one thing, and check what comes of it."""
        doing = self.chance.choices(
            (
                self.begin,
                self.write,
                self.finish,
                self.give_up,
                self.look,
                self.read,
                self.stop,
                self.purge,
                self.purge_tag,
                self.confirm,
            ),
            weights=(4, 10, 4, 1, 6, 12, 2, 1, 1, 2),
        )[0]
        await doing()

    async def begin(self) -> None:
        """Begin a write."""
        if len(self.writes) > 6:
            return
        self.count += 1
        key = self.chance.choice(self.keys)
        tags = self.chance.sample(_TAGS, self.chance.randrange(3)) if self.has_tags else []
        fresh = self.chance.random() < 0.6
        written = _Object(str(self.count), key, tags, fresh)
        meta = make_meta(written.name, fresh=3600.0 if fresh else -5.0, tags=tags)
        written.writer = await soon(self.storage.get_miss_handler(key, meta))
        self.writes.append(written)

    async def write(self) -> None:
        """Add to a write."""
        if self.writes:
            written = self.chance.choice(self.writes)
            data = make_body((written.name, len(written.body)), self.chance.choice(_SIZES))
            assert written.writer is not None
            await soon(written.writer.write_body(data, end=False))
            written.body += data

    async def finish(self) -> None:
        """Finish a write."""
        if self.writes:
            written = self.writes.pop(self.chance.randrange(len(self.writes)))
            assert written.writer is not None
            finished = await soon(written.writer.finish())
            written.writer = None
            assert finished.published is not written.deleted
            if finished.published:
                self.objects[written.key.hex] = written

    async def give_up(self) -> None:
        """Abort a write."""
        if self.writes:
            written = self.writes.pop(self.chance.randrange(len(self.writes)))
            assert written.writer is not None
            await soon(written.writer.abort())
            written.writer = None
            written.failed = True

    def expected(self, key: CacheKey) -> _Object | None:
        """Tell what a lookup has to find.

        Args:
            key: The key.

        Returns:
            The object or write; None for nothing.
        """
        finished = self.objects.get(key.hex)
        if self.streams and (finished is None or not finished.fresh):
            for written in reversed(self.writes):
                if written.key == key and not written.deleted:
                    return written
        return finished

    async def look(self) -> None:
        """Look up a key."""
        key = self.chance.choice(self.keys)
        found = await soon(self.storage.lookup(key))
        expected = self.expected(key)
        assert (found is None) == (expected is None)
        if found is None or expected is None:
            return
        meta, handler = found
        assert meta.header.get("etag") == f'"{expected.name}"'
        assert meta.is_fresh(time.time()) == expected.fresh
        assert handler.is_partial == (expected in self.writes)
        self.readers.append(_Reader(handler, expected))

    async def read(self) -> None:
        """Read a piece."""
        if not self.readers:
            return
        reader = self.chance.choice(self.readers)
        source = reader.source
        if source.failed:
            # What was written before may come first.
            try:
                piece = await soon(reader.handler.read_body())
            except Error:
                return
            assert piece
        elif reader.position == len(source.body):
            if source.writer is None:
                assert await soon(reader.handler.read_body()) is None
            return
        else:
            piece = await soon(reader.handler.read_body())
            assert piece
        assert source.body[reader.position : reader.position + len(piece)] == piece
        reader.position += len(piece)

    async def stop(self) -> None:
        """Stop reading."""
        if self.readers:
            reader = self.readers.pop(self.chance.randrange(len(self.readers)))
            await soon(reader.handler.finish())

    def _apply(self, known: _Object, action: PurgeAction) -> None:
        match action:
            case PurgeAction.DELETE:
                known.deleted = True
                if self.objects.get(known.key.hex) is known:
                    del self.objects[known.key.hex]
            case PurgeAction.EXPIRE:
                known.fresh = False

    def _all(self) -> list[_Object]:
        return [*self.objects.values(), *(each for each in self.writes if not each.deleted)]

    async def purge(self) -> None:
        """Purge a key."""
        key = self.chance.choice(self.keys)
        action = self.chance.choice(list(PurgeAction))
        result = await soon(self.storage.purge(key.to_compact(), action=action))
        met = [known for known in self._all() if known.key == key]
        if self.tells_purges and (self.streams or not self.writes):
            assert bool(result) == bool(met)
        elif self.streams or not self.writes:
            assert result or not met
        for known in met:
            self._apply(known, action)

    async def purge_tag(self) -> None:
        """Purge a tag."""
        if not self.has_tags:
            return
        tag = self.chance.choice(_TAGS)
        action = self.chance.choice(list(PurgeAction))
        await soon(self.storage.purge_tag(tag, action=action))
        for known in [known for known in self._all() if tag in known.tags]:
            self._apply(known, action)

    async def confirm(self) -> None:
        """Replace the meta of an object, as a revalidation does."""
        key = self.chance.choice(self.keys)
        known = self.objects.get(key.hex)
        found = await soon(self.storage.lookup(key))
        if known is None or found is None:
            return
        meta, handler = found
        handler.close()
        if handler.is_partial:
            return
        self.count += 1
        known.tags = self.chance.sample(_TAGS, self.chance.randrange(3)) if self.has_tags else []
        confirmed = make_meta(self.count, created=meta.created, tags=known.tags)
        confirmed = confirmed.replace(updated=time.time())
        assert await soon(self.storage.update_meta(key, confirmed))
        known.name = str(self.count)
        known.fresh = True

    async def end(self) -> None:
        """Read and finish what is left."""
        while self.writes:
            await self.finish()
        for reader in self.readers:
            if not reader.source.failed:
                body = reader.source.body[reader.position :]
                while body:
                    piece = await soon(reader.handler.read_body())
                    assert piece
                    assert body.startswith(piece)
                    body = body[len(piece) :]
                assert await soon(reader.handler.read_body()) is None
            reader.handler.close()


class ModelTests(Harness):
    """Random histories."""

    async def test_random_histories(self) -> None:
        """Whatever is done in whatever order, the store and the model agree after each step.

        Raises:
            AssertionError: If they do not, with a note that tells the seed.
        """
        for seed in range(6):
            async with self.storage() as storage:
                history = _History(
                    storage,
                    random.Random(seed),  # noqa: S311  # the same in each run
                    storage.supports_streaming_partial_write,
                    self.has_tags,
                    self.tells_purges,
                )
                try:
                    for _ in range(_STEPS):
                        await history.step()
                    await history.end()
                except AssertionError as error:
                    error.add_note(f"in the history of seed {seed}")
                    raise

    async def test_many_at_once(self) -> None:
        """Readers, writers and purges of a few keys at the same time: each body read is whole."""
        async with self.storage() as storage:
            keys = [make_key(str(number)) for number in range(3)]
            workers = [self._work(storage, keys, random.Random(seed)) for seed in range(16)]  # noqa: S311
            read = await asyncio.wait_for(asyncio.gather(*workers), 50.0)

            assert sum(read) > 20

    async def _work(self, storage: Storage, keys: list[CacheKey], chance: random.Random) -> int:
        read = 0
        for turn in range(25):
            key = chance.choice(keys)
            match chance.randrange(8):
                case 0 | 1:
                    await self._fill(storage, key, chance, f"{id(chance)} {turn}")
                case 2:
                    await soon(
                        storage.purge(key.to_compact(), action=chance.choice([*PurgeAction]))
                    )
                case _:
                    read += await self._check(storage, key, chance)
        return read

    async def _fill(
        self, storage: Storage, key: CacheKey, chance: random.Random, name: str
    ) -> None:
        # The meta tells what the body has to be.
        size = chance.choice(_SIZES)
        meta = make_meta(f"{name}/{size}", fresh=chance.choice([-5.0, 3600.0]))
        body = make_body(name, size)
        writer = await self.begin(storage, key=key, meta=meta)
        try:
            for start in range(0, size, 20_000):
                await soon(writer.write_body(body[start : start + 20_000], end=False))
                await asyncio.sleep(0)
                if chance.random() < 0.02:
                    return
            await soon(writer.finish())
        finally:
            writer.close()

    async def _check(self, storage: Storage, key: CacheKey, chance: random.Random) -> int:
        found = await soon(storage.lookup(key))
        if found is None:
            return 0
        meta, reader = found
        name, _, size = (meta.header.get("etag") or "").strip('"').partition("/")
        try:
            body = b""
            while (piece := await soon(reader.read_body())) is not None:
                body += piece
                if chance.random() < 0.1:
                    await asyncio.sleep(0.001)
        except Error:
            # Of a write that was given up; an end would have been wrong.
            assert reader.is_partial
            return 0
        finally:
            reader.close()
        assert body == make_body(name, int(size))
        return 1
