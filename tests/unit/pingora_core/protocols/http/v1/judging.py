"""Heads, parsed by an engine and judged by ``framing``, as the sessions do it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from pingora_core.protocols.http.v1 import FramingOptions
from pingora_core.protocols.http.v1.framing import (
    check_request_head,
    check_response_head,
    request_body_length,
    response_body_length,
)
from pingora_core.protocols.http.v1.parser import DEFAULT_LIMITS, loosen_response_head
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from pingora_core.protocols.http.v1 import HeadLimits, Http1Parser
    from pingora_error import ErrorKind
    from pingora_http import RequestHeader, ResponseHeader

BAD: Final = ErrorType.INVALID_HTTP_HEADER
STRICT: Final = FramingOptions()


def read_request(
    parser: Http1Parser,
    fields: bytes = b"",
    *,
    line: bytes = b"POST / HTTP/1.1",
    host: bytes = b"Host: h\r\n",
    limits: HeadLimits = DEFAULT_LIMITS,
) -> RequestHeader:
    """Parse and check a request head; its length is what can be asked for again."""
    raw = line + b"\r\n" + host + fields + b"\r\n"
    request = parser.parse_request(raw)
    assert check_request_head(raw, request, limits) == request_body_length(request)
    return request


def read_response(
    parser: Http1Parser,
    fields: bytes = b"",
    *,
    line: bytes = b"HTTP/1.1 200 OK",
    limits: HeadLimits = DEFAULT_LIMITS,
    options: FramingOptions = STRICT,
) -> ResponseHeader:
    """Repair what the options allow, parse and check a response head."""
    raw = loosen_response_head(line + b"\r\n" + fields + b"\r\n", options)
    response = parser.parse_response(raw)
    declared = check_response_head(raw, response, limits, options)
    assert response_body_length(response, b"POST", options) in {0, declared}
    return response


def refused_request(
    parser: Http1Parser,
    fields: bytes = b"",
    *kinds: ErrorKind,
    line: bytes = b"POST / HTTP/1.1",
    host: bytes = b"Host: h\r\n",
    limits: HeadLimits = DEFAULT_LIMITS,
) -> None:
    """Check that a request head is refused, by whichever of the two."""
    with pytest.raises(Error) as caught:
        read_request(parser, fields, line=line, host=host, limits=limits)
    assert caught.value.etype in (kinds or (BAD,))
    assert caught.value.esource.value == ""


def refused_response(
    parser: Http1Parser,
    fields: bytes = b"",
    *,
    line: bytes = b"HTTP/1.1 200 OK",
    limits: HeadLimits = DEFAULT_LIMITS,
    options: FramingOptions = STRICT,
) -> None:
    """Check that a response head is refused, by whichever of the two."""
    with pytest.raises(Error) as caught:
        read_response(parser, fields, line=line, limits=limits, options=options)
    assert caught.value.etype is BAD
