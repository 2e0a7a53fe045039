"""Certificates with their keys, sets of trusted authorities, and what is read out of them.

All of it is immutable and compared by fingerprint, so that it can be part of the key under which
a connection is reused: two files with the same certificates are the same identity, and a renewed
certificate is another one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import NameOID

from pingora_error import TLS_CONFIG_ERROR, Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from cryptography.x509.oid import ObjectIdentifier

__all__ = [
    "CaBundle",
    "CertKey",
    "PrivateKey",
    "get_common_name",
    "get_organization",
    "get_organization_unit",
    "get_serial",
]

PrivateKey: TypeAlias = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
)


class CertKey:
    """A certificate with the authorities above it and its private key.

    Args:
        certificates: The certificate itself first, then each its issuer; the root may be missing.
        key: The private key of the first one.

    Raises:
        ValueError: If there is no certificate, or the key does not belong to the first one.

    Source: pingora-core/src/utils/tls. Unlike there, equality is by the fingerprints of all
    certificates instead of by their serial numbers, which two authorities may well share.
    """

    __slots__ = ("_certificates", "_fingerprints", "_hash", "_key")

    def __init__(self, certificates: Iterable[x509.Certificate], key: PrivateKey) -> None:
        self._certificates = tuple(certificates)
        self._key = key
        if not self._certificates:
            msg = "a CertKey needs at least one certificate"
            raise ValueError(msg)
        if not _belong_together(self._certificates[0], key):
            msg = f"the private key does not belong to {_describe(self._certificates[0])}"
            raise ValueError(msg)
        self._fingerprints = _fingerprints(self._certificates)
        self._hash = hash(self._fingerprints)

    @classmethod
    def from_pem(cls, certificates: bytes, key: bytes, *, password: bytes | None = None) -> CertKey:
        """Read a chain and a key in PEM form.

        Args:
            certificates: The certificate itself, then each its issuer.
            key: The private key of the first one.
            password: What the key is encrypted with; None if it is not.

        Returns:
            The pair.

        Raises:
            Error: ``TLS_CONFIG_ERROR`` if either cannot be read or they do not belong together.
        """
        try:
            chain = x509.load_pem_x509_certificates(certificates)
            private_key = serialization.load_pem_private_key(key, password)
            if isinstance(private_key, PrivateKey):
                return cls(chain, private_key)
        except (ValueError, TypeError) as error:
            # The text of the libraries tells what is wrong and never holds the key.
            msg = "unusable certificate or key"
            raise Error(TLS_CONFIG_ERROR, msg, source=ErrorSource.INTERNAL, cause=error) from error
        msg = f"TLS cannot use a {type(private_key).__name__}"
        raise Error(TLS_CONFIG_ERROR, msg, source=ErrorSource.INTERNAL)

    @classmethod
    def from_files(
        cls,
        certificates: str | os.PathLike[str],
        key: str | os.PathLike[str],
        *,
        password: bytes | None = None,
    ) -> CertKey:
        """Read a chain and a key from PEM files. It blocks: call it before serving.

        Args:
            certificates: File with the certificate itself, then each its issuer.
            key: File with the private key of the first one.
            password: What the key is encrypted with; None if it is not.

        Returns:
            The pair.

        Raises:
            Error: ``FILE_READ_ERROR`` if a file cannot be read, ``TLS_CONFIG_ERROR`` if what it
                holds cannot be used.
        """
        chain_pem, key_pem = _read(certificates), _read(key)
        try:
            return cls.from_pem(chain_pem, key_pem, password=password)
        except Error as error:
            raise error.more_context(f"files {certificates} and {key}") from error

    @property
    def leaf(self) -> x509.Certificate:
        """The certificate itself."""
        return self._certificates[0]

    @property
    def intermediates(self) -> tuple[x509.Certificate, ...]:
        """The certificates above it, nearest first; may be empty."""
        return self._certificates[1:]

    @property
    def key(self) -> PrivateKey:
        """The private key."""
        return self._key

    @property
    def organization(self) -> str | None:
        """Organization (O) of the certificate's subject."""
        return get_organization(self.leaf)

    @property
    def serial(self) -> str:
        """Serial number of the certificate, hexadecimal."""
        return get_serial(self.leaf)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CertKey):
            return NotImplemented
        return self._fingerprints == other._fingerprints

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        above = len(self._certificates) - 1
        return f"<CertKey {_describe(self.leaf)}, {above} above it, key hidden>"


