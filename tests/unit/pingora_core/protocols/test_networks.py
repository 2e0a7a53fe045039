"""Which clients are trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pingora_core.protocols.address import InetAddress, UnixAddress
from pingora_core.protocols.networks import TrustedNetworks

if TYPE_CHECKING:
    from pingora_core.protocols.address import SocketAddress


@pytest.mark.parametrize(
    ("client", "trusted"),
    [
        (InetAddress("10.1.2.3", 1), True),
        (InetAddress("::ffff:10.1.2.3", 1), True),
        (InetAddress("192.0.2.1", 1), True),
        (InetAddress("192.0.2.2", 1), False),
        (InetAddress("2001:db8::7", 1), True),
        (InetAddress("2001:db9::7", 1), False),
        (InetAddress("fe80::1%eth0", 1), False),
        (UnixAddress(""), False),
        (None, False),
    ],
)
def test_networks_are_told_apart(client: SocketAddress | None, trusted: bool) -> None:
    """IPv4 in IPv6's clothes is IPv4; a client that is not known is not trusted."""
    networks = TrustedNetworks(["10.0.0.0/8", "192.0.2.1", "2001:db8::/32"])

    assert networks.contains(client) is trusted


def test_unix_sockets_are_trusted_only_if_said() -> None:
    """A path says nothing about who is at its other end."""
    networks = TrustedNetworks([], unix=True)

    assert networks.contains(UnixAddress(""))
    assert not networks.contains(InetAddress("10.0.0.1", 1))
    assert not networks.is_empty
    assert TrustedNetworks([]).is_empty


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "localhost", "", "unix:/a"])
def test_what_is_no_network_is_quoted(text: str) -> None:
    """A network with host bits set is a mistake that would trust too many."""
    with pytest.raises(ValueError, match="no IP address or network"):
        TrustedNetworks([text])
