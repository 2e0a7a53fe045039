"""Finding out what Redis knows of an object, and of its tags, within one deadline."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final, NamedTuple, final

from pingora_cache.meta import CacheMeta
from pingora_cache.redis._frames import DamagedError, Kind, Shape, unseal
from pingora_cache.redis._link import REDIS_REFUSED
from pingora_cache.redis._scripts import LOOKUP, TOUCH_TAGS
from pingora_cache.redis._tags import compare, unpack
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pingora_cache.meta_codec import MetaCodec
    from pingora_cache.redis._link import Answer
    from pingora_cache.redis._names import Names, ObjectNames
    from pingora_cache.redis._shared import Shared

__all__ = ["Found", "Heads", "Seen", "remember", "remembered"]

_EXTENSION: Final = "pingora_cache.redis"


class Seen(NamedTuple):
    """What an update has to know of the lookup before it.

    Attributes:
        key_hash: Which object.
        write_id: Which write of it.
        marker: What it has been made to expire by; empty if it was not.
        generations: What its tags had at that moment, not when it was written.
    """

    key_hash: bytes
    write_id: bytes
    marker: bytes
    generations: Mapping[bytes, bytes]


class Found(NamedTuple):
    """An object that can be served.

    Attributes:
        shape: Which write, how large.
        meta: Its meta, as expired as it is.
        seen: For an update.
        body: The body, if it is small.
    """

    shape: Shape
    meta: CacheMeta
    seen: Seen
    body: memoryview | None


class _Head(NamedTuple):
    """What an answer says."""

    shape: Shape
    meta: CacheMeta
    kept: dict[bytes, bytes]
    marker: bytes
    body: memoryview | None


def remember(meta: CacheMeta, seen: Seen) -> None:
    """Attach to a meta what an update of it has to know.

    Args:
        meta: The meta.
        seen: What is to be known.
    """
    meta.extensions[_EXTENSION] = seen


def remembered(meta: CacheMeta, key_hash: bytes) -> Seen | None:
    """Get what was attached to a meta, or to the one that it was made of.

    Args:
        meta: The meta.
        key_hash: The object that it is to be of.

    Returns:
        What is known; None if nothing is.
    """
    seen = meta.extensions.get(_EXTENSION)
    return seen if isinstance(seen, Seen) and seen.key_hash == key_hash else None


@final
class Heads:
    """Asks for heads and tags.

    Args:
        shared: What all parts of a storage share.
        names: What things are called.
        codec: Reads metas; None if they are as they are.
    """

    __slots__ = ("_decode", "_names", "_shared")

    def __init__(self, shared: Shared, names: Names, codec: MetaCodec | None) -> None:
        self._shared = shared
        self._names = names
        self._decode = CacheMeta.from_bytes if codec is None else codec.from_bytes

    async def find(self, key_hash: bytes, deadline: float) -> Found | None:
        """Look for an object.

        Args:
            key_hash: The combined hash of its cache key.
            deadline: When the answer is to be there, on the clock of the loop.

        Returns:
            The object; None if there is none, or none any more.

        Raises:
            Error: If Redis does not answer in time.
        """
        names = self._names.of(key_hash)
        answer = self._shared.link.run(
            LOOKUP, [names.head], [names.bodies], timeout=_remaining(deadline)
        )
        try:
            reply = await answer
        except Error as error:
            if error.etype != REDIS_REFUSED or "WRONGTYPE" not in str(error):
                raise
            self._shared.discard(names)
            return None
        head = self._parse(key_hash, names, reply)
        if head is None:
            return None
        current = await self.current(head.kept, deadline) if head.kept else {}
        expired_at = compare(head.kept, current)
        if expired_at is None:
            self._shared.drop(names, head.shape.write_id.hex())  # it was purged, and takes room
            return None
        meta = head.meta
        expired_at = min(expired_at, _marked(head.marker))
        if expired_at < math.inf:
            meta = meta.expired(expired_at)
        generations = {tag: value for tag, value in current.items() if value is not None}
        seen = Seen(key_hash, head.shape.write_id, head.marker, generations)
        return Found(head.shape, meta, seen, head.body)

    def _parse(self, key_hash: bytes, names: ObjectNames, reply: object) -> _Head | None:
        # None if there is no object, or none that can be used.
        try:
            if not isinstance(reply, list) or len(reply) not in {0, 7}:
                msg = f"no head: {type(reply).__name__}"
                raise DamagedError(msg)
            if not reply:
                return None
            head, pieces = self._open(key_hash, reply)
        except (ValueError, Error):  # also of a meta that cannot be
            self._shared.discard(names, *_write_of(reply))
            return None
        if head.body is None and pieces != head.shape.chunks:
            # Redis has made room.
            self._shared.stats.evictions += 1
            self._shared.drop(names, head.shape.write_id.hex())
            return None
        return head

    def _open(self, key_hash: bytes, reply: list[object]) -> tuple[_Head, object]:
        shape = Shape.from_bytes(unseal(reply[1], Kind.SHAPE, key_hash, 0))
        meta = self._decode(bytes(unseal(reply[2], Kind.META, key_hash, 0)))
        kept = {} if reply[3] is None else unpack(unseal(reply[3], Kind.TAGS, key_hash, 0))
        marker = b"" if reply[4] is None else reply[4]
        if not isinstance(marker, bytes) or reply[0] != shape.write_id.hex().encode():
            msg = "the parts of a head do not belong together"
            raise DamagedError(msg)
        if kept.keys() != set(meta.tags):
            msg = "the tags of a head are not those of its meta"
            raise DamagedError(msg)
        body = None
        if not shape.chunk_size:
            body = unseal(reply[5], Kind.CHUNK, shape.write_id, 0)
            if len(body) != shape.size:
                msg = f"a body of {len(body)} bytes instead of {shape.size}"
                raise DamagedError(msg)
        return _Head(shape, meta, kept, marker, body), reply[6]

    async def current(self, tags: Iterable[bytes], deadline: float) -> dict[bytes, bytes | None]:
        """Ask what tags have.

        Args:
            tags: The tags.
            deadline: When the answer is to be there.

        Returns:
            The generation of each; None if it has none.

        Raises:
            Error: If Redis does not answer in time.
        """
        current: dict[bytes, bytes | None] = {}
        slots = self._names.tags_by_slot(tags)

        def ask(slot: list[bytes]) -> Answer:
            keys = map(self._names.tag, slot)
            return self._shared.link.execute("MGET", *keys, timeout=_remaining(deadline))

        for slot, reply in zip(slots, await _ask_all(ask, slots), strict=True):
            values = _as_values(reply, len(slot))
            current.update(zip(slot, values, strict=True))
        return current

    async def touch(
        self, tags: Iterable[bytes], lifetime: int, nonce: str, deadline: float
    ) -> dict[bytes, bytes]:
        """See to it that tags have a generation, which lives long enough.

        Args:
            tags: The tags.
            lifetime: Milliseconds that it is to live.
            nonce: A number used once.
            deadline: When the answer is to be there.

        Returns:
            The generation of each.

        Raises:
            Error: If Redis does not answer in time, or not well.
        """
        generations: dict[bytes, bytes] = {}
        slots = self._names.tags_by_slot(tags)

        def ask(slot: list[bytes]) -> Answer:
            keys = [self._names.tag(tag) for tag in slot]
            return self._shared.link.run(
                TOUCH_TAGS, keys, [lifetime, nonce], timeout=_remaining(deadline)
            )

        for slot, reply in zip(slots, await _ask_all(ask, slots), strict=True):
            for tag, value in zip(slot, _as_values(reply, len(slot)), strict=True):
                generations[tag] = value or b""
        return generations


def _write_of(reply: object) -> tuple[bytes, ...]:
    # What a head that is damaged says about which write it is of.
    if isinstance(reply, list) and reply and isinstance(reply[0], bytes):
        return (reply[0],)
    return ()


def _marked(marker: bytes) -> float:
    # When an object was made to expire by its key; infinity if it was not.
    if not marker:
        return math.inf
    try:
        when = float(marker.partition(b":")[0])
    except ValueError:
        return 0.0
    return when if math.isfinite(when) else 0.0


def _as_values(reply: object, count: int) -> list[bytes | None]:
    values: list[bytes | None] = []
    if isinstance(reply, list) and len(reply) == count:
        values = [value for value in reply if value is None or isinstance(value, bytes)]
    if len(values) != count:
        raise _nonsense(f"{count} values were expected")
    return values


def _nonsense(context: str) -> Error:
    return Error.internal(ErrorType.READ_ERROR, f"Redis has answered nonsense: {context}")


async def _ask_all(ask: Callable[[list[bytes]], Answer], slots: list[list[bytes]]) -> list[object]:
    # Several nodes at once.
    answers: list[Answer] = []
    try:
        for slot in slots:
            answers.append(ask(slot))  # noqa: PERF401 - those before one that raises are given up
        return [await answer for answer in answers]
    finally:
        for answer in answers:
            answer.cancel()  # nothing if it is done


def _remaining(deadline: float) -> float:
    return max(0.0, deadline - asyncio.get_running_loop().time())