class CaBundle:
    """A set of trusted authorities.

    Args:
        certificates: The authorities; order does not matter.

    Raises:
        ValueError: If there is none: a peer that trusts nobody is a mistake.
    """

    __slots__ = ("_certificates", "_fingerprints", "_hash")

    def __init__(self, certificates: Iterable[x509.Certificate]) -> None:
        self._certificates = tuple(certificates)
        if not self._certificates:
            msg = "a CaBundle needs at least one certificate"
            raise ValueError(msg)
        self._fingerprints = frozenset(_fingerprints(self._certificates))
        self._hash = hash(self._fingerprints)

    @classmethod
    def from_pem(cls, certificates: bytes) -> CaBundle:
        """Read authorities in PEM form.

        Args:
            certificates: One or more certificates.

        Returns:
            The set.

        Raises:
            Error: ``TLS_CONFIG_ERROR`` if they cannot be read.
        """
        try:
            return cls(x509.load_pem_x509_certificates(certificates))
        except ValueError as error:
            raise Error(
                TLS_CONFIG_ERROR, "unusable CA list", source=ErrorSource.INTERNAL, cause=error
            ) from error

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> CaBundle:
        """Read authorities from a PEM file. It blocks: call it before serving.

        Args:
            path: The file.

        Returns:
            The set.

        Raises:
            Error: ``FILE_READ_ERROR`` if the file cannot be read, ``TLS_CONFIG_ERROR`` if what
                it holds cannot be used.
        """
        pem = _read(path)
        try:
            return cls.from_pem(pem)
        except Error as error:
            raise error.more_context(f"file {path}") from error

    @property
    def certificates(self) -> tuple[x509.Certificate, ...]:
        """The authorities."""
        return self._certificates

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CaBundle):
            return NotImplemented
        return self._fingerprints == other._fingerprints

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"<CaBundle of {len(self._certificates)}>"


def get_organization(certificate: x509.Certificate) -> str | None:
    """Read the organization (O) of a certificate's subject.

    Args:
        certificate: The certificate.

    Returns:
        The first one; None if there is none.
    """
    return _attribute(certificate, NameOID.ORGANIZATION_NAME)


def get_organization_unit(certificate: x509.Certificate) -> str | None:
    """Read the organizational unit (OU) of a certificate's subject.

    Args:
        certificate: The certificate.

    Returns:
        The first one; None if there is none.
    """
    return _attribute(certificate, NameOID.ORGANIZATIONAL_UNIT_NAME)


def get_common_name(certificate: x509.Certificate) -> str | None:
    """Read the common name (CN) of a certificate's subject.

    Args:
        certificate: The certificate.

    Returns:
        The first one; None if there is none.
    """
    return _attribute(certificate, NameOID.COMMON_NAME)


def get_serial(certificate: x509.Certificate) -> str:
    """Read the serial number of a certificate.

    Args:
        certificate: The certificate.

    Returns:
        Upper-case hexadecimal digits, as OpenSSL prints it.
    """
    digits = f"{certificate.serial_number:X}"
    return digits if len(digits) % 2 == 0 else f"0{digits}"


def _attribute(certificate: x509.Certificate, oid: ObjectIdentifier) -> str | None:
    attributes = certificate.subject.get_attributes_for_oid(oid)
    if not attributes:
        return None
    value = attributes[0].value
    return value if isinstance(value, str) else value.decode("latin-1")


def _belong_together(certificate: x509.Certificate, key: PrivateKey) -> bool:
    encoding = serialization.Encoding.DER
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    ours = key.public_key().public_bytes(encoding, form)
    return ours == certificate.public_key().public_bytes(encoding, form)


def _fingerprints(certificates: tuple[x509.Certificate, ...]) -> tuple[bytes, ...]:
    return tuple(
        hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).digest()
        for certificate in certificates
    )


def _describe(certificate: x509.Certificate) -> str:
    return f"certificate {certificate.subject.rfc4514_string()!r} ({get_serial(certificate)})"


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        context = f"file {path}"
        raise Error(
            ErrorType.FILE_READ_ERROR, context, source=ErrorSource.INTERNAL, cause=error
        ) from error
