"""The user's decisions during a handshake."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import pytest
from OpenSSL import SSL

from pingora_core.listeners.tls import (
    CertificateStore,
    ClientAuth,
    TlsAccept,
    TlsAlert,
    TlsSettings,
)
from pingora_core.protocols.address import InetAddress
from pingora_core.protocols.tls import CustomALPN
from pingora_error import Custom, Error, ErrorType, HTTPStatus
from tests.support.waiting import eventually
from tests.unit.pingora_core.listeners.tls.rig import (
    ask,
    client_context,
    connect_pyopenssl,
    listening,
    pair_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.listeners.tls import PendingHandshake
    from pingora_core.protocols.tls import CertKey, TlsStream
    from pingora_core.protocols.tls.client_hello import ClientHello
    from tests.support.certificates import CertificateAuthority

pytestmark = pytest.mark.usefixtures("no_leaks")


class Database(TlsAccept):
    """Certificates in a database that takes its time."""

    def __init__(self, certificates: dict[str, CertKey]) -> None:
        self.certificates = certificates
        self.hellos: list[ClientHello] = []
        self.clients: list[object] = []

    async def certificate_callback(
        self, hello: ClientHello, handshake: PendingHandshake
    ) -> CertKey | TlsAlert | None:
        self.hellos.append(hello)
        below = handshake.digest.socket_digest
        self.clients.append(None if below is None else below.peer_addr)
        await asyncio.sleep(0)
        return self.certificates.get(hello.server_name or "")


class Deciding(TlsAccept):
    """Does what a test says."""

    def __init__(self, decide: Callable[[PendingHandshake], CertKey | TlsAlert | None]) -> None:
        self.decide = decide

    async def certificate_callback(
        self, hello: ClientHello, handshake: PendingHandshake
    ) -> CertKey | TlsAlert | None:
        return self.decide(handshake)


async def test_the_certificate_may_come_from_anywhere(authority: CertificateAuthority) -> None:
    """The callback sees all of the offer and awaits what it needs."""
    issued = authority.intermediate().issue("a.example")
    database = Database({"a.example": pair_of(issued)})
    settings = TlsSettings(callbacks=database)
    settings.enable_h2()
    async with listening(settings) as listener:
        talk = await ask(listener.port, client_context(authority, alpn=("h2", "x")))

    assert (talk.serial, talk.alpn) == (issued.serial, "h2")
    hello = database.hellos[0]
    assert hello.server_name == "a.example"
    assert hello.alpn_protocols == (b"h2", b"x")
    assert 0x0304 in hello.supported_versions
    assert isinstance(database.clients[0], InetAddress)


async def test_what_it_leaves_open_is_for_the_store(authority: CertificateAuthority) -> None:
    """None means: as without a callback, a refusal included."""
    issued = authority.issue("b.example")
    store = CertificateStore()
    store.add(pair_of(issued))
    settings = TlsSettings(certificates=store, callbacks=Database({}))
    async with listening(settings) as listener:
        assert (await ask(listener.port, client_context(authority), "b.example")).serial == (
            issued.serial
        )
        with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
            await ask(listener.port, client_context(authority), "a.example")


@pytest.mark.parametrize(
    ("alert", "reason"),
    [
        (TlsAlert.ACCESS_DENIED, "access denied"),
        (TlsAlert.UNRECOGNIZED_NAME, "unrecognized name"),
        (TlsAlert.HANDSHAKE_FAILURE, "handshake failure"),
    ],
)
async def test_it_may_refuse_with_an_alert(
    alert: TlsAlert, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The client learns why, and the log too."""
    settings = TlsSettings(callbacks=Deciding(lambda _: alert))
    async with listening(settings) as listener:
        with pytest.raises(Error, match=reason):
            async with connect_pyopenssl(
                listener.port, SSL.Context(SSL.TLS_CLIENT_METHOD), "a.example"
            ):
                pass
        await eventually(lambda: listener.serving.connections == 0)
    assert f"refused with {alert.name.lower()}" in caplog.text


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Error(Custom("Blocked"), "not you"), "access denied"),
        (Error.down(HTTPStatus(403), "not you"), "access denied"),
        (Error.internal(ErrorType.INTERNAL_ERROR, "not you"), "internal error"),
        (Error.up(ErrorType.CONNECT_TIMEDOUT, "not you"), "internal error"),
        (RuntimeError("not you"), "internal error"),
        (TimeoutError("not you"), "internal error"),
    ],
)
async def test_an_exception_refuses(
    error: Exception, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whose fault it is decides which alert the client gets."""

    def fail(_: PendingHandshake) -> None:
        raise error

    settings = TlsSettings(callbacks=Deciding(fail))
    async with listening(settings) as listener:
        with pytest.raises(Error, match=reason):
            async with connect_pyopenssl(
                listener.port, SSL.Context(SSL.TLS_CLIENT_METHOD), "a.example"
            ):
                pass
        await eventually(lambda: listener.serving.connections == 0)
    assert "certificate callback" in caplog.text
    assert "not you" in caplog.text


async def test_a_slow_callback_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    """The deadline of the handshake covers it."""
    begun: list[str] = []
    ended: list[str] = []

    class Slow(TlsAccept):
        async def certificate_callback(
            self, hello: ClientHello, handshake: PendingHandshake
        ) -> None:
            begun.append("here")
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("here")

    settings = TlsSettings(callbacks=Slow(), handshake_timeout=0.3)
    async with listening(settings) as listener:
        with pytest.raises(Error):
            async with connect_pyopenssl(
                listener.port, SSL.Context(SSL.TLS_CLIENT_METHOD), "a.example"
            ):
                pass
        await eventually(lambda: listener.serving.connections == 0)
    # On a busy machine the time may be over before it is asked.
    assert begun == ended
    assert "TLSHandshakeTimedout" in caplog.text


async def test_it_may_choose_the_protocol(authority: CertificateAuthority) -> None:
    """As the ACME challenge over TLS needs it (RFC 8737), for one connection alone."""
    usual, challenge = authority.issue("a.example"), authority.issue("a.example")
    store = CertificateStore()
    store.add(pair_of(usual))

    class Acme(TlsAccept):
        async def certificate_callback(
            self, hello: ClientHello, handshake: PendingHandshake
        ) -> CertKey | None:
            if hello.alpn_protocols != (b"acme-tls/1",):
                return None
            handshake.alpn = CustomALPN(b"acme-tls/1")
            return pair_of(challenge)

    settings = TlsSettings(certificates=store, callbacks=Acme())
    async with listening(settings) as listener:
        asked = await ask(listener.port, client_context(authority, alpn=("acme-tls/1",)))
        other = await ask(listener.port, client_context(authority, alpn=("http/1.1",)))

    assert (asked.serial, asked.alpn) == (challenge.serial, "acme-tls/1")
    assert (other.serial, other.alpn) == (usual.serial, "http/1.1")


async def test_it_may_ask_for_a_client_certificate(authority: CertificateAuthority) -> None:
    """Some names are for those who identify themselves; others are not."""
    identity = authority.issue("me", client=True)
    admins = ClientAuth.from_files(authority.cert_path)
    store = CertificateStore()
    store.add(pair_of(authority.issue("a.example", "admin.example")))

    class Admins(TlsAccept):
        async def certificate_callback(
            self, hello: ClientHello, handshake: PendingHandshake
        ) -> None:
            if hello.server_name == "admin.example":
                handshake.client_auth = admins

    async with listening(TlsSettings(certificates=store, callbacks=Admins())) as listener:
        await ask(listener.port, client_context(authority))
        await ask(listener.port, client_context(authority, identity=identity), "admin.example")
        assert [tls is not None and tls.verified for tls in listener.all_tls] == [False, True]
        with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
            await ask(listener.port, client_context(authority), "admin.example")


async def test_a_certificate_that_openssl_refuses_is_our_fault(
    authority: CertificateAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    """The client is not left guessing, and the log tells the reason."""
    weak = pair_of(authority.issue("a.example"))
    settings = TlsSettings(callbacks=Deciding(lambda _: weak))
    settings.ciphers = (*settings.ciphers, "@SECLEVEL=5")
    async with listening(settings) as listener:
        with pytest.raises(Error, match="internal error"):
            async with connect_pyopenssl(
                listener.port, SSL.Context(SSL.TLS_CLIENT_METHOD), "a.example"
            ):
                pass
        await eventually(lambda: listener.serving.connections == 0)
    assert "OpenSSL refuses" in caplog.text


async def test_the_defaults_decide_nothing(authority: CertificateAuthority) -> None:
    """So that an override may fall back on them."""

    class Hesitant(TlsAccept):
        async def certificate_callback(
            self, hello: ClientHello, handshake: PendingHandshake
        ) -> CertKey | TlsAlert | None:
            return await super().certificate_callback(hello, handshake)

        async def handshake_complete_callback(self, stream: TlsStream) -> object | None:
            return await super().handshake_complete_callback(stream)

    issued = authority.issue("a.example")
    settings = TlsSettings.intermediate(issued.chain_path, issued.key_path)
    settings.callbacks = Hesitant()
    async with listening(settings) as listener:
        assert (await ask(listener.port, client_context(authority))).serial == issued.serial
        assert listener.tls.extension is None


class LookingBack(TlsAccept):
    """Leaves something for the layers above."""

    async def handshake_complete_callback(self, stream: TlsStream) -> object:
        await asyncio.sleep(0)
        tls = stream.digest.ssl_digest
        assert tls is not None
        return ("tenant of", tls.sni, tls.version)


async def test_what_the_end_of_the_handshake_leaves_is_found_above(
    authority: CertificateAuthority,
) -> None:
    """In the extension of the digest, next to the facts it was made of."""
    issued = authority.issue("a.example")
    settings = TlsSettings.intermediate(issued.chain_path, issued.key_path)
    settings.callbacks = LookingBack()
    async with listening(settings) as listener:
        await ask(listener.port, client_context(authority))

        assert listener.tls.extension == ("tenant of", "a.example", "TLSv1.3")


@pytest.mark.parametrize("error", [ValueError("not you"), Error(Custom("Blocked"), "not you")])
async def test_a_refusal_after_the_handshake_closes(
    authority: CertificateAuthority, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """The application never sees the connection."""

    class Refusing(TlsAccept):
        async def handshake_complete_callback(self, stream: TlsStream) -> None:
            raise error

    issued = authority.issue("a.example")
    settings = TlsSettings.intermediate(issued.chain_path, issued.key_path)
    settings.callbacks = Refusing()
    async with listening(settings) as listener:
        async with connect_pyopenssl(
            listener.port, SSL.Context(SSL.TLS_CLIENT_METHOD), "a.example"
        ) as client:
            assert not await client.fill(5.0)
        await eventually(lambda: listener.serving.connections == 0)
        assert not listener.digests
    assert "not you" in caplog.text
    assert "handshake callback" in caplog.text


async def test_a_slow_end_of_the_handshake_is_cut_off(
    authority: CertificateAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    """It counts towards the deadline as well."""

    class Slow(TlsAccept):
        async def handshake_complete_callback(self, stream: TlsStream) -> None:
            await asyncio.Event().wait()

    issued = authority.issue("a.example")
    settings = TlsSettings.intermediate(issued.chain_path, issued.key_path)
    settings.callbacks = Slow()
    settings.handshake_timeout = 0.3
    async with listening(settings) as listener:
        with pytest.raises(Error):
            async with connect_pyopenssl(
                listener.port, SSL.Context(SSL.TLS_CLIENT_METHOD), "a.example"
            ) as client:
                await client.fill(5.0)
        await eventually(lambda: listener.serving.connections == 0)
    assert "TLSHandshakeTimedout" in caplog.text
