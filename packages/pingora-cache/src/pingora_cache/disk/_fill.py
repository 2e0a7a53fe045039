"""A write of this process, as the loop sees it, and the handler that its writer has.

Theory of operation: what is written waits in memory, up to a megabyte of it, until there is enough
to be worth a trip to a thread, or some milliseconds have passed: then the file is made, so that
other processes find the write. A body that is complete before that is written in one go with all
the rest. A writer waits only when a megabyte waits for the disk already.

Each trip asks first whether there is room. If there is not, the manager is told to make some, and
the trip waits for a moment; then the write fails, and the response goes on without the cache.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final, final

from pingora_cache._handlers import (
    RESPONSE_TOO_LARGE,
    STORAGE_FULL,
    WRITE_FAILED,
    WRITE_STALLED,
    Finished,
    MissHandler,
)
from pingora_cache.disk._layout import META_AT
from pingora_cache.disk._progress import LocalProgress
from pingora_cache.disk._shop import disk_size
from pingora_cache.disk._writing import WriteFile
from pingora_cache.meta import CacheMeta
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_cache.disk._shop import Shop
    from pingora_cache.disk._writing import Subject
    from pingora_error import ErrorKind

__all__ = ["DiskMiss", "Fill"]

# What a trip to a thread is worth, what may wait in memory, and how long.
_WORTH: Final = 256 * 1024
_MOST: Final = 1024 * 1024
_SOON: Final = 0.003
# The last block of a file, which is hardly ever full.
_PAGE: Final = 4096


@final
class Fill:
    """A write.

    Args:
        shop: What all writes of the store share.
        subject: What is written.
        body_size: Bytes of the body as far as they are known; need not be true.
        on_over: Told when it is over, and nobody is to find it any more.
        on_gone: Told when its file is gone, or is an object.

    Attributes:
        subject: What is written.
        progress: How far it has come.
    """

    __slots__ = (
        "__weakref__",
        "_body_size",
        "_failure",
        "_file",
        "_flushing",
        "_gone",
        "_is_ending",
        "_on_gone",
        "_on_over",
        "_shop",
        "_timer",
        "progress",
        "subject",
    )

    def __init__(
        self,
        shop: Shop,
        subject: Subject,
        body_size: int | None,
        *,
        on_over: Callable[[Fill], None],
        on_gone: Callable[[Fill], None],
    ) -> None:
        self.subject = subject
        self._shop = shop
        self._body_size = body_size
        self._on_over = on_over
        self._on_gone = on_gone
        self._file = WriteFile(shop.tree, subject)
        self.progress = LocalProgress(shop.io, self._file, shop.stall_timeout, self._stall)
        self._flushing: asyncio.Task[None] | None = None
        self._gone: asyncio.Task[None] | None = None
        self._is_ending = False
        self._failure: tuple[ErrorKind, str] | None = None
        loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = loop.call_later(_SOON, self._flush)

    def meta(self) -> CacheMeta:
        """Get the meta as those who find the write see it: as it is kept.

        Returns:
            The meta.
        """
        return CacheMeta.from_bytes(self.subject.meta)

    # ------------------------------------------------------------------------- writing

    async def write(self, data: bytes) -> None:
        """Add to the body.

        Args:
            data: What follows.

        Raises:
            Error: If the write has failed.
        """
        self.check()
        progress = self.progress
        largest = self._shop.limits.largest(len(self.subject.meta))
        if progress.size + len(data) > largest:
            self.fail(RESPONSE_TOO_LARGE, f"more than {largest} bytes for the store on disk")
            self.check()
        progress.append(data)
        self._go_on()
        while progress.pending > _MOST and self._flushing is not None:
            await asyncio.shield(self._flushing)
            self.check()
            self._flush()

    def check(self) -> None:
        """See that it has not failed.

        Raises:
            Error: If it has.
        """
        if self._failure is not None:
            raise Error(*self._failure, source=ErrorSource.INTERNAL)

    def _go_on(self) -> None:
        # At once, or in a moment; nothing if that is under way.
        if self.progress.pending >= _WORTH:
            self._flush()
        elif self.progress.pending and self._timer is None and not self._is_ending:
            self._timer = asyncio.get_running_loop().call_later(_SOON, self._flush)

    def _flush(self) -> None:
        self._stop_timer()
        if self._flushing is None and not self._is_ending:
            self._flushing = self._shop.io.spawn(self._write())

    async def _write(self) -> None:
        try:
            await self._put()
        except OSError as error:
            self._shop.io.failed(error, ErrorType.FILE_WRITE_ERROR, "a write")
            self.fail(WRITE_FAILED, f"the file cannot be written: {error.strerror}")
        except Error as error:
            self.fail(error.etype, error.context)
        finally:
            self._flushing = None
        self._go_on()

    async def _put(self) -> None:
        pieces = self.progress.pieces(self._shop.limits.portion)
        await self._reserve(pieces)
        await self._shop.io.run(lambda: self._append(pieces))
        self.progress.written()

    def _append(self, pieces: list[bytes]) -> None:
        if self._file.descriptor is None:
            self._file.create(self._body_size)
        if pieces:
            self._file.append(pieces)

    async def _reserve(self, pieces: list[bytes]) -> None:
        size = sum(map(len, pieces))
        if self._file.descriptor is None:
            size += disk_size(META_AT + len(self.subject.meta)) + _PAGE
        if not await self._shop.reserve(size):
            raise Error(STORAGE_FULL, f"no room for {size} bytes", source=ErrorSource.INTERNAL)

    # -------------------------------------------------------------------------- ending

    async def finish(self) -> Finished:
        """Publish it.

        Returns:
            What it came to.

        Raises:
            Error: If it has failed, or fails now.
        """
        self.check()
        self._is_ending = True  # at once: what fails from now on fails in there
        self.progress.end()
        return await asyncio.shield(self._shop.io.spawn(self._publish()))

    async def _publish(self) -> Finished:
        self._stop_timer()
        while self._flushing is not None:
            await asyncio.wait([self._flushing])
        file, io = self._file, self._shop.io
        try:
            self.check()
            while self.progress.pending > self._shop.limits.portion:
                await self._put()
            pieces = self.progress.pieces(self._shop.limits.portion)
            await self._reserve(pieces)
            published = await io.run(lambda: self._shop.publish(file, self.subject, pieces))
        except OSError as error:
            self._end()
            raise io.failed(error, ErrorType.FILE_WRITE_ERROR, "a write") from error
        except Error:
            self._end()
            raise
        self.progress.written()
        self._leave()
        if not published:
            self._gone = io.spawn(self._discard())
            return Finished(0, 0, published=False)
        file.release()
        self._on_gone(self)
        io.stats.writes += 1
        size = disk_size(file.file_size)
        return Finished(size, size)

    def fail(self, etype: ErrorKind, context: str) -> None:
        """End it without publishing it; nothing if it is over, or is being published.

        Args:
            etype: Why.
            context: The same, for the log.
        """
        if self._failure is None:
            self._failure = (etype, context)
        if not self._is_ending:
            self.progress.fail(etype, context)
            self._end()

    def _stall(self) -> None:
        self.fail(WRITE_STALLED, f"no progress in {self._shop.stall_timeout} s")

    def _end(self) -> None:
        # Its readers have the end, or will, if it was complete; only nobody else finds it.
        self._leave()
        self._shop.io.stats.aborted_writes += 1
        self._gone = self._shop.io.spawn(self._discard())

    async def _discard(self) -> None:
        if self._flushing is not None:
            await asyncio.wait([self._flushing])
        await self._shop.io.run(self._file.discard)
        self._on_gone(self)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _leave(self) -> None:
        self._is_ending = True
        self._stop_timer()
        self.progress.over()
        self._on_over(self)

    def abandon(self) -> None:
        """Close what a forked process has inherited."""
        self._file.abandon()

    async def gone(self) -> None:
        """Wait until nothing is left of it, after it has failed."""
        if self._gone is not None:
            await asyncio.shield(self._gone)


@final
class DiskMiss(MissHandler):
    """Writes one object.

    Args:
        fill: The write.
    """

    __slots__ = ("_ended", "_fill", "_finished", "_loop")

    def __init__(self, fill: Fill) -> None:
        self._fill = fill
        self._ended = False
        self._finished = False
        self._loop = asyncio.get_running_loop()

    async def write_body(self, data: bytes, *, end: bool) -> None:
        """Add to the body; waits while a megabyte waits for the disk.

        Args:
            data: What follows.
            end: Whether the body is complete with it.

        Raises:
            Error: If there is no room, the object is too large, or the write has failed.
            RuntimeError: If the write has ended before, or its end was written.
        """
        self._check()
        if self._ended:
            msg = "the end of this body has been written"
            raise RuntimeError(msg)
        await self._fill.write(data)
        if end:
            self._ended = True
            self._fill.progress.end()

    async def finish(self) -> Finished:
        """Publish the object.

        Returns:
            What it came to.

        Raises:
            Error: If the write has failed, or fails now.
            RuntimeError: If the write has been finished or given up before.
        """
        self._check()
        self._finished = True
        return await self._fill.finish()

    def _check(self) -> None:
        if self._finished:
            msg = "this write is over"
            raise RuntimeError(msg)

    def close(self) -> None:
        """Give up, unless the write is finished; nothing on the second call."""
        if not self._finished:
            self._finished = True
            self._fill.fail(WRITE_FAILED, "the writer gave up")

    async def abort(self) -> None:
        """Give up, unless the write is finished, and wait until nothing is left."""
        self.close()
        await self._fill.gone()

    def __del__(self) -> None:
        # A constructor that failed leaves nothing to close. Garbage is collected in any thread.
        if hasattr(self, "_loop") and not self._finished and not self._loop.is_closed():
            fill = self._fill
            with contextlib.suppress(RuntimeError):  # closed just now
                self._loop.call_soon_threadsafe(
                    lambda: fill.fail(WRITE_FAILED, "the writer was forgotten")
                )

    @property
    def streaming_write_tag(self) -> bytes:
        """What this write is found by."""
        return self._fill.subject.tag
