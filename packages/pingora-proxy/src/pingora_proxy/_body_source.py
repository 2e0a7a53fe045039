"""Where the body of a response comes from that is not simply relayed.

A source may be a reader of the cache's (:class:`pingora_cache.storage.HitHandler`), the upstream
itself, or a pipe between the two (``_body_pipe``).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, Protocol

from pingora_core.protocols.http.task import (
    BodyTask,
    DoneTask,
    FailedTask,
    TrailerTask,
    UpgradedBodyTask,
)
from pingora_error import Error, ErrorType
from pingora_proxy.hooks import CTX

if TYPE_CHECKING:
    from pingora_core.protocols.http.client import ClientSession
    from pingora_proxy._upstream_plane import UpstreamPlane

__all__ = ["BodySource", "UpstreamBody"]


class BodySource(Protocol):
    """The body of one response, read once from its beginning."""

    async def read_body(self) -> bytes | None:
        """Wait for the next piece; None at the end."""

    def close(self) -> None:
        """Let go of it; a read that waits ends with an error."""

    @property
    def body_size(self) -> int | None:
        """Bytes of the whole body; None where that is not known yet."""

    @property
    def can_seek(self) -> bool:
        """Whether reading can go on somewhere else."""

    def seek(self, start: int, end: int | None = None) -> None:
        """Go on at an offset, up to another."""

    @property
    def is_partial(self) -> bool:
        """Whether the body is still arriving."""


class UpstreamBody(Generic[CTX]):
    """The body of an upstream's response, through the filters of the upstream's side.

    Args:
        upstream: The exchange; its final head was read.
        plane: The filters; None for none.
        end: Whether the response has ended with its head.

    Attributes:
        delay: Seconds to pause after the last piece, as a filter has asked for.
    """

    def __init__(
        self, upstream: ClientSession, plane: UpstreamPlane[CTX] | None, *, end: bool
    ) -> None:
        self._upstream = upstream
        self._plane = plane
        self._ended = end
        self._told_end = plane is None or not plane.sees_body
        self.delay = 0.0

    async def read_body(self) -> bytes | None:
        """Wait for the next piece.

        Returns:
            The piece; None at the end. Trailers are dropped.

        Raises:
            Error: From upstream or a filter.
        """
        while True:
            if self.delay > 0:
                await asyncio.sleep(self.delay)
                self.delay = 0.0
            if self._ended:
                return await self._last()
            data = await self._next()
            if data:
                return data

    async def _next(self) -> bytes | None:
        task = self._upstream.next_task()
        if task is None:
            task = await self._upstream.wait_task()
        match task:
            case BodyTask() | UpgradedBodyTask():
                data = task.data
                self._ended = task.end
            case TrailerTask() | DoneTask():
                data = None
                self._ended = True
            case FailedTask():
                raise task.error
            case _:
                raise Error.up(ErrorType.INVALID_HTTP_HEADER, "a second response head")
        if self._told_end or self._plane is None:
            return data
        self._told_end = self._ended
        data, self.delay = await self._plane.body(data, end=self._ended)
        return data

    async def _last(self) -> bytes | None:
        if self._told_end or self._plane is None:
            return None
        self._told_end = True
        data, self.delay = await self._plane.body(None, end=True)
        return data or None

    def close(self) -> None:
        """Break off; the connection is not used again."""
        if not self._ended:
            self._upstream.shutdown()

    @property
    def body_size(self) -> int | None:
        """None: it is still arriving."""
        return None

    @property
    def can_seek(self) -> bool:
        """False: it passes by once."""
        return False

    def seek(self, start: int, end: int | None = None) -> None:
        """Not possible.

        Args:
            start: Of no effect.
            end: Of no effect.

        Raises:
            RuntimeError: Always.
        """
        msg = f"the body of a response cannot go to {start}, {end}"
        raise RuntimeError(msg)

    @property
    def is_partial(self) -> bool:
        """True: it is still arriving."""
        return True
