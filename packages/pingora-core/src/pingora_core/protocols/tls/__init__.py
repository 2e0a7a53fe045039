"""TLS over any stream: the connection itself, ALPN, certificates and their verification."""

from pingora_core.protocols.tls.alpn import ALPN, AlpnOffer, CustomALPN
from pingora_core.protocols.tls.certificate import (
    CaBundle,
    CertKey,
    PrivateKey,
    get_common_name,
    get_organization,
    get_organization_unit,
    get_serial,
)
from pingora_core.protocols.tls.digest import make_ssl_digest
from pingora_core.protocols.tls.errors import handshake_error, reason_of
from pingora_core.protocols.tls.stream import TlsStream
from pingora_core.protocols.tls.verify import ReferenceIdentity, matches_dns_name

__all__ = [
    "ALPN",
    "AlpnOffer",
    "CaBundle",
    "CertKey",
    "CustomALPN",
    "PrivateKey",
    "ReferenceIdentity",
    "TlsStream",
    "get_common_name",
    "get_organization",
    "get_organization_unit",
    "get_serial",
    "handshake_error",
    "make_ssl_digest",
    "matches_dns_name",
    "reason_of",
]
