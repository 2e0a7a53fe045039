"""HTTP/2 (RFC 9113): one connection carries many streams, each of them one exchange."""

from pingora_core.protocols.http.v2.options import FloodLimit, Http2Options, Http2Stats

__all__ = ["FloodLimit", "Http2Options", "Http2Stats"]
