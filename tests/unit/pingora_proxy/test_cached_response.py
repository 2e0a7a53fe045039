"""Sending a response whose head and body are at hand: what a client gets of it."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings, strategies as st

from pingora_cache.meta import CacheMeta
from pingora_core.modules.chain import HttpModules
from pingora_core.protocols.http.subrequest import SubrequestSession
from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_error import Error, ErrorType
from pingora_http import RequestHeader, ResponseHeader
from pingora_proxy import Session
from pingora_proxy._cached_response import (
    CachedResponse,
    UnreadableBodyError,
    is_whole,
    prepared_head,
    send_prepared,
    send_whole,
)
from pingora_proxy._overrides import Overrides
from pingora_proxy.range_filter import parse_range
from pingora_proxy.session import ServiceParts
from tests.support.proxy import BareProxy

_BODY = b"0123456789"


class Downstream(SubrequestSession):
    """Keeps what is sent.

    Attributes:
        head: The head.
        body: The body.
        ended: How often the end was told.
        drains: How often the sender has waited.
    """

    def __init__(self, request: RequestHeader) -> None:
        super().__init__(request)
        self.head = ResponseHeader(599)
        self.body = b""
        self.ended = 0
        self.drains = 0

    def send_response_header(self, header: ResponseHeader, *, end: bool = False) -> None:
        assert self.head.status == 599
        self.head = header
        self.ended += end

    def send_response_body(self, data: bytes | None, *, end: bool = False) -> None:
        assert not self.ended, "something follows the end"
        self.body += data or b""
        self.ended += end

    @property
    def needs_drain(self) -> bool:
        return True

    async def drain(self) -> None:
        self.drains += 1


class Source:
    """A body in pieces.

    Args:
        body: The body.
        size: Bytes of a piece.
        seeks: Whether it can go anywhere.
        partial: Whether it is still arriving.
        fails_at: The number of the read that fails, from 1; 0 for none.
    """

    def __init__(
        self,
        body: bytes = _BODY,
        size: int = 4,
        *,
        seeks: bool = False,
        partial: bool = False,
        fails_at: int = 0,
    ) -> None:
        self._body = body
        self._size = size
        self._seeks = seeks
        self._partial = partial
        self._fails_at = fails_at
        self._at = 0
        self._end = len(body)
        self.reads = 0

    async def read_body(self) -> bytes | None:
        self.reads += 1
        if self.reads == self._fails_at:
            raise Error.internal(ErrorType.FILE_READ_ERROR)
        piece = self._body[self._at : min(self._at + self._size, self._end)]
        self._at += len(piece)
        return piece or None

    def close(self) -> None:
        """Nothing to let go of."""

    @property
    def body_size(self) -> int | None:
        return None if self._partial else len(self._body)

    @property
    def can_seek(self) -> bool:
        return self._seeks

    def seek(self, start: int, end: int | None = None) -> None:
        assert self._seeks
        assert 0 <= start < len(self._body)
        self._at = start
        self._end = len(self._body) if end is None else end

    @property
    def is_partial(self) -> bool:
        return self._partial


def session_for(*fields: tuple[str, str], method: str = "GET") -> tuple[Session, Downstream]:
    down = Downstream(RequestHeader(method, "/", headers=fields))
    parts = ServiceParts(HttpModules(), HttpModules())
    return Session(down, parts, ShutdownSwitch().watch), down


async def send(
    source: Source,
    *fields: tuple[str, str],
    method: str = "GET",
    header: ResponseHeader | None = None,
) -> Downstream:
    session, down = session_for(*fields, method=method)
    app = BareProxy("127.0.0.1:1")
    if header is None:
        header = ResponseHeader(200, headers=[("ETag", '"a"'), ("Content-Type", "text/plain")])
    await CachedResponse(app, Overrides(app), session, None).send(header, source)
    return down


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("size", [1, 4, 10, 99])
async def test_a_whole_body(size: int, partial: bool) -> None:
    """It is sent in the pieces in which it is read; the end is told once, the length if known."""
    down = await send(Source(size=size, partial=partial))

    assert (down.head.status, down.body, down.ended) == (200, _BODY, 1)
    assert down.head.get("content-length") == (None if partial else "10")
    assert down.drains >= len(_BODY) // size


@pytest.mark.parametrize("partial", [False, True])
async def test_an_empty_body(partial: bool) -> None:
    """There is an end to it, too."""
    down = await send(Source(b"", partial=partial))

    assert (down.body, down.ended) == (b"", 1)
    assert down.head.get("content-length") == (None if partial else "0")


@pytest.mark.parametrize(
    ("method", "fields", "status", "reads"),
    [
        ("HEAD", (), 200, 0),
        ("GET", (("If-None-Match", '"a"'),), 304, 0),
        ("HEAD", (("If-None-Match", '"a"'),), 304, 0),
        ("GET", (("Range", "bytes=10-"),), 416, 0),
        ("HEAD", (("Range", "bytes=1-2"),), 206, 0),
    ],
)
async def test_a_head_alone(
    method: str, fields: tuple[tuple[str, str], ...], status: int, reads: int
) -> None:
    """What has no body does not read it."""
    source = Source()
    down = await send(source, *fields, method=method)

    assert (down.head.status, down.body, down.ended, source.reads) == (status, b"", 1, reads)


@pytest.mark.parametrize("status", [204, 304])
async def test_statuses_without_a_body(status: int) -> None:
    """No length is made up for them."""
    for partial in (False, True):
        down = await send(Source(b"", partial=partial), header=ResponseHeader(status))
        assert (down.head.get("content-length"), down.ended) == (None, 1)


@given(
    st.binary(max_size=12),
    st.sampled_from(
        ["0-0", "0-", "-1", "-0", "2-3", "0-1,3-4", "1-,0-1", "-3", "5-2", "11-", "0-2,4-"]
    ),
    st.integers(1, 13),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_ranges_equal_slicing(body: bytes, ranges: str, size: int, seeks: bool) -> None:
    """Of any body in any pieces, from a source that can seek or not, a range is the slice."""

    async def run() -> Downstream:
        return await send(Source(body, size, seeks=seeks), ("Range", f"bytes={ranges}"))

    down = asyncio.run(run())
    parts = parse_range(f"bytes={ranges}".encode(), len(body))
    assert down.ended == 1
    assert down.head.get("content-length") == str(len(down.body))
    if parts is None:
        assert (down.head.status, down.body) == (200, body)
    elif not parts:
        assert (down.head.status, down.body) == (416, b"")
    elif len(parts) == 1:
        assert (down.head.status, down.body) == (206, body[parts[0].start : parts[0].end])
    else:
        assert down.head.status == 206
        for part in parts:
            assert b"\r\n\r\n" + body[part.start : part.end] + b"\r\n--" in down.body


async def test_a_range_reads_no_more_than_it_needs() -> None:
    """A source that can seek is read where the range is; one that cannot, up to its end."""
    seeking, plain = Source(size=1, seeks=True), Source(size=1)
    for source in (seeking, plain):
        assert (await send(source, ("Range", "bytes=6-7"))).body == b"67"

    assert (seeking.reads, plain.reads) == (2, 8)


async def test_a_source_that_fails_at_once() -> None:
    """Nothing was sent, so another one can be tried."""
    for fields in ((), (("Range", "bytes=1-2"),)):
        session, down = session_for(*fields)
        app = BareProxy("127.0.0.1:1")
        response = CachedResponse(app, Overrides(app), session, None)
        with pytest.raises(UnreadableBodyError):
            await response.send(ResponseHeader(200), Source(fails_at=1))
        assert down.head.status == 599


@pytest.mark.parametrize("partial", [False, True])
async def test_a_source_that_fails_later(partial: bool) -> None:
    """What has begun fails with the source's error, and without an end."""
    session, down = session_for()
    app = BareProxy("127.0.0.1:1")
    response = CachedResponse(app, Overrides(app), session, None)
    with pytest.raises(Error):
        await response.send(ResponseHeader(200), Source(partial=partial, fails_at=2))

    assert (down.body, down.ended) == (b"0123", 0)


