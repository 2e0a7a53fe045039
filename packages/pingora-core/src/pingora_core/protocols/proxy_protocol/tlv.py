"""What a version 2 header may say besides addresses: types, lengths, values.

Values are kept as they came; reading one as text never fails, since what a client put into its
certificate or its SNI is not the fault of the proxy that passes it on: bytes that are no text
become U+FFFD, which equals no name.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "MAX_UNIQUE_ID",
    "ProxySsl",
    "SslTlvType",
    "Tlv",
    "TlvType",
    "check_tlvs",
    "encode_tlvs",
    "find_tlv",
    "parse_tlvs",
]

Tlv: TypeAlias = tuple[int, bytes]

MAX_UNIQUE_ID: Final = 128
"""Bytes; proxy-protocol.txt section 2.2.5."""

_MAX_VALUE: Final = 0xFFFF


class TlvType(IntEnum):
    """What a TLV is about; any other number up to 255 may turn up too.

    Source: proxy-protocol.txt section 2.2; the documentation of the cloud in question for those
    from 0xE0, whose values are passed on as they are.
    """

    ALPN = 0x01
    AUTHORITY = 0x02
    CRC32C = 0x03
    NOOP = 0x04
    UNIQUE_ID = 0x05
    SSL = 0x20
    NETNS = 0x30
    GCP = 0xE0
    AWS = 0xEA
    AZURE = 0xEE


class SslTlvType(IntEnum):
    """What a TLV inside the SSL one is about."""

    VERSION = 0x21
    CN = 0x22
    CIPHER = 0x23
    SIG_ALG = 0x24
    KEY_ALG = 0x25
    GROUP = 0x26
    SIG_SCHEME = 0x27
    CLIENT_CERT = 0x28


# Said twice, one reader would take the first and another the last.
_ONCE: Final = frozenset(TlvType) - {TlvType.NOOP, TlvType.GCP, TlvType.AWS, TlvType.AZURE}


def parse_tlvs(data: bytes) -> tuple[Tlv, ...]:
    """Split a block of TLVs.

    Args:
        data: TLVs and nothing else.

    Returns:
        Types and values, in order.

    Raises:
        ValueError: If the last one is cut short.
    """
    tlvs: list[Tlv] = []
    position, end = 0, len(data)
    while position < end:
        start = position + 3
        if start > end:
            raise ValueError(f"{end - position} bytes after the last TLV")
        size = data[position + 1] << 8 | data[position + 2]
        if start + size > end:
            raise ValueError(f"TLV {data[position]:#04x} has {end - start} of its {size} bytes")
        tlvs.append((data[position], data[start : start + size]))
        position = start + size
    return tuple(tlvs)


def encode_tlvs(tlvs: Iterable[Tlv]) -> bytes:
    """Write TLVs one after the other.

    Args:
        tlvs: Types and values, as `check_tlvs` wants them.

    Returns:
        The bytes.
    """
    return b"".join(bytes((kind,)) + len(value).to_bytes(2, "big") + value for kind, value in tlvs)


def find_tlv(tlvs: Iterable[Tlv], kind: int) -> bytes | None:
    """Find a value.

    Args:
        tlvs: Where.
        kind: Its type.

    Returns:
        The first of this type; None if there is none.
    """
    for found, value in tlvs:
        if found == kind:
            return value
    return None


def check_tlvs(tlvs: Iterable[Tlv]) -> None:
    """Check what the protocol says about types, lengths and nesting.

    Args:
        tlvs: Types and values.

    Raises:
        ValueError: If one breaks a rule; the message says which.
    """
    seen: set[int] = set()
    for kind, value in tlvs:
        if not 0 <= kind <= 0xFF:
            raise ValueError(f"a TLV's type is in 0..255, not {kind}")
        if len(value) > _MAX_VALUE:
            raise ValueError(f"TLV {kind:#04x} has {len(value)} bytes, allowed: {_MAX_VALUE}")
        if kind in _ONCE:
            if kind in seen:
                raise ValueError(f"TLV {kind:#04x} occurs twice")
            seen.add(kind)
        if kind == TlvType.UNIQUE_ID and len(value) > MAX_UNIQUE_ID:
            raise ValueError(f"the unique id has {len(value)} bytes, allowed: {MAX_UNIQUE_ID}")
        if kind == TlvType.SSL:
            ProxySsl.parse(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySsl:
    """What the proxy knows of the TLS between its client and itself.

    Attributes:
        is_tls: Whether the client came over TLS.
        has_certificate: Whether it presented a certificate on this connection.
        has_session_certificate: Whether it did so at least once in this TLS session.
        verify: 0 if its certificate was verified; some proxies say 0 without one too.
        version: Protocol version, such as ``TLSv1.3``.
        common_name: Common name of the client's certificate.
        cipher: Cipher suite.
        signature_algorithm: What the proxy's certificate is signed with, such as ``SHA256``.
        key_algorithm: Kind of the key of the proxy's certificate, such as ``RSA2048``.
        group: Key exchange group.
        signature_scheme: What the proxy signed the handshake with.
        client_certificate: The client's certificate, DER.
    """

    is_tls: bool = True
    has_certificate: bool = False
    has_session_certificate: bool = False
    verify: int = 1
    version: str | None = None
    common_name: str | None = None
    cipher: str | None = None
    signature_algorithm: str | None = None
    key_algorithm: str | None = None
    group: str | None = None
    signature_scheme: str | None = None
    client_certificate: bytes | None = None

    @property
    def is_verified(self) -> bool:
        """Whether the client presented a certificate, now or before, and it was verified."""
        return self.verify == 0 and (self.has_certificate or self.has_session_certificate)

    @classmethod
    def parse(cls, value: bytes) -> ProxySsl:
        """Read the value of an SSL TLV.

        Args:
            value: Flags, result, and the TLVs inside.

        Returns:
            What it says; TLVs of other types are left out.

        Raises:
            ValueError: If it is cut short, or says a thing twice.
        """
        if len(value) < 5:
            raise ValueError(f"the SSL TLV has {len(value)} bytes, needed: at least 5")
        inner: dict[int, bytes] = {}
        for kind, content in parse_tlvs(value[5:]):
            if kind in inner:
                raise ValueError(f"TLV {kind:#04x} occurs twice in the SSL TLV")
            inner[kind] = content

        def text(kind: SslTlvType, encoding: str = "ascii") -> str | None:
            found = inner.get(kind)
            return None if found is None else found.decode(encoding, "replace")

        return cls(
            is_tls=bool(value[0] & 1),
            has_certificate=bool(value[0] & 2),
            has_session_certificate=bool(value[0] & 4),
            verify=int.from_bytes(value[1:5], "big"),
            version=text(SslTlvType.VERSION),
            common_name=text(SslTlvType.CN, "utf-8"),
            cipher=text(SslTlvType.CIPHER),
            signature_algorithm=text(SslTlvType.SIG_ALG),
            key_algorithm=text(SslTlvType.KEY_ALG),
            group=text(SslTlvType.GROUP),
            signature_scheme=text(SslTlvType.SIG_SCHEME),
            client_certificate=inner.get(SslTlvType.CLIENT_CERT),
        )

    def to_tlv(self) -> Tlv:
        """Write it as a TLV, for `ProxyHeader.tlvs`.

        Returns:
            Type and value.

        Raises:
            ValueError: If something does not fit, or is not ASCII where it must be.
        """
        flags = self.is_tls | self.has_certificate << 1 | self.has_session_certificate << 2
        texts = (
            (SslTlvType.VERSION, self.version, "ascii"),
            (SslTlvType.CN, self.common_name, "utf-8"),
            (SslTlvType.CIPHER, self.cipher, "ascii"),
            (SslTlvType.SIG_ALG, self.signature_algorithm, "ascii"),
            (SslTlvType.KEY_ALG, self.key_algorithm, "ascii"),
            (SslTlvType.GROUP, self.group, "ascii"),
            (SslTlvType.SIG_SCHEME, self.signature_scheme, "ascii"),
        )
        inner = [(int(kind), text.encode(code)) for kind, text, code in texts if text is not None]
        if self.client_certificate is not None:
            inner.append((SslTlvType.CLIENT_CERT, self.client_certificate))
        check_tlvs(inner)
        if not 0 <= self.verify <= 0xFFFFFFFF:
            raise ValueError(f"verify has 32 bits, not {self.verify}")
        value = bytes((flags,)) + self.verify.to_bytes(4, "big") + encode_tlvs(inner)
        return (TlvType.SSL, value)
