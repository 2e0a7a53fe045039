from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING

import pytest

from pingora_core.connectors import ConnectorOptions, TransportConnector
from pingora_core.protocols.tls import ALPN, CustomALPN, TlsStream
from pingora_core.upstreams import HttpPeer, PeerOptions
from pingora_error import TLS_CONFIG_ERROR, Error, ErrorSource, ErrorType
from tests.unit.pingora_core.connectors.rig import connector, exchange, fails, origin, works

if TYPE_CHECKING:
    from pathlib import Path

    from pingora_core.protocols.tls import CaBundle
    from tests.support.certificates import IssuedCertificate

pytestmark = pytest.mark.usefixtures("no_leaks")


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
    assert time.monotonic() - started < 10.0


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
        transport._tls._contexts._log_key(stream.connection, b"late")
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
    monkeypatch.setattr("pingora_core.connectors._contexts._MAX_CONTEXTS", 2)
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
