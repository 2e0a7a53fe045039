"""Records without data, key changes, and garbage, in any number."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from OpenSSL import SSL

from pingora_core.protocols.tls import TlsStream, _engine, stream
from pingora_error import Error, ErrorType
from tests.unit.pingora_core.protocols.tls.forger import HANDSHAKE, KeyLog
from tests.unit.pingora_core.protocols.tls.rig import (
    Wire,
    client_connection,
    server_connection,
    shake_hands,
    wired_pair,
)

if TYPE_CHECKING:
    from tests.support.certificates import IssuedCertificate
    from tests.unit.pingora_core.protocols.tls.forger import Forger

pytestmark = pytest.mark.usefixtures("no_leaks")


async def as_client(certificate: IssuedCertificate) -> tuple[TlsStream, Wire, Forger]:
    """A server, and a client in the test's hands."""
    log, wire = KeyLog(), Wire()
    server = TlsStream(wire, server_connection(certificate, keylog=log))
    await shake_hands(TlsStream(Wire(), client_connection()), server)
    wire.take_sent()
    return server, wire, log.client()


async def as_server(certificate: IssuedCertificate) -> tuple[TlsStream, Wire, Forger]:
    """A client, and a server in the test's hands."""
    log, wire = KeyLog(), Wire()
    client = TlsStream(wire, client_connection(keylog=log))
    await shake_hands(client, TlsStream(Wire(), server_connection(certificate)))
    wire.take_sent()
    return client, wire, log.server()


async def ends_by(tls: TlsStream, reason: str) -> None:
    with pytest.raises(Error, match=reason) as caught:
        await tls.fill(1.0)
    assert caught.value.etype is ErrorType.READ_ERROR
    assert tls.at_eof
    with pytest.raises(Error):
        tls.write(b"x")
    tls.abort()


async def test_a_forged_record_is_as_good_as_a_real_one(
    server_certificate: IssuedCertificate,
) -> None:
    """The tests below can say what they want."""
    server, wire, forger = await as_client(server_certificate)
    wire.deliver(forger.record(b"hello"))
    assert server.take() == b"hello"
    server.abort()


@pytest.mark.parametrize("requested", [False, True])
async def test_key_updates_now_and_then(
    server_certificate: IssuedCertificate, requested: bool
) -> None:
    """Each with data after it: as many as somebody likes, and the answers are bounded."""
    server, wire, forger = await as_client(server_certificate)
    received = b""
    for _ in range(200):
        wire.deliver(forger.key_update(requested=requested))
        wire.deliver(forger.record(b"x"))
        received += server.take()
    assert received == b"x" * 200
    assert len(wire.take_sent()) < 200 * 64
    server.abort()


async def test_key_updates_whose_answers_are_not_read(
    server_certificate: IssuedCertificate,
) -> None:
    """Data does not excuse them, for the answers pile up."""
    server, wire, forger = await as_client(server_certificate)
    wire.full = True
    for _ in range(40):
        wire.deliver(forger.key_update(requested=True))
        wire.deliver(forger.record(b"x"))
    assert len(wire.take_sent()) < 40 * 32
    await ends_by(server, "too many records without data")


@pytest.mark.parametrize("requested", [False, True])
@pytest.mark.parametrize("at_once", [False, True])
async def test_a_flood_of_key_updates(
    server_certificate: IssuedCertificate, requested: bool, at_once: bool
) -> None:
    """It breaks the connection, whether it comes in one piece or in many."""
    server, wire, forger = await as_client(server_certificate)
    flood = [forger.key_update(requested=requested) for _ in range(40)]
    for piece in [b"".join(flood)] if at_once else flood:
        wire.deliver(piece)
    assert len(wire.take_sent()) < 40 * 64
    await ends_by(server, "too many records without data")


async def test_a_flood_of_empty_records(server_certificate: IssuedCertificate) -> None:
    """The same; data that came before it can be read."""
    server, wire, forger = await as_client(server_certificate)
    wire.deliver(forger.record(b"data") + b"".join(forger.record(b"") for _ in range(40)))
    assert server.take() == b"data"
    await ends_by(server, "too many records without data|record too small")


async def test_a_flood_of_tickets(server_certificate: IssuedCertificate) -> None:
    """Servers do not get to keep clients busy either; a few tickets are welcome."""
    client, wire, forger = await as_server(server_certificate)
    calls: list[SSL.Session | None] = []
    client.on_session = lambda: calls.append(client.connection.get_session())
    for _ in range(32):
        wire.deliver(forger.ticket())
    assert not client.at_eof
    assert len(calls) == 32
    wire.deliver(forger.ticket())
    await ends_by(client, "too many records without data")


async def test_a_quiet_record_is_told(server_certificate: IssuedCertificate) -> None:
    """Also between records with data, in one delivery; the data is complete."""
    client, wire, forger = await as_server(server_certificate)
    calls: list[bytes] = []
    client.on_session = lambda: calls.append(b"")
    wire.deliver(forger.record(b"a") + forger.ticket() + forger.record(b"b") + forger.ticket()[:-1])
    assert client.take() == b"ab"
    assert len(calls) == 1
    client.abort()


async def test_an_answer_between_records_with_data(
    server_certificate: IssuedCertificate,
) -> None:
    """Key updates are answered at once, which leaves the data around them as it was."""
    server, wire, forger = await as_client(server_certificate)
    received = b""
    for _ in range(3):
        wire.deliver(
            forger.record(b"a" * 16384)
            + forger.record(b"b" * 100)
            + forger.key_update(requested=True)
            + forger.record(b"c" * 16384)
            + forger.key_update(requested=True)
            + forger.record(b"d")
        )
        received += server.take()
        assert wire.take_sent()

    assert received == (b"a" * 16384 + b"b" * 100 + b"c" * 16384 + b"d") * 3
    server.abort()


