"""The pool of HTTP/2 connections: who shares one, who idles, who is closed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from h2.settings import SettingCodes

from pingora_core.connectors import ConnectorOptions
from pingora_core.protocols.http.v2.client import HttpSession
from pingora_core.upstreams import HttpPeer
from pingora_error import Error, ErrorSource, ErrorType
from tests.support.h2_library_origin import LibraryOrigin
from tests.support.waiting import eventually
from tests.unit.pingora_core.protocols.http.v2.client_rig import (
    answer_of,
    ask,
    connection_of,
    connector,
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


# ----------------------------------------------------------------------- sharing


async def test_one_stream_per_connection(engine: EngineName) -> None:
    """With `max_h2_streams` 1 a connection in use is nobody else's; afterwards it is used again."""
    async with LibraryOrigin() as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address, max_h2_streams=1)
        first, reused_first = await upstreams.get_http_session(peer)
        second, reused_second = await upstreams.get_http_session(peer)
        assert (reused_first, reused_second) == (False, False)
        assert first.id != second.id
        assert upstreams.reused_http_session(peer) is None
        for session in (first, second):
            submit(session, request())
            assert (await answer_of(session)).status == 200
        upstreams.release_http_session(first, peer)
        again = upstreams.reused_http_session(peer)
        assert isinstance(again, HttpSession)
        assert again.id in {first.id, second.id}
        upstreams.release_http_session(second, peer)
        upstreams.release_http_session(again, peer)
        assert len(origin.connections) == 2


async def test_many_streams_on_a_connection(engine: EngineName) -> None:
    """As many as the option allows share one; the next one gets another connection."""
    async with LibraryOrigin() as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address, max_h2_streams=3)
        sessions = [await session_to(upstreams, peer) for _ in range(4)]
        assert len({session.id for session in sessions}) == 2
        assert len({session.id for session in sessions[:3]}) == 1
        for session in reversed(sessions):
            submit(session, request())
        for session in sessions:
            assert (await answer_of(session)).status == 200
            upstreams.release_http_session(session, peer)
        assert (len(origin.connections), upstreams.http2.pool.idle_count) == (2, 2)
        assert origin.violations == []


async def test_streams_are_numbered_as_they_are_sent(engine: EngineName) -> None:
    """Not as they were got: the numbers must rise on the wire."""
    async with LibraryOrigin() as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        first = await session_to(upstreams, peer)
        second = await session_to(upstreams, peer)
        third = await session_to(upstreams, peer)
        submit(second, request("GET", "/second"))
        submit(first, request("GET", "/first"))
        upstreams.release_http_session(third, peer)
        for session in (first, second):
            assert (await answer_of(session)).status == 200
            upstreams.release_http_session(session, peer)
        assert [(stream.id, stream[b":path"]) for stream in origin.requests] == [
            (1, b"/second"),
            (3, b"/first"),
        ]


async def test_the_upstream_limits_the_streams(engine: EngineName) -> None:
    """Its MAX_CONCURRENT_STREAMS counts where it is lower, whenever it says so."""
    async with LibraryOrigin(max_streams=2) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        sessions = [await session_to(upstreams, peer) for _ in range(2)]
        assert upstreams.reused_http_session(peer) is None
        origin.connections[0].change({SettingCodes.MAX_CONCURRENT_STREAMS: 3})
        await eventually(lambda: connection_of(sessions[0]).peer_max_concurrent_streams == 3)
        third = upstreams.reused_http_session(peer)
        assert third is not None
        assert upstreams.reused_http_session(peer) is None
        origin.connections[0].change({SettingCodes.MAX_CONCURRENT_STREAMS: 1})
        await eventually(lambda: connection_of(sessions[0]).peer_max_concurrent_streams == 1)
        upstreams.release_http_session(third, peer)
        upstreams.release_http_session(sessions[1], peer)
        assert upstreams.reused_http_session(peer) is None
        upstreams.release_http_session(sessions[0], peer)
        last = upstreams.reused_http_session(peer)
        assert last is not None
        upstreams.release_http_session(last, peer)
        assert len(origin.connections) == 1


