from __future__ import annotations

import asyncio
import datetime as dt
import socket
import ssl
import time
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa

from pingora_core.connectors import ConnectorOptions, TransportConnector
from pingora_core.protocols.tls import ALPN, CaBundle, CertKey, CustomALPN, TlsStream
from pingora_core.upstreams import HttpPeer, PeerOptions
from pingora_error import TLS_CONFIG_ERROR, Error, ErrorSource, ErrorType
from tests.support.certificates import CertificateAuthority
from tests.unit.pingora_core.connectors.rig import Names, connector, origin

if TYPE_CHECKING:
    from pathlib import Path

    from pingora_core.protocols.interfaces import Stream
    from tests.support.certificates import IssuedCertificate

pytestmark = pytest.mark.usefixtures("no_leaks")


async def exchange(stream: Stream) -> bytes:
    """Send something and close once it came back."""
    try:
        stream.write(b"ping")
        return await stream.read(5.0)
    finally:
        stream.close()
        await stream.wait_closed()


async def works(peer: HttpPeer, options: ConnectorOptions | None = None) -> bool:
    """Whether a peer can be talked to; its certificate not being accepted is a no."""
    async with connector(options) as transport:
        try:
            stream = await transport.new_stream(peer)
        except Error as error:
            if (error.etype, error.esource) != (ErrorType.INVALID_CERT, ErrorSource.UPSTREAM):
                raise
            return False
        return await exchange(stream) == b"ping"


async def fails(peer: HttpPeer, options: ConnectorOptions | None = None) -> Error:
    """Connect in vain."""
    async with connector(options) as transport:
        with pytest.raises(Error) as caught:
            await transport.new_stream(peer)
    return caught.value


# ---------------------------------------------------------------- verification


async def test_tls_no_verify(server_certificate: IssuedCertificate) -> None:
    """Only verify_cert=False accepts a peer that nobody vouches for, with any name or none."""
    async with origin(tls=server_certificate.server_context()) as server:
        for sni in ("", "wrong.example"):
            options = PeerOptions(verify_cert=False)
            assert await works(HttpPeer(server.address, tls=True, sni=sni, options=options))
            assert not await works(HttpPeer(server.address, tls=True, sni=sni))


@pytest.mark.parametrize(
    ("sni", "changes", "accepted"),
    [
        pytest.param("openrusty.org", {}, True, id="test_tls_verify_sni_host"),
        pytest.param("www.openrusty.org", {}, True, id="wildcard"),
        pytest.param("OpenRusty.ORG", {}, True, id="case"),
        pytest.param("www.example.com", {}, False, id="wrong_name"),
        pytest.param("a.b.openrusty.org", {}, False, id="wildcard_is_one_label"),
        pytest.param(
            "abc.com", {"verify_hostname": False}, True, id="test_tls_verify_sni_not_host"
        ),
        pytest.param(
            "d_g.openrusty.org", {}, True, id="test_tls_underscore_sub_sni_verify_host"
        ),
        pytest.param(
            "open_rusty.org", {}, False, id="test_tls_underscore_non_sub_sni_verify_host"
        ),
        pytest.param(
            "wrong.example", {"alternative_cn": "dog.openrusty.org"}, True,
            id="test_tls_alt_verify_host",
        ),
        pytest.param(
            "wrong.example", {"alternative_cn": "d_g.openrusty.org"}, True,
            id="test_tls_underscore_sub_alt_verify_host",
        ),
        pytest.param(
            "wrong.example", {"alternative_cn": "open_rusty.org"}, False,
            id="test_tls_underscore_non_sub_alt_verify_host",
        ),
        pytest.param("127.0.0.1", {}, True, id="an_address_as_the_name"),
        pytest.param("127.0.0.2", {}, False, id="a_wrong_address_as_the_name"),
    ],
)  # fmt: skip
async def test_names(
    server_certificate: IssuedCertificate,
    ca: CaBundle,
    sni: str,
    changes: dict[str, object],
    accepted: bool,
) -> None:
    """Which names a certificate for openrusty.org, *.openrusty.org and 127.0.0.1 is good for."""
    options = PeerOptions(ca=ca)
    for name, value in changes.items():
        setattr(options, name, value)
    async with origin(tls=server_certificate.server_context()) as server:
        assert await works(HttpPeer(server.address, tls=True, sni=sni, options=options)) is accepted


