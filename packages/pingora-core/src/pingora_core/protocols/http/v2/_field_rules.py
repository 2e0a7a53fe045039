"""What requests, responses and trailers have in common in HTTP/2: which fields there may be.

Rules of this file: a message is judged by the alphabets of HTTP/1, which are narrower than those
of HTTP/2. What is accepted here can be written as HTTP/1 and is read there as it was meant; what
is refused there is refused here. Errors leave without a source, unless they are the ready-made
ones of requests and responses.

Source: RFC 9113 sections 8.1.1, 8.2 and 8.2.2; RFC 9110 sections 5.1, 5.5 and 6.5.1.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Final, TypeAlias

from hpack import NeverIndexedHeaderTuple

from pingora_core.protocols.http.v1.body_reader import FORBIDDEN_TRAILERS
from pingora_core.protocols.http.v1.framing import connection_tokens, to_length
from pingora_core.protocols.http.v1.limits import DEFAULT_LIMITS
from pingora_error import Error, ErrorType, HTTPStatus
from pingora_http import HeaderMap
from pingora_http.grammar import TOKEN_LOWER_BYTES, VALUE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, KeysView, Set as AbstractSet

    from pingora_core.protocols.http.v1.limits import HeadLimits

__all__ = [
    "HOP_BY_HOP",
    "UNKNOWN",
    "Fields",
    "NeverIndexed",
    "check_count",
    "check_fields",
    "declared_length",
    "decode_trailers",
    "encode_fields",
    "encode_trailers",
    "named_by_connection",
]

Fields: TypeAlias = list[tuple[bytes, bytes]]
"""One header block: names and values in order, as HPACK gives and takes them."""

NeverIndexed: TypeAlias = "Callable[[bytes, bytes], tuple[bytes, bytes]]"
"""Makes a field of which the engine's HPACK knows that no table may hold it."""

UNKNOWN: Final = -1
"""The length of a content that ends where END_STREAM says."""

_BAD: Final = ErrorType.INVALID_HTTP_HEADER

_value_of = itemgetter(1)

# RFC 9113 section 8.2.2: an endpoint must not generate them, and a message that holds one is
# malformed. All of them frame or route an HTTP/1 message: they are how requests are smuggled
# through gateways. ``te`` is apart, for a request may say ``te: trailers``.
CONNECTION_SPECIFIC: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"transfer-encoding",
        b"upgrade",
    }
)

HOP_BY_HOP: Final = CONNECTION_SPECIFIC | {b"te", b"http2-settings"}
"""What is left behind when a message of HTTP/1 is sent as HTTP/2."""

# What Connection may name without taking effect, as in the proxy: framing and routing.
_PROTECTED: Final = frozenset({b"content-length", b"host"})

# RFC 9110 section 6.5.1: whoever merges trailers into the head must not be made to read it anew.
_REFUSED_TRAILERS: Final = frozenset({b"content-length", b"host"})

# Names that were found good, as in HTTP/1: nearly all messages hold the same few dozen. Never
# one that needs a second look, so one question settles all names of most messages.
_good_names: set[bytes] = set()
_MAX_GOOD_NAMES: Final = 1024
_MAX_CACHED_NAME_SIZE: Final = 64

# RFC 7541 section 7.1.3: short cookies can be guessed by watching the compressor.
_SHORT_COOKIE: Final = 20
_SECRETS: Final = frozenset({b"authorization", b"cookie", b"proxy-authorization"})


# --------------------------------------------------------------------- receiving


def check_fields(items: Fields, names: KeysView[bytes], limits: HeadLimits, te: bytes) -> None:
    """Judge the fields of a message, pseudo-header fields apart.

    Args:
        items: The fields.
        names: Their names.
        limits: How large each may be.
        te: The one value that ``te`` may have; empty where there may be no such field.

    Raises:
        Error: ``INVALID_HTTP_HEADER``, or ``HTTPStatus(431)``.
    """
    # One pass over all values: NUL stands between them, may not be in one, and shows the white
    # space around one (RFC 9113 section 8.2.1). Looking at each takes four times as long.
    joined = b"\0%b\0" % b"\0".join(map(_value_of, items))
    if joined.translate(None, VALUE_BYTES) != bytes(max(len(items), 1) + 1):
        raise Error(_BAD, "control character in a field value")
    if b"\0 " in joined or b" \0" in joined or b"\0\t" in joined or b"\t\0" in joined:
        raise Error(_BAD, "white space around a field value")
    if len(joined) > limits.max_field_size - _MAX_CACHED_NAME_SIZE:
        _check_sizes(items, limits)
    if not _good_names.issuperset(names):
        _check_names(items, names, limits, te)


def _check_names(items: Fields, names: KeysView[bytes], limits: HeadLimits, te: bytes) -> None:
    for name in names - _good_names:
        if not name or name.translate(None, TOKEN_LOWER_BYTES):
            # RFC 9113 section 8.2.1: neither upper case, nor white space, nor a colon, which a
            # pseudo-header field that is not at the beginning has (section 8.3).
            raise Error(_BAD, f"malformed field name {name[:64]!r}")
        if name in CONNECTION_SPECIFIC:
            raise Error(_BAD, f"connection-specific field {name.decode('ascii')}")
        if name == b"te":
            _check_te(items, te)
        elif len(name) > _MAX_CACHED_NAME_SIZE:
            _check_sizes(items, limits)
        else:
            if len(_good_names) >= _MAX_GOOD_NAMES:
                _good_names.clear()
            _good_names.add(name)


