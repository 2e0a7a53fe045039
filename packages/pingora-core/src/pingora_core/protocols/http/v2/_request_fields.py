"""Requests between their HTTP/2 form, a list of fields, and the head that callbacks see.

The head is the one of HTTP/1: method, target, Host and the other fields. Pseudo-header fields
exist on the wire only. Extended CONNECT (RFC 8441) is shown as what HTTP/1 has for it, a GET with
``Upgrade``, so that a filter or an upstream need not know of it.

Source: RFC 9113 sections 8.1.1, 8.2.3, 8.3, 8.3.1 and 8.5; RFC 8441 sections 4 and 5.
"""

from __future__ import annotations

import re
from base64 import b64encode
from itertools import takewhile
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from hpack import NeverIndexedHeaderTuple

from pingora_core.protocols.http.v1._target import check_host, check_host_once
from pingora_core.protocols.http.v1.limits import DEFAULT_LIMITS
from pingora_core.protocols.http.v2._authority import check_authority, set_host, take_host
from pingora_core.protocols.http.v2._field_rules import (
    HOP_BY_HOP,
    UNKNOWN,
    check_count,
    check_fields,
    declared_length,
    encode_fields,
    named_by_connection,
)
from pingora_core.protocols.http.v2._known_requests import known_request, note_request
from pingora_error import Error, ErrorType, HTTPStatus
from pingora_http import RequestHeader, Version
from pingora_http.grammar import is_token

if TYPE_CHECKING:
    from collections.abc import Callable, Set as AbstractSet

    from pingora_core.protocols.http.v1.limits import HeadLimits
    from pingora_core.protocols.http.v2._field_rules import Fields, NeverIndexed

__all__ = ["DecodedRequest", "decode_request", "encode_request"]

_BAD: Final = ErrorType.INVALID_HTTP_HEADER
# Bound here: looking a member up in its enum costs 60 ns (2026-11).
_HTTP_20: Final = Version.HTTP_20

_METHODS: Final = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"})
# What a target consists of, as in HTTP/1; a fragment is no part of it (section 8.3.1).
_PATH_BYTES: Final = bytes(set(range(0x21, 0x7F)) - {0x23})

# The pseudo-header fields of the three kinds of requests.
_REQUEST: Final = frozenset({b":method", b":scheme", b":authority", b":path"})
_REQUEST_WITH_HOST: Final = _REQUEST - {b":authority"}
_CONNECT: Final = frozenset({b":method", b":authority"})

