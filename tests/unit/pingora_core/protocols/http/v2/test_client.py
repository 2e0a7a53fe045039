"""The upstream session of HTTP/2: requests as they leave, responses as they come."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pingora_core.protocols.http.task import BodyTask, HeaderTask
from pingora_core.protocols.http.v2.client import HttpSession
from pingora_error import PREMATURE_BODY_END, Error, ErrorSource, ErrorType, RetryType
from pingora_http import HeaderMap, RequestHeader, Version
from tests.support.h2_library_origin import LibraryOrigin
from tests.support.waiting import eventually
from tests.unit.pingora_core.protocols.http.v2.client_rig import (
    answer_of,
    ask,
    connector,
    error_of,
    h2c_peer,
    request,
    session_to,
    submit,
)

if TYPE_CHECKING:
    from pingora_core.protocols.http.v2.options import EngineName
    from tests.support.h2_library_origin import LibraryStream

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture(params=["h2", "jh2"])
def engine(request: pytest.FixtureRequest) -> EngineName:
    """Each test runs on both libraries."""
    chosen: EngineName = request.param
    return chosen


# ------------------------------------------------------------------- the request


async def test_an_exchange(engine: EngineName) -> None:
    """A request without a body is one HEADERS frame; its response comes as tasks."""
    async with LibraryOrigin() as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        session = await session_to(upstreams, peer)
        before = session.request_sent
        submit(
            session, request("GET", "/path?q=1", ("X-A", "1"), ("Connection", "X-B"), ("X-B", "2"))
        )
        answer = await answer_of(session)

        assert (answer.status, answer.body, answer.ended_with_head) == (200, b"", True)
        assert (before, session.request_sent) == (False, True)
        assert answer.header is not None
        assert answer.header.version is Version.HTTP_20
        assert session.version is Version.HTTP_20
        assert session.response_header is answer.header
        assert session.response_done
        assert not session.can_reuse
        assert session.id >= 0
        assert session.digest.socket_digest is not None
        (seen,) = origin.requests
        assert seen.fields == [
            (b":method", b"GET"),
            (b":scheme", b"http"),
            (b":authority", b"example.com"),
            (b":path", b"/path?q=1"),
            (b"x-a", b"1"),
        ]
        assert seen.ended_with_head
        upstreams.release_http_session(session, peer)
        assert origin.violations == []


async def test_bodies_go_both_ways(engine: EngineName) -> None:
    """More than all windows together arrives, and both sides are counted."""
    payload = bytes(range(256)) * 12000
    async with LibraryOrigin() as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address, h2_stream_window_size=65535)
        session = await session_to(upstreams, peer)
        session.send_request_header(request("POST", "/", ("Transfer-Encoding", "chunked")))

        async def upload() -> None:
            for start in range(0, len(payload), 100_000):
                session.send_request_body(payload[start : start + 100_000])
                if session.needs_drain:
                    await session.drain()
            session.finish_request_body()

        uploading = asyncio.create_task(upload())
        answer = await answer_of(session)
        await uploading

        assert answer.body == payload
        assert session.body_bytes_sent == session.body_bytes_received == len(payload)
        assert origin.requests[0][b"transfer-encoding"] is None
        upstreams.release_http_session(session, peer)
        assert origin.violations == []


async def test_pieces_come_as_they_arrive(engine: EngineName) -> None:
    """`next_task` gives what is here and None otherwise."""

    async def handler(stream: LibraryStream) -> None:
        stream.head(200)
        await stream.data(b"one")
        await stream.body()
        await stream.data(b"two", end=True)

    async with LibraryOrigin(handler) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        session = await session_to(upstreams, peer)
        session.send_request_header(request("POST", "/", ("Content-Length", "1")))
        head = await session.read_task()
        assert isinstance(head, HeaderTask)
        assert not head.end
        piece = await session.read_task()
        assert isinstance(piece, BodyTask)
        assert (piece.data, piece.end) == (b"one", False)
        assert session.next_task() is None
        session.send_request_body(b"!")
        session.finish_request_body()
        rest = await answer_of(session)
        assert rest.body == b"two"
        upstreams.release_http_session(session, peer)


async def test_request_trailers(engine: EngineName) -> None:
    """Trailers end the request; those that frame a message do not leave."""
    async with LibraryOrigin() as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        session = await session_to(upstreams, peer)
        session.send_request_header(request("POST", "/", ("Transfer-Encoding", "chunked")))
        session.send_request_body(b"payload")
        session.finish_request_body(HeaderMap([("Grpc-Status", "0"), ("Content-Length", "9")]))
        answer = await answer_of(session)

        assert answer.body == b"payload"
        assert origin.requests[0].trailers == [(b"grpc-status", b"0")]
        upstreams.release_http_session(session, peer)


async def test_content_length_zero_ends_with_the_head(engine: EngineName) -> None:
    """A length of zero is no reason for a DATA frame."""
    async with LibraryOrigin() as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        answer = await ask(upstreams, peer, request("POST", "/", ("Content-Length", "0")))
        assert answer.status == 200
        assert origin.requests[0].ended_with_head


async def test_the_end_can_be_a_frame_of_its_own(engine: EngineName) -> None:
    """`set_send_end_stream(False)`: HEADERS without END_STREAM, then an empty DATA."""
    async with LibraryOrigin() as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        header = RequestHeader("GET", "/", Version.HTTP_20, headers=[("Host", "example.com")])
        header.set_send_end_stream(False)
        answer = await ask(upstreams, peer, header)
        assert answer.status == 200
        assert not origin.requests[0].ended_with_head
        assert origin.requests[0].ended


async def test_content_length_is_kept(engine: EngineName) -> None:
    """What exceeds it is dropped; what falls short of it is this side's fault."""
    async with LibraryOrigin() as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        answer = await ask(upstreams, peer, request("POST", "/", ("Content-Length", "3")), b"four")
        assert answer.body == b"fou"

        session = await session_to(upstreams, peer)
        session.send_request_header(request("POST", "/", ("Content-Length", "3")))
        session.send_request_body(b"ab")
        with pytest.raises(Error) as caught:
            session.finish_request_body()
        assert (caught.value.etype, caught.value.esource) == (
            PREMATURE_BODY_END,
            ErrorSource.INTERNAL,
        )
        upstreams.release_http_session(session, peer)
        await eventually(lambda: origin.requests[-1].reset_code == 8)