async def test_tls_none_verify_host(
    authority: CertificateAuthority, server_certificate: IssuedCertificate, ca: CaBundle
) -> None:
    """Without an SNI the address is verified, never nothing; and no SNI is sent."""
    options = PeerOptions(ca=ca)
    async with origin(tls=server_certificate.server_context()) as server:
        assert await works(HttpPeer(server.address, tls=True, options=options))
        assert server.names == [None]
    unnamed = authority.issue("openrusty.org")
    async with origin(tls=unnamed.server_context()) as server:
        assert not await works(HttpPeer(server.address, tls=True, options=options))
        lenient = PeerOptions(ca=ca, verify_hostname=False)
        assert await works(HttpPeer(server.address, tls=True, options=lenient))


async def test_the_sni_is_sent(server_certificate: IssuedCertificate, ca: CaBundle) -> None:
    """As given, without a final dot; a host name serves as SNI; addresses are never sent."""
    names = Names(**{"www.openrusty.org": ["127.0.0.1"]})
    options = PeerOptions(ca=ca)
    async with (
        origin(tls=server_certificate.server_context()) as server,
        connector(resolver=names) as transport,
    ):
        for address, sni in (
            (server.address, "openrusty.org."),
            (f"www.openrusty.org:{server.port}", ""),
            (server.address, "127.0.0.1"),
        ):
            peer = HttpPeer(address, tls=True, sni=sni, options=options)
            await exchange(await transport.new_stream(peer))

        assert server.names == ["openrusty.org", "www.openrusty.org", None]


async def test_a_unix_socket_needs_a_name(
    server_certificate: IssuedCertificate, ca: CaBundle, tmp_path: Path
) -> None:
    """There is no address to verify: without a name the mistake is told."""
    path = str(tmp_path / "tls.sock")
    async with origin(tls=server_certificate.server_context(), path=path) as server:
        options = PeerOptions(ca=ca)
        assert await works(HttpPeer(server.address, tls=True, sni="openrusty.org", options=options))
        alternative = PeerOptions(ca=ca, alternative_cn="openrusty.org")
        assert await works(HttpPeer(server.address, tls=True, options=alternative))
        error = await fails(HttpPeer(server.address, tls=True, options=options))

    assert error.etype == TLS_CONFIG_ERROR
    assert error.esource is ErrorSource.INTERNAL