_PROTOCOL = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++(?:/[!#$%&'*+.^_`|~0-9A-Za-z-]++)?").fullmatch

_HOST: Final[AbstractSet[bytes]] = frozenset({b"host"})
_CONTENT_LENGTH: Final[AbstractSet[bytes]] = frozenset({b"content-length"})
# RFC 8441 section 5: over HTTP/2 there is no handshake of WebSocket's own.
_NOT_IN_EXTENDED_CONNECT: Final[AbstractSet[bytes]] = frozenset(
    {b"content-length", b"sec-websocket-key"}
)
_KEY_SIZE: Final = 16


class DecodedRequest(NamedTuple):
    """A request that was found good.

    Attributes:
        header: The head, its version HTTP/2.
        protocol: What an extended CONNECT asks for; None for any other request.
        content_length: Bytes of content to come, -1 if only END_STREAM will tell. Always -1
            for CONNECT, of either kind: what follows is no content.
    """

    header: RequestHeader
    protocol: bytes | None
    content_length: int


# --------------------------------------------------------------------- receiving


def decode_request(
    fields: Fields,
    *,
    end_stream: bool,
    allow_connect: bool,
    extended_connect: bool,
    random: Callable[[int], bytes],
    limits: HeadLimits = DEFAULT_LIMITS,
) -> DecodedRequest:
    """Judge a request and make its head.

    Args:
        fields: The header block; not changed.
        end_stream: Whether the request ends with it.
        allow_connect: Whether plain CONNECT may go on to the callbacks.
        extended_connect: Whether SETTINGS_ENABLE_CONNECT_PROTOCOL was sent.
        random: Makes so many unpredictable bytes.
        limits: How large the head may be.

    Returns:
        The head and what goes with it.

    Raises:
        Error: From downstream: ``INVALID_HTTP_HEADER`` when the request is malformed (RFC 9113
            section 8.1.1), to be answered by resetting the stream; or an ``HTTPStatus`` of 400,
            405, 414, 431 or 501 when it is well-formed, but not to be served.
    """
    known = known_request(fields) if limits is DEFAULT_LIMITS else None
    try:
        if known is not None:
            method, path, items, values = known
            _check_path(method, path, limits)
            header = RequestHeader.from_wire(method, path, _HTTP_20, list(items), values.copy())
            # Nothing in it tells of a length.
            return DecodedRequest(header, None, 0 if end_stream else UNKNOWN)
        return _decode(
            fields,
            end_stream=end_stream,
            allow_connect=allow_connect,
            extended_connect=extended_connect,
            random=random,
            limits=limits,
        )
    except Error as error:
        raise error.as_down() from error.cause


def _decode(
    fields: Fields,
    *,
    end_stream: bool,
    allow_connect: bool,
    extended_connect: bool,
    random: Callable[[int], bytes],
    limits: HeadLimits,
) -> DecodedRequest:
    # Section 8.3: pseudo-header fields come before all others. One that comes later is found as
    # a malformed name; and if what is not one gets in among the first four, a real one is missing.
    if len(fields) > 4 and fields[3][0][:1] == b":" and fields[4][0][:1] != b":":
        count = 4
    else:
        count = sum(1 for _ in takewhile(_is_pseudo, fields))
    pseudo = dict(fields[:count])
    if len(pseudo) != count:
        raise Error(_BAD, "repeated pseudo-header field")
    items = fields[count:]
    values = dict(items)
    check_fields(items, values.keys(), limits, b"trailers")
    repeats = len(values) != len(items)
    if repeats and b"cookie" in values:
        items = _join_cookies(items, limits)
    check_count(items, limits)

    protocol = None
    method = pseudo.get(b":method")
    if method == b"CONNECT" or b":protocol" in pseudo:
        if b":protocol" not in pseudo:
            return _decode_connect(pseudo, items, values, allowed=allow_connect)
        protocol = _take_protocol(pseudo, allowed=extended_connect)
    keys = pseudo.keys()
    if keys not in (_REQUEST, _REQUEST_WITH_HOST):
        _refuse_pseudo(pseudo)
    method = pseudo[b":method"]
    if method not in _METHODS and not is_token(method):
        raise Error(_BAD, "malformed :method")
    _check_path(method, pseudo[b":path"], limits)
    set_host(pseudo, items, values)
    length = 0 if end_stream else UNKNOWN
    declared = values.get(b"content-length")
    if declared is not None:
        length = declared_length(items, declared, repeats=repeats)
        if end_stream and length:
            raise Error(_BAD, "content-length, but no content")
    if protocol is not None:
        if length > 0:
            raise Error(_BAD, "content-length in a CONNECT request")
        method = b"GET"
        length = UNKNOWN
        items = _as_upgrade(items, values, protocol, random)
    index = None if repeats or protocol is not None else _note(fields, method, items, limits)
    header = RequestHeader.from_wire(method, pseudo[b":path"], _HTTP_20, items, index)
    return DecodedRequest(header, protocol, length)


def _note(fields: Fields, method: bytes, items: Fields, limits: HeadLimits) -> dict[bytes, bytes]:
    values = dict(items)
    if limits is DEFAULT_LIMITS and b"content-length" not in values:
        note_request(fields, method, items, values)
    return values


def _is_pseudo(field: tuple[bytes, bytes]) -> bool:
    return field[0][:1] == b":"


def _refuse_pseudo(pseudo: dict[bytes, bytes]) -> NoReturn:
    for name in (b":method", b":scheme", b":path"):
        if name not in pseudo:
            raise Error(_BAD, f"no {name.decode('ascii')}")
    unknown = next(iter(pseudo.keys() - _REQUEST))
    raise Error(_BAD, f"unknown pseudo-header field {unknown[:64]!r}")


def _check_path(method: bytes, path: bytes, limits: HeadLimits) -> None:
    # Section 8.3.1: not empty; origin-form, or ``*`` with OPTIONS. An absolute-form is for
    # HTTP/1 only, where it would override the authority.
    if path[:1] != b"/" and not (path == b"*" and method == b"OPTIONS"):
        raise Error(_BAD, "malformed :path")
    if path.translate(None, _PATH_BYTES):
        raise Error(_BAD, "malformed :path")
    if len(path) > limits.max_target_size:
        raise Error(HTTPStatus(414), "the request target is too long")


def _join_cookies(items: Fields, limits: HeadLimits) -> Fields:
    # Section 8.2.3: the pieces become one field, at the place of the first. Empty ones say
    # nothing, and the last would leave white space at the end.
    crumbs = [field for field in items if field[0] == b"cookie"]
    if len(crumbs) == 1:
        return items
    whole = b"; ".join([value for _, value in crumbs if value])
    if len(whole) + len(b"cookie: ") > limits.max_field_size:
        raise Error(HTTPStatus(431), "the cookies are too large")
    at = items.index(crumbs[0])
    # The hidden class is both engines' way to say that none of it may get into a table.
    hidden = any(getattr(field, "indexable", True) is False for field in crumbs)
    field = NeverIndexedHeaderTuple(b"cookie", whole) if hidden else (b"cookie", whole)
    return [*items[:at], field, *[field for field in items[at:] if field[0] != b"cookie"]]


# ------------------------------------------------------------------------ CONNECT


def _decode_connect(
    pseudo: dict[bytes, bytes], items: Fields, values: dict[bytes, bytes], *, allowed: bool
) -> DecodedRequest:
    # Section 8.5.
    if pseudo.keys() != _CONNECT:
        raise Error(_BAD, "CONNECT takes :authority and nothing else")
    target = pseudo[b":authority"]
    check_authority(target)
    if check_host(target) == 0:
        raise Error(_BAD, "CONNECT needs host and port")
    host = values.get(b"host")
    if host is not None:
        take_host(items)
        if host.lower() != target.lower():
            raise Error(_BAD, "Host and :authority differ")
    if b"content-length" in values:
        # RFC 9110 section 9.3.6: there is no content; a 0 says so, anything else is a trick.
        if declared_length(items, values[b"content-length"], repeats=True):
            raise Error(_BAD, "content-length in a CONNECT request")
        items = [field for field in items if field[0] != b"content-length"]
    if not allowed:
        raise Error(HTTPStatus(405), "CONNECT is not allowed")
    items.insert(0, (b"host", target))
    header = RequestHeader.from_wire(b"CONNECT", target, _HTTP_20, items)
    return DecodedRequest(header, None, UNKNOWN)


def _take_protocol(pseudo: dict[bytes, bytes], *, allowed: bool) -> bytes:
    # RFC 8441 section 4.
    protocol = pseudo.pop(b":protocol")
    if pseudo.get(b":method") != b"CONNECT":
        raise Error(_BAD, ":protocol without CONNECT")
    if not allowed:
        raise Error(_BAD, "extended CONNECT was not offered")
    if _PROTOCOL(protocol) is None:
        # One protocol, as Upgrade has it (RFC 9110 section 7.8); a comma would make it several.
        raise Error(_BAD, "malformed :protocol")
    if protocol.lower() == b"h2c":
        raise Error(HTTPStatus(501), "h2c is no protocol to upgrade to")
    return protocol


def _as_upgrade(
    items: Fields, values: dict[bytes, bytes], protocol: bytes, random: Callable[[int], bytes]
) -> Fields:
    # RFC 8441 section 5 read backwards: what a client of HTTP/1 would have sent.
    items = [field for field in items if field[0] != b"content-length"]
    items += [(b"connection", b"Upgrade"), (b"upgrade", protocol)]
    if protocol.lower() == b"websocket" and b"sec-websocket-key" not in values:
        items.append((b"sec-websocket-key", b64encode(random(_KEY_SIZE))))
    return items


# ------------------------------------------------------------------------ sending


def encode_request(
    header: RequestHeader,
    *,
    scheme: bytes,
    protocol: bytes | None,
    never_indexed: NeverIndexed = NeverIndexedHeaderTuple,
) -> Fields:
    """Write the head of a request.

    Args:
        header: The head.
        scheme: ``https`` over TLS, else ``http``.
        protocol: What an upgrade is to lead to, for an extended CONNECT; None for a plain
            request.
        never_indexed: Makes the fields that no table may hold.

    Returns:
        The header block.

    Raises:
        Error: ``INVALID_HTTP_HEADER`` when it names no host, or a malformed one, or has a
            target that HTTP/2 cannot express.

    Source: RFC 9113 sections 8.2.2, 8.3.1 and 8.5; RFC 8441 sections 4 and 5.
    """
    values = header.first_values()
    method = header.raw_method
    target = header.raw_target
    # What the target itself says goes before Host (RFC 9112 section 3.2.2).
    authority = values.get(b"host") if target[:1] == b"/" else header.raw_authority
    if authority is None:
        authority = values.get(b"host")
    if authority is None:
        raise Error(_BAD, "no Host to make an :authority of")
    check_host_once(authority)
    dropped = _HOST
    if not HOP_BY_HOP.isdisjoint(values):
        dropped = _HOST | HOP_BY_HOP | named_by_connection(header)
    if method == b"CONNECT":
        fields = [(b":method", method), (b":authority", authority)]
        dropped |= _CONTENT_LENGTH
    else:
        path = target if target[:1] == b"/" else header.raw_path
        if path[:1] != b"/" and not (path == b"*" and method == b"OPTIONS"):
            raise Error(_BAD, f"HTTP/2 has no such target: {target[:64]!r}")
        if protocol is None:
            fields = [(b":method", method)]
        else:
            fields = [(b":method", b"CONNECT"), (b":protocol", protocol)]
            dropped |= _NOT_IN_EXTENDED_CONNECT
        fields += [(b":scheme", scheme), (b":authority", authority), (b":path", path)]
    fields += encode_fields(header, dropped, never_indexed)
    if b"te" in values and b"trailers" in _te_tokens(header):
        fields.append((b"te", b"trailers"))
    return fields


def _te_tokens(header: RequestHeader) -> list[bytes]:
    joined = b",".join(header.get_all_raw(b"te")).lower()
    return [token.strip(b" \t") for token in joined.split(b",")]
