"""What the end of a stream or of a connection means for a request: fail it, or send it again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from h2.settings import SettingCodes

from pingora_core.protocols.http.task import BodyTask, HeaderTask
from pingora_error import PING_TIMEDOUT, Error, ErrorSource, ErrorType, RetryType
from tests.support.h2_library_origin import LibraryOrigin
from tests.support.waiting import eventually
from tests.unit.pingora_core.protocols.http.v2.client_rig import (
    answer_of,
    ask,
    connection_of,
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


async def silence(stream: LibraryStream) -> None:
    """Never answer."""
    while True:
        await stream.wait()


# ------------------------------------------------------------------------ resets


@pytest.mark.parametrize(
    ("code", "etype", "retry"),
    [
        (0x7, ErrorType.CONNECTION_CLOSED, RetryType.RETRY),  # REFUSED_STREAM
        (0xD, ErrorType.H2_DOWNGRADE, RetryType.NO_RETRY),  # HTTP_1_1_REQUIRED, HTTP/2 only
        (0x8, ErrorType.H2_ERROR, RetryType.NO_RETRY),  # CANCEL
        (0x2, ErrorType.H2_ERROR, RetryType.NO_RETRY),  # INTERNAL_ERROR
        (0x0, ErrorType.H2_ERROR, RetryType.NO_RETRY),  # NO_ERROR, but no response
    ],
)
async def test_reset_before_the_response(
    engine: EngineName, code: int, etype: ErrorType, retry: RetryType
) -> None:
    """Only what the upstream says it has not looked at is sent again, POST or not."""

    async def handler(stream: LibraryStream) -> None:
        stream.reset(code)

    async with LibraryOrigin(handler) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        session = await session_to(upstreams, peer)
        submit(session, request("POST", "/", ("Content-Length", "0")))
        error = await error_of(session)
        assert (error.etype, error.esource) == (etype, ErrorSource.UPSTREAM)
        assert error.retry is retry
        upstreams.release_http_session(session, peer)
        assert upstreams.http2.pool.idle_count == 1


async def test_reset_within_the_response(engine: EngineName) -> None:
    """What arrived before it is handed out; the request is not sent again."""

    async def handler(stream: LibraryStream) -> None:
        stream.head(200)
        await stream.data(b"begin")
        stream.reset(0x7)

    async with LibraryOrigin(handler) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        session = await session_to(upstreams, peer)
        submit(session, request())
        assert isinstance(await session.read_task(), HeaderTask)
        piece = await session.read_task()
        assert isinstance(piece, BodyTask)
        assert piece.data == b"begin"
        with pytest.raises(Error) as caught:
            await session.read_task()
        assert caught.value.retry is RetryType.NO_RETRY
        assert caught.value.esource is ErrorSource.UPSTREAM
        upstreams.release_http_session(session, peer)


async def test_an_early_response_counts(engine: EngineName) -> None:
    """A complete answer, then RST_STREAM NO_ERROR: the upload ends, the answer is read."""

    async def handler(stream: LibraryStream) -> None:
        stream.head(413, (b"content-length", b"3"))
        await stream.data(b"too", end=True)
        stream.reset(0x0)

    async with LibraryOrigin(handler) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        session = await session_to(upstreams, peer)
        session.send_request_header(request("POST", "/", ("Transfer-Encoding", "chunked")))
        session.send_request_body(bytes(1000))
        await eventually(lambda: session.stream.reset_code == 0)
        with pytest.raises(Error) as caught:
            session.send_request_body(bytes(1000))
        assert caught.value.etype is ErrorType.WRITE_ERROR
        answer = await answer_of(session)
        assert (answer.status, answer.body) == (413, b"too")
        assert session.response_done
        upstreams.release_http_session(session, peer)
        assert upstreams.http2.pool.idle_count == 1


async def test_an_early_response_without_reset(engine: EngineName) -> None:
    """The answer is complete while the upload stands still: giving back resets the stream."""

    async def handler(stream: LibraryStream) -> None:
        stream.head(401, end=True)
        await stream.wait()

    async with LibraryOrigin(handler) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        session = await session_to(upstreams, peer)
        session.send_request_header(request("POST", "/", ("Transfer-Encoding", "chunked")))
        assert (await answer_of(session)).status == 401
        upstreams.release_http_session(session, peer)
        await eventually(lambda: origin.requests[0].reset_code == 8)
        assert upstreams.http2.pool.idle_count == 1


async def test_a_head_on_its_way_to_a_cancelled_stream(engine: EngineName) -> None:
    """A 103, a response and data for a stream that was given up do not end the connection."""
    reset = asyncio.Event()

    async def handler(stream: LibraryStream) -> None:
        if stream[b":path"] != b"/late":
            stream.head(200, end=True)
            return
        await reset.wait()
        # As if it had not seen the reset yet.
        connection = stream.connection
        encoder = connection.engine.encoder
        for fields in ([(b":status", b"103")], [(b":status", b"200")]):
            block = encoder.encode(fields)
            frame = len(block).to_bytes(3, "big") + b"\x01\x04" + stream.id.to_bytes(4, "big")
            connection.write(frame + block)
        connection.write(b"\x00\x00\x01\x00\x01" + stream.id.to_bytes(4, "big") + b"!")

    async with LibraryOrigin(handler) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        session = await session_to(upstreams, peer)
        submit(session, request("GET", "/late"))
        await eventually(lambda: origin.requests)
        upstreams.release_http_session(session, peer)
        await eventually(lambda: origin.requests[0].reset_code == 8)
        reset.set()
        for _ in range(3):
            assert (await ask(upstreams, peer, request("GET", "/after"))).status == 200
        assert len(origin.connections) == 1


# ------------------------------------------------------------------------ GOAWAY


async def test_goaway_sends_the_unprocessed_again(engine: EngineName) -> None:
    """Streams above the last one may be sent again, even POSTs; those below go on."""
    told = asyncio.Event()

    async def handler(stream: LibraryStream) -> None:
        if stream.id == 1:
            await told.wait()
            stream.head(200)
            await stream.data(b"below", end=True)
        else:
            stream.connection.say_goaway(1)
            told.set()

    async with LibraryOrigin(handler) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        below = await session_to(upstreams, peer)
        submit(below, request("GET", "/below"))
        above = await session_to(upstreams, peer)
        submit(above, request("POST", "/above", ("Content-Length", "0")))
        reserved = await session_to(upstreams, peer)
        error = await error_of(above)
        assert (error.etype, error.retry) == (ErrorType.CONNECTION_CLOSED, RetryType.RETRY)
        assert len(upstreams.http2.pool) == 0
        with pytest.raises(Error) as caught:
            submit(reserved, request("POST", "/reserved"))
        assert caught.value.retry is RetryType.RETRY
        assert caught.value.esource is ErrorSource.UPSTREAM
        assert not reserved.request_sent
        # The next one gets a new connection while the old one ends.
        fresh = await session_to(upstreams, peer)
        assert fresh.stream.carrier is not below.stream.carrier
        assert (await answer_of(below)).body == b"below"
        await eventually(lambda: origin.connections[0].is_lost)
        assert not origin.connections[1].is_lost
        for session in (below, above, reserved, fresh):
            upstreams.release_http_session(session, peer)


async def test_graceful_goaway_lets_all_finish(engine: EngineName) -> None:
    """A GOAWAY with the highest number refuses nobody, and the connection leaves the pool."""

    async def handler(stream: LibraryStream) -> None:
        stream.connection.say_goaway(2**31 - 1)
        stream.head(200)
        await stream.data(b"all the same", end=True)

    async with LibraryOrigin(handler) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        assert (await ask(upstreams, peer, request())).body == b"all the same"
        assert len(upstreams.http2.pool) == 0
        await eventually(lambda: origin.connections[0].is_lost)
        assert origin.connections[0].goaway == 0
        assert (await ask(upstreams, peer, request())).body == b"all the same"
        assert len(origin.connections) == 2


async def test_goaway_on_an_idle_connection(engine: EngineName) -> None:
    """The pool forgets it at once and it is closed."""
    async with LibraryOrigin() as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        await ask(upstreams, peer, request())
        assert upstreams.http2.pool.idle_count == 1
        origin.connections[0].say_goaway(1)
        await eventually(lambda: upstreams.http2.pool.idle_count == 0)
        assert upstreams.reused_http_session(peer) is None
        await eventually(lambda: origin.connections[0].is_lost)


# -------------------------------------------------------------------- connections


async def test_connection_lost_before_the_response(engine: EngineName) -> None:
    """As in HTTP/1: another attempt only on a connection that had been used before."""

    async def handler(stream: LibraryStream) -> None:
        stream.connection.abort()

    async with LibraryOrigin(handler) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        session = await session_to(upstreams, peer)
        submit(session, request())
        error = await error_of(session)
        assert error.esource is ErrorSource.UPSTREAM
        assert error.retry is RetryType.REUSED_ONLY
        with pytest.raises(Error) as caught:
            session.send_upgraded(b"late")
        assert caught.value.etype is ErrorType.WRITE_ERROR
        upstreams.release_http_session(session, peer)
        assert len(upstreams.http2.pool) == 0


async def test_connection_lost_after_an_informational_head(engine: EngineName) -> None:
    """The upstream was at work on it: it is not sent again."""

    async def handler(stream: LibraryStream) -> None:
        stream.head(103)
        await stream.body()
        stream.connection.close()

    async with LibraryOrigin(handler) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        session = await session_to(upstreams, peer)
        session.send_request_header(request("POST", "/", ("Content-Length", "1")))
        assert isinstance(await session.read_task(), HeaderTask)
        session.send_request_body(b"1")
        session.finish_request_body()
        error = await error_of(session)
        assert error.retry is RetryType.NO_RETRY
        upstreams.release_http_session(session, peer)


async def test_connection_lost_within_the_response(engine: EngineName) -> None:
    """A body that is cut off is an error, not an end."""

    async def handler(stream: LibraryStream) -> None:
        stream.head(200)
        await stream.data(b"begin")
        stream.connection.close()

    async with LibraryOrigin(handler) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        session = await session_to(upstreams, peer)
        submit(session, request())
        error = await error_of(session)
        assert (error.esource, error.retry) == (ErrorSource.UPSTREAM, RetryType.NO_RETRY)
        assert session.body_bytes_received == 5
        assert not session.response_done
        upstreams.release_http_session(session, peer)


async def test_frames_that_are_none(engine: EngineName) -> None:
    """INVALID_H2; no other attempt where HTTP/1.1 is out of the question."""

    async def handler(stream: LibraryStream) -> None:
        stream.connection.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 4)
        await silence(stream)

    async with LibraryOrigin(handler) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        session = await session_to(upstreams, peer)
        submit(session, request())
        error = await error_of(session)
        assert (error.etype, error.retry) == (ErrorType.INVALID_H2, RetryType.NO_RETRY)
        assert not session.wants_h1
        upstreams.release_http_session(session, peer)
        await eventually(lambda: origin.connections[0].goaway is not None)


async def test_ping_timeout(engine: EngineName) -> None:
    """A PING that is not answered ends the connection: PING_TIMEDOUT for all its streams."""
    async with LibraryOrigin(silence) as origin, connector(engine) as upstreams:
        origin.answers_pings = False
        peer = h2c_peer(origin.address, h2_ping_interval=0.02)
        upstreams.http2.ping_timeout = 0.02
        session = await session_to(upstreams, peer)
        submit(session, request())
        error = await error_of(session)
        assert (error.etype, error.esource) == (PING_TIMEDOUT, ErrorSource.UPSTREAM)
        assert error.retry is RetryType.REUSED_ONLY
        upstreams.release_http_session(session, peer)
        assert len(upstreams.http2.pool) == 0


async def test_pings_keep_an_idle_connection(engine: EngineName) -> None:
    """They are sent on and on, and answered ones change nothing."""
    async with LibraryOrigin() as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address, h2_ping_interval=0.01)
        await ask(upstreams, peer, request())
        await eventually(lambda: origin.connections[0].pings >= 3)
        assert upstreams.http2.pool.idle_count == 1


async def test_a_read_timeout_asks_whether_the_upstream_is_there(engine: EngineName) -> None:
    """Until it has answered nothing new begins on it; if it does not, it is gone."""
    async with LibraryOrigin(silence) as origin, connector(engine) as upstreams:
        origin.answers_pings = False
        upstreams.http2.ping_timeout = 0.05
        peer = h2c_peer(origin.address, read_timeout=0.02)
        session = await session_to(upstreams, peer)
        submit(session, request())
        assert (await error_of(session)).etype is ErrorType.READ_TIMEDOUT
        assert upstreams.reused_http_session(peer) is None
        upstreams.release_http_session(session, peer)
        await eventually(lambda: len(upstreams.http2.pool) == 0)
        await eventually(lambda: origin.connections[0].is_lost)


async def test_a_lowered_limit(engine: EngineName) -> None:
    """A place that was reserved before the upstream lowered its limit can be had elsewhere."""
    async with LibraryOrigin(silence) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        first = await session_to(upstreams, peer)
        second = await session_to(upstreams, peer)
        submit(first, request())
        await eventually(lambda: origin.requests)
        origin.connections[0].change({SettingCodes.MAX_CONCURRENT_STREAMS: 1})
        connection = connection_of(first)
        await eventually(lambda: connection.peer_max_concurrent_streams == 1)
        with pytest.raises(Error) as caught:
            submit(second, request())
        assert caught.value.retry is RetryType.RETRY
        assert upstreams.reused_http_session(peer) is None
        for session in (first, second):
            upstreams.release_http_session(session, peer)