async def test_a_handshake_without_verification_is_not_trusted(
    server_certificate: IssuedCertificate, ca: CaBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should the library ever not ask about the peer's own certificate, nobody gets through."""
    monkeypatch.setattr("pingora_core.connectors.tls._verify", lambda *_: True)
    async with origin(tls=server_certificate.server_context()) as server:
        assert not await works(HttpPeer(server.address, tls=True, options=PeerOptions(ca=ca)))


async def test_a_certificate_that_openssl_refuses() -> None:
    """A key that is too small is told, before anything is connected."""
    key = rsa.generate_private_key(65537, 1024)
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pair = CertKey([certificate], key)
    error = await fails(HttpPeer("127.0.0.1:1", tls=True, client_cert_key=pair))

    assert error.etype == TLS_CONFIG_ERROR
    assert "too small" in str(error)


@pytest.mark.parametrize("sni", ["a b", "a\0b", "x" * 254, "é\uffff.example"])
async def test_an_sni_that_is_no_name(
    server_certificate: IssuedCertificate, ca: CaBundle, sni: str
) -> None:
    """It is refused before anything is sent."""
    async with origin(tls=server_certificate.server_context()) as server:
        error = await fails(HttpPeer(server.address, tls=True, sni=sni, options=PeerOptions(ca=ca)))

    assert error.etype == TLS_CONFIG_ERROR


async def test_an_international_sni(authority: CertificateAuthority, ca: CaBundle) -> None:
    """It is sent and verified in its ASCII form."""
    issued = authority.issue("xn--bcher-kva.example")
    async with origin(tls=issued.server_context()) as server:
        options = PeerOptions(ca=ca)
        peer = HttpPeer(server.address, tls=True, sni="bücher.example", options=options)

        assert await works(peer)
        assert server.names == ["xn--bcher-kva.example"]


async def test_certificates_out_of_their_time(
    authority: CertificateAuthority, ca: CaBundle
) -> None:
    """The error says what is wrong with them."""
    for issued, reason in (
        (authority.issue("a.example", expired=True), "expired"),
        (authority.issue("a.example", not_yet_valid=True), "not yet valid"),
    ):
        async with origin(tls=issued.server_context()) as server:
            peer = HttpPeer(server.address, tls=True, sni="a.example", options=PeerOptions(ca=ca))
            error = await fails(peer)
            assert error.etype is ErrorType.INVALID_CERT
            assert reason in str(error)


async def test_a_client_certificate_is_none_for_servers(
    authority: CertificateAuthority, ca: CaBundle
) -> None:
    """The extended key usage is checked."""
    issued = authority.issue("a.example", client=True)
    async with origin(tls=issued.server_context()) as server:
        peer = HttpPeer(server.address, tls=True, sni="a.example", options=PeerOptions(ca=ca))

        assert not await works(peer)


async def test_chains(authority: CertificateAuthority, ca: CaBundle) -> None:
    """An intermediate must be sent, or be trusted itself."""
    intermediate = authority.intermediate()
    issued = intermediate.issue("a.example")
    partial = CaBundle([intermediate.certificate])
    for with_chain, bundle, accepted in (
        (True, ca, True),
        (False, ca, False),
        (False, partial, True),
    ):
        async with origin(tls=issued.server_context(with_chain=with_chain)) as server:
            options = PeerOptions(ca=bundle)
            peer = HttpPeer(server.address, tls=True, sni="a.example", options=options)
            assert await works(peer) is accepted


async def test_which_authorities_are_trusted(
    tmp_path: Path,
    authority: CertificateAuthority,
    server_certificate: IssuedCertificate,
    ca: CaBundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The peer's, else the connector's, else the system's; never two of them."""
    stranger = CertificateAuthority(tmp_path, "Stranger")
    ours = ConnectorOptions(ca_file=str(authority.cert_path))
    theirs = ConnectorOptions(ca_file=str(stranger.cert_path))
    own = PeerOptions(ca=ca)
    foreign = PeerOptions(ca=CaBundle([stranger.certificate]))
    async with origin(tls=server_certificate.server_context()) as server:

        def peer(options: PeerOptions | None = None) -> HttpPeer:
            return HttpPeer(server.address, tls=True, sni="openrusty.org", options=options)

        assert not await works(peer())
        assert await works(peer(), ours)
        assert await works(peer(own), theirs)
        assert not await works(peer(foreign), ours)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.cert_path))
        assert await works(peer())
        assert not await works(peer(), theirs)


def test_files_are_read_when_the_connector_is_made(tmp_path: Path) -> None:
    """A missing or broken file is told before the first request."""
    missing = str(tmp_path / "missing.pem")
    with pytest.raises(Error, match=r"missing\.pem"):
        TransportConnector(ConnectorOptions(ca_file=missing))
    with pytest.raises(Error, match=r"missing\.pem"):
        TransportConnector(ConnectorOptions(cert_key_file=(missing, missing)))


# --------------------------------------------------------------- client certificates


