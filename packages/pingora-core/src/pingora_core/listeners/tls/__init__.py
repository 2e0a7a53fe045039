"""TLS listeners: settings, certificates by name, callbacks, and the handshake."""

from pingora_core.listeners.tls.acceptor import TlsAcceptor
from pingora_core.listeners.tls.callbacks import PendingHandshake, TlsAccept, TlsAlert
from pingora_core.listeners.tls.certificates import CertificateStore, ServerCertificate
from pingora_core.listeners.tls.client_auth import ClientAuth, ClientAuthMode, ClientTrust
from pingora_core.listeners.tls.directory import CertificateDirectory
from pingora_core.listeners.tls.profiles import (
    DEFAULT_GROUPS,
    INTERMEDIATE,
    MODERN,
    TlsProfile,
    TlsVersion,
)
from pingora_core.listeners.tls.settings import TlsSettings

__all__ = [
    "DEFAULT_GROUPS",
    "INTERMEDIATE",
    "MODERN",
    "CertificateDirectory",
    "CertificateStore",
    "ClientAuth",
    "ClientAuthMode",
    "ClientTrust",
    "PendingHandshake",
    "ServerCertificate",
    "TlsAccept",
    "TlsAcceptor",
    "TlsAlert",
    "TlsProfile",
    "TlsSettings",
    "TlsVersion",
]