async def test_no_streams_at_all(engine: EngineName) -> None:
    """An upstream that allows none is an error with a type, and is not kept."""
    async with LibraryOrigin(max_streams=0) as origin, connector(engine) as upstreams:
        with pytest.raises(Error) as caught:
            await upstreams.new_http_session(h2c_peer(origin.address))
        assert (caught.value.etype, caught.value.esource) == (
            ErrorType.H2_ERROR,
            ErrorSource.UPSTREAM,
        )
        assert len(upstreams.http2.pool) == 0
        await eventually(lambda: origin.connections[0].is_lost)


async def test_an_idle_connection_that_comes_to_allow_nothing(engine: EngineName) -> None:
    """It is closed when it is asked for, and another one made."""
    async with LibraryOrigin() as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        session = await session_to(upstreams, peer)
        connection = connection_of(session)
        submit(session, request())
        await answer_of(session)
        upstreams.release_http_session(session, peer)
        origin.connections[0].change({SettingCodes.MAX_CONCURRENT_STREAMS: 0})
        await eventually(lambda: connection.peer_max_concurrent_streams == 0)
        assert upstreams.http2.pool.idle_count == 1
        assert (await ask(upstreams, peer, request())).status == 200
        await eventually(lambda: origin.connections[0].is_lost)
        assert len(origin.connections) == 2


async def test_connections_in_use_come_first(engine: EngineName) -> None:
    """An idle connection is left alone while one in use has room."""
    async with LibraryOrigin() as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address, max_h2_streams=2)
        sessions = [await session_to(upstreams, peer) for _ in range(3)]
        one, _, other = sessions
        upstreams.release_http_session(other, peer)
        upstreams.release_http_session(sessions[1], peer)
        assert upstreams.http2.pool.idle_count == 1
        again = await session_to(upstreams, peer)
        assert again.id == one.id
        assert upstreams.http2.pool.idle_count == 1
        for session in (one, again):
            upstreams.release_http_session(session, peer)
        assert upstreams.http2.pool.idle_count == 2


async def test_peers_do_not_share(engine: EngineName) -> None:
    """Equal keys share, different ones do not."""
    async with LibraryOrigin() as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        other = HttpPeer(origin.address, group_key=1, options=peer.options.copy())
        session = await session_to(upstreams, peer)
        assert upstreams.reused_http_session(other) is None
        same = upstreams.reused_http_session(h2c_peer(origin.address))
        assert same is not None
        assert same.id == session.id
        upstreams.release_http_session(session, peer)
        upstreams.release_http_session(same, peer)


# ------------------------------------------------------------------------ idling


async def test_idle_timeout(engine: EngineName) -> None:
    """A connection without requests is closed after the peer's idle timeout."""
    async with LibraryOrigin() as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address, idle_timeout=0.03)
        await ask(upstreams, peer, request())
        assert upstreams.http2.pool.idle_count == 1
        await eventually(lambda: len(upstreams.http2.pool) == 0)
        await eventually(lambda: origin.connections[0].is_lost)
        assert origin.connections[0].goaway == 0


async def test_idle_timeout_of_zero(engine: EngineName) -> None:
    """The connection is closed after the exchange, not within it."""

    async def handler(stream: LibraryStream) -> None:
        stream.head(200)
        await stream.data(bytes(100_000), end=True)

    async with LibraryOrigin(handler) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address, idle_timeout=0)
        answer = await ask(upstreams, peer, request())
        assert len(answer.body) == 100_000
        assert len(upstreams.http2.pool) == 0
        await eventually(lambda: origin.connections[0].is_lost)


@pytest.mark.parametrize("later", [0, 0.02, None])
async def test_idle_timeout_is_what_it_is_at_the_end(
    engine: EngineName, later: float | None
) -> None:
    """A filter may change it while the request is under way."""
    async with LibraryOrigin() as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address, idle_timeout=0.05 if later is None else 60.0)
        session = await session_to(upstreams, peer)
        submit(session, request())
        await answer_of(session)
        peer.options.idle_timeout = later
        upstreams.release_http_session(session, peer)
        if later is None:
            assert upstreams.http2.pool.idle_count == 1
            assert (await ask(upstreams, peer, request())).status == 200
        else:
            await eventually(lambda: len(upstreams.http2.pool) == 0)
        assert len(origin.connections) == 1


