"""Which version a peer is spoken to in, and what is remembered of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pingora_core.protocols.http.v1.client import HttpSession as Http1Session
from pingora_core.protocols.http.v2.client import HttpSession as Http2Session
from pingora_core.protocols.tls.alpn import ALPN, CustomALPN
from pingora_core.upstreams import HttpPeer, PeerOptions
from pingora_error import Error, ErrorSource, ErrorType, RetryType
from pingora_http import Version
from tests.support.h2_library_origin import LibraryOrigin
from tests.support.waiting import eventually
from tests.unit.pingora_core.connectors.rig import origin as plain_origin
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
    from pingora_core.protocols.tls import CaBundle
    from pingora_core.protocols.tls.alpn import AlpnOffer
    from tests.support.certificates import IssuedCertificate
    from tests.support.h2_library_origin import LibraryStream

pytestmark = pytest.mark.usefixtures("no_leaks")


def tls_peer(address: str, ca: CaBundle, alpn: AlpnOffer) -> HttpPeer:
    """A peer behind TLS."""
    options = PeerOptions(ca=ca, alpn=alpn)
    return HttpPeer(address, tls=True, sni="openrusty.org", options=options)


async def serve_http1(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer requests without bodies."""
    while await reader.readuntil(b"\r\n\r\n"):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh1")


