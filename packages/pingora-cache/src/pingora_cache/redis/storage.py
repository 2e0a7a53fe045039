"""A store that many machines share: Redis or Valkey.

Theory of operation
-------------------
An object is a *head* (its meta, and its body if that is small) and, if its body is large, a *body*:
a Redis hash of pieces that belongs to one write and is never changed again. A write sends its pieces
under a number of its own; a script then makes the head point to it, in one step. So a lookup finds
a whole object or none, and a reader, which holds the number, gets the pieces of that very write.
What an overwrite or a purge leaves behind remains for those who read it, for a while.

- *Trust nothing.* Every piece says which it is, and proves it (``_frames``). What is missing (evicted
  by Redis) or damaged is an ``Error`` for the reader and a miss for the next lookup. A lookup counts
  the pieces of a body before it says that there is one.
- *Purges meet writes.* A write announces itself before it begins, and is published only if its
  announcement is still there; a purge takes that away. Tags have generations (``_tags``).
- *Everything expires.* Objects when they can neither be served nor revalidated, bodies that are being
  written when nobody goes on with them: a process that dies leaves nothing for long.
- *Nobody waits for long.* Each call has ``timeout`` seconds, however many questions it asks; while
  Redis is away calls fail at once (``_link``).

``lookup`` raises an ``Error`` when Redis is away; the cache takes that for a miss. The client does not
hear of objects that Redis evicts, nor of what others store: ``stats`` count what happened in this
process, and ``used_bytes`` and ``objects`` stay 0.

Objects that are still being written cannot be read: a lock in front of it, or a memory store
(``TieredStorage``), serves those who come at the same time.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING, Final, final

from pingora_cache.redis._connecting import connect
from pingora_cache.redis._frames import Kind, seal
from pingora_cache.redis._heads import Heads, remember, remembered
from pingora_cache.redis._link import REDIS_REFUSED, Link
from pingora_cache.redis._names import Names
from pingora_cache.redis._reader import ChunkedHit, InlineHit
from pingora_cache.redis._scripts import EXPIRE, EXPIRE_TAG, PURGE, UPDATE
from pingora_cache.redis._shared import OVERHEAD, RedisTuning, Shared
from pingora_cache.redis._tags import compare, pack
from pingora_cache.redis._writer import Head, RedisMissHandler
from pingora_cache.stats import StorageStats
from pingora_cache.storage import PurgeAction, PurgeKind, PurgeResult, Storage
from pingora_error import Error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from redis.asyncio import Redis

    from pingora_cache.key import CacheKey, CompactCacheKey
    from pingora_cache.meta import CacheMeta
    from pingora_cache.meta_codec import MetaCodec
    from pingora_cache.redis._link import RedisClient
    from pingora_cache.redis._scripts import Script
    from pingora_cache.storage import HitHandler, MissHandler

__all__ = ["RedisStorage"]

# Generations of tags live longer than what they belong to by this many seconds: writes take time.
_TAG_MARGIN: Final = 3600.0


@final
class RedisStorage(Storage):
    """Keeps responses in Redis or Valkey, for all processes that use the same prefix.

    Args:
        client: Where Redis is (``redis://``, ``rediss://``, ``unix://``), or a client of
            redis-py, also one for a cluster, that does not decode answers. A client that is given
            is closed by whoever made it.
        prefix: What all keys in Redis begin with.
        timeout: Seconds that a call waits for Redis at most.
        max_object_size: Bytes of the largest body that is stored; None for any.
        tuning: Further numbers.
        codec: Makes metas smaller; None to keep them as they are. It has to be the same, with the
            same dictionary, in all processes that share the cache.
        clock: Seconds since the epoch.
        monotonic: Seconds that only grow.

    Raises:
        ValueError: If the prefix or a number is out of range.
    """

    __slots__ = (
        "_clock",
        "_codec",
        "_heads",
        "_link",
        "_names",
        "_own_client",
        "_shared",
        "_tuning",
    )

    def __init__(
        self,
        client: RedisClient | str,
        *,
        prefix: str = "pingora-cache",
        timeout: float = 0.2,
        max_object_size: int | None = 64 * 1024 * 1024,
        tuning: RedisTuning | None = None,
        codec: MetaCodec | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tuning = tuning or RedisTuning()
        self._names = Names(prefix, tag_slots=self._tuning.tag_slots)
        self._own_client: Redis | None = None
        if isinstance(client, str):
            # Our own deadline comes first.
            client = self._own_client = connect(client, timeout=4 * timeout)
        self._link = Link(
            client,
            timeout=timeout,
            max_commands=self._tuning.max_commands,
            name=prefix,
            clock=monotonic,
        )
        self._shared = Shared(
            self._link,
            self._tuning,
            StorageStats(),
            max_object_size=max_object_size,
            clock=monotonic,
        )
        self._codec = codec
        self._heads = Heads(self._shared, self._names, codec)
        self._clock = clock

    async def close(self) -> None:
        """Let go of Redis; nothing on the second call. What is being written is given up."""
        await self._link.close()
        client, self._own_client = self._own_client, None
        if client is not None:
            closing = asyncio.ensure_future(client.aclose())
            await asyncio.wait([closing], timeout=self._link.timeout)

    @property
    def stats(self) -> StorageStats:
        """What has happened in this process so far."""
        return self._shared.stats

    @property
    def prefix(self) -> str:
        """What all keys in Redis begin with."""
        return self._names.prefix

    @property
    def is_away(self) -> bool:
        """Whether Redis has failed since it last answered."""
        return self._link.is_away

    # ------------------------------------------------------------------------- reading

    async def lookup(self, key: CacheKey) -> tuple[CacheMeta, HitHandler] | None:
        """Find the object of a key: one round trip, two if it has tags.

        Args:
            key: The key.

        Returns:
            Its meta, and a reader; None if there is nothing.

        Raises:
            Error: If Redis does not answer in time, or did not shortly before.
        """
        key_hash = key.combined_hash
        try:
            found = await self._heads.find(key_hash, self._deadline())
        except Error as error:
            self._shared.count(error)
            raise
        if found is None:
            self.stats.misses += 1
            return None
        self.stats.hits += 1
        remember(found.meta, found.seen)
        weight = found.shape.size + found.meta.size + OVERHEAD
        if found.body is not None:
            return found.meta, InlineHit(found.body, weight)
        return found.meta, ChunkedHit(self._shared, self._names.of(key_hash), found.shape, weight)

    # ------------------------------------------------------------------------- writing

    async def get_miss_handler(self, key: CacheKey, meta: CacheMeta) -> MissHandler:
        """Begin to write an object: one round trip, to announce it.

        Args:
            key: The key.
            meta: What is known about the response.

        Returns:
            The writer.

        Raises:
            Error: If Redis does not answer in time, or will not.
        """
        key_hash = key.combined_hash
        lifetime = self._lifetime(meta)
        deadline = self._deadline()
        try:
            generations = await self._touch(meta.tags, lifetime, deadline)
            head = Head(
                key_hash,
                self._names.of(key_hash),
                self._encode(key_hash, meta),
                meta.size,
                repr(float(meta.created)),
                generations,
                _tags(key_hash, generations),
                lifetime,
            )
            handler = RedisMissHandler(self._shared, self._heads, head)
            await handler.begin(deadline)
        except Error as error:
            self._shared.count(error)
            raise
        return handler

    async def update_meta(self, key: CacheKey, meta: CacheMeta) -> bool:
        """Replace what is known about an object, in one step.

        A meta that comes from a lookup here, or was made of one, is only given to the very object
        that was looked up, and tells it is fresh in spite of those purges only that the lookup
        saw.

        Args:
            key: The key.
            meta: The new one, complete, with the ``created`` of the one that it replaces.

        Returns:
            Whether it was replaced; False if there is no such object.

        Raises:
            Error: If Redis does not answer in time, or will not.
        """
        try:
            return await self._update(key.combined_hash, meta, self._deadline())
        except Error as error:
            self._shared.count(error)
            raise

    async def _update(self, key_hash: bytes, meta: CacheMeta, deadline: float) -> bool:
        seen = remembered(meta, key_hash)
        if seen is None:
            found = await self._heads.find(key_hash, deadline)
            if found is None:
                return False
            seen = found.seen
        lifetime = self._lifetime(meta)
        current = await self._touch((*meta.tags, *seen.generations), lifetime, deadline)
        if compare(seen.generations, current) is None:
            return False
        generations = {tag: seen.generations.get(tag, current[tag]) for tag in meta.tags}
        names = self._names.of(key_hash)
        answer = self._link.run(
            UPDATE,
            [names.head],
            (
                *(seen.write_id.hex(), repr(float(meta.created)), lifetime, self._shared.grace),
                *(names.bodies, seen.marker),
                self._encode(key_hash, meta),
                _tags(key_hash, generations),
            ),
            timeout=self._remaining(deadline),
        )
        return await answer == 1

    async def _touch(
        self, tags: tuple[bytes, ...], lifetime: int, deadline: float
    ) -> Mapping[bytes, bytes]:
        if not tags:
            return {}
        lifetime += int(_TAG_MARGIN * 1000)
        return await self._heads.touch(tags, lifetime, secrets.token_hex(8), deadline)

    # ------------------------------------------------------------------------- purging

    async def purge(
        self,
        key: CompactCacheKey,
        *,
        kind: PurgeKind = PurgeKind.INVALIDATION,
        action: PurgeAction = PurgeAction.DELETE,
    ) -> PurgeResult:
        """Remove the object of a key, or make it expire, for all machines.

        Args:
            key: The key.
            kind: Why.
            action: What is to be done. Redis without room for a note that an object has expired
                removes it.

        Returns:
            What it came to.

        Raises:
            Error: If Redis does not answer in time, or will not; the object may still be there.
        """
        names = self._names.of(key.combined_hash)
        keys = [names.head, names.writers]
        writes = int(kind is PurgeKind.INVALIDATION)
        try:
            result = PurgeResult.EXPIRED
            found: object = None
            if action is PurgeAction.EXPIRE:
                found = await self._expire(EXPIRE, keys, [writes])
            if found is None:
                result = PurgeResult.PURGED
                arguments = (writes, self._shared.grace, names.bodies)
                found = await self._link.run(PURGE, keys, arguments)
        except Error as error:
            self._shared.count(error)
            raise
        if not found:
            return PurgeResult.NOT_FOUND
        self.stats.purges += 1
        return result

    async def purge_tag(self, tag: bytes, *, action: PurgeAction = PurgeAction.DELETE) -> None:
        """Purge all objects with a tag, and the writes of such, on all machines, in one step.

        Args:
            tag: The tag.
            action: What is to be done with each, as in ``purge``.

        Raises:
            Error: If Redis does not answer in time, or will not.
        """
        name = self._names.tag(tag)
        try:
            found: object = None
            if action is PurgeAction.EXPIRE:
                found = await self._expire(EXPIRE_TAG, [name], [])
            if found is None:
                found = await self._link.execute("UNLINK", name)
        except Error as error:
            self._shared.count(error)
            raise
        self.stats.purges += bool(found)

    async def _expire(
        self, script: Script, keys: Sequence[str | bytes], arguments: Sequence[int]
    ) -> object:
        # None if Redis has no room for a note of it.
        nonce = secrets.token_hex(8)
        try:
            return await self._link.run(script, keys, [*arguments, repr(self._clock()), nonce])
        except Error as error:
            if error.etype != REDIS_REFUSED:
                raise
            return None

    # ------------------------------------------------------------------------- helpers

    def _encode(self, key_hash: bytes, meta: CacheMeta) -> bytes:
        data = meta.to_bytes() if self._codec is None else self._codec.to_bytes(meta)
        return seal(Kind.META, key_hash, 0, [data])

    def _lifetime(self, meta: CacheMeta) -> int:
        # Milliseconds that an object is worth keeping.
        stale = max(meta.stale_while_revalidate, meta.stale_if_error)
        seconds = max(0.0, meta.fresh_until - self._clock()) + stale + self._tuning.keep
        return max(1, int(min(seconds, self._tuning.max_lifetime) * 1000))

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._link.timeout

    @staticmethod
    def _remaining(deadline: float) -> float:
        return max(0.0, deadline - asyncio.get_running_loop().time())


def _tags(key_hash: bytes, generations: Mapping[bytes, bytes]) -> bytes:
    return seal(Kind.TAGS, key_hash, 0, [pack(generations)]) if generations else b""
