"""What a finished handshake tells about itself."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pingora_core.protocols.digest import CertificateFacts, SslDigest
from pingora_core.protocols.tls.certificate import (
    get_common_name,
    get_organization,
    get_organization_unit,
    get_serial,
)
from pingora_core.protocols.tls.openssl import is_peer_verified, is_resumed

if TYPE_CHECKING:
    from collections.abc import Callable

    from OpenSSL import SSL, crypto

__all__ = ["make_ssl_digest", "read_certificate"]

# OpenSSL spells these unlike its documentation, the RFCs and everybody else.
_GROUP_NAMES: Final = {"x25519": "X25519", "x448": "X448"}
_TEXT_NAMES: Final = (x509.DNSName, x509.RFC822Name, x509.UniformResourceIdentifier)


def make_ssl_digest(connection: SSL.Connection) -> SslDigest:
    """Describe a connection whose handshake is done.

    Args:
        connection: OpenSSL's connection, of a client or a server.

    Returns:
        The description, with the peer's certificate if it has sent one.
    """
    sni = connection.get_servername()
    certificate = connection.get_peer_certificate()
    return SslDigest(
        connection.get_cipher_name() or "",
        connection.get_protocol_version_name(),
        alpn=connection.get_alpn_proto_negotiated(),
        sni=None if sni is None else sni.decode("latin-1"),
        group=_group(connection),
        resumed=is_resumed(connection),
        verified=certificate is not None and is_peer_verified(connection),
        certificate=None if certificate is None else _reader(certificate),
    )


def read_certificate(certificate: x509.Certificate) -> CertificateFacts:
    """Read the facts out of a certificate.

    Args:
        certificate: The certificate; of a peer, so it may hold anything.

    Returns:
        The facts. What is malformed counts as missing.
    """
    der = certificate.public_bytes(Encoding.DER)
    try:
        organization = get_organization(certificate)
        organizational_unit = get_organization_unit(certificate)
        common_name = get_common_name(certificate)
    except ValueError:
        organization = organizational_unit = common_name = None
    return CertificateFacts(
        der=der,
        cert_digest=hashlib.sha256(der).digest(),
        serial_number=get_serial(certificate),
        organization=organization,
        organizational_unit=organizational_unit,
        common_name=common_name,
        subject_alt_names=_subject_alt_names(certificate),
    )


def _reader(certificate: crypto.X509) -> Callable[[], CertificateFacts]:
    # Decoding it costs more than all the rest of the digest, and few ask for it.
    return lambda: read_certificate(certificate.to_cryptography())


def _subject_alt_names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return ()
    names: list[str] = []
    for name in extension.value:
        if isinstance(name, _TEXT_NAMES):
            names.append(name.value)
        elif isinstance(name, x509.IPAddress):
            names.append(str(name.value))
    return tuple(names)


def _group(connection: SSL.Connection) -> str | None:
    try:
        name = connection.get_group_name()
    except NotImplementedError:
        # OpenSSL 3.0 and 3.1 do not tell.
        return None
    return None if name is None else _GROUP_NAMES.get(name, name)
