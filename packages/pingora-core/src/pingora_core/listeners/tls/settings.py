"""Everything about a TLS listener that can be set."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pingora_core.listeners.tls.certificates import CertificateStore
from pingora_core.listeners.tls.profiles import INTERMEDIATE, MODERN
from pingora_core.protocols.tls.alpn import ALPN

if TYPE_CHECKING:
    from typing import Self

    from pingora_core.listeners.tls.callbacks import TlsAccept
    from pingora_core.listeners.tls.client_auth import ClientAuth
    from pingora_core.listeners.tls.profiles import TlsProfile, TlsVersion
    from pingora_core.listeners.tls.reload import Watched
    from pingora_core.protocols.tls.alpn import AlpnOffer

__all__ = ["TlsSettings"]

DEFAULT_RELOAD_INTERVAL: Final = 10.0
"""Seconds."""

DEFAULT_HANDSHAKE_TIMEOUT: Final = 60.0
"""Seconds; listeners/mod.rs."""

_DAY: Final = 86400.0


@dataclass(slots=True, kw_only=True)
class TlsSettings:
    """Settings of a TLS listener. To be changed before the listener is made, not after.

    Without arguments these are the settings of Mozilla's intermediate profile, without a
    certificate.

    Attributes:
        certificates: By server name; may be changed at any time.
        callbacks: Asked for the certificate, and told of the handshake's end; None for nobody.
        min_version: The oldest version of TLS.
        max_version: The newest version.
        ciphers: Cipher suites of TLS 1.2 in OpenSSL's names, the preferred one first.
        ciphersuites: Cipher suites of TLS 1.3.
        groups: Groups for the key exchange, the preferred one first.
        alpn: Protocols to choose from.
        prefer_server_ciphers: Whether our order of cipher suites counts instead of the client's. A
            client that prefers ChaCha20 gets it all the same: it has no hardware for AES.
        session_tickets: Whether clients may keep their sessions themselves.
        session_cache: Whether sessions are kept here for clients without tickets; OpenSSL keeps
            20,480 at most.
        session_timeout: How long a session can be resumed, seconds.
        ticket_key_lifetime: How long the keys of tickets are used, seconds.
        client_auth: Whether and how clients identify themselves; None to not ask them.
        keylog: Whether the keys of connections are written where the environment variable
            SSLKEYLOGFILE says, or a path to write them to. Who can read that can read the
            connections.
        handshake_timeout: Longest time from accepting a connection to its first bytes of
            application data being welcome, callbacks included, seconds.
        reload_interval: Pause between two looks for changed files, seconds; None to not look.
        ja4: Whether the digest tells the JA4 fingerprint of clients.
        max_contexts: Most certificates kept ready at once, at about 30 KiB each.

    Source: TlsSettings in pingora-core/src/listeners/tls/boringssl_openssl/mod.rs.
    """

    certificates: CertificateStore = field(default_factory=CertificateStore)
    callbacks: TlsAccept | None = None
    min_version: TlsVersion = INTERMEDIATE.min_version
    max_version: TlsVersion = INTERMEDIATE.max_version
    ciphers: tuple[str, ...] = INTERMEDIATE.ciphers
    ciphersuites: tuple[str, ...] = INTERMEDIATE.ciphersuites
    groups: tuple[str, ...] = INTERMEDIATE.groups
    alpn: AlpnOffer = ALPN.H1
    prefer_server_ciphers: bool = True
    session_tickets: bool = True
    session_cache: bool = True
    session_timeout: float = 7200.0
    ticket_key_lifetime: float = _DAY
    client_auth: ClientAuth | None = None
    keylog: bool | str | os.PathLike[str] = False
    handshake_timeout: float = DEFAULT_HANDSHAKE_TIMEOUT
    reload_interval: float | None = DEFAULT_RELOAD_INTERVAL
    ja4: bool = True
    max_contexts: int = 1024

    @classmethod
    def intermediate(
        cls,
        cert_path: str | os.PathLike[str],
        key_path: str | os.PathLike[str],
        *,
        ocsp_path: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Make settings for nearly all clients, with one certificate for all names. It blocks.

        Args:
            cert_path: PEM file with the certificate, then each its issuer.
            key_path: PEM file with its private key.
            ocsp_path: File with an OCSP response to staple, DER; None for none.

        Returns:
            The settings.

        Raises:
            Error: ``TLS_CONFIG_ERROR`` naming the file and the reason.
        """
        settings = cls()
        settings.certificates.add_files(cert_path, key_path, default=True, ocsp_path=ocsp_path)
        return settings

    @classmethod
    def modern(
        cls,
        cert_path: str | os.PathLike[str],
        key_path: str | os.PathLike[str],
        *,
        ocsp_path: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Make settings for TLS 1.3 only, with one certificate for all names. It blocks.

        Args:
            cert_path: As for `intermediate`.
            key_path: As for `intermediate`.
            ocsp_path: As for `intermediate`.

        Returns:
            The settings.

        Raises:
            Error: As for `intermediate`.
        """
        settings = cls.intermediate(cert_path, key_path, ocsp_path=ocsp_path)
        settings.use_profile(MODERN)
        return settings

    def use_profile(self, profile: TlsProfile) -> None:
        """Take over versions, ciphers and groups.

        Args:
            profile: `INTERMEDIATE`, `MODERN` or one of your own.
        """
        self.min_version = profile.min_version
        self.max_version = profile.max_version
        self.ciphers = profile.ciphers
        self.ciphersuites = profile.ciphersuites
        self.groups = profile.groups

    def enable_h2(self) -> None:
        """Let clients choose HTTP/2, or else HTTP/1.1."""
        self.alpn = ALPN.H2H1

    def set_alpn(self, alpn: AlpnOffer) -> None:
        """Choose the protocols that clients may choose from.

        Args:
            alpn: The protocols. With ``ALPN.H2`` a client that offers only others is refused.
        """
        self.alpn = alpn

    @property
    def keylog_path(self) -> str | None:
        """The file that the keys of connections are written to; None for none."""
        if isinstance(self.keylog, bool):
            return (os.environ.get("SSLKEYLOGFILE") or None) if self.keylog else None
        return os.fspath(self.keylog)

    @property
    def watched(self) -> list[Watched]:
        """All files that are read again when they change."""
        client_auth = self.client_auth
        return [*self.certificates.watched, *(client_auth.watched if client_auth else ())]
