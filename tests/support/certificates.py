"""Certificates for tests, made when they are needed and never kept in the repository.

``CertificateAuthority`` is a root; ``intermediate()`` makes an authority below it; ``issue()``
makes a server or client certificate. Elliptic-curve keys make one cost well under a millisecond.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import itertools
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CertificateAuthority", "IssuedCertificate"]

_DAY = dt.timedelta(days=1)
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A certificate with its key, as PEM bytes and as files.

    Attributes:
        certificate: The certificate.
        private_key: Its key.
        cert_pem: The certificate alone.
        key_pem: The key, not encrypted.
        intermediates_pem: The authorities between it and the root, nearest first; may be empty.
        cert_path: File with the certificate alone.
        key_path: File with the key.
        chain_path: File with the certificate and the intermediates.
    """

    certificate: x509.Certificate
    private_key: ec.EllipticCurvePrivateKey
    cert_pem: bytes
    key_pem: bytes
    intermediates_pem: bytes
    cert_path: Path
    key_path: Path
    chain_path: Path

    @property
    def chain_pem(self) -> bytes:
        """The certificate and the intermediates, as a server sends them."""
        return self.cert_pem + self.intermediates_pem

    @property
    def serial(self) -> int:
        """The serial number."""
        return self.certificate.serial_number

    def server_context(
        self,
        *,
        client_ca: CertificateAuthority | None = None,
        alpn: tuple[str, ...] = (),
        with_chain: bool = True,
    ) -> ssl.SSLContext:
        """Make a standard-library server context that presents this certificate.

        Args:
            client_ca: When given, a client certificate below it is required.
            alpn: Protocols to offer.
            with_chain: Whether the intermediates are sent.

        Returns:
            The context.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain_path if with_chain else self.cert_path, self.key_path)
        if client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(client_ca.cert_path)
        if alpn:
            context.set_alpn_protocols(alpn)
        return context


class CertificateAuthority:
    """An authority that issues certificates.

    Attributes:
        certificate: Its own certificate.
        cert_pem: The same as PEM; what a client trusts.
        cert_path: File with it.
    """

    def __init__(
        self,
        directory: Path,
        name: str = "Test Root",
        *,
        parent: CertificateAuthority | None = None,
        curve: ec.EllipticCurve | None = None,
    ) -> None:
        """Make an authority.

        Args:
            directory: Where its files and those of its certificates are written.
            name: Common name.
            parent: The authority that signs it; None for a self-signed root.
            curve: Key curve; P-256 when None.
        """
        self._directory = directory
        self._parent = parent
        self._key = ec.generate_private_key(curve or ec.SECP256R1())
        subject = _subject(name, "Test Authority")
        issuer = subject if parent is None else parent.certificate.subject
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + 365 * _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_key_usage(authority=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
            )
        )
        if parent is not None:
            builder = builder.add_extension(parent.key_identifier(), critical=False)
        signer = self._key if parent is None else parent._key
        self.certificate: x509.Certificate = builder.sign(signer, hashes.SHA256())
        self.cert_pem = self.certificate.public_bytes(serialization.Encoding.PEM)
        self.cert_path = _write(directory, f"ca-{next(_numbers)}.pem", self.cert_pem)

    def intermediate(self, name: str = "Test Intermediate") -> CertificateAuthority:
        """Make an authority below this one.

        Args:
            name: Common name.

        Returns:
            The new authority; what it issues carries it in the chain.
        """
        return CertificateAuthority(self._directory, name, parent=self)

    def key_identifier(self) -> x509.AuthorityKeyIdentifier:
        """The extension that names this authority's key in what it signs."""
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())

    def issue(
        self,
        *names: str,
        client: bool = False,
        expired: bool = False,
        not_yet_valid: bool = False,
        common_name: str | None = None,
        organization: str | None = "Test Organization",
        curve: ec.EllipticCurve | None = None,
        days: int = 10,
        crl_url: str | None = None,
    ) -> IssuedCertificate:
        """Issue a certificate.

        Args:
            names: DNS names and IP addresses it is good for.
            client: A client certificate; otherwise one for servers.
            expired: Its time is over since yesterday.
            not_yet_valid: Its time begins tomorrow.
            common_name: Common name; the first of ``names`` when None.
            organization: Organization of the subject; None leaves it out.
            curve: Key curve; P-256 when None.
            days: How long it is valid, unless one of the above says otherwise.
            crl_url: Where it says that the list of revoked certificates is; None says nothing.

        Returns:
            The certificate, its key and their files.
        """
        key = ec.generate_private_key(curve or ec.SECP256R1())
        start, end = _validity(days, expired=expired, not_yet_valid=not_yet_valid)
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        builder = (
            x509.CertificateBuilder()
            .subject_name(_subject(common_name or (names[0] if names else "test"), organization))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(self.key_identifier(), critical=False)
        )
        if names:
            alternative = x509.SubjectAlternativeName([_general_name(name) for name in names])
            builder = builder.add_extension(alternative, critical=False)
        if crl_url is not None:
            places = [x509.UniformResourceIdentifier(crl_url)]
            point = x509.DistributionPoint(places, None, None, None)
            builder = builder.add_extension(x509.CRLDistributionPoints([point]), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return self._issued(certificate, key)

    def _issued(
        self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
    ) -> IssuedCertificate:
        cert_pem = certificate.public_bytes(serialization.Encoding.PEM)
        key_pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        intermediates = b""
        authority = self
        while authority._parent is not None:
            intermediates += authority.cert_pem
            authority = authority._parent
        number = next(_numbers)
        return IssuedCertificate(
            certificate=certificate,
            private_key=key,
            cert_pem=cert_pem,
            key_pem=key_pem,
            intermediates_pem=intermediates,
            cert_path=_write(self._directory, f"cert-{number}.pem", cert_pem),
            key_path=_write(self._directory, f"key-{number}.pem", key_pem),
            chain_path=_write(self._directory, f"chain-{number}.pem", cert_pem + intermediates),
        )


def _validity(days: int, *, expired: bool, not_yet_valid: bool) -> tuple[dt.datetime, dt.datetime]:
    now = dt.datetime.now(dt.UTC)
    if expired:
        return now - 10 * _DAY, now - _DAY
    if not_yet_valid:
        return now + _DAY, now + 10 * _DAY
    return now - _DAY, now + days * _DAY


def _subject(common_name: str, organization: str | None) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization is not None:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _write(directory: Path, name: str, content: bytes) -> Path:
    path = directory / name
    path.write_bytes(content)
    return path
