"""Header blocks of HTTP/2, judged and translated: bytes in, heads out, and back.

Theory of operation: HPACK gives a list of names and values; the library's own validation is
switched off. Here every rule of RFC 9113 section 8 is applied, once, and by the same alphabets
and the same functions as in HTTP/1, so that both versions accept the same messages. Behind this
file nobody knows which version a message came in: the head is that of HTTP/1.

What is malformed is an ``INVALID_HTTP_HEADER`` (the stream is reset with PROTOCOL_ERROR, section
8.1.1). What is well-formed but not served is an ``HTTPStatus`` (the stream is answered with it).
"""

from __future__ import annotations

from pingora_core.protocols.http.v2._field_rules import (
    UNKNOWN,
    Fields,
    NeverIndexed,
    decode_trailers,
    encode_trailers,
)
from pingora_core.protocols.http.v2._request_fields import (
    DecodedRequest,
    decode_request,
    encode_request,
)
from pingora_core.protocols.http.v2._response_fields import (
    DecodedResponse,
    decode_response,
    encode_response,
)

__all__ = [
    "UNKNOWN",
    "DecodedRequest",
    "DecodedResponse",
    "Fields",
    "NeverIndexed",
    "decode_request",
    "decode_response",
    "decode_trailers",
    "encode_request",
    "encode_response",
    "encode_trailers",
]
