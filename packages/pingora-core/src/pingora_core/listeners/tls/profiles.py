"""Which versions, ciphers and groups a listener accepts: the recommendations of Mozilla.

Source: https://wiki.mozilla.org/Security/Server_Side_TLS, version 5.7. Where these differ: the
finite-field DHE suites of the intermediate profile are left out (only clients from before 2014 need
them, each handshake costs the server a multiple, and without parameters they would never be chosen)
and the post-quantum group comes first.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from OpenSSL import SSL

__all__ = ["DEFAULT_GROUPS", "INTERMEDIATE", "MODERN", "TlsProfile", "TlsVersion"]

DEFAULT_GROUPS: Final = ("X25519MLKEM768", "X25519", "P-256", "P-384")
"""Post-quantum first; the classical ones that Mozilla lists."""

_SUITES_1_3: Final = (
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
)
_SUITES_1_2: Final = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
)


class TlsVersion(Enum):
    """A version of the protocol, by its number on the wire.

    Older ones are not offered: RFC 8996 forbids them.

    Attributes:
        TLS_1_2: RFC 5246.
        TLS_1_3: RFC 8446.
    """

    TLS_1_2 = SSL.TLS1_2_VERSION
    TLS_1_3 = SSL.TLS1_3_VERSION

    @property
    def number(self) -> int:
        """What the wire has, such as 0x0304."""
        number: int = self.value
        return number


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsProfile:
    """Versions, ciphers and groups.

    Attributes:
        min_version: The oldest version.
        max_version: The newest version.
        ciphers: Suites of TLS 1.2, in OpenSSL's names, the preferred first; may be empty if that
            version is not spoken.
        ciphersuites: Suites of TLS 1.3.
        groups: Key exchange groups.
    """

    min_version: TlsVersion
    max_version: TlsVersion = TlsVersion.TLS_1_3
    ciphers: tuple[str, ...] = _SUITES_1_2
    ciphersuites: tuple[str, ...] = _SUITES_1_3
    groups: tuple[str, ...] = DEFAULT_GROUPS


INTERMEDIATE: Final = TlsProfile(min_version=TlsVersion.TLS_1_2)
"""For nearly everybody: clients of the last ten years."""

MODERN: Final = TlsProfile(min_version=TlsVersion.TLS_1_3)
"""TLS 1.3 only."""
