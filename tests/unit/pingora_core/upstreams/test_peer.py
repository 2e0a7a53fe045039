from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pingora_core.protocols.address import HostAddress, InetAddress, UnixAddress
from pingora_core.protocols.tls import CertKey
from pingora_core.upstreams import BasicPeer, HttpPeer, Peer, PeerOptions, Proxy
from tests.support.certificates import CertificateAuthority

if TYPE_CHECKING:
    from pathlib import Path

    from pingora_core.upstreams import PeerAddress, ReuseKey


@dataclass
class Backend:
    """Something with an address, as a load balancer has."""

    addr: PeerAddress


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("192.0.2.1:80", InetAddress("192.0.2.1", 80)),
        ("[2001:db8::1]:443", InetAddress("2001:db8::1", 443)),
        ("unix:/run/app.sock", UnixAddress("/run/app.sock")),
        ("example.com:8080", HostAddress("example.com", 8080)),
        (InetAddress("192.0.2.1", 80), InetAddress("192.0.2.1", 80)),
        (UnixAddress("/run/app.sock"), UnixAddress("/run/app.sock")),
        (HostAddress("example.com", 80), HostAddress("example.com", 80)),
        (Backend(InetAddress("192.0.2.1", 80)), InetAddress("192.0.2.1", 80)),
    ],
)
def test_an_address_in_any_form(given: str | PeerAddress | Backend, address: PeerAddress) -> None:
    """Peers take text, addresses and whatever has an address."""
    assert HttpPeer(given).address == address
    assert BasicPeer(given).address == address


@pytest.mark.parametrize("text", ["", "192.0.2.1", "192.0.2.1:99999", "::1:80", "a b:80"])
def test_a_malformed_address_is_refused(text: str) -> None:
    """It is a programming error, told when the peer is made."""
    with pytest.raises(ValueError, match="address"):
        HttpPeer(text)


def test_an_http_peer_says_what_it_was_told(tmp_path: Path) -> None:
    """Every argument can be read back."""
    issued = CertificateAuthority(tmp_path).issue("client", client=True)
    cert_key = CertKey.from_pem(issued.chain_pem, issued.key_pem)
    options = PeerOptions(read_timeout=1)
    proxy = Proxy.parse("unix:/run/proxy.sock", headers=(("X-Token", "1"),))
    peer = HttpPeer(
        "192.0.2.1:443",
        tls=True,
        sni="example.com",
        client_cert_key=cert_key,
        proxy=proxy,
        group_key=7,
        options=options,
    )

    assert (peer.is_tls, peer.scheme, peer.sni) == (True, "https", "example.com")
    assert peer.client_cert_key is cert_key
    assert peer.proxy is proxy
    assert proxy.next_hop == UnixAddress("/run/proxy.sock")
    assert peer.group_key == 7
    assert peer.options is options
    assert repr(peer) == (
        "<HttpPeer https 192.0.2.1:443, sni 'example.com', via unix:/run/proxy.sock>"
    )


def test_an_http_peer_is_plain_by_default() -> None:
    """Without arguments: http, no SNI, no proxy, default options."""
    peer = HttpPeer("192.0.2.1:80")

    assert (peer.is_tls, peer.scheme, peer.sni, peer.group_key) == (False, "http", "", 0)
    assert peer.proxy is None
    assert peer.client_cert_key is None
    assert peer.options.connection_timeout == 10.0


def test_options_belong_to_one_peer() -> None:
    """Changing those of one peer leaves another alone."""
    first, second = HttpPeer("192.0.2.1:80"), HttpPeer("192.0.2.1:80")
    first.options.read_timeout = 1.0

    assert second.options.read_timeout == 60.0


def test_a_basic_peer_speaks_tls_when_it_has_an_sni() -> None:
    """As in Pingora, the name decides."""
    assert not BasicPeer("192.0.2.1:80").is_tls
    peer = BasicPeer("192.0.2.1:80", sni="example.com")
    assert peer.is_tls
    assert peer.sni == "example.com"
    assert (peer.proxy, peer.client_cert_key, peer.group_key) == (None, None, 0)
    assert repr(peer) == "<BasicPeer 192.0.2.1:80, sni 'example.com'>"