def _check_te(items: Fields, allowed: bytes) -> None:
    if not allowed or any(n == b"te" and v.lower() != allowed for n, v in items):
        raise Error(_BAD, "te other than trailers")


def check_count(items: Fields, limits: HeadLimits) -> None:
    """Judge the number of fields.

    Args:
        items: The fields, those of cookies joined.
        limits: How many there may be.

    Raises:
        Error: ``HTTPStatus(431)``.
    """
    if len(items) > limits.max_fields:
        raise Error(HTTPStatus(431), "too many header fields")


def _check_sizes(items: Fields, limits: HeadLimits) -> None:
    # As a line of HTTP/1 would be: with a colon and a space.
    if any(len(name) + len(value) + 2 > limits.max_field_size for name, value in items):
        raise Error(HTTPStatus(431), "a header field is too large")


def declared_length(items: Fields, first: bytes, *, repeats: bool) -> int:
    """Read Content-Length.

    Args:
        items: The fields.
        first: The value of one such field.
        repeats: Whether any name is there twice.

    Returns:
        The length in bytes.

    Raises:
        Error: ``INVALID_HTTP_HEADER`` if it is no plain decimal number, or there twice, be it
            with equal values: as in HTTP/1, where lists of lengths are not repaired either.
    """
    if repeats and sum(name == b"content-length" for name, _ in items) > 1:
        raise Error(_BAD, "repeated content-length")
    length = to_length(first)
    if length is None:
        raise Error(_BAD, "malformed content-length")
    return length


# ----------------------------------------------------------------------- sending


def named_by_connection(head: HeaderMap) -> AbstractSet[bytes]:
    """Say which fields a sender wanted to go no further than its connection.

    Args:
        head: A head.

    Returns:
        Names in lower case, without those that decide framing and routing.

    Source: RFC 9110 section 7.6.1.
    """
    return connection_tokens(head) - _PROTECTED


def encode_fields(
    head: HeaderMap, dropped: AbstractSet[bytes], never_indexed: NeverIndexed
) -> Fields:
    """Write fields as HTTP/2 does: names in lower case, secrets kept out of all tables.

    Args:
        head: The fields.
        dropped: Names that stay behind, lower case.
        never_indexed: Makes the fields that no table may hold.

    Returns:
        A new list. What came as never indexed leaves as such, which RFC 7541 section 6.2.3
        demands of an intermediary; so do credentials and cookies short enough to be guessed
        (section 7.1.3).
    """
    items = head.raw_items
    kinds = set(map(type, items))
    kinds.discard(tuple)  # nearly always there is no other
    if _SECRETS.isdisjoint(head.raw_index or head.first_values()) and (
        not kinds or not any(map(_is_hidden, kinds))
    ):
        if not dropped:
            return [(name.lower(), value) for name, value in items]
        return [(key, value) for name, value in items if (key := name.lower()) not in dropped]
    return [
        never_indexed(key, field[1]) if _must_hide(field, key) else (key, field[1])
        for field in items
        if (key := field[0].lower()) not in dropped
    ]


def _is_hidden(field: object) -> bool:
    # Both engines' HPACK say so with an attribute of the field's class.
    return getattr(field, "indexable", True) is False


def _must_hide(field: tuple[bytes, bytes], key: bytes) -> bool:
    if key in _SECRETS and (key != b"cookie" or len(field[1]) < _SHORT_COOKIE):
        return True
    return _is_hidden(field)


# ---------------------------------------------------------------------- trailers


def decode_trailers(fields: Fields, *, limits: HeadLimits = DEFAULT_LIMITS) -> HeaderMap:
    """Judge a trailer section.

    Args:
        fields: The header block that ended the message.
        limits: How large it may be.

    Returns:
        Its fields, without those that mean nothing behind a content, as in HTTP/1.

    Raises:
        Error: ``INVALID_HTTP_HEADER``, without a source: pseudo-header fields (RFC 9113
            section 8.1), names, values and connection-specific fields as in a head, and fields
            that would change a length or a host that has been acted on already.
    """
    names = dict(fields).keys()
    try:
        check_count(fields, limits)
        check_fields(fields, names, limits, b"")
    except Error as error:
        error.etype = _BAD  # there is no request any more to be answered with a status
        raise
    if not _REFUSED_TRAILERS.isdisjoint(names):
        raise Error(_BAD, "content-length or host in a trailer section")
    if not FORBIDDEN_TRAILERS.isdisjoint(names):
        fields = [field for field in fields if field[0] not in FORBIDDEN_TRAILERS]
    return HeaderMap.from_wire_items(fields)


def encode_trailers(
    trailers: HeaderMap, *, never_indexed: NeverIndexed = NeverIndexedHeaderTuple
) -> Fields:
    """Write a trailer section.

    Args:
        trailers: The fields.
        never_indexed: Makes the fields that no table may hold.

    Returns:
        The header block, maybe empty: fields that may not be there are left out.
    """
    return encode_fields(trailers, FORBIDDEN_TRAILERS | HOP_BY_HOP, never_indexed)
