"""The PROXY protocol, versions 1 and 2: who the client of a proxy is, said ahead of its bytes.

Source: HAProxy's proxy-protocol.txt.
"""

from pingora_core.protocols.proxy_protocol.codec import (
    DEFAULT_MAX_SIZE,
    MAX_SIZE,
    PROXY_PROTOCOL_ERROR,
    encode_proxy_header,
    parse_proxy_header,
    starts_like_proxy_header,
)
from pingora_core.protocols.proxy_protocol.header import (
    ProxyCommand,
    ProxyFamily,
    ProxyHeader,
    ProxyTransport,
)
from pingora_core.protocols.proxy_protocol.tlv import ProxySsl, SslTlvType, Tlv, TlvType

__all__ = [
    "DEFAULT_MAX_SIZE",
    "MAX_SIZE",
    "PROXY_PROTOCOL_ERROR",
    "ProxyCommand",
    "ProxyFamily",
    "ProxyHeader",
    "ProxySsl",
    "ProxyTransport",
    "SslTlvType",
    "Tlv",
    "TlvType",
    "encode_proxy_header",
    "parse_proxy_header",
    "starts_like_proxy_header",
]
