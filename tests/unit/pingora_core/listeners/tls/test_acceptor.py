"""Handshakes with real clients: what is agreed on, and how it fails."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING

import pytest
from OpenSSL import SSL

from pingora_core.listeners.tls import TlsAcceptor, TlsSettings, TlsVersion
from pingora_core.listeners.tls.acceptor import _fingerprint
from pingora_core.protocols.address import InetAddress
from pingora_core.protocols.tls import ALPN, CustomALPN
from pingora_error import Error, ErrorType
from tests.support.waiting import eventually
from tests.unit.pingora_core.listeners.tls.rig import (
    ask,
    client_context,
    connect_pyopenssl,
    listening,
)
from tests.unit.pingora_core.protocols.tls.rig import Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.certificates import CertificateAuthority, IssuedCertificate

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def certificate(authority: CertificateAuthority) -> IssuedCertificate:
    return authority.intermediate().issue("a.example")


@pytest.fixture
def settings(certificate: IssuedCertificate) -> TlsSettings:
    return TlsSettings.intermediate(certificate.chain_path, certificate.key_path)


async def test_a_client_is_served_with_the_chain(
    authority: CertificateAuthority, certificate: IssuedCertificate, settings: TlsSettings
) -> None:
    """A client that trusts the root only verifies the certificate: the intermediate is sent."""
    async with listening(settings) as listener:
        talk = await ask(listener.port, client_context(authority))

        assert talk.serial == certificate.serial
        assert talk.version == "TLSv1.3"
        assert listener.tls.version == "TLSv1.3"
        assert listener.tls.cipher == talk.cipher
        assert listener.tls.sni == "a.example"
        assert not listener.tls.resumed
        assert listener.tls.serial_number is None
        timing = listener.digests[0].timing_digest
        assert len(timing) == 2


async def test_tls_1_2_is_spoken_by_the_intermediate_profile_only(
    authority: CertificateAuthority, certificate: IssuedCertificate, settings: TlsSettings
) -> None:
    """An older client is served with forward secrecy; the modern profile turns it away."""
    old = client_context(authority, maximum=ssl.TLSVersion.TLSv1_2)
    async with listening(settings) as listener:
        talk = await ask(listener.port, old)

        assert (talk.version, talk.cipher) == ("TLSv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256")

    modern = TlsSettings.modern(certificate.chain_path, certificate.key_path)
    async with listening(modern) as listener:
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            await ask(listener.port, old)
        assert (await ask(listener.port, client_context(authority))).version == "TLSv1.3"


async def test_the_post_quantum_group_is_preferred(settings: TlsSettings) -> None:
    """A client that knows X25519MLKEM768 gets it, and both sides say so."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    async with (
        listening(settings) as listener,
        connect_pyopenssl(listener.port, context, "a.example") as client,
    ):
        assert client.connection.get_group_name() == "X25519MLKEM768"
        await eventually(lambda: listener.digests)
        assert listener.tls.group == "X25519MLKEM768"


async def test_groups_are_limited_to_what_is_set(settings: TlsSettings) -> None:
    """Another group is negotiated when only that is allowed, after a second ClientHello."""
    settings.groups = ("P-384",)
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    async with (
        listening(settings) as listener,
        connect_pyopenssl(listener.port, context, "a.example"),
    ):
        await eventually(lambda: listener.digests)
        assert listener.tls.group == "secp384r1"


async def test_the_ja4_fingerprint_is_told(
    authority: CertificateAuthority, settings: TlsSettings
) -> None:
    """Two connections of one client have the same fingerprint."""
    async with listening(settings) as listener:
        context = client_context(authority)
        await ask(listener.port, context)
        await ask(listener.port, context)
        first, second = (digest.ssl_digest for digest in listener.digests)
        assert first is not None
        assert second is not None
        assert first.ja4 is not None
        assert first.ja4.startswith("t13d")
        assert first.ja4 == second.ja4


def two_records(hello: bytes) -> list[bytes]:
    half = len(hello) // 2
    parts = (hello[5:half], hello[half:])
    return [b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts]


