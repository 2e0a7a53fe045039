"""Which clients are trusted: the networks that an operator named."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from pingora_core.protocols.address import InetAddress

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pingora_core.protocols.address import SocketAddress

__all__ = ["IPAddress", "TrustedNetworks", "parse_host"]

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


class TrustedNetworks:
    """Networks whose clients are trusted.

    Args:
        networks: IP addresses and networks (``10.0.0.0/8``, ``::1``).
        unix: Whether clients on Unix sockets are trusted.

    Raises:
        ValueError: If one of the networks is none; the message quotes it.

    Examples:
        >>> TrustedNetworks(["10.0.0.0/8"]).contains(InetAddress("10.1.2.3", 4711))
        True
    """

    __slots__ = ("_contains_host", "is_empty", "unix")

    def __init__(self, networks: Iterable[str], *, unix: bool = False) -> None:
        parsed = tuple(_network(text) for text in networks)

        def contains_host(host: str) -> bool:
            address = parse_host(host)
            return address is not None and any(address in network for network in parsed)

        # The same few proxies connect all the time.
        self._contains_host = lru_cache(maxsize=1024)(contains_host)
        self.is_empty: bool = not parsed and not unix
        self.unix: bool = unix

    def contains(self, client: SocketAddress | None) -> bool:
        """Tell whether a client is trusted.

        Args:
            client: Its address; None when unknown, which is never trusted.

        Returns:
            Whether it is.
        """
        if isinstance(client, InetAddress):
            return self._contains_host(client.host)
        return client is not None and self.unix


def parse_host(host: str) -> IPAddress | None:
    """Read the text of an IP address.

    Args:
        host: Without brackets; a zone is left out.

    Returns:
        The address, as IPv4 if it is one in IPv6's clothes; None if the text is something else.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    # A dual-stack listener shows IPv4 clients as ::ffff:192.0.2.1.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        msg = f"trusted proxy {text!r} is no IP address or network: {error}"
        raise ValueError(msg) from error
