from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
from OpenSSL import SSL

from pingora_core.connectors import ConnectorOptions
from pingora_core.connectors._sessions import (
    SESSION_LIFETIME,
    SessionCache,
    StoredSession,
    Trust,
)
from pingora_core.protocols.tls import CaBundle, CertKey, TlsStream
from pingora_core.protocols.tls.verify import ReferenceIdentity
from pingora_core.upstreams import HttpPeer, PeerOptions
from tests.support.clock import FakeClock
from tests.unit.pingora_core.connectors.rig import connector, echo, fails, origin

if TYPE_CHECKING:
    import asyncio

    from pingora_core.connectors import TransportConnector
    from tests.support.certificates import CertificateAuthority, IssuedCertificate

pytestmark = pytest.mark.usefixtures("no_leaks")

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
BOTH_VERSIONS = pytest.mark.parametrize("version", [TLS12, TLS13])


async def visit(transport: TransportConnector, peer: HttpPeer) -> bool:
    """Connect, exchange something, which brings the tickets along, and close.

    Returns:
        Whether a session was resumed.
    """
    stream = await transport.new_stream(peer)
    assert isinstance(stream, TlsStream)
    digest = stream.digest.ssl_digest
    assert digest is not None
    try:
        stream.write(b"ping")
        assert await stream.read(5.0) == b"ping"
        # The certificate of the first handshake is still known.
        assert digest.common_name == "openrusty.org"
        assert digest.verified is peer.options.verify_cert
    finally:
        stream.close()
        await stream.wait_closed()
    return digest.resumed


def server_context(certificate: IssuedCertificate, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = certificate.server_context()
    context.maximum_version = version
    return context


# -------------------------------------------------------------------- handshakes


@BOTH_VERSIONS
async def test_the_second_handshake_resumes(
    server_certificate: IssuedCertificate, ca: CaBundle, version: ssl.TLSVersion
) -> None:
    """With the session of the first, again and again; both sides know, and data flows."""
    seen: list[bool] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("ssl_object").session_reused)
        await echo(reader, writer)

    context = server_context(server_certificate, version)
    async with origin(note, tls=context) as server, connector() as transport:
        peer = HttpPeer(server.address, tls=True, sni="openrusty.org", options=PeerOptions(ca=ca))
        resumed = [await visit(transport, peer) for _ in range(4)]

        assert resumed == [False, True, True, True]
        assert seen == resumed


@BOTH_VERSIONS
async def test_peers_that_are_trusted_otherwise_do_not_share(
    server_certificate: IssuedCertificate,
    authority: CertificateAuthority,
    ca: CaBundle,
    version: ssl.TLSVersion,
) -> None:
    """A session is resumed only with the trust, the names and the certificate it was made with."""
    issued = authority.issue("client", client=True)
    pair = CertKey.from_pem(issued.cert_pem, issued.key_pem)
    wider = CaBundle([authority.certificate, authority.intermediate().certificate])
    async with (
        origin(tls=server_context(server_certificate, version)) as server,
        connector() as transport,
    ):
        peers = [
            HttpPeer(
                server.address,
                tls=True,
                sni=sni,
                client_cert_key=cert_key,
                options=PeerOptions(**options),
            )
            for sni, cert_key, options in (
                ("openrusty.org", None, {"ca": ca}),
                ("openrusty.org", None, {"ca": wider}),
                ("openrusty.org", None, {"ca": ca, "verify_hostname": False}),
                ("openrusty.org", None, {"verify_cert": False}),
                ("openrusty.org", None, {"ca": ca, "alternative_cn": "x.example"}),
                ("www.openrusty.org", None, {"ca": ca}),
                ("openrusty.org", pair, {"ca": ca}),
                ("openrusty.org", None, {"ca": ca, "curves": "P-256"}),
            )
        ]
        first = [await visit(transport, peer) for peer in peers]
        second = [await visit(transport, peer) for peer in peers]

        assert first == [False] * len(peers)
        assert second == [True] * len(peers)


@BOTH_VERSIONS
async def test_a_session_without_verification_opens_nothing(
    server_certificate: IssuedCertificate, version: ssl.TLSVersion
) -> None:
    """After an unverified visit a peer that must be verified is refused, as without the visit."""
    async with (
        origin(tls=server_context(server_certificate, version)) as server,
        connector() as transport,
    ):
        careless = HttpPeer(server.address, tls=True, options=PeerOptions(verify_cert=False))
        await visit(transport, careless)
        error = await fails(HttpPeer(server.address, tls=True), transport=transport)

        assert "unable to get issuer cert" in str(error)


async def test_a_session_is_refused_by_the_server(
    server_certificate: IssuedCertificate, ca: CaBundle
) -> None:
    """A server that has lost its keys does a full handshake, and the client verifies again."""
    async with connector() as transport:
        resumed: list[bool] = []
        for _ in range(2):
            async with origin(tls=server_certificate.server_context()) as server:
                peer = HttpPeer(server.address, tls=True, options=PeerOptions(ca=ca))
                # As if both servers were one that has been restarted.
                peer._reuse_key = ("same",)
                resumed.append(await visit(transport, peer))

        assert resumed == [False, False]
        assert len(transport._tls._sessions) > 0


