"""How to reach a peer: everything that may be chosen per request.

Theory of operation. Most requests change nothing, so each default is a class attribute and the
options of a peer are made without running ``__init__``. The *keyed* options decide which idle
connections are good for a peer; only those that differ from their default enter the key. Once the
key has been read the keyed options are frozen: changing one would hand a connection made under
the old choice, such as without verification, to requests that rely on the new one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Final, TypeAlias

from pingora_core.protocols.tls.alpn import ALPN

if TYPE_CHECKING:
    from collections.abc import Hashable

    from pingora_core.protocols.l4.sockopt import BindTo, TcpKeepalive
    from pingora_core.protocols.proxy_protocol import ProxyHeader
    from pingora_core.protocols.tls.alpn import AlpnOffer
    from pingora_core.protocols.tls.certificate import CaBundle
    from pingora_core.upstreams.hooks import (
        L4Connect,
        ProxyDigestHook,
        SocketTweakHook,
        TlsHandshakeHook,
        Tracer,
    )

__all__ = ["HeaderPairs", "OptionsKey", "PeerOptions"]

HeaderPairs: TypeAlias = tuple[tuple[str, str], ...]
OptionsKey: TypeAlias = "tuple[tuple[str, Hashable], ...]"


@dataclass(kw_only=True, eq=False, repr=False)
class PeerOptions:
    """How to connect to a peer and how to treat the connection.

    Unlike in Pingora, the waits are bounded by default; None switches a limit off. The class is
    not made for subclassing.

    Attributes:
        bind_to: Local address, and range of ports, to connect from; replaces the connector's.
        connection_timeout: Longest time for each step of the way: connecting (with the DNS
            lookup), CONNECT to a proxy, TLS handshake. Seconds.
        total_connection_timeout: Longest time for all of these together, seconds.
        read_timeout: Longest wait for each further piece of a response, seconds.
        write_timeout: Longest wait for room to send more of a request, seconds.
        idle_timeout: How long an unused connection is kept, seconds; 0 closes it after one
            exchange.
        verify_cert: Whether the peer's certificate must be trusted. False trusts anybody, the
            name included.
        verify_hostname: Whether the certificate must also be for the SNI, or, if there is none,
            for the peer's host name or IP address.
        alternative_cn: Another name that the certificate may be for instead.
        alpn: Which protocols are offered in the TLS handshake.
        ca: The authorities to trust instead of the connector's or the system's.
        tcp_keepalive: Probing of idle TCP connections; None leaves it off.
        tcp_recv_buf: Receive buffer of the socket (SO_RCVBUF), bytes; None for the system's.
        dscp: Differentiated services code point of what is sent, 0 to 63.
        h2_ping_interval: Time between HTTP/2 keep-alive PINGs, seconds; None sends none. A
            connection on which one is not answered within 5 s is closed.
        max_h2_streams: Most concurrent requests on one HTTP/2 connection. Pingora's default
            is 1.
        h2_stream_window_size: How much of a response may lie unread on one HTTP/2 stream, bytes;
            None for 1 MiB. Pingora's default is 8 MiB.
        h2_connection_window_size: The same for a whole HTTP/2 connection, bytes, not less than
            65,535; None for as much as all its streams together, up to 16 MiB, so that a
            response which nobody reads stalls no other.
        allow_h1_response_invalid_content_length: Whether a response whose Content-Length is
            malformed is read until the connection closes, instead of refused.
        extra_proxy_headers: Fields added to the CONNECT request to a proxy.
        send_proxy_protocol: Header of the PROXY protocol that the connection begins with, ahead
            of TLS and inside the tunnel of a CONNECT proxy; see `ProxyHeader.from_digest`. Only
            requests that come with an equal header, which means from the same client's
            connection, share connections.
        curves: Key exchange groups in OpenSSL's notation, such as ``X25519:P-256``; None for
            the library's, which include a post-quantum one.
        second_keyshare: Whether the first flight may carry key shares of several groups; False
            saves bytes and costs a round trip when the peer does not know the first group.
        tcp_fast_open: Whether data may ride on the SYN (TCP Fast Open).
        tracer: Told when the connection is made and when it is gone.
        custom_l4: Makes the connection instead of the built-in code.
        upstream_tcp_sock_tweak_hook: Sets socket options just before connecting. Like the other
            hooks it is keyed by equality: make it once, not per request.
        proxy_digest_user_data_hook: Derives user data from the CONNECT exchange.
        upstream_tls_handshake_complete_hook: Looks at a finished handshake; what it returns
            becomes ``SslDigest.extension``.

    Source: pingora-core/src/upstreams/peer.rs.
    """

    bind_to: BindTo | None = None
    connection_timeout: float | None = 10.0
    total_connection_timeout: float | None = None
    read_timeout: float | None = 60.0
    write_timeout: float | None = 60.0
    idle_timeout: float | None = 60.0
    verify_cert: bool = True
    verify_hostname: bool = True
    alternative_cn: str | None = None
    alpn: AlpnOffer = ALPN.H1
    ca: CaBundle | None = None
    tcp_keepalive: TcpKeepalive | None = None
    tcp_recv_buf: int | None = None
    dscp: int | None = None
    h2_ping_interval: float | None = None
    max_h2_streams: int = 100
    h2_stream_window_size: int | None = None
    h2_connection_window_size: int | None = None
    allow_h1_response_invalid_content_length: bool = False
    extra_proxy_headers: HeaderPairs = ()
    send_proxy_protocol: ProxyHeader | None = None
    curves: str | None = None
    second_keyshare: bool = True
    tcp_fast_open: bool = False
    tracer: Tracer | None = None
    custom_l4: L4Connect | None = None
    upstream_tcp_sock_tweak_hook: SocketTweakHook | None = None
    proxy_digest_user_data_hook: ProxyDigestHook | None = None
    upstream_tls_handshake_complete_hook: TlsHandshakeHook | None = None

    @classmethod
    def default(cls) -> PeerOptions:
        """Make options that are all at their defaults, cheaper than the constructor does.

        Returns:
            New options.
        """
        return PeerOptions.__new__(PeerOptions)

    def copy(self) -> PeerOptions:
        """Make options with the same values that can be changed.

        Returns:
            New options.
        """
        copied = PeerOptions.__new__(PeerOptions)
        copied.__dict__.update(self.__dict__)
        copied.__dict__.pop(_CACHED_KEY, None)
        return copied

    def set_http_version(self, maximum: int, minimum: int) -> None:
        """Choose the HTTP versions to offer, as a range.

        Args:
            maximum: The highest version, 1 or 2.
            minimum: The lowest version, 1 or 2.

        Raises:
            ValueError: If the range is empty or names another version.
        """
        self.alpn = ALPN.from_http_versions(maximum, minimum)

    def reuse_key(self) -> OptionsKey:
        """Name the keyed options that differ from their defaults, and freeze the keyed options.

        Returns:
            Names and values; empty if all are at their defaults.

        Raises:
            ValueError: If an option is out of its range; the message names it.
        """
        key: OptionsKey = ()
        if self.__dict__:
            key = self.__dict__[_CACHED_KEY] = _key_of(self.__dict__)
        # What every exchange reads is in the object from now on: an attribute that only the class
        # has takes six times as long to read (2026-11).
        self.__dict__ = _READ_OFTEN | self.__dict__
        # Changing the class costs nothing per assignment before this point, unlike a check in
        # __setattr__, and assignments before it are what requests do.
        self.__class__ = _FrozenPeerOptions
        return key

    def __repr__(self) -> str:
        changed = ", ".join(
            f"{name}={value!r}"
            for name, value in self.__dict__.items()
            if name in _FIELDS and value != _FIELDS[name]
        )
        return f"PeerOptions({changed})"


class _FrozenPeerOptions(PeerOptions):
    """Options whose key was read: they select connections, so these do not change any more."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _KEYED:
            msg = (
                f"{name} cannot change once the peer was used to find a connection;"
                " make a new peer, or use options.copy()"
            )
            raise AttributeError(msg)
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        # Deleting brings a default back, which is a change too.
        if name in _KEYED:
            self.__setattr__(name, None)
        object.__delattr__(self, name)

    def reuse_key(self) -> OptionsKey:
        key: OptionsKey = self.__dict__.get(_CACHED_KEY, ())
        return key