class MinimalPeer(Peer):
    """A user's own kind of peer."""

    @property
    def address(self) -> PeerAddress:
        return UnixAddress("/x")

    @property
    def options(self) -> PeerOptions:
        return PeerOptions.default()

    def reuse_key(self) -> ReuseKey:
        return ("mine",)


def test_a_peer_of_ones_own_needs_little() -> None:
    """Address, options and key; the rest has defaults."""
    peer = MinimalPeer()

    assert (peer.is_tls, peer.sni, peer.proxy) == (False, "", None)
    assert (peer.client_cert_key, peer.group_key) == (None, 0)


def test_equal_peers_have_equal_keys() -> None:
    """The key depends on what a peer says and not on how it was made."""
    first = HttpPeer("192.0.2.1:443", tls=True, sni="a")
    second = HttpPeer(Backend(InetAddress("192.0.2.1", 443)), tls=True, sni="a")

    assert first.reuse_key() == second.reuse_key()
    assert hash(first.reuse_key()) == hash(second.reuse_key())
    assert first.reuse_key() is first.reuse_key()


def test_each_part_of_a_peer_changes_its_key(tmp_path: Path) -> None:
    """No connection is shared across address, scheme, SNI, certificate, proxy or group."""
    authority = CertificateAuthority(tmp_path)
    certs = [
        CertKey.from_pem(issued.chain_pem, issued.key_pem)
        for issued in (authority.issue("a", client=True), authority.issue("b", client=True))
    ]
    a, b = Proxy.parse("unix:/a"), Proxy.parse("unix:/b")
    address = "192.0.2.1:443"
    peers = [
        HttpPeer(address),
        HttpPeer("192.0.2.1:444"),
        HttpPeer("192.0.2.2:443"),
        HttpPeer("[fe80::1]:443"),
        HttpPeer(InetAddress("fe80::1", 443, 0, 2)),
        HttpPeer("unix:/x"),
        HttpPeer("x:443"),
        HttpPeer(address, tls=True),
        HttpPeer(address, tls=True, sni="a"),
        HttpPeer(address, tls=True, sni="b"),
        HttpPeer(address, client_cert_key=certs[0]),
        HttpPeer(address, client_cert_key=certs[1]),
        HttpPeer(address, proxy=a),
        HttpPeer(address, proxy=b),
        HttpPeer(address, proxy=Proxy(next_hop=a.next_hop, headers=(("Authorization", "x"),))),
        HttpPeer(address, group_key=1),
        BasicPeer(address),
        BasicPeer(address, sni="a"),
        BasicPeer(address, options=PeerOptions(verify_cert=False)),
    ]

    assert len({peer.reuse_key() for peer in peers}) == len(peers)


def test_a_host_name_is_not_taken_for_a_unix_path() -> None:
    """The parts of keys cannot run into each other."""
    named = HttpPeer(HostAddress("unix", 80))
    path = HttpPeer(UnixAddress("80"))

    assert named.reuse_key() != path.reuse_key()


@pytest.mark.parametrize(
    ("url", "address", "scheme"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1:8000", "http"),
        ("HTTP://a.test/", "a.test:80", "http"),
        ("https://a.test", "a.test:443", "https"),
        ("https://[::1]:8443", "[::1]:8443", "https"),
    ],
)
def test_a_url_names_a_peer(url: str, address: str, scheme: str) -> None:
    """The scheme tells TLS and the usual port."""
    peer = HttpPeer.from_url(url)
    assert (str(peer.address), peer.scheme) == (address, scheme)


@pytest.mark.parametrize(
    "url",
    [
        *("", "127.0.0.1:80", "ftp://a", "http://", "http://a/b", "http://a?b", "http://a#b"),
        *(
            "http://u@a",
            "http://a:b",
            "http://a:70000",
            "http://[::1",
            "http://b\xe4r",
            "http://a b",
        ),
    ],
)
def test_what_names_more_or_less_is_refused(url: str) -> None:
    """A path would be lost, a user sent in vain."""
    with pytest.raises(ValueError, match=r"."):
        HttpPeer.from_url(url)
