"""Who a connection is from, and how many connections each client has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, final

from pingora_core.protocols.address import InetAddress
from pingora_core.protocols.networks import TrustedNetworks, parse_host

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pingora_core.protocols.l4.stream import L4Stream

__all__ = ["ClientCounts", "ClientKey", "announced_client", "describe_client", "inet_peer"]

ClientKey: TypeAlias = tuple[int, int]
"""IP version and leading bits: equal for all addresses of one client."""

_IPV4_BITS: Final = 32
_IPV6_BITS: Final = 128


def inet_peer(stream: L4Stream) -> InetAddress | None:
    """Find the address of a client.

    Args:
        stream: Its connection.

    Returns:
        The address; None on a Unix socket, where a client has none worth the name.
    """
    digest = stream.digest.socket_digest
    address = None if digest is None else digest.peer_addr
    return address if isinstance(address, InetAddress) else None


def announced_client(stream: L4Stream) -> InetAddress | None:
    """Find the client of a connection whose header of the PROXY protocol was read, if there was one.

    Args:
        stream: The connection.

    Returns:
        Its address; None if the proxy does not know it, or speaks for itself.
    """
    header = stream.digest.proxy_protocol
    if header is not None and header.source is None:
        return None
    return inet_peer(stream)


def describe_client(stream: L4Stream, where: str) -> str:
    """Say whose connection it is, for logs.

    Args:
        stream: The connection.
        where: The key of the address on which it came in.

    Returns:
        The client's address, and the proxy's that has announced it.
    """
    client = str(inet_peer(stream) or f"a client of {where}")
    digest = stream.digest.socket_digest
    if digest is None or digest.peer_addr is digest.transport_peer_addr:
        return client
    return f"{client}, announced by {digest.transport_peer_addr}"


@final
class ClientCounts:
    """How many connections each client has; only of those that have some, so it is bounded by them.

    Args:
        ipv4_prefix: Leading bits that make one client of IPv4 addresses.
        ipv6_prefix: Leading bits that make one client of IPv6 addresses.
        exempt: Addresses and networks that are not counted.

    Raises:
        TypeError: If ``exempt`` is one text instead of several.
        ValueError: If a prefix is out of range, or a network is none.
    """

    __slots__ = ("_counts", "_exempt", "_shifts")

    def __init__(self, ipv4_prefix: int, ipv6_prefix: int, exempt: Iterable[str]) -> None:
        if isinstance(exempt, str):
            raise TypeError(f"exempt is a list of networks, such as [{exempt!r}]")
        self._shifts = {
            4: _shift("ipv4_prefix", ipv4_prefix, _IPV4_BITS),
            6: _shift("ipv6_prefix", ipv6_prefix, _IPV6_BITS),
        }
        networks = TrustedNetworks(exempt)
        self._exempt = None if networks.is_empty else networks
        self._counts: dict[ClientKey, int] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def key_of(self, client: InetAddress) -> ClientKey | None:
        """Find out what a client is counted under.

        Args:
            client: Its address; the port does not matter.

        Returns:
            The key; None if it is not counted.
        """
        if self._exempt is not None and self._exempt.contains(client):
            return None
        address = parse_host(client.host)
        if address is None:
            return None
        return address.version, int(address) >> self._shifts[address.version]

    def get(self, key: ClientKey) -> int:
        """Tell how many connections a client has.

        Args:
            key: What it is counted under.

        Returns:
            The number.
        """
        return self._counts.get(key, 0)

    def add(self, key: ClientKey) -> None:
        """Count one more.

        Args:
            key: What it is counted under.
        """
        self._counts[key] = self._counts.get(key, 0) + 1

    def remove(self, key: ClientKey) -> None:
        """Count one less.

        Args:
            key: What it was counted under.
        """
        count = self._counts[key] - 1
        if count:
            self._counts[key] = count
        else:
            del self._counts[key]


def _shift(name: str, prefix: int, bits: int) -> int:
    if not 1 <= prefix <= bits:
        raise ValueError(f"{name} must be in 1..{bits}, not {prefix}")
    return bits - prefix