async def test_a_head_that_cannot_be_sent(engine: EngineName) -> None:
    """Without a host there is no request; the place on the connection is free again."""
    async with LibraryOrigin() as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        session = await session_to(upstreams, peer)
        with pytest.raises(Error) as caught:
            session.send_request_header(RequestHeader("GET", "/"))
        assert caught.value.etype is ErrorType.INVALID_HTTP_HEADER
        assert not session.request_sent
        upstreams.release_http_session(session, peer)
        assert (await ask(upstreams, peer, request())).status == 200
        assert [stream.id for stream in origin.requests] == [1]


# ------------------------------------------------------------------ the response


async def test_trailers(engine: EngineName) -> None:
    """They are the last task, also after a head without body."""

    async def handler(stream: LibraryStream) -> None:
        stream.head(200, (b"content-type", b"application/grpc"))
        if stream[b":path"] == b"/data":
            await stream.data(b"message")
        stream.fields_sent([(b"grpc-status", b"0")], end=True)

    async with LibraryOrigin(handler) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        for path, body in (("/data", b"message"), ("/none", b"")):
            answer = await ask(upstreams, peer, request("GET", path))
            assert answer.body == body
            assert answer.trailers is not None
            assert list(answer.trailers) == [("grpc-status", "0")]


async def test_informational_heads(engine: EngineName) -> None:
    """Each is a task; the final head is the one that is kept."""

    async def handler(stream: LibraryStream) -> None:
        stream.head(103, (b"link", b"</style.css>"))
        stream.head(103, (b"link", b"</code.js>"))
        stream.head(200, end=True)

    async with LibraryOrigin(handler) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        answer = await ask(upstreams, peer, request())
        assert (answer.informational, answer.status) == ([103, 103], 200)


