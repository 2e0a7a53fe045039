"""Responses between their HTTP/2 form, a list of fields, and the head that callbacks see.

Source: RFC 9113 sections 8.1, 8.1.1, 8.2.2 and 8.3.2; RFC 8441 section 5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from hpack import NeverIndexedHeaderTuple

from pingora_core.protocols.http.v1.framing import has_no_body
from pingora_core.protocols.http.v1.limits import DEFAULT_LIMITS
from pingora_core.protocols.http.v2._field_rules import (
    HOP_BY_HOP,
    UNKNOWN,
    check_count,
    check_fields,
    declared_length,
    encode_fields,
    named_by_connection,
)
from pingora_error import Error, ErrorType
from pingora_http import ResponseHeader, Version
from pingora_http.status import REASON_PHRASES

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from pingora_core.protocols.http.v1.limits import HeadLimits
    from pingora_core.protocols.http.v2._field_rules import Fields, NeverIndexed

__all__ = ["DecodedResponse", "decode_response", "encode_response"]

_BAD: Final = ErrorType.INVALID_HTTP_HEADER
# Bound here: looking a member up in its enum costs 60 ns (2026-11).
_HTTP_20: Final = Version.HTTP_20

# As in HTTP/1, a status has three digits and is of one of the five classes.
_STATUSES: Final = {b"%d" % status: status for status in range(100, 600)}

_NOTHING: Final[AbstractSet[bytes]] = frozenset()
# RFC 8441 section 5: over HTTP/2 there is no handshake of WebSocket's own; nor has what follows
# a length.
_NOT_IN_EXTENDED_CONNECT: Final[AbstractSet[bytes]] = frozenset(
    {b"content-length", b"sec-websocket-accept"}
)
_CONTENT_LENGTH: Final[AbstractSet[bytes]] = frozenset({b"content-length"})


class DecodedResponse(NamedTuple):
    """A response that was found good.

    Attributes:
        header: The head, its version HTTP/2.
        content_length: Bytes of content to come, -1 if only END_STREAM will tell. 0 where there
            is no content whatever the fields say (HEAD, 1xx, 204, 304); -1 for a 2xx to
            CONNECT, of either kind.
    """

    header: ResponseHeader
    content_length: int


def decode_response(
    fields: Fields,
    *,
    end_stream: bool,
    request_method: bytes,
    limits: HeadLimits = DEFAULT_LIMITS,
) -> DecodedResponse:
    """Judge a response, final or informational, and make its head.

    Args:
        fields: The header block; not changed.
        end_stream: Whether the response ends with it.
        request_method: ``:method`` of the request it answers.
        limits: How large the head may be.

    Returns:
        The head and what goes with it.

    Raises:
        Error: From upstream: ``INVALID_HTTP_HEADER``.
    """
    try:
        return _decode(fields, request_method, limits, end_stream=end_stream)
    except Error as error:
        # A status answers a request; a response that is too large is just a bad one.
        error.etype = _BAD
        raise error.as_up() from error.cause


def _decode(
    fields: Fields, request_method: bytes, limits: HeadLimits, *, end_stream: bool
) -> DecodedResponse:
    # Section 8.3.2: :status is the one pseudo-header field, once. Any other, or a second one, is
    # found as a malformed name.
    if not fields or fields[0][0] != b":status":
        raise Error(_BAD, "no :status at the beginning")
    status = _STATUSES.get(fields[0][1])
    if status is None:
        raise Error(_BAD, "malformed :status")
    if status == 101:
        raise Error(_BAD, "101 is not of HTTP/2")  # section 8.6
    if status < 200 and end_stream:
        raise Error(_BAD, "the end of the stream in an informational response")  # section 8.1
    items = fields[1:]
    values = dict(items)
    check_count(items, limits)
    check_fields(items, values.keys(), limits, b"")
    length = 0 if end_stream else UNKNOWN
    declared = values.get(b"content-length")
    if declared is not None:
        length = declared_length(items, declared, repeats=len(values) != len(items))
    if has_no_body(status, request_method):
        length = UNKNOWN if request_method == b"CONNECT" and 200 <= status < 300 else 0
    elif end_stream and length:
        raise Error(_BAD, "content-length, but no content")
    reason = REASON_PHRASES.get(status, b"")
    return DecodedResponse(ResponseHeader.from_wire(status, reason, _HTTP_20, items), length)


def encode_response(
    header: ResponseHeader,
    *,
    date: bytes | None,
    never_indexed: NeverIndexed = NeverIndexedHeaderTuple,
) -> Fields:
    """Write the head of a response, final or informational.

    Args:
        header: The head. A 101 leaves as the 200 that answers an extended CONNECT.
        date: Value of a Date to add where there is none; None to add none.
        never_indexed: Makes the fields that no table may hold.

    Returns:
        The header block.

    Source: RFC 9113 section 8.2.2; RFC 9110 section 8.6; RFC 8441 section 5.
    """
    values = header.raw_index or header.first_values()
    status = header.status
    dropped = _NOTHING
    if not HOP_BY_HOP.isdisjoint(values):
        dropped = HOP_BY_HOP | named_by_connection(header)
    if status == 101:
        status = 200
        dropped |= _NOT_IN_EXTENDED_CONNECT
    elif status < 200 or status == 204:
        dropped |= _CONTENT_LENGTH
    fields = [(b":status", b"%d" % status)]
    fields += encode_fields(header, dropped, never_indexed)
    if date is not None and b"date" not in values:
        fields.append((b"date", date))
    return fields