async def test_idle_connections_are_bounded(engine: EngineName) -> None:
    """Of all peers together; the one that has idled longest goes."""
    options = ConnectorOptions(keepalive_pool_size=2)
    async with LibraryOrigin() as origin, connector(engine, options) as upstreams:
        shared = h2c_peer(origin.address).options
        peers = [
            HttpPeer(origin.address, group_key=number, options=shared.copy()) for number in range(3)
        ]
        for peer in peers:
            assert (await ask(upstreams, peer, request())).status == 200
        assert (len(upstreams.http2.pool), upstreams.http2.pool.idle_count) == (2, 2)
        await eventually(lambda: origin.connections[0].is_lost)
        assert upstreams.reused_http_session(peers[0]) is None
        assert (await ask(upstreams, peers[1], request())).status == 200
        assert len(origin.connections) == 3


async def test_a_lost_connection_leaves_the_pool(engine: EngineName) -> None:
    """Idle or in use: the next request gets a new one."""
    async with LibraryOrigin() as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        session = await session_to(upstreams, peer)
        origin.connections[0].abort()
        await eventually(lambda: len(upstreams.http2.pool) == 0)
        assert upstreams.reused_http_session(peer) is None
        with pytest.raises(Error) as caught:
            submit(session, request())
        # Nothing was sent, so it does not matter what kind of request it was.
        assert caught.value.should_retry
        upstreams.release_http_session(session, peer)

        assert (await ask(upstreams, peer, request())).status == 200
        assert upstreams.http2.pool.idle_count == 1
        origin.connections[1].abort()
        await eventually(lambda: upstreams.http2.pool.idle_count == 0)
        assert (await ask(upstreams, peer, request())).status == 200
        assert len(origin.connections) == 3


# ----------------------------------------------------------------------- windows


@pytest.mark.parametrize(
    ("options", "stream_window", "connection_window"),
    [
        ({}, 1 << 20, 1 << 24),
        ({"max_h2_streams": 4}, 1 << 20, 1 << 22),
        ({"h2_stream_window_size": 1 << 25}, 1 << 25, 1 << 25),
        ({"h2_stream_window_size": 1000, "max_h2_streams": 1}, 1000, 65535),
        ({"h2_connection_window_size": 1 << 21}, 1 << 20, 1 << 21),
    ],
)
async def test_windows(
    engine: EngineName, options: dict[str, int], stream_window: int, connection_window: int
) -> None:
    """The peer's options decide; without them a stalled stream leaves room for the others."""
    async with LibraryOrigin() as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address, **options)
        assert (await ask(upstreams, peer, request())).status == 200
        announced = origin.connections[0].engine
        assert announced.remote_settings.initial_window_size == stream_window
        assert announced.remote_settings.enable_push == 0
        assert announced.remote_settings.max_frame_size == 65536
        assert announced.outbound_flow_control_window == connection_window


# ----------------------------------------------------------------------- closing


async def test_close(engine: EngineName) -> None:
    """Idle connections end with GOAWAY; one in use ends after its last request."""

    async def handler(stream: LibraryStream) -> None:
        stream.head(200)
        await stream.data(await stream.body(), end=True)

    async with LibraryOrigin(handler) as origin, connector(engine) as upstreams:
        peer = h2c_peer(origin.address)
        other = h2c_peer(origin.address, max_h2_streams=7)
        await ask(upstreams, other, request())
        session = await session_to(upstreams, peer)
        session.send_request_header(request("POST", "/", ("Content-Length", "1")))
        await upstreams.close()
        await eventually(lambda: origin.connections[0].is_lost)
        assert origin.connections[0].goaway == 0
        assert not origin.connections[1].is_lost
        session.send_request_body(b"1")
        session.finish_request_body()
        assert (await answer_of(session)).body == b"1"
        upstreams.release_http_session(session, peer)
        await eventually(lambda: origin.connections[1].is_lost)
        with pytest.raises(Error) as caught:
            await upstreams.get_http_session(peer)
        assert caught.value.etype is ErrorType.CONNECTION_CLOSED