async def test_too_many_informational_heads(engine: EngineName) -> None:
    """Their number is bounded, whether somebody reads them or not."""

    async def handler(stream: LibraryStream) -> None:
        for _ in range(200):
            stream.head(103)
            await asyncio.sleep(0)
        stream.head(200, end=True)

    async with LibraryOrigin(handler) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        session = await session_to(upstreams, peer)
        submit(session, request())
        # Nobody reads yet.
        await eventually(lambda: origin.requests and origin.requests[0].reset_code == 1)
        error = await error_of(session)
        assert (error.etype, error.esource) == (ErrorType.H2_ERROR, ErrorSource.UPSTREAM)
        assert not error.should_retry
        upstreams.release_http_session(session, peer)
        assert upstreams.http2.pool.idle_count == 1


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_responses_without_body(engine: EngineName, method: str, status: int) -> None:
    """A length says what there would be; END_STREAM may come with the head or after it."""

    async def handler(stream: LibraryStream) -> None:
        fields = [] if status == 204 else [(b"content-length", b"10")]
        late = stream[b":path"] == b"/late"
        stream.head(status, *fields, end=not late)
        if late:
            await stream.data(b"", end=True)

    async with LibraryOrigin(handler) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        for path in ("/now", "/late"):
            answer = await ask(upstreams, peer, request(method, path))
            assert (answer.status, answer.body) == (status, b"")
            assert answer.ended_with_head == (path == "/now")


@pytest.mark.parametrize(
    ("length", "body", "method"),
    [
        (b"5", b"four", "GET"),
        (b"3", b"four", "GET"),
        (b"4", b"four", "HEAD"),
        (b"5", b"", "GET"),
    ],
)
async def test_content_length_that_lies(
    engine: EngineName, length: bytes, body: bytes, method: str
) -> None:
    """More or less than announced is an error of the upstream, and of this stream alone."""

    async def handler(stream: LibraryStream) -> None:
        stream.head(200, (b"content-length", length), end=not body)
        if body:
            await stream.data(body, end=True)

    async with LibraryOrigin(handler) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        session = await session_to(upstreams, peer)
        submit(session, request(method))
        error = await error_of(session)
        assert error.esource is ErrorSource.UPSTREAM
        assert error.etype in {ErrorType.H2_ERROR, ErrorType.INVALID_HTTP_HEADER}
        assert error.retry is RetryType.NO_RETRY
        upstreams.release_http_session(session, peer)
        assert upstreams.http2.pool.idle_count == 1
        assert upstreams.http2.stats.malformed == 1


@pytest.mark.parametrize(
    "fields",
    [
        [(b":status", b"101")],
        [(b":status", b"99")],
        [(b":status", b"200"), (b"connection", b"close")],
        [(b":status", b"200"), (b"x", b"a\r\nb: c")],
        [(b":status", b"200"), (b"content-length", b"1"), (b"content-length", b"2")],
    ],
)
async def test_malformed_heads(engine: EngineName, fields: list[tuple[bytes, bytes]]) -> None:
    """A head that is none of HTTP fails the exchange; nothing of it goes on."""

    async def handler(stream: LibraryStream) -> None:
        stream.connection.engine.config.validate_outbound_headers = False
        stream.connection.engine.config.normalize_outbound_headers = False
        stream.fields_sent(fields, end=False)
        await stream.wait()

    async with LibraryOrigin(handler) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        session = await session_to(upstreams, peer)
        submit(session, request())
        error = await error_of(session)
        assert (error.etype, error.esource) == (
            ErrorType.INVALID_HTTP_HEADER,
            ErrorSource.UPSTREAM,
        )
        assert error.retry is RetryType.NO_RETRY
        await eventually(lambda: origin.requests[0].reset_code == 1)
        upstreams.release_http_session(session, peer)


# ------------------------------------------------------------- giving up, waiting