async def shake_hands_in_pieces(port: int, cut: Callable[[bytes], list[bytes]]) -> None:
    """Send a ClientHello piece by piece, finish the handshake, and have a byte echoed."""
    connection = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
    connection.set_connect_state()
    connection.set_tlsext_host_name(b"A.example")
    with pytest.raises(SSL.WantReadError):
        connection.do_handshake()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in cut(connection.bio_read(65536)):
        writer.write(piece)
        await asyncio.sleep(0.01)
    done = False
    while not done:
        connection.bio_write(await reader.read(65536))
        with contextlib.suppress(SSL.WantReadError):
            connection.do_handshake()
            done = True
    connection.send(b"x")
    writer.write(connection.bio_read(65536))
    received = b""
    while not received:
        connection.bio_write(await reader.read(65536))
        with contextlib.suppress(SSL.WantReadError):
            received = connection.recv(1)
    writer.close()
    await writer.wait_closed()


async def test_a_hello_that_comes_in_pieces_is_understood(settings: TlsSettings) -> None:
    """Whole, in several segments, or in several records: the facts are the same."""
    cuts: list[Callable[[bytes], list[bytes]]] = [
        lambda hello: [hello],
        lambda hello: [hello[:3], hello[3:7], hello[7:100], hello[100:]],
        two_records,
        lambda hello: [b"".join(two_records(hello))],
    ]
    async with listening(settings) as listener:
        for cut in cuts:
            await shake_hands_in_pieces(listener.port, cut)

        facts = {(tls.sni, tls.ja4, tls.group) for tls in listener.all_tls if tls is not None}
        assert len(listener.all_tls) == len(cuts)
    ((sni, ja4, group),) = facts
    assert (sni, group) == ("a.example", "X25519MLKEM768")
    assert ja4 is not None


async def test_ja4_can_be_switched_off(
    authority: CertificateAuthority, settings: TlsSettings
) -> None:
    """Without it the digest has none."""
    settings.ja4 = False
    for alpn in (ALPN.H1, ALPN.H2):
        settings.set_alpn(alpn)
        async with listening(settings) as listener:
            await ask(listener.port, client_context(authority))

            assert listener.tls.ja4 is None
            assert listener.tls.sni == "a.example"


@pytest.mark.parametrize(
    ("alpn", "offered", "negotiated"),
    [
        (ALPN.H1, ("h2", "http/1.1"), "http/1.1"),
        (ALPN.H2H1, ("http/1.1", "h2"), "h2"),
        (ALPN.H2H1, ("http/1.1",), "http/1.1"),
        (ALPN.H2, ("h2",), "h2"),
        (ALPN.H1, ("spdy/3",), None),
        (ALPN.H2H1, (), None),
        (ALPN.H2, (), None),
        (CustomALPN(b"acme-tls/1"), ("h2", "acme-tls/1"), "acme-tls/1"),
        (CustomALPN(b"acme-tls/1"), ("h2",), None),
    ],
)
async def test_the_protocol_is_negotiated(
    authority: CertificateAuthority,
    settings: TlsSettings,
    alpn: ALPN | CustomALPN,
    offered: tuple[str, ...],
    negotiated: str | None,
) -> None:
    """The server's order counts; what it does not know is ignored."""
    settings.set_alpn(alpn)
    async with listening(settings) as listener:
        talk = await ask(listener.port, client_context(authority, alpn=offered))

        assert talk.alpn == negotiated
        assert listener.tls.alpn == (negotiated or "").encode()


async def test_only_h2_refuses_other_protocols(
    authority: CertificateAuthority, settings: TlsSettings
) -> None:
    """A client that cannot speak HTTP/2 is told so by an alert."""
    settings.set_alpn(ALPN.H2)
    async with listening(settings) as listener:
        with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
            await ask(listener.port, client_context(authority, alpn=("http/1.1",)))
        assert not listener.digests


async def test_enable_h2_prefers_h2(settings: TlsSettings) -> None:
    """It is the short form of both versions."""
    settings.enable_h2()

    assert settings.alpn is ALPN.H2H1


