"""Requests that wait for a connection together: how many are made, and who gets what."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pingora_core.protocols.http.v1.client import HttpSession as Http1Session
from pingora_core.protocols.http.v2.client import HttpSession as Http2Session
from pingora_core.protocols.tls.alpn import ALPN
from pingora_core.upstreams import HttpPeer, PeerOptions
from pingora_error import Error, ErrorSource, ErrorType
from tests.support.h2_library_origin import LibraryOrigin
from tests.support.ports import free_port
from tests.support.waiting import eventually
from tests.unit.pingora_core.connectors.rig import origin as plain_origin
from tests.unit.pingora_core.protocols.http.v2.client_rig import (
    answer_of,
    ask,
    connector,
    h2c_peer,
    request,
)

if TYPE_CHECKING:
    from pingora_core.connectors.http import Connector
    from pingora_core.protocols.http.client import ClientSession
    from pingora_core.protocols.http.v2._client_connection import ClientConnection
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.protocols.tls import CaBundle
    from pingora_core.upstreams import PeerAddress
    from pingora_core.upstreams.peer import ReuseKey
    from tests.support.certificates import IssuedCertificate

pytestmark = pytest.mark.usefixtures("no_leaks")


async def together(
    upstreams: Connector, peer: HttpPeer, count: int
) -> list[ClientSession | BaseException]:
    """Ask for sessions at the same time."""
    return await asyncio.gather(
        *(upstreams.new_http_session(peer) for _ in range(count)), return_exceptions=True
    )


def release(upstreams: Connector, peer: HttpPeer, *sessions: object) -> None:
    """Give all back."""
    for session in sessions:
        assert isinstance(session, (Http1Session, Http2Session)), session
        upstreams.release_http_session(session, peer)


async def test_first_requests_share_one_connection() -> None:
    """However many come at once, one connection is made for all it has room for."""
    async with LibraryOrigin() as origin, connector() as upstreams:
        peer = h2c_peer(origin.address)
        answers = await asyncio.gather(*(ask(upstreams, peer, request()) for _ in range(50)))
        assert {answer.status for answer in answers} == {200}
        assert (len(origin.connections), len(origin.requests)) == (1, 50)
        assert upstreams.http2.pool.idle_count == 1


async def test_more_than_one_connection_holds() -> None:
    """The rest waits for as many more as they will fill, now that the limit is known."""
    async with LibraryOrigin(max_streams=5) as origin, connector() as upstreams:
        peer = h2c_peer(origin.address)
        sessions = await together(upstreams, peer, 18)
        assert len(origin.connections) == 4
        assert all(isinstance(session, Http2Session) for session in sessions)
        release(upstreams, peer, *sessions)

        # It is remembered: next time they are made side by side.
        for connection in origin.connections:
            connection.abort()
        await eventually(lambda: len(upstreams.http2.pool) == 0)
        sessions = await together(upstreams, peer, 10)
        assert len(origin.connections) == 6
        release(upstreams, peer, *sessions)


async def test_one_stream_each() -> None:
    """Where nothing is shared nobody waits for anybody."""
    async with LibraryOrigin() as origin, connector() as upstreams:
        peer = h2c_peer(origin.address, max_h2_streams=1)
        sessions = await together(upstreams, peer, 4)
        assert len(origin.connections) == 4
        release(upstreams, peer, *sessions)


async def test_a_failed_connect_fails_its_waiters() -> None:
    """Each gets an error of its own, which it may change."""
    async with connector() as upstreams:
        peer = h2c_peer(f"127.0.0.1:{free_port()}")
        errors = await together(upstreams, peer, 5)
        assert len({id(error) for error in errors}) == 5
        for error in errors:
            assert isinstance(error, Error)
            assert (error.etype, error.esource) == (
                ErrorType.CONNECT_REFUSED,
                ErrorSource.UPSTREAM,
            )


async def test_connects_after_a_failure() -> None:
    """A failure is not remembered."""
    attempts = 0

    async def refuse_once(address: PeerAddress) -> Stream:
        nonlocal attempts
        attempts += 1
        raise Error.up(ErrorType.CONNECT_REFUSED, f"{address}, {attempts}")

    class Refusing:
        async def connect(self, address: PeerAddress) -> Stream:
            return await refuse_once(address)

    async with connector() as upstreams:
        peer = h2c_peer("127.0.0.1:1", custom_l4=Refusing())
        for expected in (1, 2):
            with pytest.raises(Error):
                await upstreams.new_http_session(peer)
            assert attempts == expected


async def test_what_a_user_raises_reaches_the_waiters() -> None:
    """Also what is no `Error`."""

    class Broken:
        async def connect(self, address: PeerAddress) -> Stream:
            raise LookupError(str(address))

    async with connector() as upstreams:
        errors = await together(upstreams, h2c_peer("127.0.0.1:1", custom_l4=Broken()), 2)
        assert all(isinstance(error, (Error, LookupError)) for error in errors)


async def test_cancelling_the_first_leaves_the_others_their_connection() -> None:
    """It is not the first one's task that connects."""
    async with LibraryOrigin() as origin, connector() as upstreams:
        peer = h2c_peer(origin.address)
        tasks = [asyncio.create_task(upstreams.new_http_session(peer)) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        first, *others = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(first, asyncio.CancelledError)
        release(upstreams, peer, *others)
        assert len(origin.connections) == 1
        assert upstreams.http2.pool.idle_count == 1


async def test_cancelling_all_stops_connecting() -> None:
    """Nobody wants the connection any more, so it is not made."""
    async with LibraryOrigin(is_silent=True) as origin, connector() as upstreams:
        peer = h2c_peer(origin.address)
        tasks = [asyncio.create_task(upstreams.new_http_session(peer)) for _ in range(3)]
        await eventually(lambda: origin.connections)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await eventually(lambda: origin.open_connections == 0)
        assert len(upstreams.http2.pool) == 0


async def test_a_request_that_comes_while_the_connect_is_given_up() -> None:
    """It gets a connection of its own."""
    async with LibraryOrigin() as origin, connector() as upstreams:
        peer = h2c_peer(origin.address)
        first = asyncio.create_task(upstreams.new_http_session(peer))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        assert (await ask(upstreams, peer, request())).status == 200
        await asyncio.wait((first,))
        assert first.cancelled()


async def test_cancelled_at_the_moment_of_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that was handed to a cancelled request is free again."""
    async with LibraryOrigin() as origin, connector() as upstreams:
        peer = h2c_peer(origin.address)
        task = asyncio.create_task(upstreams.new_http_session(peer))
        pool = upstreams.http2.pool
        add = pool.add

        def add_and_cancel(
            key: ReuseKey, connection: ClientConnection, idle_timeout: float | None
        ) -> None:
            add(key, connection, idle_timeout)
            # The place was handed out in this very turn of the loop.
            assert connection.in_use == 1
            task.cancel()

        monkeypatch.setattr(pool, "add", add_and_cancel)
        await asyncio.wait((task,))
        assert task.cancelled()
        assert upstreams.http2.pool.idle_count == 1
        assert (await ask(upstreams, peer, request())).status == 200
        assert len(origin.connections) == 1


async def test_timeouts_are_the_requests_own() -> None:
    """Only those who wait equally long wait together."""
    async with LibraryOrigin(is_silent=True) as origin, connector() as upstreams:
        patient = h2c_peer(origin.address, connection_timeout=5.0)
        hasty = h2c_peer(origin.address, connection_timeout=0.03)
        waiting = asyncio.create_task(upstreams.new_http_session(patient))
        with pytest.raises(Error) as caught:
            await upstreams.new_http_session(hasty)
        assert (caught.value.etype, caught.value.esource) == (
            ErrorType.CONNECT_TIMEDOUT,
            ErrorSource.UPSTREAM,
        )
        assert not waiting.done()
        waiting.cancel()
        await asyncio.wait((waiting,))


async def test_the_total_limit_covers_the_handshake() -> None:
    """The first SETTINGS are part of establishing a connection."""
    async with LibraryOrigin(is_silent=True) as origin, connector() as upstreams:
        peer = h2c_peer(origin.address, total_connection_timeout=0.03, connection_timeout=None)
        with pytest.raises(Error) as caught:
            await upstreams.new_http_session(peer)
        assert caught.value.etype is ErrorType.CONNECT_TIMEDOUT
        await eventually(lambda: origin.open_connections == 0)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
async def test_an_upstream_that_does_not_speak_it(answer: bytes) -> None:
    """Prior knowledge that was wrong is found out before a request is sent."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)

    async with plain_origin(serve) as origin, connector() as upstreams:
        with pytest.raises(Error) as caught:
            await upstreams.new_http_session(h2c_peer(origin.address))
        assert (caught.value.etype, caught.value.esource) == (
            ErrorType.HANDSHAKE_ERROR,
            ErrorSource.UPSTREAM,
        )
        assert len(upstreams.http2.pool) == 0


async def test_closing_fails_those_who_wait() -> None:
    """And nothing goes on in the background."""
    async with LibraryOrigin(is_silent=True) as origin, connector() as upstreams:
        peer = h2c_peer(origin.address)
        task = asyncio.create_task(upstreams.new_http_session(peer))
        await eventually(lambda: origin.connections)
        await upstreams.close()
        with pytest.raises(Error) as caught:
            await task
        assert caught.value.etype is ErrorType.CONNECTION_CLOSED
        await eventually(lambda: origin.open_connections == 0)


async def test_a_peer_that_chooses_http1(
    server_certificate: IssuedCertificate, ca: CaBundle
) -> None:
    """Each request gets a connection of its own, and from then on nobody waits for the first."""
    context = server_certificate.server_context(alpn=("http/1.1",))
    async with plain_origin(tls=context) as origin, connector() as upstreams:
        peer = HttpPeer(
            origin.address,
            tls=True,
            sni="openrusty.org",
            options=PeerOptions(ca=ca, alpn=ALPN.H2H1),
        )
        sessions = await together(upstreams, peer, 4)
        assert all(isinstance(session, Http1Session) for session in sessions)
        assert len({session.id for session in sessions if isinstance(session, Http1Session)}) == 4
        release(upstreams, peer, *sessions)
        await eventually(lambda: origin.connections == 4)


async def test_http1_connections_that_nobody_wants_any_more(
    server_certificate: IssuedCertificate, ca: CaBundle
) -> None:
    """One that comes when its request has been served or is gone waits for the next."""
    context = server_certificate.server_context(alpn=("http/1.1",))
    async with plain_origin(tls=context) as origin, connector() as upstreams:
        options = PeerOptions(ca=ca, alpn=ALPN.H2H1)
        peer = HttpPeer(origin.address, tls=True, sni="openrusty.org", options=options)
        # Not given back: the next two have to connect, and it is known that each needs its own.
        kept = await upstreams.new_http_session(peer)
        tasks = [asyncio.create_task(upstreams.new_http_session(peer)) for _ in range(2)]
        await asyncio.sleep(0)
        (pending,) = upstreams.http2._pending.values()
        assert len(pending.tasks) == 2
        tasks[0].cancel()
        served = await tasks[1]
        await eventually(lambda: upstreams.transport.idle_count == 1)
        await eventually(lambda: origin.connections == 3)
        release(upstreams, peer, kept, served)


async def test_answers_after_waiting_together() -> None:
    """Every request has its own answer."""
    async with LibraryOrigin() as origin, connector() as upstreams:
        peer = h2c_peer(origin.address)

        async def one(number: int) -> bytes:
            session = await upstreams.new_http_session(peer)
            try:
                session.send_request_header(request("GET", f"/{number}"))
                session.finish_request_body()
                answer = await answer_of(session)
                assert answer.header is not None
                return answer.header.get_raw(b"x-path") or b""
            finally:
                upstreams.release_http_session(session, peer)

        assert await asyncio.gather(*map(one, range(20))) == [b"/%d" % n for n in range(20)]
        assert origin.violations == []