async def test_a_body_that_ends_before_the_range() -> None:
    """What was promised and does not come is an error, not an end."""
    session, down = session_for(("Range", "bytes=2-5"))
    app = BareProxy("127.0.0.1:1")
    header = ResponseHeader(200, headers=[("Content-Length", "10")])
    with pytest.raises(Error):
        await CachedResponse(app, Overrides(app), session, None).send(
            header, Source(b"0123", partial=True)
        )
    assert not down.ended


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("size", [1, 4, 10, 99])
async def test_send_whole(size: int, partial: bool) -> None:
    """The short way for plain requests comes to the same."""
    session, down = session_for()
    assert is_whole(session)
    await send_whole(session, ResponseHeader(200), Source(size=size, partial=partial))

    assert (down.body, down.ended) == (_BODY, 1)
    assert down.head.get("content-length") == (None if partial else "10")


async def test_send_whole_of_nothing() -> None:
    """So it does for empty bodies and for statuses without one."""
    for status, partial in ((200, False), (200, True), (204, False), (304, True)):
        session, down = session_for()
        await send_whole(session, ResponseHeader(status), Source(b"", partial=partial))
        assert (down.head.status, down.body, down.ended) == (status, b"", 1)


async def test_send_whole_of_what_cannot_be_read() -> None:
    """And where the source fails."""
    session, down = session_for()
    with pytest.raises(UnreadableBodyError):
        await send_whole(session, ResponseHeader(200), Source(fails_at=1))
    assert down.head.status == 599
    session, down = session_for()
    with pytest.raises(Error):
        await send_whole(session, ResponseHeader(200), Source(fails_at=2))
    assert not down.ended


