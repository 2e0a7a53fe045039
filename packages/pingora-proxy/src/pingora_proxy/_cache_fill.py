"""Storing a response while it arrives, in a task of its own.

Theory of operation. The upstream is read by the fill, as fast as it sends. The client is served
through a pipe, and goes on out of the store when it is slower than that. So a client that is slow
does not hold up others who wait for the same object, and one that goes away does not waste what
was fetched. The fill belongs to the request that began it: the request has not ended before it.

What goes wrong in the store costs the object, not the response; what goes wrong upstream costs
both, and nothing that is not whole is kept.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Generic

from pingora_cache.reason import NoCacheReason
from pingora_cache.storage import RESPONSE_TOO_LARGE
from pingora_error import Error, ErrorType
from pingora_proxy._user_errors import as_error
from pingora_proxy.hooks import CTX

if TYPE_CHECKING:
    from pingora_cache.fill import CacheFill
    from pingora_proxy._body_pipe import BodyPipe
    from pingora_proxy._body_source import UpstreamBody

__all__ = ["Fill"]

logger = logging.getLogger(__name__)


class Fill(Generic[CTX]):
    """One response on its way into the cache.

    Args:
        body: The body, as it arrives.
        fill: Where it goes.
        pipe: Where it goes besides: to the client.
        summary: Which request this is, for logs.

    Attributes:
        was_too_large: Whether the store has refused the response for its size.
    """

    def __init__(
        self, body: UpstreamBody[CTX], fill: CacheFill, pipe: BodyPipe, summary: str
    ) -> None:
        self._body = body
        self._fill: CacheFill | None = fill
        self._pipe = pipe
        self._summary = summary
        self.was_too_large = False
        self._task = asyncio.create_task(self._run(), name="cache fill")

    async def end(self) -> None:
        """Wait until the response is stored, or is not; when cancelled, give it up."""
        try:
            await asyncio.wait((self._task,))
        finally:
            if not self._task.done():
                await self.cancel()
        error = None if self._task.cancelled() else self._task.exception()
        if error is not None and not self._pipe.has_failed:
            logger.warning("a response is not stored: %s, %s", error, self._summary)

    async def cancel(self) -> None:
        """Give the response up."""
        self._task.cancel()
        await asyncio.wait((self._task,))
        if self._fill is not None:  # the task has not even begun
            self._fill.close()
            self._fill = None

    async def _run(self) -> None:
        pipe = self._pipe
        try:
            while (data := await self._body.read_body()) is not None:
                await self._store(data)
                await pipe.write(data)
        except Error as error:
            await self._give_up(NoCacheReason.UPSTREAM_ERROR)
            pipe.end(error)
            raise
        except Exception as error:
            await self._give_up(NoCacheReason.INTERNAL_ERROR)
            pipe.end(as_error(error, "a filter of the upstream's side"))
            raise
        except BaseException:
            await self._give_up(NoCacheReason.INTERNAL_ERROR)
            pipe.end(Error.internal(ErrorType.INTERNAL_ERROR, "the fill was given up"))
            raise
        pipe.end()  # the client does not wait until it is stored
        await self._finish()

    async def _store(self, data: bytes) -> None:
        if self._fill is None:
            return
        try:
            await self._fill.write(data, end=False)
        except Error as error:
            self.was_too_large = error.etype == RESPONSE_TOO_LARGE
            logger.log(
                logging.INFO if self.was_too_large else logging.WARNING,
                "a response is not stored: %s, %s",
                error,
                self._summary,
            )
            self._fill = None  # it has ended with that
            self._pipe.drop_store()

    async def _finish(self) -> None:
        if self._fill is None:
            return
        try:
            await self._fill.finish()
        except Error as error:
            logger.warning("a response is not stored: %s, %s", error, self._summary)

    async def _give_up(self, reason: NoCacheReason) -> None:
        fill = self._fill
        self._fill = None
        if fill is None:
            return
        try:
            await fill.abort(reason)
        except Error as error:
            logger.warning("giving a fill up failed: %s, %s", error, self._summary)
