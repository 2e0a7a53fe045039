from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from OpenSSL import SSL

from pingora_core.protocols.tls import ALPN, TlsStream, _engine
from pingora_error import Error, ErrorType
from tests.support.waiting import eventually
from tests.unit.pingora_core.protocols.tls.rig import (
    Wire,
    client_connection,
    server_connection,
    tls_pair,
    wired_pair,
)

if TYPE_CHECKING:
    from tests.support.certificates import CertificateAuthority, IssuedCertificate

pytestmark = pytest.mark.usefixtures("no_leaks")


# ------------------------------------------------------------------- handshake


async def test_bytes_both_ways(
    server_certificate: IssuedCertificate, authority: CertificateAuthority
) -> None:
    """What one side writes the other one reads, over a real socket."""
    async with tls_pair(server_certificate, authority=authority) as (client, server, _):
        client.write(b"question")
        question = await server.read(5.0)
        server.write(bytearray(b"answer"))
        answer = await client.read(5.0)

        assert (question, answer) == (b"question", b"answer")


async def test_the_digest_tells_what_was_agreed(server_certificate: IssuedCertificate) -> None:
    """Cipher, version and the certificate of the peer; a time for the TLS layer."""
    async with tls_pair(server_certificate) as (client, server, inner):
        seen = client.digest.ssl_digest
        assert seen is not None
        assert (seen.version, seen.organization) == ("TLSv1.3", "Server Org")
        assert seen.cipher.startswith("TLS_")
        assert int(seen.serial_number or "", 16) == server_certificate.serial
        assert len(seen.cert_digest) == 32
        assert len(client.digest.timing_digest) == 2
        anonymous = server.digest.ssl_digest
        assert anonymous is not None
        assert (anonymous.organization, anonymous.serial_number) == (None, None)
        assert anonymous.cert_digest == b""
        assert server.id == inner.id
        assert server.connection.get_protocol_version_name() == "TLSv1.3"


@pytest.mark.parametrize(
    ("selected", "alpn"), [(b"h2", ALPN.H2), (b"http/1.1", ALPN.H1), (None, None)]
)
async def test_alpn(
    server_certificate: IssuedCertificate, selected: bytes | None, alpn: ALPN | None
) -> None:
    """Both sides know the protocol that the server has chosen."""
    async with tls_pair(server_certificate, server_alpn=selected) as (client, server, _):
        assert client.alpn is alpn
        assert server.alpn is alpn
        assert client.alpn_protocol == (selected or b"")


async def test_a_handshake_has_a_deadline(server_certificate: IssuedCertificate) -> None:
    """A peer that says nothing, or only half of something, cannot hold it up."""
    for beginning in (b"", b"\x16\x03\x01"):
        wire = Wire()
        wire.deliver(beginning)
        stream = TlsStream(wire, client_connection())

        with pytest.raises(Error) as caught:
            await stream.handshake(0.01)

        assert caught.value.etype is ErrorType.TLS_HANDSHAKE_TIMEDOUT


async def test_the_deadline_is_for_the_whole_handshake(
    server_certificate: IssuedCertificate,
) -> None:
    """A peer that drips a byte now and then does not get more time."""
    wire = Wire()
    stream = TlsStream(wire, server_connection(server_certificate))
    handshake = asyncio.ensure_future(stream.handshake(0.05))
    for byte in b"\x16\x03\x01\x02\x00" * 100:
        if handshake.done():
            break
        wire.deliver(bytes([byte]))
        await asyncio.sleep(0.005)

    with pytest.raises(Error) as caught:
        await handshake
    assert caught.value.etype is ErrorType.TLS_HANDSHAKE_TIMEDOUT


async def test_a_peer_that_leaves_during_the_handshake() -> None:
    """An end and a reset are both failures of the handshake."""
    for reset in (False, True):
        wire = Wire()
        stream = TlsStream(wire, client_connection())
        handshake = asyncio.ensure_future(stream.handshake(5.0))
        await asyncio.sleep(0)
        wire.end(reset=reset)

        with pytest.raises(Error) as caught:
            await handshake
        assert caught.value.etype is ErrorType.TLS_HANDSHAKE_FAILURE
        await asyncio.sleep(0)


