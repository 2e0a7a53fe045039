"""What TLS agreed on, and what the peer's certificate says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CertificateFacts", "SslDigest"]


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What is read out of a certificate.

    Attributes:
        der: The certificate itself (DER).
        cert_digest: SHA-256 of it.
        serial_number: Serial number, hexadecimal.
        organization: Organization (O) of the subject; None without one.
        organizational_unit: Organizational unit (OU) of the subject; None without one.
        common_name: Common name (CN) of the subject; None without one.
        subject_alt_names: DNS names, IP addresses, e-mail addresses and URIs that it is for, in
            its order; empty if there are none or they cannot be read.
    """

    der: bytes
    cert_digest: bytes
    serial_number: str
    organization: str | None = None
    organizational_unit: str | None = None
    common_name: str | None = None
    subject_alt_names: tuple[str, ...] = ()


class SslDigest:
    """What TLS agreed on. What is in the peer's certificate is read when first asked for.

    Args:
        cipher: Name of the cipher suite.
        version: Protocol version as OpenSSL writes it, such as ``TLSv1.3``.
        alpn: Negotiated protocol; empty for none.
        sni: Name of the server as the client asked for it; None if it did not.
        group: Negotiated key exchange group, such as ``X25519MLKEM768``; None if there was none.
        resumed: Whether an earlier session was resumed.
        verified: Whether the peer presented a certificate, and its chain was verified.
        certificate: Facts of the peer's certificate, or what reads them; None without one.
        ja4: Fingerprint of the ClientHello, or what makes it; None without one.

    Attributes:
        cipher: Name of the cipher suite.
        version: Protocol version as OpenSSL writes it, such as ``TLSv1.3``.
        alpn: Negotiated protocol; empty for none.
        sni: Name of the server as the client asked for it; None if it did not.
        group: Negotiated key exchange group, such as ``X25519MLKEM768``. None if there was none:
            a session was resumed without a new key exchange, or RSA carried the key.
        resumed: Whether an earlier session was resumed. The peer's certificate is the one it
            presented back then.
        verified: Whether the peer presented a certificate, and its chain was verified. Whether
            it is for the right name is for whoever accepted the connection to check.
        extension: What a handshake callback left here for the layers above.
    """

    __slots__ = (
        "_certificate",
        "_ja4",
        "alpn",
        "cipher",
        "extension",
        "group",
        "resumed",
        "sni",
        "verified",
        "version",
    )

    def __init__(  # noqa: PLR0913 - a record of facts
        self,
        cipher: str,
        version: str,
        *,
        alpn: bytes = b"",
        sni: str | None = None,
        group: str | None = None,
        resumed: bool = False,
        verified: bool = False,
        certificate: CertificateFacts | Callable[[], CertificateFacts] | None = None,
        ja4: str | Callable[[], str | None] | None = None,
    ) -> None:
        self.cipher: str = cipher
        self.version: str = version
        self.alpn: bytes = alpn
        self.sni: str | None = sni
        self.group: str | None = group
        self.resumed: bool = resumed
        self.verified: bool = verified
        self._ja4 = ja4
        self.extension: object | None = None
        self._certificate = certificate

    @property
    def ja4(self) -> str | None:
        """Fingerprint of the ClientHello (JA4); None on the client's side. Made when asked for."""
        ja4 = self._ja4
        if ja4 is None or isinstance(ja4, str):
            return ja4
        made = self._ja4 = ja4()
        return made

    @ja4.setter
    def ja4(self, ja4: str | Callable[[], str | None] | None) -> None:
        self._ja4 = ja4

    @property
    def certificate(self) -> CertificateFacts | None:
        """Facts of the peer's certificate; None without one."""
        certificate = self._certificate
        if certificate is None or isinstance(certificate, CertificateFacts):
            return certificate
        facts = self._certificate = certificate()
        return facts

    @property
    def organization(self) -> str | None:
        """Organization (O) of the peer's certificate; None without either."""
        facts = self.certificate
        return None if facts is None else facts.organization

    @property
    def organizational_unit(self) -> str | None:
        """Organizational unit (OU) of the peer's certificate; None without either."""
        facts = self.certificate
        return None if facts is None else facts.organizational_unit

    @property
    def common_name(self) -> str | None:
        """Common name (CN) of the peer's certificate; None without either."""
        facts = self.certificate
        return None if facts is None else facts.common_name

    @property
    def subject_alt_names(self) -> tuple[str, ...]:
        """Names, addresses and URIs that the peer's certificate is for; empty without one."""
        facts = self.certificate
        return () if facts is None else facts.subject_alt_names

    @property
    def serial_number(self) -> str | None:
        """Serial number of the peer's certificate, hexadecimal; None without one."""
        facts = self.certificate
        return None if facts is None else facts.serial_number

    @property
    def cert_digest(self) -> bytes:
        """SHA-256 of the peer's certificate (DER); empty without one."""
        facts = self.certificate
        return b"" if facts is None else facts.cert_digest

    def __repr__(self) -> str:
        return (
            f"<SslDigest {self.version} {self.cipher} group={self.group} alpn={self.alpn!r}"
            f" sni={self.sni} resumed={self.resumed} verified={self.verified}>"
        )
