"""Peers: where a request goes and how, as data.

A peer is made for each request, so making one is cheap; nothing is looked up or connected by it.
Two peers with equal reuse keys may share connections.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias
from urllib.parse import urlsplit

from pingora_core.protocols.address import (
    HostAddress,
    InetAddress,
    UnixAddress,
    parse_address,
)
from pingora_core.upstreams.options import PeerOptions

if TYPE_CHECKING:
    from collections.abc import Hashable

    from pingora_core.protocols.tls.certificate import CertKey
    from pingora_core.upstreams.options import HeaderPairs

__all__ = ["BasicPeer", "HasAddress", "HttpPeer", "Peer", "PeerAddress", "Proxy", "ReuseKey"]

PeerAddress: TypeAlias = InetAddress | UnixAddress | HostAddress
ReuseKey: TypeAlias = "tuple[Hashable, ...]"


class HasAddress(Protocol):
    """Something that stands for an upstream server, such as a load balancer's backend."""

    @property
    def addr(self) -> PeerAddress:
        """Where the server is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """An HTTP proxy through which a peer is reached, with CONNECT.

    Attributes:
        next_hop: Where the proxy listens: a Unix socket, an IP address or a host name.
        headers: Fields of the CONNECT request besides Host.

    Source: pingora-core/src/upstreams/peer.rs. There the next hop is a Unix socket; what is
    asked for is the peer's address here too.
    """

    next_hop: PeerAddress
    headers: HeaderPairs = ()

    @classmethod
    def parse(cls, next_hop: str, headers: HeaderPairs = ()) -> Proxy:
        """Make a proxy from the text of an address.

        Args:
            next_hop: ``unix:/path``, ``ip:port`` or ``name:port``.
            headers: Fields of the CONNECT request besides Host.

        Returns:
            The proxy.

        Raises:
            ValueError: If the text is no address.
        """
        return cls(next_hop=parse_address(next_hop), headers=headers)


class Peer(ABC):
    """What a connector needs to know of the other side."""

    __slots__ = ()

    @property
    @abstractmethod
    def address(self) -> PeerAddress:
        """Where the peer is; a host name is looked up when connecting."""

    @property
    @abstractmethod
    def options(self) -> PeerOptions:
        """How to connect to it."""

    @property
    def is_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return False

    @property
    def sni(self) -> str:
        """The name to ask for in the TLS handshake, and to verify; empty for none."""
        return ""

    @property
    def proxy(self) -> Proxy | None:
        """The proxy in between."""
        return None

    @property
    def client_cert_key(self) -> CertKey | None:
        """The certificate to present when the peer asks for one."""
        return None

    @property
    def group_key(self) -> int:
        """A number that keeps connections of equal peers apart."""
        return 0

    @abstractmethod
    def reuse_key(self) -> ReuseKey:
        """Name the idle connections that are good for this peer.

        It holds everything that says where a connection goes, how it was made and whom it
        trusts. The first call freezes that part of the options.

        Returns:
            The key, always the same for this peer.

        Raises:
            ValueError: If an option is out of its range.
        """


class _AddressedPeer(Peer):
    """What `BasicPeer` and `HttpPeer` have in common."""

    __slots__ = ("_address", "_options", "_reuse_key", "_sni")

    _address: PeerAddress
    _options: PeerOptions
    _reuse_key: ReuseKey | None
    _sni: str

    @property
    def address(self) -> PeerAddress:
        """Where the peer is; a host name is looked up when connecting."""
        return self._address

    @property
    def options(self) -> PeerOptions:
        """How to connect to it."""
        return self._options

    @property
    def sni(self) -> str:
        """The name to ask for in the TLS handshake, and to verify; empty for none."""
        return self._sni


class BasicPeer(_AddressedPeer):
    """A peer that speaks some protocol, over TLS if an SNI is given.

    Args:
        address: ``ip:port``, ``name:port``, ``unix:/path``, an address, or what has one.
        sni: The name to ask for in the TLS handshake; empty for no TLS.
        options: How to connect to it; None for the defaults.

    Raises:
        ValueError: If the text is no address.
    """

    __slots__ = ()

    def __init__(
        self,
        address: str | PeerAddress | HasAddress,
        *,
        sni: str = "",
        options: PeerOptions | None = None,
    ) -> None:
        self._address = _to_address(address)
        self._sni = sni
        self._options = PeerOptions.default() if options is None else options
        self._reuse_key = None

    @property
    def is_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return bool(self._sni)

    def reuse_key(self) -> ReuseKey:
        """Name the idle connections that are good for this peer; see `Peer.reuse_key`.

        Returns:
            The key.

        Raises:
            ValueError: If an option is out of its range.
        """
        key = self._reuse_key
        if key is None:
            where = _where(self._address)
            key = self._reuse_key = ("basic", where, self._sni, self._options.reuse_key())
        return key

    def __repr__(self) -> str:
        return f"<BasicPeer {self._address}, sni {self._sni!r}>"


class HttpPeer(_AddressedPeer):
    """An HTTP server, or a proxy that stands in for one.

    Args:
        address: ``ip:port``, ``name:port``, ``unix:/path``, an address, or what has one, such as
            a load balancer's backend.
        tls: Whether to speak TLS (scheme ``https``).
        sni: The name to ask for in the TLS handshake and to verify. Without one the peer's host
            name is asked for and verified or, if there is none either, its IP address verified.
        client_cert_key: The certificate to present when the peer asks for one.
        proxy: The proxy to go through.
        group_key: A number that keeps connections of equal peers apart.
        options: How to connect to it; None for the defaults, which can be changed one by one.

    Raises:
        ValueError: If the text is no address.

    Examples:
        >>> peer = HttpPeer("192.0.2.1:443", tls=True, sni="example.com")
        >>> peer.options.read_timeout = 5.0
        >>> peer
        <HttpPeer https 192.0.2.1:443, sni 'example.com'>

    Source: pingora-core/src/upstreams/peer.rs.
    """

    __slots__ = ("_client_cert_key", "_group_key", "_proxy", "_tls")

    def __init__(
        self,
        address: str | PeerAddress | HasAddress,
        *,
        tls: bool = False,
        sni: str = "",
        client_cert_key: CertKey | None = None,
        proxy: Proxy | None = None,
        group_key: int = 0,
        options: PeerOptions | None = None,
    ) -> None:
        self._address = parse_address(address) if type(address) is str else _to_address(address)
        self._tls = tls
        self._sni = sni
        self._client_cert_key = client_cert_key
        self._proxy = proxy
        self._group_key = group_key
        self._options = PeerOptions.__new__(PeerOptions) if options is None else options
        self._reuse_key = None

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Make a peer of where a URL leads.

        Args:
            url: ``http://name:port`` or ``https://[::1]``, with the usual ports by default. A path,
                a query or a user is refused, for a peer has none.

        Returns:
            The peer.

        Raises:
            ValueError: If it is no such URL.
        """
        parts = urlsplit(url)
        port = {"http": 80, "https": 443}.get(parts.scheme)
        rest = (parts.path.strip("/"), parts.query, parts.fragment, parts.username)
        if port is None or not parts.hostname or any(rest) or not url.isascii():
            msg = f"{url!r} is no URL such as http://127.0.0.1:8000"
            raise ValueError(msg)
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        if parts.port is not None:
            port = parts.port
        return cls(f"{host}:{port}", tls=parts.scheme == "https")

    @property
    def is_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self._tls

    @property
    def scheme(self) -> str:
        """``https`` with TLS, else ``http``."""
        return "https" if self._tls else "http"

    @property
    def proxy(self) -> Proxy | None:
        """The proxy in between."""
        return self._proxy

    @property
    def client_cert_key(self) -> CertKey | None:
        """The certificate to present when the peer asks for one."""
        return self._client_cert_key

    @property
    def group_key(self) -> int:
        """A number that keeps connections of equal peers apart."""
        return self._group_key

    def reuse_key(self) -> ReuseKey:
        """Name the idle connections that are good for this peer; see `Peer.reuse_key`.

        Returns:
            The key.

        Raises:
            ValueError: If an option is out of its range.
        """
        key = self._reuse_key
        if key is None:
            key = self._reuse_key = (
                _where(self._address),
                self._tls,
                self._sni,
                self._client_cert_key,
                self._proxy,
                self._group_key,
                self._options.reuse_key(),
            )
        return key

    def __repr__(self) -> str:
        via = "" if self._proxy is None else f", via {self._proxy.next_hop}"
        return f"<HttpPeer {self.scheme} {self._address}, sni {self._sni!r}{via}>"


def _to_address(address: str | PeerAddress | HasAddress) -> PeerAddress:
    if isinstance(address, str):
        return parse_address(address)
    if isinstance(address, InetAddress | UnixAddress | HostAddress):
        return address
    return address.addr


def _where(address: PeerAddress) -> tuple[str | int, ...]:
    # Plain tuples are hashed in C; a key is hashed several times per request.
    if type(address) is InetAddress:
        return (address.host, address.port, address.flow, address.scope)
    if isinstance(address, UnixAddress):
        return (address.path,)
    return (address.host, address.port)
