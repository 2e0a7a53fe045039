"""What a finished handshake tells about itself."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding

from pingora_core.protocols.digest import SslDigest
from pingora_core.protocols.tls.certificate import get_organization, get_serial

if TYPE_CHECKING:
    from OpenSSL import SSL

__all__ = ["make_ssl_digest"]


def make_ssl_digest(connection: SSL.Connection) -> SslDigest:
    """Describe a connection whose handshake is done.

    Args:
        connection: OpenSSL's connection.

    Returns:
        The description, with the peer's certificate if it has sent one.
    """
    digest = SslDigest(
        cipher=connection.get_cipher_name() or "",
        version=connection.get_protocol_version_name(),
    )
    certificate = connection.get_peer_certificate(as_cryptography=True)
    if certificate is not None:
        digest.organization = get_organization(certificate)
        digest.serial_number = get_serial(certificate)
        digest.cert_digest = hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()
    return digest
