from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from pingora_core.protocols.digest import CertificateFacts, SslDigest
from pingora_core.protocols.tls.digest import make_ssl_digest, read_certificate
from tests.unit.pingora_core.protocols.tls.rig import tls_pair, wired_pair

if TYPE_CHECKING:
    from tests.support.certificates import CertificateAuthority, IssuedCertificate

pytestmark = pytest.mark.usefixtures("no_leaks")


def certificate(
    *attributes: tuple[x509.ObjectIdentifier, str], extensions: tuple[x509.ExtensionType, ...] = ()
) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(0xABC)
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, SHA256())


def test_the_facts_of_a_certificate() -> None:
    """Subject, serial number, fingerprint, and the names it is for in their order."""
    names = x509.SubjectAlternativeName(
        [
            x509.UniformResourceIdentifier("spiffe://example/service"),
            x509.DNSName("*.example.com"),
            x509.IPAddress(ipaddress.ip_address("2001:db8::1")),
            x509.RFC822Name("a@example.com"),
            x509.RegisteredID(NameOID.COMMON_NAME),
        ]
    )
    facts = read_certificate(
        certificate(
            (NameOID.ORGANIZATION_NAME, "Org"),
            (NameOID.ORGANIZATIONAL_UNIT_NAME, "Unit"),
            (NameOID.COMMON_NAME, "name"),
            extensions=(names,),
        )
    )

    assert (facts.organization, facts.organizational_unit, facts.common_name) == (
        "Org",
        "Unit",
        "name",
    )
    assert facts.serial_number == "0ABC"
    assert facts.cert_digest == hashlib.sha256(facts.der).digest()
    assert facts.subject_alt_names == (
        "spiffe://example/service",
        "*.example.com",
        "2001:db8::1",
        "a@example.com",
    )


def test_a_certificate_that_says_nothing() -> None:
    """Missing attributes are None, missing names are none."""
    facts = read_certificate(certificate())

    assert (facts.organization, facts.organizational_unit, facts.common_name) == (None,) * 3
    assert facts.subject_alt_names == ()


def test_malformed_names_count_as_missing() -> None:
    """A peer may send anything that its authority has signed."""
    broken = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x05garbage")

    assert read_certificate(certificate(extensions=(broken,))).subject_alt_names == ()


def test_a_malformed_subject_counts_as_missing() -> None:
    """As do names that are no text."""
    good = certificate((NameOID.COMMON_NAME, "nameless"))
    der = good.public_bytes(Encoding.DER).replace(b"nameless", b"\xff" * 8)
    facts = read_certificate(x509.load_der_x509_certificate(der))

    assert (facts.organization, facts.common_name) == (None, None)
    assert facts.der == der


def test_a_digest_without_a_certificate() -> None:
    """All that would come from one is empty."""
    digest = SslDigest("TLS_AES_128_GCM_SHA256", "TLSv1.3")

    assert digest.certificate is None
    assert (digest.organization, digest.organizational_unit, digest.common_name) == (None,) * 3
    assert (digest.serial_number, digest.cert_digest, digest.subject_alt_names) == (None, b"", ())
    assert (digest.alpn, digest.sni, digest.group, digest.ja4) == (b"", None, None, None)
    assert not digest.resumed
    assert not digest.verified
    assert repr(digest).startswith("<SslDigest TLSv1.3 TLS_AES_128_GCM_SHA256")


def test_a_certificate_is_read_when_first_asked_for() -> None:
    """Once, and not at all if nobody asks."""
    calls: list[int] = []
    facts = CertificateFacts(b"der", b"digest", "01", "Org", "Unit", "name", ("a.example",))

    def read() -> CertificateFacts:
        calls.append(1)
        return facts

    digest = SslDigest("cipher", "TLSv1.3", certificate=read)
    assert calls == []
    assert (digest.organization, digest.organizational_unit) == ("Org", "Unit")
    assert (digest.common_name, digest.serial_number) == ("name", "01")
    assert (digest.cert_digest, digest.subject_alt_names) == (b"digest", ("a.example",))
    assert calls == [1]
    assert SslDigest("cipher", "TLSv1.3", certificate=facts).certificate is facts


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
async def test_both_sides_agree(server_certificate: IssuedCertificate, version: int) -> None:
    """On cipher, version, group; each knows the other's certificate if there is one."""
    async with wired_pair(server_certificate, version=version) as (client, _, server, _):
        ours, theirs = client.digest.ssl_digest, server.digest.ssl_digest
        assert ours is not None
        assert theirs is not None
        assert (ours.cipher, ours.version) == (theirs.cipher, theirs.version)
        assert ours.group == theirs.group
        assert ours.group == ("X25519" if version == SSL.TLS1_2_VERSION else "X25519MLKEM768")
        assert (ours.common_name, theirs.common_name) == ("server.example", None)
        assert ours.subject_alt_names == ("server.example",)
        # Nobody asked for verification.
        assert not ours.verified
        assert not theirs.verified


async def test_what_was_asked_for_and_verified(
    server_certificate: IssuedCertificate, authority: CertificateAuthority
) -> None:
    """A verified chain is told on the side that verified it; the protocol on both."""
    async with tls_pair(server_certificate, authority=authority, server_alpn=b"h2") as (
        client,
        server,
        _,
    ):
        ours, theirs = client.digest.ssl_digest, server.digest.ssl_digest
        assert ours is not None
        assert theirs is not None
        assert (ours.verified, theirs.verified) == (True, False)
        assert (ours.alpn, theirs.alpn) == (b"h2", b"h2")
        assert (ours.sni, theirs.sni) == (None, None)


async def test_a_library_that_does_not_tell_the_group(
    server_certificate: IssuedCertificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old ones do not; the rest is told all the same."""

    def refuse(_: SSL.Connection) -> str:
        raise NotImplementedError

    async with wired_pair(server_certificate) as (client, _, _, _):
        monkeypatch.setattr(SSL.Connection, "get_group_name", refuse)
        digest = make_ssl_digest(client.connection)
        assert (digest.group, digest.version) == (None, "TLSv1.3")