_CACHED_KEY: Final = "_reuse_key"

_FIELDS: Final = {name: field.default for name, field in PeerOptions.__dataclass_fields__.items()}

# Not keyed: what applies to one use of a connection (its timeouts, the leniency of its parser)
# and what only observes. All else says how the connection was made or whom it trusts.
_READ_OFTEN: Final = {
    name: _FIELDS[name]
    for name in (
        "allow_h1_response_invalid_content_length",
        "alpn",
        "idle_timeout",
        "read_timeout",
        "write_timeout",
    )
}

_KEYED: Final = _FIELDS.keys() - {
    "connection_timeout",
    "total_connection_timeout",
    "read_timeout",
    "write_timeout",
    "idle_timeout",
    "allow_h1_response_invalid_content_length",
    "tracer",
}

_RANGES: Final[dict[str, tuple[float, float]]] = {
    "connection_timeout": (0, math.inf),
    "total_connection_timeout": (0, math.inf),
    "read_timeout": (0, math.inf),
    "write_timeout": (0, math.inf),
    "idle_timeout": (0, math.inf),
    "h2_ping_interval": (0, math.inf),
    "tcp_recv_buf": (1, 2**31 - 1),
    "dscp": (0, 63),
    "max_h2_streams": (1, 2**31 - 1),
    "h2_stream_window_size": (1, 2**31 - 1),
    "h2_connection_window_size": (1, 2**31 - 1),
}


def _key_of(changed: dict[str, Hashable]) -> OptionsKey:
    """Check the options that were set, and pick the keyed ones among them.

    Args:
        changed: Names and values.

    Returns:
        Names and values of those that select connections, in the order of their names.

    Raises:
        ValueError: If an option is out of its range.
    """
    key: list[tuple[str, Hashable]] = []
    for name, value in changed.items():
        if name in _RANGES and value is not None:
            low, high = _RANGES[name]
            if not (isinstance(value, int | float) and low <= value <= high):
                msg = f"{name} must be in {low}..{high} (or None), not {value!r}"
                raise ValueError(msg)
        if name in _KEYED and value != _FIELDS[name]:
            key.append((name, value))
    key.sort(key=itemgetter(0))
    return tuple(key)
