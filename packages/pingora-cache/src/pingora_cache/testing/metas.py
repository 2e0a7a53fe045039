"""Tests of metas: they come back whole, and are replaced without touching the body."""

from __future__ import annotations

import time

from pingora_cache.meta import CacheMeta
from pingora_cache.testing.harness import Harness, make_body, make_key, make_meta
from pingora_http import ResponseHeader

__all__ = ["MetaTests"]


class MetaTests(Harness):
    """Metas."""

    async def test_a_meta_comes_back_whole(self) -> None:
        """Every field of a meta is kept: repeated fields, their case and order, any byte."""
        now = time.time()
        fields: list[tuple[str | bytes, str | bytes]] = [
            ("X-Case", "1"),
            ("x-case", "2"),
            ("Set-Cookie", "a=b"),
            ("Set-Cookie", "c=d"),
            ("X-Raw", b"\xe4\xff"),
            ("X-Empty", ""),
        ]
        meta = CacheMeta(
            ResponseHeader(404, headers=fields, reason="Gone fishing"),
            created=now - 10,
            updated=now - 5,
            fresh_until=now + 7,
            stale_while_revalidate=11,
            stale_if_error=13,
            variance=b"v" * 16,
            epoch_override=now - 20,
            tags=(b"a", b"\xff\0 b"),
        )
        async with self.storage() as storage:
            await self.write(storage, b"x", meta=meta)
            found, reader = await self.find(storage)
            reader.close()

        assert found.header == meta.header
        assert found.header.reason == "Gone fishing"
        for name in ("created", "updated", "fresh_until", "epoch"):
            assert abs(getattr(found, name) - getattr(meta, name)) < 1e-5
        assert found.stale_while_revalidate == 11
        assert found.stale_if_error == 13
        assert found.variance == b"v" * 16
        assert found.tags == (b"a", b"\xff\0 b")

    async def test_extensions_are_not_kept(self) -> None:
        """What somebody hung on a meta is not seen by those who find the object."""
        async with self.storage() as storage:
            meta = make_meta()
            meta.extensions["secret"] = object()
            writer = await self.begin(storage, meta=meta)
            await writer.write_body(b"x", end=False)
            if storage.supports_streaming_partial_write:
                found, reader = await self.find(storage)
                reader.close()
                assert "secret" not in found.extensions
            await writer.finish()
            found, reader = await self.find(storage)
            reader.close()

            assert "secret" not in found.extensions

    async def test_an_expired_object_is_found(self) -> None:
        """Freshness is the caller's business."""
        async with self.storage() as storage:
            await self.write(storage, b"old", meta=make_meta(fresh=-1000.0))
            found, reader = await self.find(storage)

            assert await self.drain(reader) == b"old"
            assert not found.is_fresh(time.time())

    async def test_a_meta_is_replaced(self) -> None:
        """The next lookup finds the new meta, with the body that was there."""
        async with self.storage() as storage:
            body = make_body("kept", 300_000)
            await self.write(storage, body, meta=make_meta("one", fresh=-10.0))
            old, early = await self.find(storage)
            meta = make_meta("two", created=old.created)

            assert await storage.update_meta(make_key(), meta)
            new, late = await self.find(storage)
            assert new.header == meta.header
            assert new.is_fresh(time.time())
            assert abs(new.created - old.created) < 1e-6
            assert await self.drain(late) == body
            assert await self.drain(early) == body

    async def test_a_meta_of_nothing_is_not_kept(self) -> None:
        """There is no object without a body."""
        async with self.storage() as storage:
            assert not await storage.update_meta(make_key(), make_meta())
            assert await storage.lookup(make_key()) is None

    async def test_a_meta_does_not_get_a_body_that_is_not_its_own(self) -> None:
        """A meta confirmed for an object that was replaced meanwhile changes nothing."""
        async with self.storage() as storage:
            born = time.time()
            await self.write(storage, b"one", meta=make_meta("one", created=born - 5))
            old, reader = await self.find(storage)
            reader.close()
            await self.write(storage, b"two", meta=make_meta("two", created=born))

            late = make_meta("one, confirmed", created=old.created)
            assert not await storage.update_meta(make_key(), late)
            found, reader = await self.find(storage)
            assert found.header.get("etag") == '"two"'
            assert await self.drain(reader) == b"two"

    async def test_a_meta_is_replaced_while_a_write_goes_on(self) -> None:
        """Only the finished object is meant."""
        async with self.storage() as storage:
            await self.write(storage, b"one", meta=make_meta("one"))
            old, reader = await self.find(storage)
            reader.close()
            writer = await self.begin(storage, meta=make_meta("two", created=old.created + 1))

            assert await storage.update_meta(make_key(), make_meta("1b", created=old.created))
            await writer.write_body(b"two", end=True)
            await writer.finish()
            found, reader = await self.find(storage)
            assert found.header.get("etag") == '"two"'
            assert await self.drain(reader) == b"two"
