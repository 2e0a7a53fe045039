"""What decides framing and security in an HTTP/1 head, judged once, after either engine.

Rules of this file: a doubt is an error. Two recipients must never be able to read one message
in two ways, so whatever RFC 9112 lets a recipient repair is refused here instead. Errors leave
without a source; the session knows on which side it is.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from pingora_core.protocols.http.v1._field_section import check_fields
from pingora_core.protocols.http.v1._known_lines import KnownFields, PlainFields, note_plain
from pingora_core.protocols.http.v1._lengths import known_length, to_length
from pingora_core.protocols.http.v1._target import (
    GOOD_HOSTS,
    check_host_once,
    check_request_line,
    check_special_target,
)
from pingora_core.protocols.http.v1.limits import FramingOptions
from pingora_error import Error, ErrorType, HTTPStatus
from pingora_http import Version

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from pingora_core.protocols.http.v1.limits import HeadLimits
    from pingora_http import HeaderMap, RequestHeader, ResponseHeader

__all__ = [
    "CHUNKED",
    "UNTIL_CLOSE",
    "FramingOptions",
    "check_request_head",
    "check_response_head",
    "connection_tokens",
    "content_length",
    "has_no_body",
    "is_upgrade_request",
    "request_body_length",
    "response_body_length",
    "to_length",
    "wants_keepalive",
]

#: Lengths that are not a number of bytes.
CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2

_BAD: Final = ErrorType.INVALID_HTTP_HEADER
# Bound here: looking a member up in its enum costs 60 ns (2026-11).
_HTTP_10: Final = Version.HTTP_10
_HTTP_11: Final = Version.HTTP_11

_STATUS_LINE = re.compile(
    rb"HTTP/1\.([0-9]) ([1-5][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n"
).match

# What Connection says in nearly all messages.
_NO_OPTIONS: Final[AbstractSet[bytes]] = frozenset()
_USUAL_OPTIONS: Final[dict[bytes, AbstractSet[bytes]]] = {
    text: frozenset({text.lower()})
    for text in (b"keep-alive", b"Keep-Alive", b"close", b"Close", b"upgrade", b"Upgrade")
}


# ------------------------------------------------------------------------ checks


def check_request_head(raw: bytes, request: RequestHeader, limits: HeadLimits) -> int:
    """Judge a request head, and say how its body is delimited.

    Args:
        raw: The head's bytes, from the request line on.
        request: What an engine made of them. One thing is changed: when the target names the
            host itself (absolute-form, ``CONNECT``), that host replaces the value of Host, so
            that routing, cache keys and the upstream go by one and the same name (RFC 9112
            section 3.2.2).
        limits: How large it may be.

    Returns:
        What `request_body_length` says.

    Raises:
        Error: ``INVALID_HTTP_HEADER``, or an ``HTTPStatus`` of 414, 431 or 501.

    Source: RFC 9112 sections 2.2, 3, 5, 6.1 and 6.3.
    """
    items = request.raw_items
    target = request.raw_target
    kind = type(items)
    if (kind is not PlainFields and kind is not KnownFields) or not (
        len(raw) <= limits.max_field_size
        and len(items) <= limits.max_fields
        and len(target) <= limits.max_target_size
    ):
        check_fields(raw, request, limits)
        check_request_line(raw, request, limits)
    elif kind is PlainFields:
        return 0  # one good Host, no body; and a usual first line, which has no fragment
    values = request.raw_index or request.first_values()
    host = values.get(b"host")
    if host is not None:
        if host not in GOOD_HOSTS:
            check_host_once(host)
        if len(values) != len(items):
            _refuse_repeated(request, b"host")
    elif request.version is not _HTTP_10:
        raise Error(_BAD, "no Host in an HTTP/1.1 request")
    if target[:1] != b"/" or request.raw_method == b"CONNECT":
        check_special_target(request)
    elif b"#" in target:
        raise Error(_BAD, "fragment in the request target")
    if b"content-length" not in values and b"transfer-encoding" not in values:
        if type(items) is KnownFields and host is not None:
            note_plain(raw, items, values)
        return 0
    length = request_body_length(request)
    if length != 0 and request.raw_method == b"CONNECT":
        # RFC 9110 section 9.3.6: it has none; some read one, some the tunnel's first bytes.
        raise Error(_BAD, "body in a CONNECT request")
    return length


def check_response_head(
    raw: bytes, response: ResponseHeader, limits: HeadLimits, options: FramingOptions
) -> int:
    """Judge a response head, and say what length it declares.

    Args:
        raw: The head's bytes, from the status line on, as they were given to the engine.
        response: What an engine made of them.
        limits: How large it may be.
        options: Which strictness is loosened.

    Returns:
        A number of bytes, ``CHUNKED``, or ``UNTIL_CLOSE``: how the body is delimited, unless
        the status or the method of the request says that there is none.

    Raises:
        Error: ``INVALID_HTTP_HEADER``.

    Source: RFC 9112 sections 4, 5, 6.1 and 6.3.
    """
    items = response.raw_items
    if type(items) is not KnownFields or not (
        len(raw) <= limits.max_field_size and len(items) <= limits.max_fields
    ):
        try:
            check_fields(raw, response, limits)
        except Error as error:
            if isinstance(error.etype, HTTPStatus):
                # A status answers a request; a response that is too large is just a bad one.
                raise Error(_BAD, error.context) from None
            raise
        _check_status_line(raw, response)
    values = response.raw_index or response.first_values()
    status = response.status
    if status == 101 and not (values.get(b"upgrade") and b"upgrade" in connection_tokens(response)):
        # RFC 9110 sections 7.8 and 15.2.2: it must say to what, or nobody knows what follows.
        raise Error(_BAD, "101 without Upgrade")
    if b"transfer-encoding" in values:
        if b"content-length" in values:
            raise Error(_BAD, "both Transfer-Encoding and Content-Length")
        if response.version is _HTTP_10:
            raise Error(_BAD, "Transfer-Encoding in an HTTP/1.0 response")
        if _transfer_codings(response) != [b"chunked"]:
            raise Error(_BAD, "a transfer coding other than chunked")
        return CHUNKED
    value = values.get(b"content-length")
    if value is None:
        return UNTIL_CLOSE
    if options.allow_invalid_response_content_length and to_length(value) is None:
        return UNTIL_CLOSE
    if len(values) != len(items):
        _refuse_repeated(response, b"content-length")
    length = known_length(value)
    return _check_length(value) if length is None else length


def _check_status_line(raw: bytes, response: ResponseHeader) -> None:
    match = _STATUS_LINE(raw)
    if (
        match is None
        or (match[1] == b"0") != (response.version is _HTTP_10)
        or int(match[2]) != response.status
        or (match[3] or b"") != response.raw_reason
    ):
        raise Error(_BAD, "malformed status line")


def _refuse_repeated(head: HeaderMap, key: bytes) -> None:
    if len(head.get_all_raw(key)) > 1:
        raise Error(_BAD, f"repeated {key.decode('ascii')}")


def _check_content_length(head: HeaderMap) -> int:
    if head.has_duplicates:
        _refuse_repeated(head, b"content-length")
    return _check_length(head.get_raw(b"content-length") or b"")


def _check_length(value: bytes) -> int:
    length = to_length(value)
    if length is None:
        raise Error(_BAD, "malformed Content-Length")
    return length


# ------------------------------------------------------------- what a head says


def content_length(head: HeaderMap) -> int | None:
    """Read Content-Length.

    Args:
        head: A head.

    Returns:
        The length in bytes; None when there is none, or the (first) one is not a plain decimal
        number below 2**63.

    Source: RFC 9110 section 8.6.
    """
    value = head.get_raw(b"content-length")
    return None if value is None else to_length(value)


def _transfer_codings(head: HeaderMap) -> list[bytes]:
    # The codings of all such fields in order, lower case, parameters included.
    joined = b",".join(head.get_all_raw(b"transfer-encoding"))
    return [coding.strip(b" \t").lower() for coding in joined.split(b",")]


def connection_tokens(head: HeaderMap) -> AbstractSet[bytes]:
    """Read Connection.

    Args:
        head: A head.

    Returns:
        The options of all such fields, lower case.

    Source: RFC 9110 section 7.6.1.
    """
    values = head.raw_index or head.first_values()
    value = values.get(b"connection")
    if value is None:
        return _NO_OPTIONS
    if value in _USUAL_OPTIONS and len(values) == len(head.raw_items):
        return _USUAL_OPTIONS[value]
    joined = b",".join(head.get_all_raw(b"connection")).lower()
    return {token for part in joined.split(b",") if (token := part.strip(b" \t"))}


def request_body_length(request: RequestHeader) -> int:
    """Say how the body of a request is delimited.

    The rules of RFC 9112 section 6.1 and 6.3 that let a recipient go on are not followed: a
    request with both fields, or with Transfer-Encoding in HTTP/1.0, is refused.

    Args:
        request: The head.

    Returns:
        A number of bytes, or ``CHUNKED``; a request without framing fields has no body, and is
        never delimited by the close of the connection.

    Raises:
        Error: ``INVALID_HTTP_HEADER`` when the fields are malformed or contradict each other;
            ``HTTPStatus(501)`` for another coding before ``chunked``.
    """
    keys = request.raw_index or request.first_values()
    if b"transfer-encoding" not in keys:
        return _check_content_length(request) if b"content-length" in keys else 0
    if b"content-length" in keys:
        raise Error(_BAD, "both Transfer-Encoding and Content-Length")
    if request.version is _HTTP_10:
        raise Error(_BAD, "Transfer-Encoding in an HTTP/1.0 request")
    codings = _transfer_codings(request)
    if codings == [b"chunked"]:
        return CHUNKED
    if codings[-1] == b"chunked" and codings.count(b"chunked") == 1 and all(codings):
        # RFC 9112 section 6.1: 501 for a coding that is not understood.
        raise Error(HTTPStatus(501), "a transfer coding other than chunked")
    raise Error(_BAD, "chunked is not the one and last transfer coding")


def has_no_body(status: int, request_method: bytes) -> bool:
    """Say whether a response has no body, whatever its framing fields declare.

    Args:
        status: Of the response.
        request_method: Of the request it answers.

    Returns:
        True for 1xx, 204, 304, for any answer to HEAD, and for a 2xx to CONNECT.

    Source: RFC 9112 section 6.3, rules 1 and 2.
    """
    if request_method == b"GET" and status >= 200:
        return status in {204, 304}
    if status < 200 or status in {204, 304} or request_method == b"HEAD":
        return True
    return request_method == b"CONNECT" and status < 300


def response_body_length(
    response: ResponseHeader, request_method: bytes, options: FramingOptions
) -> int:
    """Say how the body of a checked response is delimited.

    Args:
        response: The head.
        request_method: Of the request it answers.
        options: Which strictness is loosened.

    Returns:
        A number of bytes, ``CHUNKED``, or ``UNTIL_CLOSE``.

    Raises:
        Error: ``INVALID_HTTP_HEADER`` when Content-Length is malformed.

    Source: RFC 9112 section 6.3.
    """
    if has_no_body(response.status, request_method):
        return 0
    keys = response.keys_lower()
    if b"transfer-encoding" in keys:
        return CHUNKED
    if b"content-length" not in keys:
        return UNTIL_CLOSE
    if options.allow_invalid_response_content_length and content_length(response) is None:
        return UNTIL_CLOSE
    return _check_content_length(response)


def wants_keepalive(head: RequestHeader | ResponseHeader) -> bool:
    """Say whether the sender of a head wants the connection to be kept.

    Args:
        head: A head.

    Returns:
        In HTTP/1.1 unless it says ``close``, in HTTP/1.0 only if it says ``keep-alive``.

    Source: RFC 9112 section 9.3.
    """
    values = head.raw_index or head.first_values()
    value = values.get(b"connection")
    if value is None:
        return head.version is not _HTTP_10
    if value == b"keep-alive" and len(values) == len(head.raw_items):
        return True
    tokens = connection_tokens(head)
    if b"close" in tokens:
        return False
    return head.version is not _HTTP_10 or b"keep-alive" in tokens


def is_upgrade_request(request: RequestHeader) -> bool:
    """Say whether a request asks to leave HTTP: for another protocol, or for a tunnel.

    It only asks: until the upstream has answered 101 (or 2xx to CONNECT), the connection goes
    on speaking HTTP and the body is what ``request_body_length`` says.

    Args:
        request: The head.

    Returns:
        True for CONNECT, and for an HTTP/1.1 request with Upgrade that Connection names; never
        for ``h2c``, which would let a client send requests past every filter.

    Source: RFC 9110 sections 7.8 and 9.3.6; RFC 9113 section 3.1 has withdrawn ``h2c``.
    """
    if request.get_raw(b"upgrade") is None:
        return request.raw_method == b"CONNECT"
    if request.raw_method == b"CONNECT":
        return True
    if request.version is not _HTTP_11:
        return False
    if b"upgrade" not in connection_tokens(request):
        return False
    return b"h2c" not in b",".join(request.get_all_raw(b"upgrade")).lower()