async def test_garbage_after_data(server_certificate: IssuedCertificate) -> None:
    """What came before it in the same delivery can be read."""
    server, wire, forger = await as_client(server_certificate)
    wire.deliver(forger.record(b"a") + forger.record(b"b" * 9000) + b"GET / HTTP/1.1\r\n\r\n")

    assert server.take() == b"a" + b"b" * 9000
    await ends_by(server, "TLS: ")


async def test_handshake_messages_that_do_not_belong_here(
    server_certificate: IssuedCertificate,
) -> None:
    """A message out of place is a READ_ERROR, and the peer is told."""
    for content in (b"\x01\0\0\x01x", b"\x18\0\0\x01\x05", b"\x18\0\0\x01\0\x18\0\0\x01\0"):
        server, wire, forger = await as_client(server_certificate)
        wire.deliver(forger.record(content, HANDSHAKE))
        assert wire.take_sent()
        await ends_by(server, "TLS: ")


async def test_a_client_that_wants_to_renegotiate(server_certificate: IssuedCertificate) -> None:
    """TLS 1.2 is refused it; asking again and again ends the connection."""
    async with wired_pair(server_certificate, version=SSL.TLS1_2_VERSION) as (
        client,
        wire,
        server,
        far,
    ):
        server.connection.set_options(SSL.OP_NO_RENEGOTIATION)
        refused = 0
        for _ in range(40):
            client.connection.renegotiate()
            with contextlib.suppress(SSL.Error):
                client.connection.do_handshake()
            client._flush()
            far.deliver(wire.take_sent())
            if server.at_eof:
                break
            answer = far.take_sent()
            assert len(answer) < 100
            refused += bool(answer)
            wire.deliver(answer)
            if client.at_eof:
                break

        assert refused >= 1
        assert server.connection.total_renegotiations() == 0


async def test_a_handshake_without_end(
    server_certificate: IssuedCertificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records that bring the handshake no further are bounded, by the library and in all."""
    hello = client_connection()
    with pytest.raises(SSL.WantReadError):
        hello.do_handshake()
    first_flight = hello.bio_read(65536)
    # Tolerated, to a degree, for the sake of middleboxes (RFC 8446 section 5).
    change_cipher_spec = b"\x14\x03\x03\x00\x01\x01"
    for limit, count, reason in ((1 << 18, 40, "TLS: "), (1000, 4, "longer than 1000 bytes")):
        monkeypatch.setattr(stream, "_MAX_HANDSHAKE", limit)
        wire = Wire()
        wire.deliver(first_flight + change_cipher_spec * count)
        with pytest.raises(Error, match=reason) as caught:
            await TlsStream(wire, server_connection(server_certificate)).handshake(5.0)
        assert caught.value.etype is ErrorType.TLS_HANDSHAKE_FAILURE


async def test_garbage_that_comes_with_the_handshake(
    server_certificate: IssuedCertificate,
) -> None:
    """The handshake succeeds, reading fails."""
    client_wire, server_wire = Wire(), Wire()
    client = TlsStream(client_wire, client_connection())
    server = TlsStream(server_wire, server_connection(server_certificate))
    tasks = [
        asyncio.ensure_future(client.handshake(5.0)),
        asyncio.ensure_future(server.handshake(5.0)),
    ]
    await asyncio.sleep(0)
    server_wire.deliver(client_wire.take_sent())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    client_wire.deliver(server_wire.take_sent())
    await tasks[0]
    server_wire.deliver(client_wire.take_sent() + b"\x17\x03\x03\x00\x20" + b"x" * 32)
    await tasks[1]

    await ends_by(server, "TLS: ")
    client.abort()


async def test_garbage_of_which_the_library_wants_more(
    server_certificate: IssuedCertificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not get more."""

    def want_more(_: _engine.Engine) -> bytes:
        raise SSL.WantReadError

    async with wired_pair(server_certificate) as (_, _, server, far):
        monkeypatch.setattr(_engine.Engine, "read", want_more)
        far.deliver(b"GET / HTTP/1.1\r\n\r\n")
        await ends_by(server, "no TLS record")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    garbage=st.lists(
        st.one_of(
            st.binary(max_size=40),
            # Something that looks like a record.
            st.builds(
                lambda kind, minor, body, excess: (
                    bytes([kind, 3, minor]) + (len(body) + excess).to_bytes(2, "big") + body
                ),
                st.integers(19, 25),
                st.integers(0, 4),
                st.binary(max_size=60),
                st.sampled_from([0, 0, 0, 1, 18000]),
            ),
        ),
        min_size=1,
        max_size=4,
    ),
    version=st.sampled_from([SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION]),
    role=st.sampled_from(["client", "server"]),
)
def test_garbage_after_the_handshake(
    server_certificate: IssuedCertificate, garbage: list[bytes], version: int, role: str
) -> None:
    """It is never taken for data, and ends in an Error or in waiting for the rest of a record."""

    async def run() -> None:
        async with wired_pair(server_certificate, version=version) as (client, wire, server, far):
            victim, below = (client, wire) if role == "client" else (server, far)
            ends: list[str] = []
            victim.set_on_disconnect(lambda: ends.append("end"))
            for piece in garbage:
                below.deliver(piece)
            assert victim.take() == b""
            if victim.at_eof:
                assert ends == ["end"]
                with pytest.raises(Error) as caught:
                    await victim.fill(0.0)
                assert caught.value.etype is ErrorType.READ_ERROR
            else:
                assert ends == []
                below.end()
                with pytest.raises(Error):
                    await victim.fill(1.0)

    asyncio.run(run())
