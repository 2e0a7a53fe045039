"""How an application speaks HTTP to its clients."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from pingora_core.protocols.http.v1.server import Http1Options
from pingora_core.protocols.http.v2.options import Http2Options

__all__ = ["HttpServerOptions"]

# The same as in the configuration.
_KEEPALIVE_MIN: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpServerOptions:
    """How a service speaks HTTP to its clients.

    Attributes:
        allow_connect_method_proxying: Whether CONNECT reaches the callbacks; otherwise it is
            answered with 405.
        keepalive_request_limit: Requests per connection; None for no limit.
        keepalive_min: Seconds since its last use that an idle connection is given for its next
            request when the server stops (precedent: nginx ``keepalive_min_timeout``); idle for
            longer, it is closed at once. None for what the server's configuration says where
            there is one, else 0.1.
        h2c: Whether clients may speak HTTP/2 in clear, by prior knowledge, on the port on which
            HTTP/1 is spoken. Over TLS, ALPN decides.
        http1: What the HTTP/1 sessions have in common.
        http2: What the HTTP/2 connections have in common.
    """

    allow_connect_method_proxying: bool = False
    keepalive_request_limit: int | None = None
    keepalive_min: float | None = None
    h2c: bool = False
    http1: Http1Options = field(default_factory=Http1Options)
    http2: Http2Options = field(default_factory=Http2Options)

    @property
    def idle_grace(self) -> float:
        """``keepalive_min`` or its default, seconds."""
        return _KEEPALIVE_MIN if self.keepalive_min is None else self.keepalive_min
