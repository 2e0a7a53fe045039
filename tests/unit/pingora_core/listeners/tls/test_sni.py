"""Several certificates on one listener, with real clients."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
from OpenSSL import SSL

from pingora_core.listeners.tls import CertificateStore, TlsSettings
from pingora_error import Error
from tests.support.waiting import eventually
from tests.unit.pingora_core.listeners.tls.rig import (
    ask,
    client_context,
    connect_pyopenssl,
    issue_rsa,
    listening,
    pair_of,
)

if TYPE_CHECKING:
    from tests.support.certificates import CertificateAuthority

pytestmark = pytest.mark.usefixtures("no_leaks")


async def test_each_name_gets_its_certificate(authority: CertificateAuthority) -> None:
    """Exactly, by wildcard, or the default."""
    store = CertificateStore()
    exact, wildcard, fallback = (
        authority.issue("a.example"),
        authority.issue("*.b.example"),
        authority.issue("c.example"),
    )
    store.add(pair_of(exact))
    store.add(pair_of(wildcard))
    store.add(pair_of(fallback), ["c.example"], default=True)
    context = client_context(authority)
    async with listening(TlsSettings(certificates=store)) as listener:
        assert (await ask(listener.port, context, "A.example")).serial == exact.serial
        assert (await ask(listener.port, context, "x.b.example")).serial == wildcard.serial
        assert listener.tls.sni == "x.b.example"
        context.check_hostname = False
        assert (await ask(listener.port, context, "unknown.example")).serial == fallback.serial
        # An address is no name; clients send none.
        assert (await ask(listener.port, context, "127.0.0.1")).serial == fallback.serial
        assert listener.tls.sni is None


async def test_an_unknown_name_is_refused_without_a_default(
    authority: CertificateAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    """The client is told why: unrecognized_name, or missing_extension if it named nothing."""
    store = CertificateStore()
    store.add(pair_of(authority.issue("a.example")))
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    async with listening(TlsSettings(certificates=store)) as listener:
        for name, reason in (
            ("b.example", r"unrecognized name"),
            (None, r"missing extension"),
        ):
            with pytest.raises(Error, match=reason):
                async with connect_pyopenssl(listener.port, context, name):
                    pass
        await ask(listener.port, client_context(authority))
    assert "no certificate for 'b.example'" in caplog.text
    assert "names no server" in caplog.text


async def test_the_store_changes_while_it_serves(authority: CertificateAuthority) -> None:
    """Added and removed names take effect at once; open connections go on."""
    store = CertificateStore()
    store.add(pair_of(authority.issue("a.example")))
    context = client_context(authority)
    open_context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    async with listening(TlsSettings(certificates=store)) as listener:
        with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
            await ask(listener.port, context, "b.example")
        added = authority.issue("b.example")
        place = store.add(pair_of(added))
        assert (await ask(listener.port, context, "b.example")).serial == added.serial
        async with connect_pyopenssl(listener.port, open_context, "b.example") as client:
            renewed = authority.issue("b.example")
            store.replace(place, pair_of(renewed))
            assert (await ask(listener.port, context, "b.example")).serial == renewed.serial
            store.remove(place)
            with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
                await ask(listener.port, context, "b.example")
            client.write(b"still here")
            assert await client.read(5.0) == b"still here"


async def test_an_old_client_gets_the_rsa_certificate(authority: CertificateAuthority) -> None:
    """The same name has two certificates, and each client one that it can verify."""
    store = CertificateStore()
    cheap, old = authority.issue("a.example"), issue_rsa(authority, "a.example")
    store.add(old)
    store.add(pair_of(cheap))
    context = client_context(authority, maximum=ssl.TLSVersion.TLSv1_2)
    async with listening(TlsSettings(certificates=store)) as listener:
        assert (await ask(listener.port, context)).serial == cheap.serial
        context.set_ciphers("ECDHE-RSA-AES256-GCM-SHA384")
        talk = await ask(listener.port, context)
        assert (talk.serial, talk.cipher) == (
            old.leaf.serial_number,
            "ECDHE-RSA-AES256-GCM-SHA384",
        )


async def test_sessions_do_not_cross_over_to_other_names(authority: CertificateAuthority) -> None:
    """A session of one name opens no door to another; the handshake is done in full."""
    store = CertificateStore()
    store.add(pair_of(authority.issue("a.example")))
    store.add(pair_of(authority.issue("b.example")))
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    async with listening(TlsSettings(certificates=store)) as listener:
        async with connect_pyopenssl(listener.port, context, "a.example") as client:
            client.write(b"x")
            assert await client.read(5.0) == b"x"
            session = client.connection.get_session()
        for name in ("a.example", "b.example"):
            async with connect_pyopenssl(listener.port, context, name, session) as client:
                client.write(b"x")
                assert await client.read(5.0) == b"x"

        assert [tls is not None and tls.resumed for tls in listener.all_tls] == [
            False,
            True,
            False,
        ]


async def test_contexts_are_kept_within_a_bound(authority: CertificateAuthority) -> None:
    """More names than contexts may be kept: all are served."""
    store = CertificateStore()
    issued = {f"n{i}.example": authority.issue(f"n{i}.example") for i in range(4)}
    for certificate in issued.values():
        store.add(pair_of(certificate))
    settings = TlsSettings(certificates=store, max_contexts=2)
    context = client_context(authority)
    async with listening(settings) as listener:
        for _ in range(2):
            for name, certificate in issued.items():
                assert (await ask(listener.port, context, name)).serial == certificate.serial
        await eventually(lambda: listener.serving.connections == 0)
