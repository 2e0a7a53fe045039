"""What a proxy must know of gRPC: status codes, the text of ``grpc-message``, ``grpc-timeout``.

Messages are opaque here: they pass through as the body. Source: gRPC's PROTOCOL-HTTP2.md and
http-grpc-status-mapping.md.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import TYPE_CHECKING, Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from pingora_error import Error, ErrorSource, ErrorType
from pingora_http import ResponseHeader
from pingora_http.names import CONTENT_TYPE

if TYPE_CHECKING:
    from pingora_http import RequestHeader

__all__ = [
    "GrpcStatus",
    "decode_grpc_message",
    "encode_grpc_message",
    "format_grpc_timeout",
    "grpc_status_of_http",
    "is_grpc_request",
    "parse_grpc_timeout",
    "trailers_only",
]


class GrpcStatus(IntEnum):
    """The outcome of a call, as ``grpc-status`` tells it.

    Source: gRPC's statuscodes.md.
    """

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


_OF_HTTP: Final = {
    400: GrpcStatus.INTERNAL,
    401: GrpcStatus.UNAUTHENTICATED,
    403: GrpcStatus.PERMISSION_DENIED,
    404: GrpcStatus.UNIMPLEMENTED,
    429: GrpcStatus.UNAVAILABLE,
    502: GrpcStatus.UNAVAILABLE,
    503: GrpcStatus.UNAVAILABLE,
    504: GrpcStatus.UNAVAILABLE,
}


def grpc_status_of_http(code: int) -> GrpcStatus:
    """Tell what a client makes of a response without ``grpc-status``.

    Args:
        code: The HTTP status.

    Returns:
        The outcome of the call.
    """
    return _OF_HTTP.get(code, GrpcStatus.UNKNOWN)


_GRPC_TYPE: Final = re.compile(rb"application/grpc(?:\+[^;]*)?[ \t]*(?:;.*)?", re.IGNORECASE)


def is_grpc_request(request: RequestHeader) -> bool:
    """Tell whether a request is a gRPC call; gRPC-web does not count.

    Args:
        request: The head.

    Returns:
        Whether its content type is ``application/grpc``, maybe with a ``+`` suffix.
    """
    content_type = request.get_raw(CONTENT_TYPE)
    return content_type is not None and _GRPC_TYPE.fullmatch(content_type) is not None


# ----------------------------------------------------------------------- grpc-message

# Space to tilde, without the percent sign; ``quote`` never touches letters, digits and "_.-~".
_PLAIN: Final = bytes(set(range(0x20, 0x7F)) - {0x25})


def encode_grpc_message(text: str) -> str:
    """Encode the text for ``grpc-message``: what is not printable ASCII becomes ``%XX``.

    Args:
        text: The text for the caller.

    Returns:
        The field's value.
    """
    return quote_from_bytes(text.encode("utf-8", "replace"), safe=_PLAIN)


def decode_grpc_message(value: str | bytes) -> str:
    """Decode ``grpc-message``.

    Args:
        value: The field's value.

    Returns:
        The text. As the protocol demands nothing is an error: a stray percent sign stays, bytes
        that are not UTF-8 become replacement characters.
    """
    return unquote_to_bytes(value).decode("utf-8", "replace")


# ----------------------------------------------------------------------- grpc-timeout

_UNITS: Final = {
    b"n": 1,
    b"u": 10**3,
    b"m": 10**6,
    b"S": 10**9,
    b"M": 60 * 10**9,
    b"H": 3600 * 10**9,
}
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_MOST_DIGITS: Final = 10**8


def parse_grpc_timeout(value: str | bytes) -> float:
    """Read ``grpc-timeout``: the time that the caller gives the call from now on.

    Args:
        value: The field's value, such as ``250m``: up to eight digits and a unit.

    Returns:
        Seconds.

    Raises:
        Error: ``INVALID_HTTP_HEADER`` if it is none.
    """
    raw = value if isinstance(value, bytes) else value.encode("latin-1", "replace")
    match = _TIMEOUT.fullmatch(raw)
    if match is None:
        raise Error(
            ErrorType.INVALID_HTTP_HEADER,
            f"no grpc-timeout: {raw[:32]!r}",
            source=ErrorSource.DOWNSTREAM,
        )
    return int(match[1]) * _UNITS[match[2]] / 1e9


def format_grpc_timeout(seconds: float) -> str:
    """Write ``grpc-timeout``, in the finest unit that eight digits have room for.

    Args:
        seconds: The time, more than 0; at most 99,999,999 hours are told.

    Returns:
        The field's value; rounded up, never zero.

    Raises:
        ValueError: If the time is not positive.
    """
    if not seconds > 0:
        msg = f"a grpc-timeout is more than 0 seconds, not {seconds}"
        raise ValueError(msg)
    nanoseconds = max(1, int(min(seconds, 1e12) * 1e9))
    for unit, size in _UNITS.items():
        count = -(-nanoseconds // size)
        if count < _MOST_DIGITS:
            return f"{count}{unit.decode()}"
    return f"{_MOST_DIGITS - 1}H"


# ------------------------------------------------------------------------- the answer


def trailers_only(
    status: GrpcStatus, message: str = "", *, content_type: bytes = b"application/grpc"
) -> ResponseHeader:
    """Make the answer to a call that fails without a message: a response head and nothing else.

    Send it with ``end=True``.

    Args:
        status: The outcome.
        message: Text for the caller.
        content_type: Of the answer; the request's own will do.

    Returns:
        The head: HTTP status 200, as gRPC demands, and the outcome.
    """
    header = ResponseHeader(200)
    header.insert_header(b"Content-Type", content_type)
    header.insert_header(b"grpc-status", str(int(status)))
    if message:
        header.insert_header(b"grpc-message", encode_grpc_message(message))
    return header
