"""One reader and one writer of an object in a store, and the ways in which they fail.

Part of ``pingora_cache.storage``, which tells what they promise together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final, NamedTuple

from pingora_error import Custom

__all__ = [
    "RESPONSE_TOO_LARGE",
    "STORAGE_CLOSED",
    "STORAGE_FULL",
    "WRITE_FAILED",
    "WRITE_STALLED",
    "Finished",
    "HitHandler",
    "MissHandler",
]

RESPONSE_TOO_LARGE: Final = Custom("ResponseTooLarge")
"""The object is larger than the store, or its caller, admits."""

STORAGE_FULL: Final = Custom("StorageFull")
"""There is no room, and none can be made: what is left is being written."""

STORAGE_CLOSED: Final = Custom("StorageClosed")
"""The store has been closed."""

WRITE_FAILED: Final = Custom("CacheWriteFailed")
"""The write that is being read, or finished, ended before it was complete."""

WRITE_STALLED: Final = Custom("CacheWriteStalled")
"""The write that is being read has made no progress for too long."""


class Finished(NamedTuple):
    """What a finished write came to.

    Attributes:
        size: Bytes that the write added to what the store counts: body, meta and overhead.
        total: Bytes that the object counts for now; more than ``size`` if the write appended to
            an object that was there, the same otherwise.
        published: Whether the object can be found now. False if it was purged while it was
            written, or if the store's own eviction would not have it.
    """

    size: int
    total: int
    published: bool = True


class HitHandler(ABC):
    """Reads the body of one object, for one reader.

    The object stays readable until the handler is closed, whatever happens to it in the store
    meanwhile. One call at a time; a call that is cancelled takes nothing away.

    Handlers hold descriptors or connections in some stores: whoever gets one closes it, on every
    path. ``finish`` is the way after the body, ``close`` the way out of a ``finally``.

    Source: trait HandleHit in pingora-cache/src/storage.rs.
    """

    __slots__ = ()

    @abstractmethod
    async def read_body(self) -> bytes | None:
        """Read on.

        Waits for the writer if the object is still being written and all there is has been read.

        Returns:
            The next piece, never empty, of a size that suits the store; None at the end, and
            again when called after it.

        Raises:
            Error: If the write being followed has failed or has stalled, the object cannot be
                read or is damaged, or the handler was closed while this waited.
            RuntimeError: If the handler has been closed before.
        """

    @abstractmethod
    def close(self) -> None:
        """Give up what the handler holds, at once; nothing on the second call.

        A ``read_body`` that waits ends with an ``Error``.
        """

    async def finish(self) -> None:
        """End reading in good order, at the end of the body or before it.

        Does what ``close`` does; a store that has to wait for something does so here.
        """
        self.close()

    def whole_body(self) -> bytes | None:
        """Return the whole body at once, if it lies ready and is small: HOT.

        Returns:
            It, from its beginning, wherever reading is; None where ``read_body`` is the way.
        """
        return None

    # ------------------------------------------------------------------------- ranges

    @property
    def can_seek(self) -> bool:
        """Whether ``seek`` works. Of a partial object: usually not, as its size is not known."""
        return False

    @property
    def can_seek_multipart(self) -> bool:
        """Whether ``seek`` works several times, for several ranges in any order."""
        return self.can_seek

    def seek(self, start: int, end: int | None = None) -> None:
        """Go on reading at ``start``, up to ``end``; to be called before, while or after reading.

        Replaces the range of an earlier call altogether, its end too.

        Args:
            start: Bytes from the beginning of the body.
            end: Where to end, exclusive; beyond the body means at its end, as None does.

        Raises:
            Error: If ``start`` is not inside the body: at its end is outside, so that nothing is
                inside an empty one.
            RuntimeError: If the handler cannot seek, or has been closed.
            ValueError: If ``start`` is negative or ``end`` is not above it.
        """
        del start, end
        msg = f"a {type(self).__name__} cannot seek"
        raise RuntimeError(msg)

    # ------------------------------------------------------------------------- facts

    @property
    @abstractmethod
    def body_size(self) -> int | None:
        """Bytes of the whole body, whatever range is read; None while it is not known."""

    @property
    def is_partial(self) -> bool:
        """Whether the object was still being written when it was looked up."""
        return False

    @property
    def should_count_access(self) -> bool:
        """Whether an eviction manager outside the store is to hear of this hit.

        False for a partial object, which such a manager does not know yet.
        """
        return not self.is_partial

    @property
    def eviction_weight(self) -> int:
        """Bytes that the object counts for in such a manager; 0 for a partial object."""
        return 0


class MissHandler(ABC):
    """Writes one object.

    A write ends in exactly one way: ``finish`` publishes it; everything else (``abort``,
    ``close``, the handler collected as garbage, the store closed, a process that dies) means that
    it has failed: nothing is published, nothing is left, and its readers get an ``Error``.

    One call at a time.

    Source: trait HandleMiss in pingora-cache/src/storage.rs.
    """

    __slots__ = ()

    @abstractmethod
    async def write_body(self, data: bytes, *, end: bool) -> None:
        """Add to the body.

        Args:
            data: What follows; may be empty. The store may keep this very object.
            end: Whether the body is complete with it. Readers may see the end from now on; the
                object is found as a finished one after ``finish`` only.

        Raises:
            Error: If the write has failed: type ``RESPONSE_TOO_LARGE`` beyond the store's
                ``max_object_size`` or its whole limit, ``STORAGE_FULL`` if there is no room,
                ``WRITE_STALLED`` if readers gave it up before, and what the medium reports. The
                write is over then; ``finish`` would raise too.
            RuntimeError: If the write has ended before, or its end was written.
        """

    @abstractmethod
    async def finish(self) -> Finished:
        """Publish the object, in one step. The body is what was written; it may be empty.

        Says that the body is complete, whether or not ``end`` was written with its last piece.

        Returns:
            What it came to; also when the object was purged while it was written, which is no
            failure.

        Raises:
            Error: If the write has failed, or fails now; nothing is published.
            RuntimeError: If the write has been finished or given up before.
        """

    @abstractmethod
    def close(self) -> None:
        """Give up, unless the write is finished; nothing on the second call.

        What cannot be done at once (deleting what another machine holds) may go on behind, or be
        left to expire; from now on it is not found.
        """

    async def abort(self) -> None:
        """Give up in good order, unless the write is finished; nothing on the second call.

        Does what ``close`` does, and waits until nothing is left.
        """
        self.close()

    @property
    def streaming_write_tag(self) -> bytes | None:
        """What ``Storage.lookup_streaming_write`` finds this very write by; None if nothing."""
        return None