async def test_the_cache_can_be_switched_off(
    server_certificate: IssuedCertificate, ca: CaBundle
) -> None:
    """Size 0 keeps nothing."""
    async with (
        origin(tls=server_certificate.server_context()) as server,
        connector(ConnectorOptions(tls_session_cache_size=0)) as transport,
    ):
        peer = HttpPeer(server.address, tls=True, options=PeerOptions(ca=ca))
        assert [await visit(transport, peer) for _ in range(2)] == [False, False]
    with pytest.raises(ValueError, match="tls_session_cache_size"):
        ConnectorOptions(tls_session_cache_size=-1)


@BOTH_VERSIONS
async def test_sessions_end_a_fixed_time_after_the_verification(
    server_certificate: IssuedCertificate, ca: CaBundle, version: ssl.TLSVersion
) -> None:
    """Resuming and renewing does not make it longer."""
    clock = FakeClock()
    async with (
        origin(tls=server_context(server_certificate, version)) as server,
        connector() as transport,
    ):
        transport._tls._sessions = SessionCache(8, clock)
        peer = HttpPeer(server.address, tls=True, options=PeerOptions(ca=ca))
        resumed: list[bool] = []
        for _ in range(4):
            resumed.append(await visit(transport, peer))
            clock.advance(SESSION_LIFETIME * 0.4)

        assert resumed == [False, True, True, False]


async def test_a_failed_handshake_forgets_the_sessions(
    server_certificate: IssuedCertificate, ca: CaBundle
) -> None:
    """The next one is a full one: perhaps the session was to blame."""
    context = server_context(server_certificate, TLS12)
    async with origin(tls=context) as server, connector() as transport:
        peer = HttpPeer(server.address, tls=True, options=PeerOptions(ca=ca))
        await visit(transport, peer)
        assert len(transport._tls._sessions) == 1
        connection = transport._tls.prepare(peer, alpn=peer.options.alpn)
        verification = connection.get_app_data()
        assert verification.offered is not None
        async with origin(hang_up) as rude:
            other = HttpPeer(rude.address, tls=True, options=PeerOptions(ca=ca))
            other._reuse_key = peer.reuse_key()
            await fails(other, transport=transport)

        assert len(transport._tls._sessions) == 0


async def hang_up(reader: object, writer: object) -> None:
    """Close at once."""
    del reader, writer


# ------------------------------------------------------------------------- cache


def trust(number: int, context: SSL.Context | None = None) -> Trust:
    identity = ReferenceIdentity.of("a.example")
    return Trust(context or CONTEXT, ("key", number), "a.example", identity)


CONTEXT = SSL.Context(SSL.TLS_CLIENT_METHOD)


def session(cache: SessionCache, *, is_ticket: bool = True) -> StoredSession:
    return StoredSession(SSL.Session(), cache.expiry_of(1e9), is_ticket)


def test_a_ticket_is_used_once_and_the_newest_first() -> None:
    """As RFC 8446 asks; sessions of TLS 1.2 stay."""
    cache = SessionCache(4, FakeClock())
    one, two, old = session(cache), session(cache), session(cache, is_ticket=False)
    cache.put(trust(1), one)
    cache.put(trust(1), two)
    cache.put(trust(2), old)

    assert [cache.take(trust(1)) for _ in range(3)] == [two, one, None]
    assert [cache.take(trust(2)) for _ in range(2)] == [old, old]
    assert cache.take(trust(3)) is None


def test_the_cache_is_bounded() -> None:
    """Four tickets of a peer, the latest ones."""
    cache = SessionCache(2, FakeClock())
    tickets = [session(cache) for _ in range(6)]
    for each in tickets:
        cache.put(trust(1), each)

    assert len(cache) == 4
    assert [cache.take(trust(1)) for _ in range(5)] == [*reversed(tickets[2:]), None]


def test_the_least_recently_used_peer_goes_first() -> None:
    """Looking a session up counts as use."""
    cache = SessionCache(2, FakeClock())
    for number in (1, 2):
        cache.put(trust(number), session(cache, is_ticket=False))
    cache.take(trust(1))
    cache.put(trust(3), session(cache))

    assert [cache.take(trust(n)) is not None for n in (1, 2, 3)] == [True, False, True]


@pytest.mark.parametrize("is_ticket", [True, False])
def test_expired_sessions_are_not_found(is_ticket: bool) -> None:
    """At the end of the certificate, or of the lifetime, whichever is first."""
    clock = FakeClock()
    cache = SessionCache(4, clock)
    short = StoredSession(SSL.Session(), cache.expiry_of(10.0), is_ticket)
    cache.put(trust(1), short)
    cache.put(trust(2), session(cache, is_ticket=is_ticket))
    clock.advance(10.0)
    assert cache.take(trust(1)) is None
    clock.advance(SESSION_LIFETIME - 10.0)

    assert cache.take(trust(2)) is None
    assert len(cache) == 0
    cache.put(trust(1), short)
    assert len(cache) == 0


def test_sessions_go_with_their_context() -> None:
    """A context that is given up is not kept alive by its sessions; clearing takes the rest."""
    cache = SessionCache(4, FakeClock())
    other = SSL.Context(SSL.TLS_CLIENT_METHOD)
    cache.put(trust(1), session(cache))
    cache.put(trust(1, other), session(cache))
    cache.forget_context(other)

    assert cache.take(trust(1, other)) is None
    assert cache.take(trust(1)) is not None
    cache.put(trust(2), session(cache))
    cache.discard(trust(2))
    cache.put(trust(3), session(cache))
    cache.clear()
    assert len(cache) == 0
