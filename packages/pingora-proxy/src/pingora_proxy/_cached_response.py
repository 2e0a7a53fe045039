"""Sending a response whose head and body are at hand: out of the cache, or on its way into it.

Here a client's own conditions and ranges are answered, since the upstream was asked for the whole
response; then the client's plane of filters follows, and the body.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Generic

from pingora_core.protocols.http.conditional import to_304
from pingora_core.protocols.http.prepared_head import PreparedHead
from pingora_error import Error, ErrorType
from pingora_proxy._client_plane import ClientPlane
from pingora_proxy._user_errors import as_error
from pingora_proxy.hooks import CTX
from pingora_proxy.range_filter import NotPartial, RangeBody

if TYPE_CHECKING:
    from pingora_cache.meta import CacheMeta
    from pingora_http import ResponseHeader
    from pingora_proxy._body_source import BodySource
    from pingora_proxy._overrides import Overrides
    from pingora_proxy.hooks import ProxyHttp
    from pingora_proxy.range_filter import MultiRange, SingleRange
    from pingora_proxy.session import Session

__all__ = [
    "CachedResponse",
    "UnreadableBodyError",
    "head_before",
    "is_whole",
    "prepared_head",
    "send_prepared",
    "send_whole",
]

logger = logging.getLogger(__name__)

_CONDITIONS = frozenset({b"if-none-match", b"if-modified-since"})
_ASKING_LESS = _CONDITIONS | {b"range"}
# Under which name a head that was written before is kept.
_PREPARED = "pingora_proxy.prepared_head"


class UnreadableBodyError(Exception):
    """The body cannot be read, and nothing was sent yet: another source can be tried.

    Args:
        error: What the source has said.

    Attributes:
        error: As given.
    """

    def __init__(self, error: Error) -> None:
        super().__init__(str(error))
        self.error = error


class CachedResponse(Generic[CTX]):
    """One response to send.

    Args:
        app: The user's object.
        overrides: Which callbacks it overrides.
        session: The request.
        ctx: The user's context.
    """

    __slots__ = (
        "_app",
        "_ctx",
        "_down",
        "_overrides",
        "_plane",
        "_ranges",
        "_session",
        "_size",
        "_source",
    )

    def __init__(
        self, app: ProxyHttp[CTX], overrides: Overrides, session: Session, ctx: CTX
    ) -> None:
        self._app = app
        self._overrides = overrides
        self._session = session
        self._ctx = ctx
        self._down = session.downstream_session
        self._plane: ClientPlane[CTX] | None = None
        self._ranges: RangeBody | None = None
        self._size: int | None = None

    async def send(self, header: ResponseHeader, source: BodySource) -> None:
        """Send it.

        Args:
            header: The head of the whole response; changed.
            source: Its body, to be read from its beginning. Left open.

        Raises:
            Error: From downstream, a callback, or the source.
            UnreadableBodyError: If the source fails before anything was sent.
        """
        self._source = source
        request = self._down.request
        values = header.first_values()
        self._size = source.body_size
        if (
            self._size is not None
            and b"content-length" not in values
            and _may_have_body(header)
            and not self._overrides.response_body_filter  # which may make another length of it
        ):
            header.set_content_length(self._size)
        conditions = request.first_values().keys()
        if (
            self._overrides.cache_not_modified_filter or not _CONDITIONS.isdisjoint(conditions)
        ) and await self._is_not_modified(header):
            to_304(header)
            await self._send_head(header)
            return
        if self._overrides.range_header_filter or b"range" in conditions:
            await self._choose_ranges(header)
        if request.raw_method == b"HEAD" or not _may_have_body(header) or header.status == 416:
            await self._send_head(header)
            return
        # What cannot be read is found out before anything is sent.
        first = None
        if not source.is_partial:
            try:
                first = await self._read()
            except Error as error:
                raise UnreadableBodyError(error) from error
        if self._overrides.response_filter or self._session.active_modules is not None:
            self._plane = ClientPlane(self._app, self._overrides, self._session, self._ctx)
            await self._plane.header(header, end=False)
            self._session.phase = "relay response"
            if not self._plane.sees_body:
                self._plane = None
        elif self._overrides.response_body_filter:
            self._plane = ClientPlane(self._app, self._overrides, self._session, self._ctx)
        self._down.send_response_header(header)
        await self._send_body(first, complete=not source.is_partial)

    # ------------------------------------------------------------------- the head

    async def _send_head(self, header: ResponseHeader) -> None:
        # The whole answer is this head.
        session = self._session
        if self._overrides.response_filter or session.active_modules is not None:
            plane = ClientPlane(self._app, self._overrides, session, self._ctx)
            await plane.header(header, end=True)
            session.phase = "relay response"
        self._down.send_response_header(header, end=True)

    async def _is_not_modified(self, header: ResponseHeader) -> bool:
        session = self._session
        session.phase = "cache_not_modified_filter"
        try:
            return await self._app.cache_not_modified_filter(session, header, self._ctx)
        except Exception as error:  # noqa: BLE001 - a callback may raise anything
            failed = as_error(error, "cache_not_modified_filter")
            logger.warning("cache_not_modified_filter failed: %s", failed)
            return False

    async def _choose_ranges(self, header: ResponseHeader) -> None:
        session = self._session
        if session.ignore_downstream_range:
            return
        session.phase = "range_header_filter"
        chosen: SingleRange | MultiRange | NotPartial
        chosen = await self._app.range_header_filter(session, header, self._ctx)
        if not isinstance(chosen, NotPartial):
            self._ranges = RangeBody(chosen)
            self._size = None

    # ------------------------------------------------------------------- the body

    async def _read(self) -> bytes | None:
        # The next piece of what is to be sent; None at the end.
        source = self._source
        ranges = self._ranges
        if ranges is None:
            return await source.read_body()
        while True:
            if ranges.is_done:
                return None
            if source.can_seek and (wanted := ranges.next_jump()) is not None:
                source.seek(wanted.start, wanted.end)
            data = await source.read_body()
            if data is None:
                raise Error.internal(
                    ErrorType.INTERNAL_ERROR, "the body ends before the range that was promised"
                )
            out = ranges.feed(data)
            if out:
                return out

    async def _send_body(self, data: bytes | None, *, complete: bool) -> None:
        down = self._down
        left = self._size
        if not complete:
            data = await self._read()
        while data is not None:
            if left is not None:
                left -= len(data)
                if left == 0:
                    break
            if self._ranges is not None and self._ranges.is_done:
                break
            await self._send_piece(data, end=False)
            data = await self._read()
        if self._plane is None:
            down.send_response_body(data, end=True)
            if down.needs_drain:
                await down.drain()
        else:
            await self._send_piece(data, end=True)

    async def _send_piece(self, data: bytes | None, *, end: bool) -> None:
        delay = 0.0
        if self._plane is not None:
            data, delay = await self._plane.body(data, end=end)
            self._session.phase = "relay response"
        down = self._down
        down.send_response_body(data, end=end)
        if down.needs_drain:
            await down.drain()
        if delay > 0:
            await asyncio.sleep(delay)


def _may_have_body(header: ResponseHeader) -> bool:
    return header.status not in {204, 304} and header.status >= 200


def is_whole(session: Session) -> bool:
    """Tell whether a request is for a whole response, and no module changes it.

    Args:
        session: The request.

    Returns:
        Whether :func:`send_whole` will do.
    """
    request = session.downstream_session.request
    return (
        request.raw_method == b"GET"
        and session.active_modules is None
        and _ASKING_LESS.isdisjoint(request.raw_index or request.first_values())
    )


async def send_whole(session: Session, header: ResponseHeader, source: BodySource) -> None:
    """Send a response as it is: what :class:`CachedResponse` comes to where nobody changes it.

    Args:
        session: The request.
        header: The head; changed.
        source: The body, to be read from its beginning. Left open.

    Raises:
        Error: From downstream or the source.
        UnreadableBodyError: If the source fails before anything was sent.
    """
    down = session.downstream_session
    size = source.body_size
    if not _may_have_body(header):
        down.send_response_header(header, end=True)
        return
    data = None
    if not source.is_partial:
        try:
            data = await source.read_body()
        except Error as error:
            raise UnreadableBodyError(error) from error
        if size is not None and b"content-length" not in header.first_values():
            header.set_content_length(size)
    down.send_response_header(header)
    if source.is_partial:
        data = await source.read_body()
    await _send_all(session, data, source, size)


def prepared_head(meta: CacheMeta, source: BodySource) -> PreparedHead | None:
    """Find the head of a stored response as it was written before, or write it.

    Args:
        meta: What is known of the response; the head is kept with it.
        source: Its body.

    Returns:
        The head; None if the response has no body, or is still arriving.
    """
    size = source.body_size
    return None if size is None or source.is_partial else head_before(meta, size)


def head_before(meta: CacheMeta, size: int) -> PreparedHead | None:
    """Find the head of a stored response as it was written before, or write it.

    Args:
        meta: What is known of the response; the head is kept with it.
        size: Bytes of its body.

    Returns:
        The head; None if the response has no body.
    """
    header = meta.header
    known = meta.extensions.get(_PREPARED)
    # A copy of the meta that a 304 has freshened has the extensions of the old one.
    if type(known) is PreparedHead and known.header is header and known.length == size:
        return known
    if not _may_have_body(header) or b"date" not in header.keys_lower():
        return None
    head = meta.extensions[_PREPARED] = PreparedHead(header, size)
    return head


async def send_prepared(session: Session, head: PreparedHead, age: int, source: BodySource) -> None:
    """Send a response whose head was written before.

    Args:
        session: The request, for a whole response: see :func:`is_whole`.
        head: The head.
        age: How old the response is, seconds.
        source: The body, to be read from its beginning. Left open.

    Raises:
        Error: From downstream or the source.
        UnreadableBodyError: If the source fails before anything was sent.
    """
    try:
        data = await source.read_body()
    except Error as error:
        raise UnreadableBodyError(error) from error
    session.downstream_session.send_prepared_head(head, age)
    if head.length:
        await _send_all(session, data, source, head.length)


async def _send_all(
    session: Session, data: bytes | None, source: BodySource, size: int | None
) -> None:
    down = session.downstream_session
    sent = 0
    while data is not None:
        sent += len(data)
        down.send_response_body(data, end=sent == size)
        if down.needs_drain:
            await down.drain()
        if sent == size:
            return
        data = await source.read_body()
    down.send_response_body(None, end=True)