async def test_a_session_is_resumed_by_ticket(settings: TlsSettings) -> None:
    """The second connection skips the certificate, in both versions of TLS."""
    for maximum in (SSL.TLS1_3_VERSION, SSL.TLS1_2_VERSION):
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_max_proto_version(maximum)
        async with listening(settings) as listener:
            async with connect_pyopenssl(listener.port, context, "a.example") as client:
                client.write(b"x")
                assert await client.read(5.0) == b"x"
                session = client.connection.get_session()
            async with connect_pyopenssl(listener.port, context, "a.example", session) as client:
                client.write(b"y")
                assert await client.read(5.0) == b"y"

            assert [tls is not None and tls.resumed for tls in listener.all_tls] == [False, True]


@pytest.mark.parametrize(
    ("tickets", "cache", "resumed"), [(False, True, True), (False, False, False)]
)
async def test_sessions_without_tickets_need_the_cache(
    settings: TlsSettings, tickets: bool, cache: bool, resumed: bool
) -> None:
    """Without tickets sessions are kept here, or not at all."""
    settings.session_tickets = tickets
    settings.session_cache = cache
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    async with listening(settings) as listener:
        session = None
        for _ in range(2):
            async with connect_pyopenssl(listener.port, context, "a.example", session) as client:
                client.write(b"x")
                assert await client.read(5.0) == b"x"
                session = client.connection.get_session()

        assert listener.tls.resumed is resumed


