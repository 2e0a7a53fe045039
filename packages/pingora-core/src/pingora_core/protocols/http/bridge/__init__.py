"""Bridges between protocols that travel over HTTP."""

from pingora_core.protocols.http.bridge.grpc import (
    GrpcStatus,
    decode_grpc_message,
    encode_grpc_message,
    format_grpc_timeout,
    grpc_status_of_http,
    is_grpc_request,
    parse_grpc_timeout,
    trailers_only,
)
from pingora_core.protocols.http.bridge.grpc_web import (
    INVALID_GRPC_WEB,
    Base64StreamDecoder,
    GrpcWebCtx,
    GrpcWebState,
)

__all__ = [
    "INVALID_GRPC_WEB",
    "Base64StreamDecoder",
    "GrpcStatus",
    "GrpcWebCtx",
    "GrpcWebState",
    "decode_grpc_message",
    "encode_grpc_message",
    "format_grpc_timeout",
    "grpc_status_of_http",
    "is_grpc_request",
    "parse_grpc_timeout",
    "trailers_only",
]
