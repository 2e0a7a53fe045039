"""Clients that identify themselves: who is let in, and what is known of them."""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import ssl
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from pingora_core.listeners.tls import ClientAuth, ClientAuthMode, TlsAcceptor, TlsSettings
from pingora_error import TLS_CONFIG_ERROR, Error
from tests.support.certificates import CertificateAuthority
from tests.support.waiting import eventually
from tests.unit.pingora_core.listeners.tls.rig import (
    ask,
    client_context,
    connect_pyopenssl,
    listening,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.certificates import IssuedCertificate

pytestmark = pytest.mark.usefixtures("no_leaks")

_DAY = dt.timedelta(days=1)


@pytest.fixture
def settings(authority: CertificateAuthority) -> TlsSettings:
    server = authority.issue("a.example")
    settings = TlsSettings.intermediate(server.chain_path, server.key_path)
    settings.client_auth = ClientAuth.from_files(authority.cert_path)
    return settings


def crl_of(
    authority: CertificateAuthority, *revoked: IssuedCertificate, expired: bool = False
) -> bytes:
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(now - 3 * _DAY)
        .next_update(now - _DAY if expired else now + _DAY)
    )
    for each in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(each.serial)
        builder = builder.add_revoked_certificate(entry.revocation_date(now - 2 * _DAY).build())
    return builder.sign(authority._key, hashes.SHA256()).public_bytes(Encoding.PEM)


async def test_a_client_is_known_by_its_certificate(
    authority: CertificateAuthority, settings: TlsSettings
) -> None:
    """Who it is, is in the digest; the intermediate comes from the client."""
    identity = authority.intermediate().issue(
        "me.example", "127.0.0.1", client=True, organization="My Org", common_name="me"
    )
    async with listening(settings) as listener:
        await ask(listener.port, client_context(authority, identity=identity))

        tls = listener.tls
        assert tls.verified
        assert tls.organization == "My Org"
        assert tls.common_name == "me"
        assert tls.organizational_unit is None
        assert tls.subject_alt_names == ("me.example", "127.0.0.1")
        assert int(tls.serial_number or "", 16) == identity.serial
        der = identity.certificate.public_bytes(Encoding.DER)
        assert tls.cert_digest == hashlib.sha256(der).digest()
        assert tls.certificate is not None
        assert tls.certificate.der == der


async def test_the_identity_survives_resumption(
    authority: CertificateAuthority, settings: TlsSettings
) -> None:
    """A resumed session is of the same client."""
    identity = authority.issue("me", client=True)
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.use_certificate(identity.certificate)
    context.use_privatekey(identity.private_key)
    session = None
    async with listening(settings) as listener:
        for _ in range(2):
            async with connect_pyopenssl(listener.port, context, "a.example", session) as client:
                client.write(b"x")
                assert await client.read(5.0) == b"x"
                session = client.connection.get_session()
        tls = listener.tls
        assert tls.resumed
        assert tls.verified
        assert int(tls.serial_number or "", 16) == identity.serial


async def test_a_client_without_certificate_is_refused(
    authority: CertificateAuthority, settings: TlsSettings, caplog: pytest.LogCaptureFixture
) -> None:
    """When it is required; the client is told."""
    async with listening(settings) as listener:
        with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
            await ask(listener.port, client_context(authority))
        await eventually(lambda: listener.serving.connections == 0)
        assert not listener.digests
    assert "peer did not return a certificate" in caplog.text


async def test_a_requested_certificate_may_be_missing_but_not_bad(
    authority: CertificateAuthority, settings: TlsSettings, tmp_path: Path
) -> None:
    """The digest tells whether there was one."""
    settings.client_auth = ClientAuth.from_files(authority.cert_path, ClientAuthMode.REQUEST)
    stranger = CertificateAuthority(tmp_path).issue("me", client=True)
    async with listening(settings) as listener:
        await ask(listener.port, client_context(authority))
        assert listener.tls.serial_number is None
        identity = authority.issue("me", client=True)
        await ask(listener.port, client_context(authority, identity=identity))
        assert [tls is not None and tls.verified for tls in listener.all_tls] == [False, True]
        with pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca"):
            await ask(listener.port, client_context(authority, identity=stranger))