@pytest.fixture
def client_issuer(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(tmp_path, "Client Root")


async def refused_by_server(
    context: ssl.SSLContext, options: PeerOptions, pair: CertKey | None = None
) -> str:
    """Talk to a server that will not accept us, and return what it says.

    It blocks in a thread, because asyncio's servers break off without the alert.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = "{}:{}".format(*listener.getsockname())

        def serve() -> None:
            client, _ = listener.accept()
            client.settimeout(5.0)
            with client, pytest.raises(ssl.SSLError):
                context.wrap_socket(client, server_side=True)

        serving = asyncio.create_task(asyncio.to_thread(serve))
        async with connector() as transport:
            peer = HttpPeer(address, tls=True, client_cert_key=pair, options=options)
            stream = await transport.new_stream(peer)
            with pytest.raises(Error) as caught:
                await exchange(stream)
        await serving
    assert caught.value.etype is ErrorType.READ_ERROR
    return str(caught.value)


async def test_mtls_no_client_cert(
    server_certificate: IssuedCertificate, ca: CaBundle, client_issuer: CertificateAuthority
) -> None:
    """A server that wants one ends the connection; in TLS 1.3 the first read tells why."""
    context = server_certificate.server_context(client_ca=client_issuer)

    assert "certificate required" in await refused_by_server(context, PeerOptions(ca=ca))


async def test_mtls_no_intermediate_cert(
    server_certificate: IssuedCertificate, ca: CaBundle, client_issuer: CertificateAuthority
) -> None:
    """A chain with a gap is refused by the server."""
    issued = client_issuer.intermediate().issue("client", client=True)
    bare = CertKey.from_pem(issued.cert_pem, issued.key_pem)
    context = server_certificate.server_context(client_ca=client_issuer)

    assert "unknown ca" in await refused_by_server(context, PeerOptions(ca=ca), bare)


async def test_mtls(
    server_certificate: IssuedCertificate, ca: CaBundle, client_issuer: CertificateAuthority
) -> None:
    """With the whole chain it works, in both versions; also with the connector's certificate."""
    issued = client_issuer.intermediate().issue("client", client=True)
    pair = CertKey.from_pem(issued.chain_pem, issued.key_pem)
    files = ConnectorOptions(cert_key_file=(str(issued.chain_path), str(issued.key_path)))
    options = PeerOptions(ca=ca)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = server_certificate.server_context(client_ca=client_issuer)
        context.maximum_version = version
        async with origin(tls=context) as server:
            address = server.address
            mine = HttpPeer(address, tls=True, client_cert_key=pair, options=options)
            assert await works(mine)
            assert await works(HttpPeer(address, tls=True, options=options), files)


async def test_mtls_of_the_peer_comes_first(
    server_certificate: IssuedCertificate,
    ca: CaBundle,
    client_issuer: CertificateAuthority,
    authority: CertificateAuthority,
) -> None:
    """The connector's certificate is only a default."""
    wrong = authority.issue("stranger", client=True)
    files = ConnectorOptions(cert_key_file=(str(wrong.chain_path), str(wrong.key_path)))
    issued = client_issuer.issue("client", client=True)
    pair = CertKey.from_pem(issued.chain_pem, issued.key_pem)
    context = server_certificate.server_context(client_ca=client_issuer)
    async with origin(tls=context) as server:
        peer = HttpPeer(server.address, tls=True, client_cert_key=pair, options=PeerOptions(ca=ca))

        assert await works(peer, files)


async def test_a_wrong_server_never_sees_the_client_certificate(
    server_certificate: IssuedCertificate, ca: CaBundle, client_issuer: CertificateAuthority
) -> None:
    """The name is verified within the handshake, before anything of ours is sent."""
    issued = client_issuer.issue("client", client=True)
    pair = CertKey.from_pem(issued.chain_pem, issued.key_pem)
    context = server_certificate.server_context(client_ca=client_issuer)
    async with origin(tls=context) as server:
        peer = HttpPeer(
            server.address,
            tls=True,
            sni="other.example",
            client_cert_key=pair,
            options=PeerOptions(ca=ca),
        )

        assert not await works(peer)
        assert server.connections == 0


async def reused(transport: TransportConnector, first: HttpPeer, second: HttpPeer) -> bool:
    """Whether a connection made for one peer serves another."""
    stream = await transport.new_stream(first)
    stream.write(b"x")
    await stream.read(5.0)
    transport.release_stream(stream, first.reuse_key())
    return transport.reused_stream(second) is not None


async def test_mtls_diff_cert_no_reuse(
    server_certificate: IssuedCertificate, ca: CaBundle, client_issuer: CertificateAuthority
) -> None:
    """A connection that was made as one client does not serve another, nor nobody."""
    pairs = [
        CertKey.from_pem(issued.chain_pem, issued.key_pem)
        for issued in (client_issuer.issue("a", client=True), client_issuer.issue("b", client=True))
    ]
    context = server_certificate.server_context(client_ca=client_issuer)
    async with origin(tls=context) as server, connector() as transport:

        def peer(pair: CertKey | None) -> HttpPeer:
            options = PeerOptions(ca=ca)
            return HttpPeer(server.address, tls=True, client_cert_key=pair, options=options)

        assert not await reused(transport, peer(pairs[0]), peer(pairs[1]))
        assert not await reused(transport, peer(pairs[0]), peer(None))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(
            {"verify_cert": False}, {"verify_cert": True}, id="test_tls_diff_verify_no_reuse"
        ),
        pytest.param(
            {"verify_hostname": False},
            {"verify_hostname": True},
            id="test_tls_diff_verify_host_no_reuse",
        ),
        pytest.param(
            {"alternative_cn": "openrusty.org"},
            {"alternative_cn": "dog.openrusty.org"},
            id="test_tls_diff_alt_cnt_no_reuse",
        ),
        pytest.param({"alpn": ALPN.H1}, {"alpn": ALPN.H2H1}, id="alpn"),
        pytest.param({"ca": True}, {}, id="ca"),
    ],
)
async def test_no_reuse(
    server_certificate: IssuedCertificate,
    ca: CaBundle,
    first: dict[str, object],
    second: dict[str, object],
) -> None:
    """What was accepted under other rules was not accepted."""
    async with (
        origin(tls=server_certificate.server_context()) as server,
        connector() as transport,
    ):
        peers: list[HttpPeer] = []
        for changes in (first, second):
            options = PeerOptions()
            if "ca" in changes or "ca" not in first:
                options.ca = ca
            for name, value in changes.items():
                if name != "ca":
                    setattr(options, name, value)
            peers.append(
                HttpPeer(server.address, tls=True, sni="www.openrusty.org", options=options)
            )

        assert not await reused(transport, *peers)


