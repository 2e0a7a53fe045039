"""Whether a certificate is for the name, or the IP address, that was meant to be reached.

The rules are those of RFC 9525: only the subject alternative names count, never the common name; a
wildcard stands for exactly one whole label, the leftmost; names and addresses do not mix. As in
OpenSSL a wildcard needs two labels after it, so that none covers a top-level domain.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from cryptography import x509

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "IPAddress",
    "ReferenceIdentity",
    "as_ip_address",
    "matches_dns_name",
    "normalize_host_name",
    "replace_leftmost_underscore",
]

# Underscores are in names of real servers, though never in those of certificates.
_HOST_NAME: Final = re.compile(r"(?=.{1,253}$)[a-z0-9_-]+(\.[a-z0-9_-]+)*")

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class ReferenceIdentity:
    """Who a peer must prove to be: one of some names or addresses.

    Attributes:
        dns_names: Acceptable names, lower case, without a final dot.
        ip_addresses: Acceptable addresses.
    """

    dns_names: frozenset[str]
    ip_addresses: frozenset[IPAddress]

    @classmethod
    def of(cls, *names: str) -> ReferenceIdentity:
        """Make an identity from names as users write them.

        A sub-domain's leftmost label may hold underscores, which no certificate has: such a name
        is also accepted with hyphens in their place.

        Args:
            names: Host names or IP addresses; empty ones are skipped.

        Returns:
            The identity.

        Raises:
            ValueError: If one is neither.
        """
        dns_names: set[str] = set()
        ip_addresses: set[IPAddress] = set()
        for name in filter(None, names):
            address = as_ip_address(name)
            if address is not None:
                ip_addresses.add(address)
                continue
            host = normalize_host_name(name)
            dns_names.add(host)
            hyphened = replace_leftmost_underscore(host)
            if hyphened is not None:
                dns_names.add(hyphened)
        return cls(frozenset(dns_names), frozenset(ip_addresses))

    @property
    def is_empty(self) -> bool:
        """Whether no certificate at all could match."""
        return not self.dns_names and not self.ip_addresses

    def matches(self, certificate: x509.Certificate) -> bool:
        """Check whether a certificate is for one of the names or addresses.

        Args:
            certificate: The peer's own certificate.

        Returns:
            True if it is; False too if its names cannot be read.
        """
        try:
            extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
            return False
        names = extension.value
        if self.ip_addresses.intersection(names.get_values_for_type(x509.IPAddress)):
            return True
        return self._matches_any(names.get_values_for_type(x509.DNSName))

    def _matches_any(self, patterns: Iterable[str]) -> bool:
        return any(
            matches_dns_name(pattern, name) for pattern in patterns for name in self.dns_names
        )

    def __str__(self) -> str:
        return " or ".join(sorted([*self.dns_names, *map(str, self.ip_addresses)])) or "nobody"


def matches_dns_name(pattern: str, name: str) -> bool:
    """Check whether a DNS name of a certificate covers a host name.

    Args:
        pattern: From the certificate: a name, or ``*.`` and a name.
        name: The host name, lower case, without a final dot.

    Returns:
        True if it does.

    Examples:
        >>> matches_dns_name("*.example.com", "www.example.com")
        True
        >>> matches_dns_name("*.example.com", "a.b.example.com")
        False
    """
    pattern = pattern.lower()
    if not pattern.startswith("*."):
        return pattern == name and "*" not in pattern
    parent = pattern[2:]
    label, _, rest = name.partition(".")
    return bool(label) and rest == parent and "." in parent and "*" not in parent


def replace_leftmost_underscore(name: str) -> str | None:
    """Spell the leftmost label of a sub-domain with hyphens for underscores.

    Args:
        name: A host name.

    Returns:
        The other spelling; None if there is no underscore in that label, or fewer than two labels
        after it.

    Source: pingora-core/src/protocols/tls (``replace_leftmost_underscore``).
    """
    label, _, rest = name.partition(".")
    if "." not in rest or "_" not in label:
        return None
    return f"{label.replace('_', '-')}.{rest}"


def normalize_host_name(name: str) -> str:
    """Bring a host name into the form in which certificates have it.

    Args:
        name: As users write it.

    Returns:
        Lower case, ASCII (international labels in their ``xn--`` form), without a final dot.

    Raises:
        ValueError: If it is no host name.
    """
    host = name.removesuffix(".").lower()
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            host = ""
    if _HOST_NAME.fullmatch(host) is None:
        msg = f"{name!r} is no host name"
        raise ValueError(msg)
    return host


def as_ip_address(text: str) -> IPAddress | None:
    """Read an IP address.

    Args:
        text: Without brackets, port or zone.

    Returns:
        The address; None if the text is something else, such as a host name.
    """
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