async def test_a_peer_that_does_not_speak_tls() -> None:
    """Plain text is told as what it is, without waiting for more of it."""
    wire = Wire()
    wire.deliver(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    stream = TlsStream(wire, client_connection())

    with pytest.raises(Error, match=r"wrong version number|http request") as caught:
        await stream.handshake(5.0)

    assert caught.value.etype is ErrorType.TLS_HANDSHAKE_FAILURE


async def test_an_untrusted_certificate_is_told_to_the_peer(
    server_certificate: IssuedCertificate, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The client gets INVALID_CERT, the server an alert."""
    from tests.support.certificates import CertificateAuthority as Authority  # noqa: PLC0415

    stranger = Authority(tmp_path_factory.mktemp("stranger"))
    client_wire, server_wire = Wire(), Wire()
    client = TlsStream(client_wire, client_connection(stranger))
    server = TlsStream(server_wire, server_connection(server_certificate))
    tasks = [
        asyncio.ensure_future(client.handshake(5.0)),
        asyncio.ensure_future(server.handshake(5.0)),
    ]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        server_wire.deliver(client_wire.take_sent())
        client_wire.deliver(server_wire.take_sent())
    errors = await asyncio.gather(*tasks, return_exceptions=True)

    kinds = [error.etype for error in errors if isinstance(error, Error)]
    assert kinds == [ErrorType.INVALID_CERT, ErrorType.TLS_HANDSHAKE_FAILURE]
    assert "alert unknown ca" in str(errors[1])


async def test_application_data_that_comes_with_the_handshake(
    server_certificate: IssuedCertificate,
) -> None:
    """Bytes in the same delivery as the client's last flight are there when it is done."""
    client_wire, server_wire = Wire(), Wire()
    client = TlsStream(client_wire, client_connection())
    server = TlsStream(server_wire, server_connection(server_certificate))
    serving = asyncio.ensure_future(server.handshake(5.0))
    connecting = asyncio.ensure_future(client.handshake(5.0))
    while not connecting.done():
        await asyncio.sleep(0)
        if not serving.done() and not connecting.done():
            server_wire.deliver(client_wire.take_sent())
            await asyncio.sleep(0)
            client_wire.deliver(server_wire.take_sent())
            await asyncio.sleep(0)
    await connecting
    client.write(b"early")
    client.flush_writes()
    flight = client_wire.take_sent()
    server_wire.deliver(flight[:-3])
    await serving
    before = server.take()
    server_wire.deliver(flight[-3:])

    assert before == b""
    assert server.take() == b"early"


# --------------------------------------------------------------------- records


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
async def test_byte_by_byte(server_certificate: IssuedCertificate, version: int) -> None:
    """Records may be split anywhere, also within their header."""
    async with wired_pair(server_certificate, version=version) as (client, wire, server, far):
        server.write(b"hello ")
        server.write(b"world")
        for byte in far.take_sent():
            wire.deliver(bytes([byte]))

        assert client.take() == b"hello world"


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(st.integers(1, 40_000), min_size=1, max_size=5),
    st.lists(st.integers(1, 30_000), min_size=1, max_size=20),
)
def test_any_split_of_any_records(
    server_certificate: IssuedCertificate, writes: list[int], cuts: list[int]
) -> None:
    """However the ciphertext is cut, the plaintext is the same and complete."""

    async def run() -> None:
        async with wired_pair(server_certificate) as (client, wire, server, far):
            plain = b"".join(bytes([i]) * size for i, size in enumerate(writes))
            for i, size in enumerate(writes):
                server.write(bytes([i]) * size)
            cipher = far.take_sent()
            received = b""
            for cut in cuts:
                wire.deliver(cipher[:cut])
                cipher = cipher[cut:]
                received += client.take()
            wire.deliver(cipher)
            while client.buffered or wire.buffered:
                received += client.take()
                await asyncio.sleep(0)
            assert received == plain

    asyncio.run(run())


async def test_the_library_is_asked_once_per_record(
    server_certificate: IssuedCertificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No call ends in an exception once the session tickets are through."""
    async with wired_pair(server_certificate) as (_, wire, server, far):
        wire.deliver(far.take_sent())
        results: list[int] = []
        read = _engine._SSL_read

        def counted(*args: object) -> int:
            result: int = read(*args)
            results.append(result)
            return result

        monkeypatch.setattr(_engine, "_SSL_read", counted)
        for size in (10, 40_000):
            server.write(b"x" * size)
            wire.deliver(far.take_sent())

        assert results == [10, 16384, 16384, 7232]


async def test_large_writes_come_out_whole(server_certificate: IssuedCertificate) -> None:
    """A megabyte, as any kind of buffer, also when the library writes only part of it at once."""
    for partial_write in (False, True):
        async with wired_pair(server_certificate, partial_write=partial_write) as (
            client,
            wire,
            server,
            far,
        ):
            data = bytes(range(256)) * 4096
            server.write(memoryview(data))
            server.write(b"")
            received = b""
            for piece in far.sent:
                wire.deliver(piece)
                received += client.take()
            far.sent.clear()

            assert received == data


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
async def test_garbage_after_the_handshake(
    server_certificate: IssuedCertificate, version: int
) -> None:
    """A broken record is a READ_ERROR, an end and a disconnect; the peer gets an alert."""
    async with wired_pair(server_certificate, version=version) as (client, wire, _, far):
        far.take_sent()
        ends: list[str] = []
        client.set_on_disconnect(lambda: ends.append("end"))
        wire.take_sent()
        wire.deliver(b"\x17\x03\x03\x00\x20" + b"x" * 32)

        assert client.at_eof
        assert ends == ["end"]
        assert wire.take_sent()
        with pytest.raises(Error, match="TLS: ") as caught:
            await client.fill()
        assert caught.value.etype is ErrorType.READ_ERROR


async def test_a_record_that_is_too_long_is_not_waited_for(
    server_certificate: IssuedCertificate,
) -> None:
    """A header that promises 64 KiB is refused at once."""
    async with wired_pair(server_certificate) as (client, wire, _, far):
        far.take_sent()
        wire.deliver(b"\x17\x03\x03\xff\xff")

        with pytest.raises(Error) as caught:
            await client.fill()
        assert caught.value.etype is ErrorType.READ_ERROR


async def test_writing_after_a_broken_record(server_certificate: IssuedCertificate) -> None:
    """The connection is dead in both directions, and says so."""
    async with wired_pair(server_certificate) as (client, wire, _, far):
        far.take_sent()
        wire.deliver(b"\x17\x03\x03\x00\x20" + b"x" * 32)

        with pytest.raises(Error) as caught:
            client.write(b"x")
        assert caught.value.etype is ErrorType.WRITE_ERROR


async def test_session_tickets_are_not_data(server_certificate: IssuedCertificate) -> None:
    """A late ticket on an idle connection calls nobody."""
    async with wired_pair(server_certificate) as (client, wire, _, far):
        calls: list[str] = []
        client.on_data = lambda: calls.append("data")
        client.set_on_disconnect(lambda: calls.append("end"))
        tickets = far.take_sent()
        assert tickets
        wire.deliver(tickets)

        assert client.buffered == 0
        assert not client.at_eof
        assert calls == []


async def test_a_ticket_and_data_in_one_delivery(server_certificate: IssuedCertificate) -> None:
    """The data is not lost behind the record that has none."""
    async with wired_pair(server_certificate) as (client, wire, server, far):
        server.write(b"data")
        wire.deliver(far.take_sent())

        assert client.take() == b"data"


# --------------------------------------------------------------------- reading


async def test_fill_waits_for_more_than_is_there(server_certificate: IssuedCertificate) -> None:
    """Bytes that are buffered already do not satisfy it."""
    async with tls_pair(server_certificate) as (client, server, _):
        server.write(b"a")
        await client.fill(5.0)
        task = asyncio.ensure_future(client.fill(5.0))
        await asyncio.sleep(0.01)
        waiting = not task.done()
        server.write(b"b")
        await task

        assert waiting
        assert client.take() == b"ab"


async def test_fill_has_a_deadline(server_certificate: IssuedCertificate) -> None:
    """READ_TIMEDOUT, and the stream goes on; a later wait without a limit has none."""
    async with tls_pair(server_certificate) as (client, server, _):
        with pytest.raises(Error) as caught:
            await client.fill(0.01)
        assert caught.value.etype is ErrorType.READ_TIMEDOUT

        task = asyncio.ensure_future(client.fill())
        await asyncio.sleep(0.03)
        server.write(b"late")
        assert await task
        assert client.take() == b"late"


async def test_a_deadline_that_passes_after_the_wait(
    server_certificate: IssuedCertificate,
) -> None:
    """Concerns nobody any more."""
    async with tls_pair(server_certificate) as (client, server, _):
        server.write(b"in time")
        assert await client.read(0.02) == b"in time"
        await asyncio.sleep(0.04)
        server.write(b"later")

        assert await client.read(5.0) == b"later"


async def test_a_second_reader_is_a_mistake(server_certificate: IssuedCertificate) -> None:
    """Two tasks cannot share the bytes."""
    async with tls_pair(server_certificate) as (client, server, _):
        task = asyncio.ensure_future(client.fill())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="already reading"):
            await client.fill()
        server.write(b"x")
        assert await task


async def test_a_cancelled_wait_loses_nothing(server_certificate: IssuedCertificate) -> None:
    """What arrives meanwhile stays buffered, and the next wait works."""
    async with tls_pair(server_certificate) as (client, server, _):
        task = asyncio.ensure_future(client.fill())
        await asyncio.sleep(0)
        task.cancel()
        server.write(b"data")
        await eventually(lambda: client.buffered, "data")

        assert task.cancelled()
        assert client.take() == b"data"


async def test_more_arrives_before_the_reader_runs(
    server_certificate: IssuedCertificate,
) -> None:
    """One wait gets it all."""
    async with wired_pair(server_certificate) as (client, wire, server, far):
        wire.deliver(far.take_sent())
        task = asyncio.ensure_future(client.fill(5.0))
        await asyncio.sleep(0)
        for data in (b"one", b"two"):
            server.write(data)
            wire.deliver(far.take_sent())

        assert await task
        assert client.take() == b"onetwo"


async def test_unread_and_peek(server_certificate: IssuedCertificate) -> None:
    """Bytes put back come first; looking does not consume."""
    async with tls_pair(server_certificate) as (client, server, _):
        server.write(b"world")
        assert await client.peek(5, 5.0) == b"world"
        client.unread(b"hello ")

        assert client.take() == b"hello world"


async def test_a_full_buffer_stops_reading(server_certificate: IssuedCertificate) -> None:
    """Ciphertext stays below until there is room, and nothing is lost."""
    async with wired_pair(server_certificate, read_buffer=1000) as (client, wire, server, far):
        wire.deliver(far.take_sent())
        for _ in range(3):
            server.write(b"x" * 1000)
            wire.deliver(far.take_sent())

        assert client.buffered == 1000
        assert wire.buffered > 2000
        assert client.take() == b"x" * 1000
        await asyncio.sleep(0)
        assert client.buffered == 2000
        assert wire.buffered == 0


async def test_a_full_buffer_still_serves_whoever_wants_more(
    server_certificate: IssuedCertificate,
) -> None:
    """A wait for more than the limit reads on, without telling the idle callback."""
    async with wired_pair(server_certificate, read_buffer=1000) as (client, wire, server, far):
        wire.deliver(far.take_sent())
        for _ in range(2):
            server.write(b"x" * 1000)
            wire.deliver(far.take_sent())
        calls: list[int] = []
        client.on_data = lambda: calls.append(client.buffered)

        assert await client.fill(5.0)
        assert client.buffered == 2000
        assert calls == []


async def test_on_data_is_called_when_nobody_waits(server_certificate: IssuedCertificate) -> None:
    """How a pool notices that an idle peer speaks."""
    async with tls_pair(server_certificate) as (client, server, _):
        calls: list[int] = []
        client.on_data = lambda: calls.append(client.buffered)
        server.write(b"unexpected")
        await eventually(lambda: calls, "a call")

        assert calls == [10]
