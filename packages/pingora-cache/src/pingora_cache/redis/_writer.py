"""A writer: cuts a body into pieces, sends them while the next come in, and publishes the whole."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, final

from pingora_cache.redis._frames import Kind, Shape, seal
from pingora_cache.redis._link import REDIS_AWAY
from pingora_cache.redis._scripts import APPEND, BEGIN, DROP, PUBLISH, RENEW
from pingora_cache.redis._shared import OVERHEAD
from pingora_cache.redis._tags import compare
from pingora_cache.storage import (
    RESPONSE_TOO_LARGE,
    STORAGE_FULL,
    WRITE_FAILED,
    Finished,
    MissHandler,
)
from pingora_error import Error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pingora_cache.redis._heads import Heads
    from pingora_cache.redis._link import Answer
    from pingora_cache.redis._names import ObjectNames
    from pingora_cache.redis._shared import Shared

__all__ = ["Head", "RedisMissHandler"]

# Pieces of one body on their way at a time.
_FLYING: Final = 2


class Head(NamedTuple):
    """What is published with a body.

    Attributes:
        key_hash: The combined hash of the cache key.
        names: The keys of the object.
        meta: The frame of the meta.
        meta_size: Bytes that the meta counts for.
        created: When the object was created, as text.
        generations: The generation of each of its tags.
        tags: The frame of those; empty if it has none.
        lifetime: Milliseconds that the object is kept.
    """

    key_hash: bytes
    names: ObjectNames
    meta: bytes
    meta_size: int
    created: str
    generations: Mapping[bytes, bytes]
    tags: bytes
    lifetime: int


@final
class RedisMissHandler(MissHandler):
    """Writes one object.

    Args:
        shared: What it shares with others.
        heads: Asks for tags.
        head: What is published with the body.
    """

    __slots__ = (
        "_failure",
        "_flying",
        "_has_end",
        "_head",
        "_heads",
        "_is_over",
        "_is_purged",
        "_parts",
        "_pending",
        "_renew_at",
        "_sent",
        "_shared",
        "_size",
        "_taken",
        "_write_id",
    )

    def __init__(self, shared: Shared, heads: Heads, head: Head) -> None:
        self._shared = shared
        self._heads = heads
        self._head = head
        self._write_id = secrets.token_bytes(16)
        self._parts: deque[bytes] = deque()
        self._pending = 0  # bytes in the parts
        self._taken = 0  # bytes of the budget: those, and those on their way
        self._size = 0
        self._sent = 0
        self._flying: deque[tuple[Answer, int]] = deque()
        self._failure: Error | None = None
        self._has_end = False
        self._is_over = False
        self._is_purged = False
        self._renew_at = shared.clock() + shared.tuning.write_lifetime / 4

    # ------------------------------------------------------------------------- writing

    async def begin(self, deadline: float) -> None:
        """Announce the write, so that a purge meets it.

        Args:
            deadline: When the answer is to be there, on the clock of the loop.

        Raises:
            Error: If Redis does not answer in time, or will not.
        """
        answer = self._shared.link.run(
            BEGIN,
            [self._head.names.writers],
            [self._write_id.hex(), self._write_lifetime],
            timeout=max(0.0, deadline - asyncio.get_running_loop().time()),
        )
        await answer

    async def write_body(self, data: bytes, *, end: bool) -> None:
        """Add to the body; waits only while two pieces are on their way already.

        Args:
            data: What follows; may be empty.
            end: Whether the body is complete with it.

        Raises:
            Error: If the write has failed: the body is too large, too much is on its way to Redis
                already, or Redis does not take it in time.
            RuntimeError: If the write has ended before, or its end was written.
        """
        self._check_open()
        if self._has_end:
            msg = "the end of the body was written before"
            raise RuntimeError(msg)
        self._has_end = end
        try:
            self._shared.link.check_open()
            self._add(data)
            deadline = self._deadline()
            size = self._shared.tuning.chunk_size
            if self._size > self._shared.tuning.inline_size:
                while self._pending >= size or (end and self._pending):
                    await self._send(min(size, self._pending), deadline)
            if self._shared.clock() >= self._renew_at:
                await self._renew(deadline)
        except Error as error:
            self._fail(error)
            raise

    def _add(self, data: bytes) -> None:
        self._size += len(data)
        largest = self._shared.max_object_size
        if largest is not None and self._size > largest:
            raise Error.internal(RESPONSE_TOO_LARGE, f"more than {largest} bytes for Redis")
        if self._is_purged or not data:
            return
        if not self._shared.budget.take(len(data)):
            raise Error.internal(STORAGE_FULL, "too many bytes are on their way to Redis")
        self._taken += len(data)
        self._pending += len(data)
        self._parts.append(data)

    async def _send(self, size: int, deadline: float) -> None:
        """Send a piece, as soon as there is room for it on the way."""
        while len(self._flying) >= _FLYING:
            await self._land(deadline)
        if self._is_purged:
            return
        frame = seal(Kind.CHUNK, self._write_id, self._sent, self._cut(size))
        arguments = (self._write_id.hex(), self._write_lifetime, self._sent, frame)
        answer = self._shared.link.run(APPEND, self._write_keys, arguments)
        self._flying.append((answer, size))
        self._sent += 1
        self._renew_at = self._shared.clock() + self._shared.tuning.write_lifetime / 4

    def _cut(self, size: int) -> list[bytes]:
        # The bytes of a piece, from those that came in.
        self._pending -= size
        parts: list[bytes] = []
        while size:
            part = self._parts.popleft()
            if len(part) > size:
                self._parts.appendleft(part[size:])
                part = part[:size]
            size -= len(part)
            parts.append(part)
        return parts

    async def _land(self, deadline: float) -> None:
        # Wait for the piece that was sent first.
        answer, size = self._flying[0]
        if not answer.done():
            remaining = deadline - asyncio.get_running_loop().time()
            await asyncio.wait([answer], timeout=max(0.0, remaining))
            if self._is_over:
                raise Error.internal(WRITE_FAILED, "given up meanwhile")
            if not answer.done():
                raise Error.internal(REDIS_AWAY, "it does not keep up")
        self._flying.popleft()
        self._give(min(size, self._taken))
        if answer.result() != 1:
            # Nobody can follow this write: what is left of it need not be sent.
            self._is_purged = True
            self._drop_parts()

    async def _renew(self, deadline: float) -> None:
        """Say that the write goes on, although it has no piece to send."""
        self._renew_at = self._shared.clock() + self._shared.tuning.write_lifetime / 4
        while len(self._flying) >= _FLYING:
            await self._land(deadline)
        arguments = (self._write_id.hex(), self._write_lifetime)
        self._flying.append((self._shared.link.run(RENEW, self._write_keys, arguments), 0))

    # ------------------------------------------------------------------------- ending

    async def finish(self) -> Finished:
        """Publish the object, in one step.

        Returns:
            What it came to.

        Raises:
            Error: If the write has failed, or fails now. If Redis goes away at this very moment the
                object may be found nevertheless, whole.
            RuntimeError: If the write has been finished or given up before.
        """
        self._check_open()
        self._has_end = True
        try:
            published = await self._publish(self._deadline())
        except Error as error:
            self._fail(error)
            raise
        self._is_over = True
        self._drop_parts()
        self._shared.stats.writes += published
        size = self._size + self._head.meta_size + OVERHEAD if published else 0
        return Finished(size, size, published)

    async def _publish(self, deadline: float) -> bool:
        tuning = self._shared.tuning
        is_inline = self._size <= tuning.inline_size
        while self._pending and not is_inline and not self._is_purged:
            await self._send(min(self._pending, tuning.chunk_size), deadline)
        while self._flying:
            await self._land(deadline)
        if self._is_purged or not await self._has_living_tags(deadline):
            self._drop()
            return False
        body = seal(Kind.CHUNK, self._write_id, 0, self._cut(self._size)) if is_inline else b""
        head = self._head
        shape = Shape(self._write_id, self._size, 0 if is_inline else tuning.chunk_size)
        answer = self._shared.link.run(
            PUBLISH,
            [head.names.head, *self._write_keys],
            [
                *(self._write_id.hex(), self._sent, head.lifetime, self._shared.grace),
                head.names.bodies,
                seal(Kind.SHAPE, head.key_hash, 0, [shape.to_bytes()]),
                *(head.meta, head.created, head.tags, body),
            ],
            timeout=max(0.0, deadline - asyncio.get_running_loop().time()),
        )
        result = await answer
        if result == 1 or result == 0:  # noqa: PLR1714 - an answer may be anything, hashable or not
            return result == 1
        raise Error.internal(WRITE_FAILED, "Redis has lost pieces of the body")

    async def _has_living_tags(self, deadline: float) -> bool:
        # A purge by tag does not know of this write. It would not be found anyhow, but would
        # take the place of what is there.
        kept = self._head.generations
        if not kept:
            return True
        return compare(kept, await self._heads.current(kept, deadline)) is not None

    def _fail(self, error: Error) -> None:
        self._shared.count(error)
        if not self._is_over:
            self._clean_up(error)

    def _clean_up(self, error: Error) -> Answer | None:
        # Leave nothing behind; nothing on the second call.
        if self._failure is not None:
            return None
        self._failure = error
        self._shared.stats.aborted_writes += 1
        self._drop_parts()
        for answer, _ in self._flying:
            answer.cancel()
        self._flying.clear()
        return self._drop()

    def _drop(self) -> Answer | None:
        try:
            keys = (*self._write_keys, self._head.names.head)
            return self._shared.link.run(DROP, keys, [self._write_id.hex(), self._shared.grace])
        except Error:
            return None  # it expires

    def close(self) -> None:
        """Give up, unless the write is finished; nothing on the second call.

        Redis is told behind; what it is not told about it forgets by itself.
        """
        if not self._is_over:
            self._is_over = True
            self._clean_up(Error.internal(WRITE_FAILED, "given up"))

    async def abort(self) -> None:
        """Give up, unless the write is finished, and wait until nothing is left of it in Redis."""
        if not self._is_over:
            self._is_over = True
            answer = self._clean_up(Error.internal(WRITE_FAILED, "given up"))
            if answer is not None:
                await asyncio.wait([answer])

    def __del__(self) -> None:
        if not self._is_over:
            with suppress(RuntimeError):  # there is no loop any more: it expires
                self.close()

    # ------------------------------------------------------------------------- helpers

    @property
    def _write_keys(self) -> tuple[str, str]:
        names = self._head.names
        return names.writers, names.body(self._write_id)

    @property
    def _write_lifetime(self) -> int:
        return max(1, int(self._shared.tuning.write_lifetime * 1000))

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._shared.link.timeout

    def _check_open(self) -> None:
        if self._is_over:
            msg = "the write has ended"
            raise RuntimeError(msg)
        if self._failure is not None:
            raise self._failure.more_context("the write has failed")

    def _give(self, size: int) -> None:
        self._taken -= size
        self._shared.budget.give(size)

    def _drop_parts(self) -> None:
        self._parts.clear()
        self._pending = 0
        self._give(self._taken)
