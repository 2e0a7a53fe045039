"""Kinds of certificate keys, and whether a client can verify signatures made with them."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519

if TYPE_CHECKING:
    from pingora_core.protocols.tls.certificate import PrivateKey
    from pingora_core.protocols.tls.client_hello import ClientHello

__all__ = ["KeyKind"]

_TLS_1_3: Final = 0x0304
# IANA, TLS Cipher Suites: ECDHE_ECDSA with AES-GCM, ChaCha20, AES-CCM, AES-CBC.
_ECDSA_SUITES: Final = frozenset(
    (
        *(0xC02B, 0xC02C, 0xCCA9),
        *(0xC0AC, 0xC0AD, 0xC0AE, 0xC0AF),
        *(0xC009, 0xC00A, 0xC023, 0xC024),
    )
)


class KeyKind(Enum):
    """A kind of key, by the numbers of the signature algorithms made with it (RFC 8446 4.2.3).

    Attributes:
        EC: ECDSA, on any curve.
        ED25519: EdDSA.
        ED448: EdDSA.
        RSA: RSA, PSS and PKCS #1.
    """

    EC = frozenset((0x0403, 0x0503, 0x0603))
    ED25519 = frozenset((0x0807,))
    ED448 = frozenset((0x0808,))
    RSA = frozenset((0x0401, 0x0501, 0x0601, 0x0804, 0x0805, 0x0806))

    @classmethod
    def of(cls, key: PrivateKey) -> KeyKind:
        """Name the kind of a key.

        Args:
            key: The key.

        Returns:
            Its kind.
        """
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return cls.EC
        if isinstance(key, ed25519.Ed25519PrivateKey):
            return cls.ED25519
        return cls.ED448 if isinstance(key, ed448.Ed448PrivateKey) else cls.RSA

    @property
    def preference(self) -> int:
        """Its place when a client can verify several; signing with RSA costs most."""
        return _ORDER[self]

    def is_verified_by(self, hello: ClientHello) -> bool:
        """Tell whether a client can verify signatures made with such a key.

        Args:
            hello: What the client offers.

        Returns:
            True if it can.
        """
        if self.value.isdisjoint(hello.signature_algorithms):
            # Without the extension, TLS 1.2 means RSA and SHA-1 (RFC 5246 7.4.1.4.1).
            return self is KeyKind.RSA and not hello.signature_algorithms
        if self is KeyKind.RSA or _TLS_1_3 in hello.supported_versions:
            return True
        # Before TLS 1.3 the cipher suite names the kind of key, too.
        return not _ECDSA_SUITES.isdisjoint(hello.cipher_suites)


_ORDER: Final = {kind: place for place, kind in enumerate(KeyKind)}