async def test_the_handshake_has_a_deadline(
    settings: TlsSettings, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that says nothing, or half of a hello, is dropped when its time is over."""
    settings.handshake_timeout = 0.05
    async with listening(settings) as listener:
        for start in (b"", b"\x16\x03\x01"):
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            writer.write(start)
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        await eventually(lambda: listener.serving.connections == 0)
    assert "TLSHandshakeTimedout" in caplog.text


@pytest.mark.parametrize(
    "request_start",
    [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"G"],
)
async def test_plain_http_is_answered_in_clear(
    settings: TlsSettings, caplog: pytest.LogCaptureFixture, request_start: bytes
) -> None:
    """Who speaks HTTP to a TLS port is told so, and once in the log."""
    async with listening(settings) as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(request_start)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        await eventually(lambda: listener.serving.connections == 0)

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"Content-Length: %d" % len(body) in head
    assert b"Connection: close" in head
    assert body == b"The plain HTTP request was sent to HTTPS port\n"
    assert caplog.text.count("plain HTTP") == 1


@pytest.mark.parametrize(
    ("garbage", "answer"),
    [
        (b"\x00" * 64, b""),
        (b"SSH-2.0-OpenSSH_9\r\n", b""),
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", b"\x15\x03\x01\x00\x02\x02\x32"),
        (b"\x80\x2e\x01\x00\x02" + b"\x00" * 64, b""),
    ],
    ids=["zeros", "ssh", "server hello", "sslv2"],
)
async def test_garbage_closes_the_connection(
    settings: TlsSettings, caplog: pytest.LogCaptureFixture, garbage: bytes, answer: bytes
) -> None:
    """What is no TLS is closed; what is bad TLS is told so."""
    async with listening(settings) as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(garbage)
        assert await reader.read() == answer
        writer.close()
        await writer.wait_closed()
        await eventually(lambda: listener.serving.connections == 0)
    assert caplog.text.count("HandshakeError") == 1


async def test_a_flood_of_bad_handshakes_is_logged_at_a_limited_rate(
    settings: TlsSettings, caplog: pytest.LogCaptureFixture
) -> None:
    """Strangers cannot fill the disk."""
    async with listening(settings) as listener:
        for _ in range(60):
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            writer.write(b"\0\0\0\0\0")
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
        await eventually(lambda: listener.serving.connections == 0)
    assert len(caplog.records) < 30


async def test_a_client_that_distrusts_us_ends_its_connection_only(
    authority: CertificateAuthority, settings: TlsSettings, caplog: pytest.LogCaptureFixture
) -> None:
    """Its alert is logged; the next client is served."""
    async with listening(settings) as listener:
        distrustful = SSL.Context(SSL.TLS_CLIENT_METHOD)
        distrustful.set_verify(SSL.VERIFY_PEER)
        with pytest.raises(Error, match="certificate verify failed"):
            async with connect_pyopenssl(listener.port, distrustful, "a.example"):
                pass
        await eventually(lambda: "alert unknown ca" in caplog.text)
        await ask(listener.port, client_context(authority))


async def test_a_client_without_a_common_cipher_is_told(
    authority: CertificateAuthority, settings: TlsSettings
) -> None:
    """OpenSSL's alert reaches it before the connection is closed."""
    settings.max_version = TlsVersion.TLS_1_2
    context = client_context(authority, maximum=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    async with listening(settings) as listener:
        with pytest.raises(ssl.SSLError, match=r"(?i)handshake.failure"):
            await ask(listener.port, context)


async def test_the_keylog_is_written_only_when_asked_for(
    authority: CertificateAuthority,
    settings: TlsSettings,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The environment alone writes nothing; with the setting, secrets are there for the owner."""
    path = tmp_path_factory.mktemp("keys") / "keys"
    # Before the variable is set: the client would write to the same file.
    context = client_context(authority)
    monkeypatch.setenv("SSLKEYLOGFILE", str(path))
    async with listening(settings) as listener:
        await ask(listener.port, context)
    assert not path.exists()

    settings.keylog = True
    async with listening(settings) as listener:
        await ask(listener.port, context)
    assert b"SERVER_TRAFFIC_SECRET_0" in path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600


async def test_the_digest_knows_the_client(
    authority: CertificateAuthority, settings: TlsSettings
) -> None:
    """Facts of the layer below are there as without TLS."""
    async with listening(settings) as listener:
        await ask(listener.port, client_context(authority))
        below = listener.digests[0].socket_digest
        assert below is not None
        assert isinstance(below.peer_addr, InetAddress)


@pytest.mark.parametrize("start", [b"", b"\x16\x03\x01\x02\x00\x01"])
async def test_a_lost_connection_during_the_handshake_is_an_error(
    settings: TlsSettings, caplog: pytest.LogCaptureFixture, start: bytes
) -> None:
    """A client that leaves before its hello is complete leaves nothing behind."""
    async with listening(settings) as listener:
        _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(start)
        writer.close()
        await writer.wait_closed()
        await eventually(lambda: ErrorType.CONNECTION_CLOSED.value in caplog.text)
        await eventually(lambda: listener.serving.connections == 0)


async def test_nobody_left_to_answer_is_no_other_error(settings: TlsSettings) -> None:
    """A client that is gone when it should be told why gets the same error in the log."""
    wire = Wire()
    wire.deliver(b"GET / HTTP/1.1\r\n\r\n")
    wire.end(reset=True)

    with pytest.raises(Error) as caught:
        await TlsAcceptor(settings).accept(wire)

    assert caught.value.etype is ErrorType.HANDSHAKE_ERROR
    assert not wire.sent


async def test_a_name_that_is_none_is_not_told(settings: TlsSettings) -> None:
    """What goes into logs and filters is a host name, or nothing."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    async with listening(settings) as listener:
        for name in ("a b.example", "a\r\nb"):
            async with connect_pyopenssl(listener.port, context, name) as client:
                client.write(b"x")
                assert await client.read(5.0) == b"x"

        assert [tls is not None and tls.sni for tls in listener.all_tls] == [None, None]
        assert listener.tls.ja4 is not None


def test_a_hello_that_only_openssl_understands_has_no_fingerprint() -> None:
    """It is strict here; the connection is served all the same."""
    assert _fingerprint(b"\x16\x03\x01\x00\x04\x01\x00\x00\x00") is None


async def test_the_clients_order_counts_if_wanted(
    authority: CertificateAuthority, settings: TlsSettings
) -> None:
    """Mozilla would have it so; a scanner may complain."""
    context = client_context(authority, maximum=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256")
    seen: list[str] = []
    for prefer in (True, False):
        settings.prefer_server_ciphers = prefer
        async with listening(settings) as listener:
            seen.append((await ask(listener.port, context)).cipher)

    assert seen == ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"]