async def until_closed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As `serve_http1`, to the end of the connection."""
    try:
        await serve_http1(reader, writer)
    except asyncio.IncompleteReadError:
        return


async def test_http2_over_tls(server_certificate: IssuedCertificate, ca: CaBundle) -> None:
    """ALPN decides; the scheme is that of the connection."""
    context = server_certificate.server_context(alpn=("h2", "http/1.1"))
    async with LibraryOrigin(tls=context) as origin, connector() as upstreams:
        for alpn in (ALPN.H2, ALPN.H2H1):
            peer = tls_peer(origin.address, ca, alpn)
            session, reused = await upstreams.get_http_session(peer)
            assert isinstance(session, Http2Session)
            assert (session.version, reused) == (Version.HTTP_20, False)
            ssl_digest = session.digest.ssl_digest
            assert ssl_digest is not None
            assert ssl_digest.alpn == b"h2"
            submit(session, request())
            assert (await answer_of(session)).status == 200
            upstreams.release_http_session(session, peer)
            assert origin.requests[-1][b":scheme"] == b"https"
            again, reused = await upstreams.get_http_session(peer)
            assert (again.id, reused) == (session.id, True)
            upstreams.release_http_session(again, peer)
        assert len(origin.connections) == 2


async def test_fallback_to_http1(server_certificate: IssuedCertificate, ca: CaBundle) -> None:
    """A peer without HTTP/2 is spoken to in HTTP/1.1, and that connection is used again."""
    context = server_certificate.server_context(alpn=("http/1.1",))
    async with plain_origin(until_closed, tls=context) as origin, connector() as upstreams:
        peer = tls_peer(origin.address, ca, ALPN.H2H1)
        for attempt in range(2):
            session, reused = await upstreams.get_http_session(peer)
            assert isinstance(session, Http1Session)
            assert (session.version, reused) == (Version.HTTP_11, attempt == 1)
            submit(session, request())
            assert (await answer_of(session)).body == b"h1"
            upstreams.release_http_session(session, peer)
        assert origin.connections == 1


async def test_fallback_without_alpn(server_certificate: IssuedCertificate, ca: CaBundle) -> None:
    """A peer that knows nothing of ALPN speaks HTTP/1.1."""
    async with (
        plain_origin(until_closed, tls=server_certificate.server_context()) as origin,
        connector() as upstreams,
    ):
        peer = tls_peer(origin.address, ca, ALPN.H2H1)
        session = await upstreams.new_http_session(peer)
        assert isinstance(session, Http1Session)
        upstreams.release_http_session(session, peer)


async def test_http2_only(server_certificate: IssuedCertificate, ca: CaBundle) -> None:
    """There is no fallback where none is wanted."""
    async with (
        plain_origin(until_closed, tls=server_certificate.server_context()) as origin,
        connector() as upstreams,
    ):
        with pytest.raises(Error) as caught:
            await upstreams.new_http_session(tls_peer(origin.address, ca, ALPN.H2))
        assert (caught.value.etype, caught.value.esource) == (
            ErrorType.H2_ERROR,
            ErrorSource.UPSTREAM,
        )


@pytest.mark.parametrize("alpn", [ALPN.H1, ALPN.H2H1, CustomALPN(b"my-protocol")])
async def test_in_clear(alpn: AlpnOffer) -> None:
    """Nothing is negotiated there: HTTP/1.1, unless HTTP/2 is known to be spoken."""
    async with plain_origin(until_closed) as origin, connector() as upstreams:
        peer = HttpPeer(origin.address, options=PeerOptions(alpn=alpn))
        assert (await ask_http1(upstreams, peer)) == b"h1"
        assert upstreams.transport.idle_count == 1


async def ask_http1(upstreams: object, peer: HttpPeer) -> bytes:
    """Do one exchange that must be HTTP/1."""
    from pingora_core.connectors.http import Connector  # noqa: PLC0415

    assert isinstance(upstreams, Connector)
    session, _ = await upstreams.get_http_session(peer)
    assert isinstance(session, Http1Session)
    submit(session, request())
    answer = await answer_of(session)
    upstreams.release_http_session(session, peer)
    return answer.body


async def test_prefer_http1(server_certificate: IssuedCertificate, ca: CaBundle) -> None:
    """A peer that was marked is offered HTTP/1.1 only; others with HTTP/2 alone are not."""
    context = server_certificate.server_context(alpn=("h2", "http/1.1"))
    async with LibraryOrigin(tls=context) as origin, connector() as upstreams:
        peer = tls_peer(origin.address, ca, ALPN.H2H1)
        only = tls_peer(origin.address, ca, ALPN.H2)
        for marked in (peer, only):
            upstreams.transport.prefer_h1(marked)
        session = await upstreams.new_http_session(peer)
        assert isinstance(session, Http1Session)
        upstreams.release_http_session(session, peer)
        assert (await ask(upstreams, only, request())).status == 200


# -------------------------------------------------------------------- downgrading


async def test_http_1_1_required(server_certificate: IssuedCertificate, ca: CaBundle) -> None:
    """The request may be sent again, and the peer is asked in HTTP/1.1 from then on."""

    async def handler(stream: LibraryStream) -> None:
        if stream[b":path"] == b"/":
            stream.reset(0xD)
        else:
            stream.head(200)
            await stream.body()
            await stream.data(b"in flight", end=True)

    context = server_certificate.server_context(alpn=("h2", "http/1.1"))
    async with LibraryOrigin(handler, tls=context) as origin, connector() as upstreams:
        peer = tls_peer(origin.address, ca, ALPN.H2H1)
        in_flight = await session_to(upstreams, peer)
        in_flight.send_request_header(request("POST", "/other", ("Content-Length", "1")))
        session = await session_to(upstreams, peer)
        submit(session, request("POST", "/", ("Content-Length", "0")))
        error = await error_of(session)
        assert (error.etype, error.retry) == (ErrorType.H2_DOWNGRADE, RetryType.RETRY)
        upstreams.release_http_session(session, peer)

        again, reused = await upstreams.get_http_session(peer)
        assert isinstance(again, Http1Session)
        assert not reused
        upstreams.release_http_session(again, peer)
        in_flight.send_request_body(b"1")
        in_flight.finish_request_body()
        assert (await answer_of(in_flight)).body == b"in flight"
        upstreams.release_http_session(in_flight, peer)
        await eventually(lambda: origin.connections[0].is_lost)


async def test_goaway_http_1_1_required(
    server_certificate: IssuedCertificate, ca: CaBundle
) -> None:
    """Said of the whole connection it means the same."""

    async def handler(stream: LibraryStream) -> None:
        stream.connection.say_goaway(0, 0xD)
        await stream.wait()

    context = server_certificate.server_context(alpn=("h2", "http/1.1"))
    async with LibraryOrigin(handler, tls=context) as origin, connector() as upstreams:
        peer = tls_peer(origin.address, ca, ALPN.H2H1)
        session = await session_to(upstreams, peer)
        submit(session, request())
        error = await error_of(session)
        assert (error.etype, error.retry) == (ErrorType.H2_DOWNGRADE, RetryType.RETRY)
        upstreams.release_http_session(session, peer)
        again = await upstreams.new_http_session(peer)
        assert isinstance(again, Http1Session)
        upstreams.release_http_session(again, peer)


@pytest.mark.parametrize(
    ("method", "retry"), [("GET", RetryType.RETRY), ("POST", RetryType.NO_RETRY)]
)
async def test_invalid_http2(
    server_certificate: IssuedCertificate, ca: CaBundle, method: str, retry: RetryType
) -> None:
    """What is no HTTP/2 may have been processed: only what does no harm twice is sent again."""

    async def handler(stream: LibraryStream) -> None:
        stream.connection.write(b"\x00\x00\x01\x08\x00\x00\x00\x00\x01\x00")
        await stream.wait()

    context = server_certificate.server_context(alpn=("h2", "http/1.1"))
    async with LibraryOrigin(handler, tls=context) as origin, connector() as upstreams:
        peer = tls_peer(origin.address, ca, ALPN.H2H1)
        session = await session_to(upstreams, peer)
        submit(session, request(method))
        error = await error_of(session)
        assert (error.etype, error.retry) == (ErrorType.INVALID_H2, retry)
        upstreams.release_http_session(session, peer)
        again = await upstreams.new_http_session(peer)
        assert isinstance(again, Http1Session)
        upstreams.release_http_session(again, peer)


# ----------------------------------------------------------------------- upgrades


@pytest.mark.parametrize("extended", [True, False])
async def test_upgrades(
    server_certificate: IssuedCertificate, ca: CaBundle, *, extended: bool
) -> None:
    """They go over HTTP/2 only where a connection is known that can do them."""
    context = server_certificate.server_context(alpn=("h2", "http/1.1"))
    async with (
        LibraryOrigin(tls=context, extended_connect=extended) as origin,
        connector() as upstreams,
    ):
        peer = tls_peer(origin.address, ca, ALPN.H2H1)
        first, reused = await upstreams.get_http_session(peer, upgrade=True)
        assert isinstance(first, Http1Session)
        assert not reused
        upstreams.release_http_session(first, peer)
        assert (await ask(upstreams, peer, request())).status == 200
        second, reused = await upstreams.get_http_session(peer, upgrade=True)
        assert isinstance(second, Http2Session) == reused == extended
        upstreams.release_http_session(second, peer)
        # Nothing was remembered against HTTP/2.
        assert (await ask(upstreams, peer, request())).status == 200


async def test_upgrades_over_http2_only() -> None:
    """Where there is no choice the session says whether it can be done."""
    async with LibraryOrigin(extended_connect=True) as origin, connector() as upstreams:
        peer = h2c_peer(origin.address)
        for expected in (False, True):
            session, reused = await upstreams.get_http_session(peer, upgrade=True)
            assert isinstance(session, Http2Session)
            assert reused is expected
            upstreams.release_http_session(session, peer)


async def test_timeouts_come_from_the_peer() -> None:
    """As in HTTP/1."""
    async with LibraryOrigin() as origin, connector() as upstreams:
        peer = h2c_peer(origin.address, read_timeout=1.5, write_timeout=None)
        session = await session_to(upstreams, peer)
        assert (session.read_timeout, session.write_timeout) == (1.5, None)
        upstreams.release_http_session(session, peer)


async def test_a_retired_connector_keeps_nothing_but_breaks_nothing_off() -> None:
    """What is in use goes on and closes afterwards; what idles closes; new ones are still made."""
    async with plain_origin(until_closed) as origin, connector() as upstreams:
        peer = HttpPeer(origin.address)
        idle, _ = await upstreams.get_http_session(peer)
        busy, _ = await upstreams.get_http_session(peer)
        submit(idle, request())
        assert (await answer_of(idle)).status == 200
        upstreams.release_http_session(idle, peer)
        submit(busy, request())

        upstreams.retire()

        assert upstreams.transport.idle_count == 0
        assert (await answer_of(busy)).status == 200
        upstreams.release_http_session(busy, peer)
        later, reused = await upstreams.get_http_session(peer)
        submit(later, request())
        assert ((await answer_of(later)).status, reused) == (200, False)
        upstreams.release_http_session(later, peer)
        assert upstreams.transport.idle_count == 0


async def test_a_retired_connector_lets_http2_streams_end() -> None:
    """A stream that is open when its connection retires gets its answer."""
    may_answer = asyncio.Event()

    async def serve(stream: LibraryStream) -> None:
        await may_answer.wait()
        stream.head(200, end=True)

    async with LibraryOrigin(serve) as origin, connector() as upstreams:
        peer = h2c_peer(origin.address)
        session, _ = await upstreams.get_http_session(peer)
        submit(session, request())
        upstreams.retire()
        may_answer.set()

        assert (await answer_of(session)).status == 200
        upstreams.release_http_session(session, peer)
        _, reused = await upstreams.get_http_session(peer)
        assert not reused
