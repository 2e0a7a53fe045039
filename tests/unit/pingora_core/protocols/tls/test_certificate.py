from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.x509.oid import NameOID

from pingora_core.protocols.tls import (
    CaBundle,
    CertKey,
    get_common_name,
    get_organization,
    get_organization_unit,
    get_serial,
)
from pingora_error import TLS_CONFIG_ERROR, Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.certificates import CertificateAuthority, IssuedCertificate


def test_a_pair_from_pem(
    authority: CertificateAuthority, server_certificate: IssuedCertificate
) -> None:
    """The leaf comes first, then the chain; names and numbers can be read."""
    issued = authority.intermediate().issue("leaf.example", organization="Org")
    pair = CertKey.from_pem(issued.chain_pem, issued.key_pem)

    assert pair.leaf == issued.certificate
    assert len(pair.intermediates) == 1
    assert pair.organization == "Org"
    assert int(pair.serial, 16) == issued.serial
    assert pair.key.public_key() == issued.private_key.public_key()


def test_a_pair_from_files(server_certificate: IssuedCertificate) -> None:
    """Files hold the same as bytes."""
    pair = CertKey.from_files(server_certificate.chain_path, server_certificate.key_path)

    assert pair == CertKey.from_pem(server_certificate.chain_pem, server_certificate.key_pem)


def test_pairs_are_compared_by_all_their_certificates(authority: CertificateAuthority) -> None:
    """The same leaf with and without its chain are two identities; reading twice gives one."""
    issued = authority.intermediate().issue("leaf.example")
    bare = CertKey.from_pem(issued.cert_pem, issued.key_pem)
    full = CertKey.from_pem(issued.chain_pem, issued.key_pem)
    again = CertKey.from_pem(issued.chain_pem, issued.key_pem)

    assert bare != full
    assert full == again
    assert hash(full) == hash(again)
    assert full != "full"


def test_repr_hides_the_key(server_certificate: IssuedCertificate) -> None:
    """A log that shows a pair gives nothing away."""
    pair = CertKey.from_pem(server_certificate.chain_pem, server_certificate.key_pem)

    assert "server.example" in repr(pair)
    assert "PRIVATE" not in repr(pair)
    assert "key hidden" in repr(pair)


def test_a_key_of_another_certificate_is_refused(authority: CertificateAuthority) -> None:
    """The mistake is found when the pair is made and not in the first handshake."""
    first, second = authority.issue("a"), authority.issue("b")

    with pytest.raises(ValueError, match="does not belong"):
        CertKey([first.certificate], second.private_key)
    with pytest.raises(Error) as caught:
        CertKey.from_pem(first.cert_pem, second.key_pem)
    assert caught.value.etype == TLS_CONFIG_ERROR


def test_a_pair_needs_a_certificate(server_certificate: IssuedCertificate) -> None:
    """A key alone proves nothing."""
    with pytest.raises(ValueError, match="at least one"):
        CertKey([], server_certificate.private_key)


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        ed448.Ed448PrivateKey.generate(),
    ],
    ids=["rsa", "ec", "ed25519", "ed448"],
)
def test_key_kinds_that_tls_knows(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey,
) -> None:
    """Each is accepted with its certificate."""
    certificate = self_signed(key)

    assert CertKey([certificate], key).leaf == certificate


def test_a_key_of_a_kind_that_tls_does_not_know(server_certificate: IssuedCertificate) -> None:
    """DSA keys load, but no handshake can use them."""
    key = dsa.generate_private_key(1024)

    with pytest.raises(Error, match="TLS cannot use a") as caught:
        CertKey.from_pem(server_certificate.cert_pem, pem_of(key))
    assert caught.value.etype == TLS_CONFIG_ERROR


def test_an_encrypted_key_needs_its_password(server_certificate: IssuedCertificate) -> None:
    """With it the pair loads; without it the error says so."""
    encrypted = server_certificate.private_key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    pair = CertKey.from_pem(server_certificate.cert_pem, encrypted, password=b"secret")
    assert pair.leaf == server_certificate.certificate
    with pytest.raises(Error, match="unusable certificate or key"):
        CertKey.from_pem(server_certificate.cert_pem, encrypted)
    with pytest.raises(Error, match="unusable certificate or key"):
        CertKey.from_pem(server_certificate.cert_pem, encrypted, password=b"wrong")


@pytest.mark.parametrize("pem", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nx\n"])
def test_nonsense_is_refused(pem: bytes, server_certificate: IssuedCertificate) -> None:
    """Both halves of a pair, and lists of authorities, are checked."""
    for attempt in (
        lambda: CertKey.from_pem(pem, server_certificate.key_pem),
        lambda: CertKey.from_pem(server_certificate.cert_pem, pem),
        lambda: CaBundle.from_pem(pem),
    ):
        with pytest.raises(Error) as caught:
            attempt()
        assert caught.value.etype == TLS_CONFIG_ERROR
        assert caught.value.esource is ErrorSource.INTERNAL


def test_missing_files_are_named(tmp_path: Path, server_certificate: IssuedCertificate) -> None:
    """The error says which file."""
    missing = tmp_path / "missing.pem"
    for attempt in (
        lambda: CertKey.from_files(missing, server_certificate.key_path),
        lambda: CertKey.from_files(server_certificate.cert_path, missing),
        lambda: CaBundle.from_file(missing),
    ):
        with pytest.raises(Error, match=r"missing\.pem") as caught:
            attempt()
        assert caught.value.etype is ErrorType.FILE_READ_ERROR


def test_unusable_files_are_named(tmp_path: Path) -> None:
    """So are files that hold something else."""
    junk = tmp_path / "junk.pem"
    junk.write_bytes(b"junk")
    for attempt in (lambda: CertKey.from_files(junk, junk), lambda: CaBundle.from_file(junk)):
        with pytest.raises(Error, match=r"junk\.pem") as caught:
            attempt()
        assert caught.value.etype == TLS_CONFIG_ERROR


def test_bundles_are_sets(authority: CertificateAuthority) -> None:
    """Order and repetition do not matter, content does."""
    other = authority.intermediate()
    both = CaBundle([authority.certificate, other.certificate])

    assert both == CaBundle([other.certificate, authority.certificate])
    assert hash(both) == hash(CaBundle([other.certificate, authority.certificate]))
    assert both != CaBundle([authority.certificate])
    assert both != "both"
    assert both.certificates == (authority.certificate, other.certificate)
    assert repr(both) == "<CaBundle of 2>"
    assert CaBundle.from_file(authority.cert_path) == CaBundle([authority.certificate])


def test_an_empty_bundle_is_refused() -> None:
    """Trusting nobody is always a mistake."""
    with pytest.raises(ValueError, match="at least one"):
        CaBundle([])


def test_reading_names() -> None:
    """The first value of each attribute, or None."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = [
        x509.NameAttribute(NameOID.COMMON_NAME, "cn"),
        x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "unit 1"),
        x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "unit 2"),
    ]
    certificate = self_signed(key, names, serial=0xABC)

    assert get_common_name(certificate) == "cn"
    assert get_organization_unit(certificate) == "unit 1"
    assert get_organization(certificate) is None
    assert get_serial(certificate) == "0ABC"


def self_signed(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey,
    names: list[x509.NameAttribute[str]] | None = None,
    serial: int = 1,
) -> x509.Certificate:
    """Make a certificate for a key, signed by an authority of the moment."""
    signer = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name(names or []))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(signer, hashes.SHA256())
    )


def pem_of(key: dsa.DSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
