"""What a store of responses is: the interfaces, and with them the rules that a store keeps.

Theory of operation
-------------------
A store maps a key to one *slot*. A slot holds at most one finished object, that is its meta and
its body, and any number of writes that are not finished yet:

```
           get_miss_handler           write_body ...           finish
 (nothing) ----------------> writing ----------------> writing -------> published, in one step
                                |                                        |
                                | abort, close, collected, stalled,      | purge, eviction, or the
                                v store closed                           v next one published
                             failed: nothing is left                    gone; open readers go on
```

What every store promises, so that a cache never serves a wrong body:

- An object is found whole or not at all. Publishing and accounting are one step: nothing that can
  be found is uncounted, nothing that is counted cannot be found.
- A reader gets the bytes of one write, in order, and the end only if that write was complete. When
  the write fails, or makes no progress for too long, the reader gets an ``Error``, as a rule after
  what has been written; never a clean end, and never bytes of another write.
- Writes of one key do not mix. *The later finish wins*: it replaces what the earlier published.
- What replaces, purges or evicts an object does not disturb those who read it already.
- Writers do not wait for readers. A slow reader costs memory or disk, never time of others.
- Reading and writing tell trouble by an ``Error`` and nothing else; wrong use of a handler (a write
  after the end, a read after ``finish``) is a ``RuntimeError`` or ``ValueError``.
- Freshness is the caller's: an expired object is found like any other.

A store with *streaming partial writes* also lets readers follow a write that goes on: ``lookup``
then finds, in this order, the finished object if it is still fresh, the write that began last, and
the finished object that has expired. (A write in progress may still fail; what is whole and fresh
is better. What has expired is just being replaced, and who comes now joins rather than fetch it
once more.)

``pingora_cache.testing.StorageSuite`` puts a store to the test.

Source: trait Storage in pingora-cache/src/storage.rs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum
from typing import TYPE_CHECKING

from pingora_cache._handlers import (
    RESPONSE_TOO_LARGE,
    STORAGE_CLOSED,
    STORAGE_FULL,
    WRITE_FAILED,
    WRITE_STALLED,
    Finished,
    HitHandler,
    MissHandler,
)

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from pingora_cache.key import CacheKey, CompactCacheKey
    from pingora_cache.meta import CacheMeta
    from pingora_cache.stats import StorageStats

__all__ = [
    "RESPONSE_TOO_LARGE",
    "STORAGE_CLOSED",
    "STORAGE_FULL",
    "WRITE_FAILED",
    "WRITE_STALLED",
    "Finished",
    "HitHandler",
    "MissHandler",
    "PurgeAction",
    "PurgeKind",
    "PurgeResult",
    "Storage",
]


class PurgeKind(Enum):
    """Why an object is removed.

    Attributes:
        EVICTION: To make room. Only a finished object goes; a write that goes on is newer than
            what an eviction manager had in mind.
        INVALIDATION: Because it must not be served any more. Writes that go on are meant too.
    """

    EVICTION = "eviction"
    INVALIDATION = "invalidation"


class PurgeAction(Enum):
    """What a purge does with an object.

    Attributes:
        DELETE: It is gone.
        EXPIRE: It stays, and has expired: it is revalidated before it is served again, or served
            stale where that is allowed (a "soft purge").
    """

    DELETE = "delete"
    EXPIRE = "expire"


class PurgeResult(Enum):
    """What a purge came to. False if there was nothing, true otherwise.

    Attributes:
        NOT_FOUND: There was no object, and no write of one.
        PURGED: An object was removed, or a write will not be published.
        EXPIRED: An object has been made to expire, or a write will be published as expired.
    """

    NOT_FOUND = "not found"
    PURGED = "purged"
    EXPIRED = "expired"

    def __bool__(self) -> bool:
        return self is not PurgeResult.NOT_FOUND


class Storage(ABC):
    """Keeps responses.

    Every method may raise ``Error``: the cache takes that for a miss, counts it, and asks the
    upstream. Not for several threads at once, unless a store says so.

    Works as an async context manager that opens and closes it.

    Source: trait Storage in pingora-cache/src/storage.rs.
    """

    __slots__ = ()

    async def open(self) -> None:  # noqa: B027  # most stores need nothing
        """Get ready, in the process and on the loop that will use it; nothing on the second call.

        Stores that need nothing can be used without.

        Raises:
            Error: If it cannot work, with what is wrong with the medium.
        """

    @abstractmethod
    async def close(self) -> None:
        """Let go of everything; nothing on the second call.

        Writes that go on fail. A reader of a finished object reads on or gets an ``Error``, never
        a clean end before the end. Every other call raises ``Error`` of type ``STORAGE_CLOSED``
        afterwards. What is kept for the next start is on its medium when this returns.
        """

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # ------------------------------------------------------------------------- reading

    @abstractmethod
    async def lookup(self, key: CacheKey) -> tuple[CacheMeta, HitHandler] | None:
        """Find the object of a key: of exactly this key with its variance.

        The user tag of a key is for accounting and does not tell objects apart.

        Args:
            key: The key.

        Returns:
            Its meta, to be treated as immutable since readers may share it, and a reader that
            starts at the beginning; None if there is nothing.

        Raises:
            Error: If the store is in trouble.
        """

    async def lookup_streaming_write(
        self, key: CacheKey, tag: bytes | None
    ) -> tuple[CacheMeta, HitHandler] | None:
        """Find the very write that a ``MissHandler`` has told the tag of.

        It is found until it has ended, also when it was purged meanwhile.

        Args:
            key: The key that is written.
            tag: The tag; None for whatever ``lookup`` finds.

        Returns:
            As ``lookup`` does; None if there is no such write.

        Raises:
            Error: If the store is in trouble.
        """
        del tag
        return await self.lookup(key)

    @property
    def supports_streaming_partial_write(self) -> bool:
        """Whether objects that are still being written can be read, as the module says."""
        return False

    # ------------------------------------------------------------------------- writing

    @abstractmethod
    async def get_miss_handler(self, key: CacheKey, meta: CacheMeta) -> MissHandler:
        """Begin to write an object.

        What is there stays, and is found, until this write is finished.

        Args:
            key: The key.
            meta: What is known about the response. Its extensions are not kept; its tags are what
                ``purge_tag`` finds it by.

        Returns:
            The writer.

        Raises:
            Error: If there is no room for it or the store is in trouble.
        """

    @abstractmethod
    async def update_meta(self, key: CacheKey, meta: CacheMeta) -> bool:
        """Replace what is known about the finished object of a key, in one step.

        Those who read the object already keep what they got.

        ``meta.created`` says which object is meant. If what is there was created at another time
        (differing by a microsecond or more), it has been replaced since the caller looked: its
        body does not belong to this meta, and nothing is changed.

        ``meta.updated`` says when it was confirmed. What was made to expire after that stays
        expired: a purge that came while the upstream was asked is not undone.

        Args:
            key: The key.
            meta: The new one, complete, with the ``created`` of the one that it replaces.

        Returns:
            Whether it was replaced; False if there is no such object.

        Raises:
            Error: If the store is in trouble; what was there is found unchanged then, or not at
                all.
        """

    # ------------------------------------------------------------------------- purging

    @abstractmethod
    async def purge(
        self,
        key: CompactCacheKey,
        *,
        kind: PurgeKind = PurgeKind.INVALIDATION,
        action: PurgeAction = PurgeAction.DELETE,
    ) -> PurgeResult:
        """Remove the object of a key, or make it expire: of exactly this key with its variance.

        When this returns, ``lookup`` finds nothing older than the call. An invalidation also
        meets the writes of the key that go on. With ``DELETE`` they complete for those who read
        them already and are not published; with ``EXPIRE`` they are published as expired.

        Args:
            key: The key.
            kind: Why.
            action: What is to be done.

        Returns:
            What it came to.

        Raises:
            Error: If the store is in trouble; the object may still be there.
        """

    @abstractmethod
    async def purge_tag(
        self, tag: bytes, *, action: PurgeAction = PurgeAction.DELETE
    ) -> int | None:
        """Purge all objects whose meta carries a tag, and the writes of such that go on.

        Args:
            tag: The tag, exactly as in ``CacheMeta.tags``.
            action: What is to be done with each, as in ``purge``.

        Returns:
            How many objects and writes it met; None if that is not known.

        Raises:
            Error: If the store is in trouble; some of the objects may still be there.
        """

    @property
    @abstractmethod
    def stats(self) -> StorageStats:
        """What has happened so far, up to this call."""