async def test_read_timeout(engine: EngineName) -> None:
    """A silent stream ends with READ_TIMEDOUT and RST_STREAM CANCEL; the connection is asked."""

    async def handler(stream: LibraryStream) -> None:
        stream.head(200)
        await stream.wait()

    async with LibraryOrigin(handler) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address, read_timeout=0.02)
        session = await session_to(upstreams, peer)
        submit(session, request())
        error = await error_of(session)
        assert (error.etype, error.esource) == (ErrorType.READ_TIMEDOUT, ErrorSource.UPSTREAM)
        upstreams.release_http_session(session, peer)
        await eventually(lambda: origin.requests[0].reset_code == 8)
        await eventually(lambda: origin.connections[0].pings == 1)
        # It has answered, so it goes on.
        await eventually(lambda: upstreams.http2.pool.idle_count == 1)
        assert origin.open_connections == 1


async def test_write_timeout(engine: EngineName) -> None:
    """An upstream that gives no window makes `drain` fail; other streams do not notice."""
    async with LibraryOrigin() as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address, write_timeout=0.02)
        origin.gives_credit = False
        session = await session_to(upstreams, peer)
        session.send_request_header(request("POST", "/", ("Transfer-Encoding", "chunked")))
        session.send_request_body(bytes(300_000))
        assert session.needs_drain
        with pytest.raises(Error) as caught:
            await session.drain()
        assert (caught.value.etype, caught.value.esource) == (
            ErrorType.WRITE_TIMEDOUT,
            ErrorSource.UPSTREAM,
        )
        other = await ask(upstreams, peer, request("GET", "/other"))
        assert other.status == 200
        upstreams.release_http_session(session, peer)
        await eventually(lambda: origin.requests[0].reset_code == 8)


async def test_a_stalled_reader_stalls_only_itself(engine: EngineName) -> None:
    """What nobody takes stays within its window, and another response passes by."""

    async def handler(stream: LibraryStream) -> None:
        stream.head(200)
        size = 3_000_000 if stream[b":path"] == b"/big" else 300_000
        await stream.data(bytes(size), end=True)

    async with LibraryOrigin(handler) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        stalled = await session_to(upstreams, peer)
        submit(stalled, request("GET", "/big"))
        await eventually(lambda: stalled.stream.buffered == 1 << 20)
        other = await ask(upstreams, peer, request("GET", "/small"))
        assert len(other.body) == 300_000
        assert stalled.stream.buffered == 1 << 20
        assert origin.open_connections == 1
        rest = await answer_of(stalled)
        assert len(rest.body) == 3_000_000
        upstreams.release_http_session(stalled, peer)


async def test_fail_interrupts(engine: EngineName) -> None:
    """Whoever waits gets the very error that was given, its source untouched."""

    async def handler(stream: LibraryStream) -> None:
        await stream.wait()

    async with LibraryOrigin(handler) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        session = await session_to(upstreams, peer)
        submit(session, request())
        waiting = asyncio.create_task(session.wait_task())
        await eventually(lambda: origin.requests)
        given = Error.down(ErrorType.CONNECTION_CLOSED, "the client is gone")
        session.fail(given)
        session.fail(Error.down(ErrorType.READ_ERROR, "too late"))
        with pytest.raises(Error) as caught:
            await waiting
        assert caught.value is given
        assert given.esource is ErrorSource.DOWNSTREAM
        upstreams.release_http_session(session, peer)
        await eventually(lambda: origin.requests[0].reset_code == 8)
        assert upstreams.http2.pool.idle_count == 1


async def test_shutdown_resets_this_stream_only(engine: EngineName) -> None:
    """The other exchange on the connection goes on to its end."""

    async def handler(stream: LibraryStream) -> None:
        stream.head(200)
        await stream.data(b"begin")
        if stream[b":path"] == b"/other":
            while origin.requests[0].reset_code is None:
                await origin.requests[0].wait()
            await stream.data(b" end", end=True)
        else:
            await stream.wait()

    async with LibraryOrigin(handler) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        given_up = await session_to(upstreams, peer)
        submit(given_up, request("GET", "/one"))
        other = await session_to(upstreams, peer)
        submit(other, request("GET", "/other"))
        assert isinstance(await given_up.read_task(), HeaderTask)
        given_up.shutdown()
        answer = await answer_of(other)
        assert answer.body == b"begin end"
        assert origin.requests[0].reset_code == 8
        assert isinstance(other, HttpSession)
        assert other.response_done
        for session in (given_up, other):
            upstreams.release_http_session(session, peer)
        assert len(origin.connections) == 1