# ------------------------------------------------------------------- negotiation


@pytest.mark.parametrize(
    ("offer", "chosen"),
    [
        (ALPN.H1, b"http/1.1"),
        (ALPN.H2, b"h2"),
        (ALPN.H2H1, b"h2"),
        (CustomALPN(b"my/1"), b""),
    ],
)
async def test_alpn(
    server_certificate: IssuedCertificate, ca: CaBundle, offer: ALPN | CustomALPN, chosen: bytes
) -> None:
    """What the peer's options say is offered."""
    context = server_certificate.server_context(alpn=("h2", "http/1.1"))
    async with origin(tls=context) as server, connector() as transport:
        options = PeerOptions(ca=ca, alpn=offer)
        stream = await transport.new_stream(HttpPeer(server.address, tls=True, options=options))

        assert isinstance(stream, TlsStream)
        assert stream.alpn_protocol == chosen
        await exchange(stream)


async def test_connect_prefer_h1(server_certificate: IssuedCertificate, ca: CaBundle) -> None:
    """A peer that turned out bad at HTTP/2 is offered HTTP/1.1 only, until that is forgotten."""
    context = server_certificate.server_context(alpn=("h2", "http/1.1"))
    chosen: list[ALPN | None] = []
    async with origin(tls=context) as server, connector() as transport:
        options = PeerOptions(ca=ca, alpn=ALPN.H2H1)
        peer = HttpPeer(server.address, tls=True, options=options)
        for step in range(3):
            if step == 1:
                transport.prefer_h1(peer)
            if step == 2:
                transport._prefer_h1[peer.reuse_key()] = 0.0
            stream = await transport.new_stream(peer)
            assert isinstance(stream, TlsStream)
            chosen.append(stream.alpn)
            await exchange(stream)

    assert chosen == [ALPN.H2, ALPN.H1, ALPN.H2]


async def test_the_memory_of_preferences_is_bounded() -> None:
    """A thousand peers, the latest ones."""
    async with connector() as transport:
        peers = [HttpPeer(f"192.0.2.1:{port}") for port in range(1, 1100)]
        for peer in peers:
            transport.prefer_h1(peer)

        assert len(transport._prefer_h1) == 1024
        assert peers[0].reuse_key() not in transport._prefer_h1
        assert peers[-1].reuse_key() in transport._prefer_h1


async def first_flight(options: PeerOptions) -> bytes:
    """Capture the ClientHello."""
    loop = asyncio.get_running_loop()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0)
        address = "{}:{}".format(*listener.getsockname())
        async with connector() as transport:
            peer = HttpPeer(address, tls=True, options=options)
            task = asyncio.ensure_future(transport.new_stream(peer))
            client, _ = await loop.sock_accept(listener)
            with client:
                hello = await loop.sock_recv(client, 65536)
                while len(hello) < 5 + int.from_bytes(hello[3:5], "big"):
                    hello += await loop.sock_recv(client, 65536)
            with pytest.raises(Error):
                await task
    return hello


def extension(hello: bytes, number: int) -> bytes | None:
    """Find an extension in a ClientHello (RFC 8446 section 4.1.2)."""
    at = 5 + 4 + 2 + 32
    at += 1 + hello[at]
    at += 2 + int.from_bytes(hello[at : at + 2], "big")
    at += 1 + hello[at]
    at += 2
    while at < len(hello):
        kind = int.from_bytes(hello[at : at + 2], "big")
        size = int.from_bytes(hello[at + 2 : at + 4], "big")
        if kind == number:
            return hello[at + 4 : at + 4 + size]
        at += 4 + size
    return None


