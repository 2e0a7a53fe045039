"""The handler that the writer of an object has."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, final

from pingora_cache._handlers import WRITE_FAILED, MissHandler
from pingora_error import Error, ErrorSource

if TYPE_CHECKING:
    from pingora_cache._handlers import Finished
    from pingora_cache.memory._filling import Filling
    from pingora_cache.memory._writes import Write

__all__ = ["MemoryMiss"]

# Room for so much is some hundred of the smallest objects.
_AT_ONCE: Final = 64 * 1024
_PART: Final = 1 << 20


@final
class MemoryMiss(MissHandler):
    """Writes one object.

    Args:
        filling: The writes of the store.
        write: The write.
    """

    __slots__ = ("_ended", "_filling", "_tag", "_write")

    def __init__(self, filling: Filling, write: Write) -> None:
        self._filling = filling
        # None when it is over: a writer that somebody still holds must not hold the body.
        self._write: Write | None = write
        self._tag = write.tag
        self._ended = False

    async def write_body(self, data: bytes, *, end: bool) -> None:
        """Add to the body; waits for nobody.

        What has to go for a large piece goes in several turns of the loop.

        Args:
            data: What follows.
            end: Whether the body is complete with it.

        Raises:
            Error: If there is no room, the object is too large, or the write has failed.
            RuntimeError: If the write has ended before, or its end was written.
        """
        write = self._check()
        if self._ended:
            msg = "the end of this body has been written"
            raise RuntimeError(msg)
        if len(data) > _AT_ONCE:
            await self._write_large(write, data)
        else:
            self._filling.grow(write, len(data))
            write.body.append(data)
        if end:
            self._ended = True
            write.body.end()

    async def _write_large(self, write: Write, data: bytes) -> None:
        for start in range(0, len(data), _PART):
            part = data[start : start + _PART]  # the very same, if it is not larger
            while self._filling.make_some_room(len(part)):
                await asyncio.sleep(0)
                self._check()
            self._filling.grow(write, len(part))
            write.body.append(part)
            if start + _PART < len(data):
                await asyncio.sleep(0)
                self._check()

    async def finish(self) -> Finished:
        """Publish the object.

        Returns:
            What it came to.

        Raises:
            Error: If the write has failed.
            RuntimeError: If the write has been finished or given up before.
        """
        write = self._check()
        self._write = None
        return self._filling.publish(write)

    def _check(self) -> Write:
        write = self._write
        if write is None:
            msg = "this write is over"
            raise RuntimeError(msg)
        if not write.active:
            failure = write.body.failure or (WRITE_FAILED, "the write was given up")
            raise Error(*failure, source=ErrorSource.INTERNAL)
        return write

    def close(self) -> None:
        """Give up, unless the write is finished; nothing on the second call."""
        write = self._write
        if write is not None:
            self._write = None
            self._filling.fail(write, "the writer gave up")

    def __del__(self) -> None:
        self.close()

    @property
    def streaming_write_tag(self) -> bytes:
        """What this write is found by."""
        return self._tag
