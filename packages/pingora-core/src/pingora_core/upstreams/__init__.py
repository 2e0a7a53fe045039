"""Upstream peers: where requests go and how to get there."""

from pingora_core.upstreams.hooks import (
    L4Connect,
    ProxyDigestHook,
    SocketTweakHook,
    TlsHandshakeHook,
    Tracer,
)
from pingora_core.upstreams.options import HeaderPairs, OptionsKey, PeerOptions
from pingora_core.upstreams.peer import (
    BasicPeer,
    HasAddress,
    HttpPeer,
    Peer,
    PeerAddress,
    Proxy,
    ReuseKey,
)

__all__ = [
    "BasicPeer",
    "HasAddress",
    "HeaderPairs",
    "HttpPeer",
    "L4Connect",
    "OptionsKey",
    "Peer",
    "PeerAddress",
    "PeerOptions",
    "Proxy",
    "ProxyDigestHook",
    "ReuseKey",
    "SocketTweakHook",
    "TlsHandshakeHook",
    "Tracer",
]