SUPPORTED_GROUPS, SUPPORTED_VERSIONS, KEY_SHARE = 10, 43, 51


def key_shares(hello: bytes) -> list[int]:
    """The groups for which a ClientHello brings a key."""
    shares = extension(hello, KEY_SHARE)
    assert shares is not None
    groups: list[int] = []
    at = 2
    while at < len(shares):
        groups.append(int.from_bytes(shares[at : at + 2], "big"))
        at += 4 + int.from_bytes(shares[at + 2 : at + 4], "big")
    return groups


async def test_versions_below_1_2_are_not_offered() -> None:
    """TLS 1.3 and 1.2, nothing else."""
    assert extension(await first_flight(PeerOptions()), SUPPORTED_VERSIONS) == (
        b"\x04\x03\x04\x03\x03"
    )


async def test_second_keyshare() -> None:
    """With it the first flight serves peers with and without post-quantum; without, one key."""
    assert len(key_shares(await first_flight(PeerOptions()))) == 2
    assert len(key_shares(await first_flight(PeerOptions(second_keyshare=False)))) == 1


async def test_curves(server_certificate: IssuedCertificate, ca: CaBundle) -> None:
    """Only the groups that were asked for are offered."""
    hello = await first_flight(PeerOptions(curves="P-384:P-521"))

    assert extension(hello, SUPPORTED_GROUPS) == b"\x00\x04\x00\x18\x00\x19"
    async with origin(tls=server_certificate.server_context()) as server:
        options = PeerOptions(ca=ca, curves="P-384")
        assert await works(HttpPeer(server.address, tls=True, options=options))


async def test_unknown_curves(server_certificate: IssuedCertificate) -> None:
    """A misspelt group is told, and spoils nothing for later connections."""
    async with (
        origin(tls=server_certificate.server_context()) as server,
        connector() as transport,
    ):
        bad = PeerOptions(curves="P-999", verify_cert=False)
        with pytest.raises(Error, match="P-999") as caught:
            await transport.new_stream(HttpPeer(server.address, tls=True, options=bad))
        assert caught.value.etype == TLS_CONFIG_ERROR

        good = PeerOptions(verify_cert=False)
        stream = await transport.new_stream(HttpPeer(server.address, tls=True, options=good))
        assert await exchange(stream) == b"ping"


# --------------------------------------------------------------------- deadlines


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take everything and say nothing."""
    while await reader.read(65536):
        pass


async def test_a_silent_peer() -> None:
    """CONNECT_TIMEDOUT from upstream, in time."""
    async with origin(silent) as server:
        started = time.monotonic()
        options = PeerOptions(connection_timeout=0.03)
        error = await fails(HttpPeer(server.address, tls=True, options=options))

    assert error.etype is ErrorType.CONNECT_TIMEDOUT
    assert error.esource is ErrorSource.UPSTREAM
    assert 0.03 <= time.monotonic() - started < 2.0


async def test_tls_connect_timeout_supersedes_total() -> None:
    """The limit that comes first is the one that is told."""
    async with origin(silent) as server:
        options = PeerOptions(connection_timeout=0.03, total_connection_timeout=5)
        step = await fails(HttpPeer(server.address, tls=True, options=options))
        options = PeerOptions(connection_timeout=5, total_connection_timeout=0.03)
        total = await fails(HttpPeer(server.address, tls=True, options=options))

    assert step.etype is total.etype is ErrorType.CONNECT_TIMEDOUT
    assert "handshake" in str(step)
    assert "in total" in str(total)


async def test_a_peer_that_hangs_up() -> None:
    """TLS_HANDSHAKE_FAILURE."""

    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    async with origin(leave) as server:
        error = await fails(HttpPeer(server.address, tls=True))

    assert error.etype is ErrorType.TLS_HANDSHAKE_FAILURE


async def test_a_peer_that_does_not_speak_tls() -> None:
    """TLS_HANDSHAKE_FAILURE, with OpenSSL's reason."""

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()

    async with origin(plain) as server:
        error = await fails(HttpPeer(server.address, tls=True))

    assert error.etype is ErrorType.TLS_HANDSHAKE_FAILURE
    assert "TLS: " in str(error)


