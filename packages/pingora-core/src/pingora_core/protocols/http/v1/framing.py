"""What decides framing and security in an HTTP/1 head, judged once, after either engine.

Rules of this file: a doubt is an error. Two recipients must never be able to read one message
in two ways, so whatever RFC 9112 lets a recipient repair is refused here instead. Errors leave
without a source; the session knows on which side it is.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from pingora_core.protocols.http.v1.limits import FramingOptions
from pingora_error import Error, ErrorType, HTTPStatus
from pingora_http import Version
from pingora_http.grammar import VALUE_BYTES, TARGET_BYTES, TOKEN_BYTES

if TYPE_CHECKING:
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
    "is_upgrade_request",
    "request_body_length",
    "response_body_length",
    "wants_keepalive",
]

#: Lengths that are not a number of bytes.
CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2

# 2**63 - 1 has 19 digits; nobody sends more, and 64-bit peers behind us must agree.
_MAX_LENGTH = (1 << 63) - 1
_MAX_LENGTH_DIGITS = 19

_CRLFS = b"\r\n" * 512
# uri-host and port of RFC 3986 section 3.2, without user information.
_HOST = re.compile(
    rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=%]*|\[[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9\-._~]+)?\])(?::[0-9]*)?"
).fullmatch
_AUTHORITY_FORM = re.compile(
    rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=%]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}"
).fullmatch
_ABSOLUTE_FORM = re.compile(rb"https?://([^/?]+)(?:[/?].*)?", re.IGNORECASE).fullmatch


def check_request_head(raw: bytes, request: RequestHeader, limits: HeadLimits) -> None:
    """Judge a request head.

    Args:
        raw: The head's bytes, from the request line on.
        request: What an engine made of them. For a target in absolute form its Host is replaced
            by the authority of the target (RFC 9112 section 3.2.2).
        limits: How large it may be.

    Raises:
        Error: ``INVALID_HTTP_HEADER``, or an ``HTTPStatus`` of 414, 431 or 501.
    """
    _check_bytes(raw, request, limits)
    _check_target(request, limits)
    keys = request.keys_lower()
    if request.has_duplicates:
        _refuse_repeated(request, (b"host", b"content-length"))
    host = request.get_raw(b"host")
    if host is None:
        if request.version is not Version.HTTP_10:
            raise _bad("no Host in an HTTP/1.1 request")
    elif _HOST(host) is None:
        raise _bad("malformed Host")
    if b"transfer-encoding" in keys:
        _check_request_coding(request)
    elif b"content-length" in keys and content_length(request) is None:
        raise _bad("malformed Content-Length")


def check_response_head(
    raw: bytes, response: ResponseHeader, limits: HeadLimits, options: FramingOptions
) -> None:
    """Judge a response head.

    Args:
        raw: The head's bytes, from the status line on.
        response: What an engine made of them.
        limits: How large it may be.
        options: Which strictness is loosened.

    Raises:
        Error: ``INVALID_HTTP_HEADER``.
    """
    try:
        _check_bytes(raw, response, limits)
    except Error as error:
        if isinstance(error.etype, HTTPStatus):
            # A status answers a request; a response that is too large is just a bad one.
            raise _bad(error.context) from None
        raise
    if not 100 <= response.status <= 599:
        raise _bad(f"status {response.status} out of range")
    keys = response.keys_lower()
    if b"transfer-encoding" in keys:
        if b"content-length" in keys:
            raise _bad("both Transfer-Encoding and Content-Length")
        if response.version is Version.HTTP_10:
            raise _bad("Transfer-Encoding in an HTTP/1.0 response")
        if transfer_codings(response) != [b"chunked"]:
            raise _bad("a transfer coding other than chunked")
    elif b"content-length" in keys:
        if options.allow_invalid_response_content_length:
            return
        if response.has_duplicates:
            _refuse_repeated(response, (b"content-length",))
        if content_length(response) is None:
            raise _bad("malformed Content-Length")


def _check_bytes(raw: bytes, head: HeaderMap, limits: HeadLimits) -> None:
    fields = len(head)
    size = len(raw)
    if size > limits.max_field_size:
        if size > limits.max_head_size:
            raise Error(HTTPStatus(431), "the header is too large")
        if max(map(len, raw.split(b"\r\n")[1:])) > limits.max_field_size:
            raise Error(HTTPStatus(431), "a header field is too large")
    if fields > limits.max_fields:
        raise Error(HTTPStatus(431), "too many header fields")
    # One CRLF for the first line, each field and the end, and nothing else that may not stand
    # in a field: this finds control characters, bare CR, bare LF and line folding in one pass.
    left = raw.translate(None, VALUE_BYTES)
    if left != _CRLFS[: 2 * (fields + 2)]:
        if fields + 2 > len(_CRLFS) // 2 and left == b"\r\n" * (fields + 2):
            return
        raise _bad("control character, bare CR or LF, or folded line in the header")
    keys = head.keys_lower()
    if b"".join(keys).translate(None, TOKEN_BYTES) or b"" in keys:
        raise _bad("malformed field name")


def _check_target(request: RequestHeader, limits: HeadLimits) -> None:
    target = request.raw_target
    method = request.raw_method
    if len(target) > limits.max_target_size:
        raise Error(HTTPStatus(414), "the request target is too long")
    if target.translate(None, TARGET_BYTES) or b"#" in target:
        raise _bad("malformed request target")
    if target[:1] == b"/":
        if method == b"CONNECT":
            raise _bad("CONNECT needs a target in authority form")
        return
    if method == b"CONNECT":
        if _AUTHORITY_FORM(target) is None:
            raise _bad("CONNECT needs a target in authority form")
        return
    if target == b"*":
        if method != b"OPTIONS":
            raise _bad("the target * is for OPTIONS only")
        return
    match = _ABSOLUTE_FORM(target)
    if match is None or _HOST(match[1]) is None:
        raise _bad("malformed request target")
    if b"host" in request.keys_lower() or request.version is Version.HTTP_10:
        if request.has_duplicates:
            _refuse_repeated(request, (b"host",))
        request.insert_header(b"Host", match[1])


def _check_request_coding(request: RequestHeader) -> None:
    if b"content-length" in request.keys_lower():
        raise _bad("both Transfer-Encoding and Content-Length")
    if request.version is Version.HTTP_10:
        raise _bad("Transfer-Encoding in an HTTP/1.0 request")
    codings = transfer_codings(request)
    if codings == [b"chunked"]:
        return
    if codings[-1:] == [b"chunked"] and b"chunked" not in codings[:-1] and b"" not in codings:
        # RFC 9112 section 6.1: 501 for a coding that is not understood.
        raise Error(HTTPStatus(501), "a transfer coding other than chunked")
    raise _bad("chunked is not the one and last transfer coding")


def _refuse_repeated(head: HeaderMap, keys: tuple[bytes, ...]) -> None:
    for key in keys:
        if len(head.get_all_raw(key)) > 1:
            raise _bad(f"repeated {key.decode('ascii')}")


def _bad(why: str) -> Error:
    return Error(ErrorType.INVALID_HTTP_HEADER, why)


# ------------------------------------------------------------------- what a head says


def content_length(head: HeaderMap) -> int | None:
    """Read Content-Length.

    Args:
        head: A head that has the field.

    Returns:
        The length in bytes; None when it is not a plain decimal number below 2**63.
    """
    value = head.get_raw(b"content-length")
    if value is None or not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS:
        return None
    length = int(value)
    return length if length <= _MAX_LENGTH else None


def transfer_codings(head: HeaderMap) -> list[bytes]:
    """Read Transfer-Encoding.

    Args:
        head: A head.

    Returns:
        The codings of all lines in order, lower case, parameters included.
    """
    joined = b",".join(head.get_all_raw(b"transfer-encoding"))
    return [coding.strip(b" \t").lower() for coding in joined.split(b",")]


def connection_tokens(head: HeaderMap) -> set[bytes]:
    """Read Connection.

    Args:
        head: A head.

    Returns:
        The options of all lines, lower case.
    """
    joined = b",".join(head.get_all_raw(b"connection")).lower()
    return {token for part in joined.split(b",") if (token := part.strip(b" \t"))}


def request_body_length(request: RequestHeader) -> int:
    """Say how the body of a checked request is delimited (RFC 9112 section 6.3).

    Args:
        request: The head.

    Returns:
        A number of bytes, or ``CHUNKED``; a request without framing fields has no body.

    Raises:
        Error: ``INVALID_HTTP_HEADER`` when a program has made the fields contradict each other.
    """
    keys = request.keys_lower()
    if b"transfer-encoding" in keys:
        if b"content-length" in keys or transfer_codings(request) != [b"chunked"]:
            raise _bad("contradicting framing fields")
        return CHUNKED
    if b"content-length" not in keys:
        return 0
    length = content_length(request)
    if length is None:
        raise _bad("malformed Content-Length")
    return length


def response_body_length(
    response: ResponseHeader, request_method: bytes, options: FramingOptions
) -> int:
    """Say how the body of a checked response is delimited (RFC 9112 section 6.3).

    Args:
        response: The head.
        request_method: Of the request it answers.
        options: Which strictness is loosened.

    Returns:
        A number of bytes, ``CHUNKED``, or ``UNTIL_CLOSE``.
    """
    status = response.status
    if request_method == b"HEAD" or status < 200 or status in {204, 304}:
        return 0
    keys = response.keys_lower()
    if b"transfer-encoding" in keys:
        return CHUNKED
    if b"content-length" not in keys:
        return UNTIL_CLOSE
    if options.allow_invalid_response_content_length and (
        response.has_duplicates and len(response.get_all_raw(b"content-length")) > 1
    ):
        return UNTIL_CLOSE
    length = content_length(response)
    return UNTIL_CLOSE if length is None else length


def wants_keepalive(head: RequestHeader | ResponseHeader) -> bool:
    """Say whether the sender of a head wants the connection to be kept (RFC 9112 section 9.3).

    Args:
        head: A head.

    Returns:
        In HTTP/1.1 unless it says ``close``, in HTTP/1.0 only if it says ``keep-alive``.
    """
    value = head.get_raw(b"connection")
    if value is None:
        return head.version is not Version.HTTP_10
    tokens = connection_tokens(head)
    if b"close" in tokens:
        return False
    return head.version is not Version.HTTP_10 or b"keep-alive" in tokens


def is_upgrade_request(request: RequestHeader) -> bool:
    """Say whether a request asks to leave HTTP: for another protocol, or for a tunnel.

    Args:
        request: The head.

    Returns:
        True for CONNECT, and for an HTTP/1.1 request with Upgrade that Connection names, as RFC
        9110 section 7.8 demands.
    """
    if request.raw_method == b"CONNECT":
        return True
    if b"upgrade" not in request.keys_lower() or request.version is not Version.HTTP_11:
        return False
    return b"upgrade" in connection_tokens(request)
