"""Which requests a stored response with ``Vary`` is for.

The variance is a digest of the values of the fields that ``Vary`` names. Two requests get the same
one if each of these fields means the same in both: lines of a field are joined, white space around
commas does not count, and for some fields nor do case and order. A field that is absent differs
from one that is empty.

Anybody can send any value: each new one makes a new variant. What an origin varies on that it need
not, such as ``User-Agent``, is better removed by a normaliser, or from ``Vary``, than stored a
thousand times.

Source: RFC 9111 section 4.1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

from pingora_cache.variance import VarianceBuilder
from pingora_http import names
from pingora_http.grammar import is_token

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pingora_http import RequestHeader, ResponseHeader

__all__ = [
    "DEFAULT_NORMALISERS",
    "MAX_VARY_FIELDS",
    "Normaliser",
    "normalise_list",
    "normalise_set",
    "request_variance",
    "vary_names",
]

Normaliser: TypeAlias = Callable[[bytes], bytes]
"""Turns the value of a request field, lines joined, into one that all of the same meaning share."""

MAX_VARY_FIELDS: Final = 64
"""A ``Vary`` that names more fields is not taken seriously: the response is not stored."""


def normalise_list(value: bytes) -> bytes:
    """Remove the white space around commas and at the ends, outside quotes.

    Args:
        value: The value of a field.

    Returns:
        The value, as it counts for fields that nothing more is known about.
    """
    if b'"' in value:
        # Within quotes a comma is text. Whoever varies on such a field gets one variant more.
        return value.strip(b" \t")
    return b",".join([item.strip(b" \t") for item in value.split(b",")])


def normalise_set(value: bytes) -> bytes:
    """Make lower case, remove white space around commas and semicolons, sort, drop what is there twice.

    For lists in which order says nothing, weights being told by ``q``: ``Accept-Encoding``,
    ``Accept-Language``, ``Accept-Charset`` (RFC 9110 section 12.5).

    Args:
        value: The value of a field.

    Returns:
        The set in one form.
    """
    compact = value.lower().replace(b", ", b",")
    if b" " in compact or b"\t" in compact:
        # Within an item it stays: to an origin "d e" is not "de".
        compact = b",".join(map(_without_blanks, compact.split(b",")))
    return b",".join(sorted({item for item in compact.split(b",") if item}))


def _without_blanks(item: bytes) -> bytes:
    return b";".join([part.strip(b" \t") for part in item.split(b";")])


_MAX_KNOWN_LINE: Final = 256

DEFAULT_NORMALISERS: Final[Mapping[str, Normaliser]] = MappingProxyType(
    {
        "accept-charset": normalise_set,
        "accept-encoding": normalise_set,
        "accept-language": normalise_set,
    }
)
"""What is done to the values of known fields. Others get ``normalise_list``.

Some servers prefer, of two languages with the same weight, the one that comes first, which the RFC
tells nobody to rely on. In front of such a server leave ``accept-language`` out.
"""


def vary_names(response: ResponseHeader) -> tuple[bytes, ...] | None:
    """Read ``Vary``.

    Args:
        response: The head of a response.

    Returns:
        The names of the request fields, in lower case, each once; empty if it does not vary. None
        if no request can be known to be alike: ``*``, what is no name, or too many names.
    """
    if names.VARY not in response.keys_lower():
        return ()
    lines = response.get_all_raw(names.VARY)
    line = lines[0] if len(lines) == 1 else b",".join(lines)
    # Few values are ever seen, and each hit asks for one.
    return _known_names(line) if len(line) <= _MAX_KNOWN_LINE else _read_names(line)


def _read_names(line: bytes) -> tuple[bytes, ...] | None:
    found: dict[bytes, None] = {}
    for item in line.split(b","):
        name = item.strip(b" \t").lower()
        if not name:
            continue
        # The star is a token, too.
        if name == b"*" or not is_token(name) or len(found) >= MAX_VARY_FIELDS:
            return None
        found[name] = None
    return tuple(found)


_known_names: Final = lru_cache(maxsize=256)(_read_names)


def request_variance(
    request: RequestHeader, fields: Sequence[bytes], normalisers: Mapping[bytes, Normaliser]
) -> bytes | None:
    """Digest what a request has in the fields that a response varies on.

    Args:
        request: The head of the request, as the client sent it.
        fields: The names, in lower case.
        normalisers: What is done to values, by name.

    Returns:
        16 bytes; None if there are no fields.
    """
    builder = VarianceBuilder()
    for name in fields:
        lines = request.get_all_raw(name)
        # A sign in front tells an empty field from none.
        value = b""
        if lines:
            # The pieces of a cookie that HTTP/2 has split are no list (RFC 9113 section 8.2.3).
            joined = (b"; " if name == names.COOKIE else b",").join(lines)
            value = b"=" + normalisers.get(name, normalise_list)(joined)
        builder.add_value(name, value)
    return builder.finalize()
