"""Compression and decompression of response bodies: gzip, Brotli and Zstandard."""

from pingora_core.protocols.http.compression.codec import (
    MAX_DECODED_CHUNK,
    Algorithm,
    Coder,
    new_decoder,
    new_encoder,
)
from pingora_core.protocols.http.compression.context import CompressionInfo, ResponseCompressionCtx
from pingora_core.protocols.http.compression.negotiate import (
    MIN_COMPRESS_LENGTH,
    AcceptEncoding,
    Action,
    Compress,
    Decompress,
    accept_encoding_of,
    choose_algorithm,
    decide_action,
    forbids_transform,
    is_compressible,
)

__all__ = [
    "MAX_DECODED_CHUNK",
    "MIN_COMPRESS_LENGTH",
    "AcceptEncoding",
    "Action",
    "Algorithm",
    "Coder",
    "Compress",
    "CompressionInfo",
    "Decompress",
    "ResponseCompressionCtx",
    "accept_encoding_of",
    "choose_algorithm",
    "decide_action",
    "forbids_transform",
    "is_compressible",
    "new_decoder",
    "new_encoder",
]
