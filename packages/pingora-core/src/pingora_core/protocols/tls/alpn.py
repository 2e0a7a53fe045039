"""Which protocols are offered when a TLS connection negotiates what to speak (RFC 7301)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

__all__ = ["ALPN", "AlpnOffer", "CustomALPN"]

_HTTP_1: Final = b"http/1.1"
_HTTP_2: Final = b"h2"


class ALPN(Enum):
    """The HTTP versions that a peer may choose from; the first protocol is preferred.

    Attributes:
        H1: HTTP/1.1 only.
        H2: HTTP/2 only.
        H2H1: HTTP/2, or else HTTP/1.1.

    Source: pingora-core/src/protocols/tls/mod.rs.
    """

    H1 = (_HTTP_1,)
    H2 = (_HTTP_2,)
    H2H1 = (_HTTP_2, _HTTP_1)

    @property
    def protocols(self) -> tuple[bytes, ...]:
        """The protocol names to offer, the preferred one first."""
        protocols: tuple[bytes, ...] = self.value
        return protocols

    @property
    def min_http_version(self) -> int:
        """The lowest HTTP version that may be spoken: 1 or 2."""
        return 2 if self is ALPN.H2 else 1

    @property
    def max_http_version(self) -> int:
        """The highest HTTP version that may be spoken: 1 or 2."""
        return 1 if self is ALPN.H1 else 2

    @classmethod
    def from_http_versions(cls, maximum: int, minimum: int) -> ALPN:
        """Choose what to offer from a range of HTTP versions.

        Args:
            maximum: The highest version, 1 or 2.
            minimum: The lowest version, 1 or 2; below 1 means 1.

        Returns:
            The offer.

        Raises:
            ValueError: If the range is empty or names a version that is not 1 or 2.
        """
        if not (minimum <= maximum and 1 <= maximum <= 2):
            msg = f"HTTP versions are 1 or 2 with minimum <= maximum, not {minimum}..{maximum}"
            raise ValueError(msg)
        if maximum == 1:
            return cls.H1
        return cls.H2 if minimum == 2 else cls.H2H1

    @classmethod
    def from_negotiated(cls, protocol: bytes) -> ALPN | None:
        """Name the protocol that a handshake has agreed on.

        Args:
            protocol: As the wire has it; empty if nothing was negotiated.

        Returns:
            ``H1`` or ``H2``; None for nothing and for other protocols.
        """
        if protocol == _HTTP_2:
            return cls.H2
        return cls.H1 if protocol == _HTTP_1 else None


@dataclass(frozen=True, slots=True)
class CustomALPN:
    """One protocol that is not HTTP, offered alone.

    Attributes:
        protocol: Its name on the wire, 1 to 255 bytes.

    Raises:
        ValueError: If the name is too long, empty, or one of those that `ALPN` stands for.
    """

    protocol: bytes

    def __post_init__(self) -> None:
        if not 1 <= len(self.protocol) <= 255:
            msg = f"an ALPN protocol name has 1 to 255 bytes, not {len(self.protocol)}"
            raise ValueError(msg)
        if self.protocol in {_HTTP_1, _HTTP_2}:
            msg = f"{self.protocol!r} is no custom protocol; use ALPN.H1, ALPN.H2 or ALPN.H2H1"
            raise ValueError(msg)

    @property
    def protocols(self) -> tuple[bytes, ...]:
        """The protocol names to offer: just this one."""
        return (self.protocol,)

    @property
    def min_http_version(self) -> int:
        """The lowest HTTP version to fall back to when the peer does not know the protocol."""
        return 1

    @property
    def max_http_version(self) -> int:
        """The highest HTTP version to fall back to when the peer does not know the protocol."""
        return 1


AlpnOffer: TypeAlias = ALPN | CustomALPN
