from __future__ import annotations

import asyncio
import datetime as dt
import socket
import ssl
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa

from pingora_core.connectors import ConnectorOptions, TransportConnector
from pingora_core.protocols.tls import ALPN, CaBundle, CertKey
from pingora_core.upstreams import HttpPeer, PeerOptions
from pingora_error import TLS_CONFIG_ERROR, Error, ErrorSource, ErrorType
from tests.support.certificates import CertificateAuthority
from tests.unit.pingora_core.connectors.rig import Names, connector, exchange, fails, origin, works

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.certificates import IssuedCertificate

pytestmark = pytest.mark.usefixtures("no_leaks")


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


async def test_a_certificate_for_somebody_else(
    server_certificate: IssuedCertificate, ca: CaBundle
) -> None:
    """The error says for whom it should be, and for whom it is."""
    async with origin(tls=server_certificate.server_context()) as server:
        options = PeerOptions(ca=ca, alternative_cn="b.example")
        error = await fails(HttpPeer(server.address, tls=True, sni="a.example", options=options))

    assert error.etype is ErrorType.INVALID_CERT
    assert (
        "the certificate is not for a.example or b.example"
        " but for 'openrusty.org, *.openrusty.org, 127.0.0.1'"
    ) in str(error)


async def test_a_certificate_for_nobody(authority: CertificateAuthority, ca: CaBundle) -> None:
    """Neither does a common name count, nor does a long list flood the log."""
    for issued, names in (
        (authority.issue(common_name="a.example"), "no name at all"),
        (authority.issue(*(f"name-{n}.example" for n in range(50))), "name-0.example, name-1."),
    ):
        async with origin(tls=issued.server_context()) as server:
            peer = HttpPeer(server.address, tls=True, sni="a.example", options=PeerOptions(ca=ca))
            error = await fails(peer)
            assert names in str(error)
            assert len(str(error)) < 700


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
            client.settimeout(30)
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