def meta_of(status: int = 200, *fields: tuple[str, str]) -> CacheMeta:
    header = ResponseHeader(status, headers=[("Date", "Mon, 23 Nov 2026 12:00:00 GMT"), *fields])
    return CacheMeta(header, created=0.0, fresh_until=1.0)


@pytest.mark.parametrize("size", [1, 4, 10, 99])
async def test_send_prepared(size: int) -> None:
    """With a head that was written before it comes to the same, with the age."""
    session, down = session_for()
    source = Source(size=size)
    head = prepared_head(meta_of(), source)
    assert head is not None
    await send_prepared(session, head, 7, source)

    assert (down.body, down.ended) == (_BODY, 1)
    assert (down.head.get("content-length"), down.head.get("age")) == ("10", "7")


async def test_send_prepared_of_nothing() -> None:
    """An empty body ends with the head."""
    session, down = session_for()
    source = Source(b"")
    head = prepared_head(meta_of(), source)
    assert head is not None
    await send_prepared(session, head, 0, source)

    assert (down.head.status, down.body, down.ended) == (200, b"", 1)


async def test_send_prepared_of_what_cannot_be_read() -> None:
    """Nothing is sent of what fails at once; what fails later is not ended."""
    for fails_at, status in ((1, 599), (2, 200)):
        session, down = session_for()
        source = Source(fails_at=fails_at)
        head = prepared_head(meta_of(), source)
        assert head is not None
        with pytest.raises(UnreadableBodyError if fails_at == 1 else Error):
            await send_prepared(session, head, 0, source)
        assert (down.head.status, down.ended) == (status, 0)


def test_a_head_is_prepared_once() -> None:
    """It lies with its meta, and counts for that head and that body only."""
    meta = meta_of()
    head = prepared_head(meta, Source())
    assert head is not None

    assert prepared_head(meta, Source()) is head
    assert prepared_head(meta.replace(fresh_until=9.0), Source()) is head
    freshened = prepared_head(meta.replace(header=meta.header.copy()), Source())
    assert freshened is not None
    assert freshened is not head
    longer = prepared_head(meta, Source(b"more than before"))
    assert longer is not None
    assert (longer.length, head.length) == (16, 10)


def test_what_is_not_prepared() -> None:
    """What has no body, what is still arriving, and what has no date, take the long way."""
    dateless = CacheMeta(ResponseHeader(200), created=0.0, fresh_until=1.0)

    assert prepared_head(meta_of(), Source(partial=True)) is None
    assert prepared_head(meta_of(204), Source(b"")) is None
    assert prepared_head(meta_of(304), Source(b"")) is None
    assert prepared_head(dateless, Source()) is None


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("HEAD", ()),
        ("GET", (("Range", "bytes=0-1"),)),
        ("GET", (("If-None-Match", "*"),)),
        ("GET", (("If-Modified-Since", "x"),)),
    ],
)
def test_what_is_not_whole(method: str, fields: tuple[tuple[str, str], ...]) -> None:
    """Who asks for less takes the long way."""
    session, _ = session_for(*fields, method=method)

    assert not is_whole(session)