async def test_bad_certificates_are_refused_with_the_reason(
    authority: CertificateAuthority,
    settings: TlsSettings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of a stranger, out of date, or made for servers."""
    bad = {
        "unable to get local issuer certificate": CertificateAuthority(tmp_path).issue(
            "me", client=True
        ),
        "certificate has expired": authority.issue("me", client=True, expired=True),
        "unsuitable certificate purpose": authority.issue("me"),
    }
    async with listening(settings) as listener:
        for reason, identity in bad.items():
            caplog.clear()
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await ask(listener.port, client_context(authority, identity=identity))
            await eventually(lambda: listener.serving.connections == 0)
            assert "InvalidCert" in caplog.text
            assert f"client certificate: {reason}" in caplog.text
        assert not listener.digests


async def test_the_depth_of_chains_is_limited(
    authority: CertificateAuthority, settings: TlsSettings
) -> None:
    """More authorities in between than allowed are too many."""
    deep = authority.intermediate("one").intermediate("two").issue("me", client=True)
    for depth, is_good in ((2, True), (1, False)):
        settings.client_auth = ClientAuth.from_files(authority.cert_path, depth=depth)
        async with listening(settings) as listener:
            context = client_context(authority, identity=deep)
            if is_good:
                await ask(listener.port, context)
            else:
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    await ask(listener.port, context)


async def test_revoked_certificates_are_refused_and_the_list_is_read_again(
    authority: CertificateAuthority,
    settings: TlsSettings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A new list takes effect for new handshakes, and old sessions do not get around it."""
    caplog.set_level(logging.INFO)
    good, bad = authority.issue("good", client=True), authority.issue("bad", client=True)
    crl = tmp_path / "crl.pem"
    crl.write_bytes(crl_of(authority))
    settings.client_auth = ClientAuth.from_files(authority.cert_path, crl_path=crl)
    settings.reload_interval = 0.02
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.use_certificate(bad.certificate)
    context.use_privatekey(bad.private_key)
    async with listening(settings) as listener:
        async with connect_pyopenssl(listener.port, context, "a.example") as client:
            client.write(b"x")
            assert await client.read(5.0) == b"x"
            session = client.connection.get_session()
        crl.write_bytes(crl_of(authority, bad))
        await eventually(lambda: f"{crl}: reloaded" in caplog.text)
        with pytest.raises(Error, match="certificate revoked"):
            async with connect_pyopenssl(listener.port, context, "a.example", session) as client:
                await client.read(5.0)
        await ask(listener.port, client_context(authority, identity=good))
        assert not listener.tls.resumed


async def test_the_client_is_told_whom_we_trust(
    authority: CertificateAuthority, settings: TlsSettings
) -> None:
    """So that it can choose among its certificates."""
    identity = authority.issue("me", client=True)
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.use_certificate(identity.certificate)
    context.use_privatekey(identity.private_key)
    async with (
        listening(settings) as listener,
        connect_pyopenssl(listener.port, context, "a.example") as client,
    ):
        names = client.connection.get_client_ca_list()
        assert [name.CN for name in names] == ["Test Root"]


def test_files_that_cannot_be_used_are_named(
    authority: CertificateAuthority, tmp_path: Path
) -> None:
    """Missing, unreadable, and out of date."""
    bad = tmp_path / "bad.pem"
    for content, reason in ((b"", "unusable CA list"), (b"x", "unusable CA list")):
        bad.write_bytes(content)
        with pytest.raises(Error, match=reason) as caught:
            ClientAuth.from_files(bad)
        assert caught.value.etype == TLS_CONFIG_ERROR
        assert str(bad) in str(caught.value)
    with pytest.raises(Error, match="No such file"):
        ClientAuth.from_files(tmp_path / "missing.pem")
    for content, reason in (
        (b"", "there is none in it"),
        (b"-----BEGIN X509 CRL-----\nx\n-----END X509 CRL-----", "cannot be read"),
        (crl_of(authority, expired=True), "was good until 20"),
    ):
        bad.write_bytes(content)
        with pytest.raises(Error, match=reason) as caught:
            ClientAuth.from_files(authority.cert_path, crl_path=bad)
        assert caught.value.etype == TLS_CONFIG_ERROR
        assert str(bad) in str(caught.value)
    with pytest.raises(Error, match="No such file"):
        ClientAuth.from_files(authority.cert_path, crl_path=tmp_path / "missing.pem")


def test_expired_authorities_are_refused_unless_another_is_good(
    authority: CertificateAuthority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A list without any valid one lets nobody in, which is a mistake; others are told of."""
    expired = authority.issue("old authority", expired=True)
    path = tmp_path / "ca.pem"
    path.write_bytes(expired.cert_pem)
    with pytest.raises(Error, match="no authority in it is valid any more") as caught:
        ClientAuth.from_files(path)
    assert str(path) in str(caught.value)
    assert caught.value.etype == TLS_CONFIG_ERROR

    path.write_bytes(expired.cert_pem + authority.cert_pem)
    auth = ClientAuth.from_files(path)

    assert len(auth.trust.authorities.certificates) == 2
    assert "old authority" in caplog.text


def test_the_depth_cannot_be_negative(authority: CertificateAuthority) -> None:
    """It is a count."""
    with pytest.raises(ValueError, match="not -1"):
        ClientAuth.from_files(authority.cert_path, depth=-1)


def test_client_authorities_are_checked_with_the_settings(settings: TlsSettings) -> None:
    """An acceptor is ready when it is made."""
    assert TlsAcceptor(settings).settings is settings