async def test_cancelling_a_handshake() -> None:
    """The connection is dropped with the task."""
    async with origin(silent) as server, connector() as transport:
        task = asyncio.ensure_future(transport.new_stream(HttpPeer(server.address, tls=True)))
        await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.wait([task])

        assert task.cancelled()


# ------------------------------------------------------------------ hooks and logs


async def test_handshake_hook(server_certificate: IssuedCertificate, ca: CaBundle) -> None:
    """It sees the finished handshake; what it returns is in the digest."""

    def hook(stream: TlsStream) -> object:
        return stream.connection.get_protocol_version_name()

    async with (
        origin(tls=server_certificate.server_context()) as server,
        connector() as transport,
    ):
        options = PeerOptions(ca=ca, upstream_tls_handshake_complete_hook=hook)
        stream = await transport.new_stream(HttpPeer(server.address, tls=True, options=options))

        assert stream.digest.ssl_digest is not None
        assert stream.digest.ssl_digest.extension == "TLSv1.3"
        await exchange(stream)


async def test_a_handshake_hook_can_refuse(
    server_certificate: IssuedCertificate, ca: CaBundle
) -> None:
    """Its Error is the error; any other exception is a HANDSHAKE_ERROR of ours."""
    refusal = Error.up(ErrorType.INVALID_CERT, "not this one")

    def refuse(stream: TlsStream) -> object:
        raise refusal

    def fail(stream: TlsStream) -> object:
        raise KeyError("defect")

    async with origin(tls=server_certificate.server_context()) as server:
        refusing = PeerOptions(ca=ca, upstream_tls_handshake_complete_hook=refuse)
        failing = PeerOptions(ca=ca, upstream_tls_handshake_complete_hook=fail)

        assert await fails(HttpPeer(server.address, tls=True, options=refusing)) is refusal
        error = await fails(HttpPeer(server.address, tls=True, options=failing))
        assert error.etype is ErrorType.HANDSHAKE_ERROR
        assert isinstance(error.cause, KeyError)


async def test_the_key_log(
    server_certificate: IssuedCertificate,
    ca: CaBundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Secrets are written only if the option says so, to a file that only the owner can read."""
    log = tmp_path / "keys.log"
    monkeypatch.setenv("SSLKEYLOGFILE", str(log))
    async with origin(tls=server_certificate.server_context()) as server:
        peer_options = PeerOptions(ca=ca)
        assert await works(HttpPeer(server.address, tls=True, options=peer_options))
        assert not log.exists()
        options = ConnectorOptions(debug_ssl_keylog=True)
        assert await works(HttpPeer(server.address, tls=True, options=peer_options), options)

        transport = TransportConnector(options)
        stream = await transport.new_stream(
            HttpPeer(server.address, tls=True, options=peer_options)
        )
        await transport.close()
        assert isinstance(stream, TlsStream)
        written = log.stat().st_size
        transport._tls._log_key(stream.connection, b"late")
        await exchange(stream)
        assert log.stat().st_size == written

    assert b"CLIENT_TRAFFIC_SECRET_0 " in log.read_bytes()
    assert log.stat().st_mode & 0o777 == 0o600


async def test_a_key_log_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file name means no log; a bad one is told at once."""
    monkeypatch.delenv("SSLKEYLOGFILE", raising=False)
    async with connector(ConnectorOptions(debug_ssl_keylog=True)):
        pass
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "no" / "keys.log"))
    with pytest.raises(Error) as caught:
        async with connector(ConnectorOptions(debug_ssl_keylog=True)):
            pass

    assert caught.value.etype is ErrorType.FILE_OPEN_ERROR


async def test_contexts_are_shared_and_bounded(
    server_certificate: IssuedCertificate, ca: CaBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for each distinct choice, and not more than the bound however many there are."""
    monkeypatch.setattr("pingora_core.connectors.tls._MAX_CONTEXTS", 2)
    async with (
        origin(tls=server_certificate.server_context()) as server,
        connector() as transport,
    ):
        for curves in (None, None, "X25519", "P-256", None):
            options = PeerOptions(ca=ca, curves=curves)
            stream = await transport.new_stream(HttpPeer(server.address, tls=True, options=options))
            await exchange(stream)
            assert len(transport._tls._contexts) <= 2

        assert len(transport._tls._contexts) == 2
