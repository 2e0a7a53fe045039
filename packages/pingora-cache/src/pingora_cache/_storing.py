"""The head that is stored: what is left out, and what a later response changes in it.

Source: RFC 9111 sections 3.1 and 3.2; RFC 9110 section 7.6.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pingora_cache._instructions import STRUCTURAL_FIELDS
from pingora_http import names
from pingora_http.date import format_http_date, parse_http_date

if TYPE_CHECKING:
    from collections.abc import Collection

    from pingora_http import ResponseHeader

__all__ = ["add_date", "connection_options", "drops_structure", "merged", "stored_copy"]

# Of the connection, of the proxy, or told anew each time the response is used (Age).
_NEVER_STORED: Final = frozenset(
    {
        names.AGE,
        names.CONNECTION,
        names.KEEP_ALIVE,
        names.PROXY_AUTHENTICATE,
        b"proxy-authentication-info",
        names.PROXY_AUTHORIZATION,
        names.PROXY_CONNECTION,
        names.TE,
        names.TRAILER,
        names.TRANSFER_ENCODING,
        names.UPGRADE,
    }
)

# They belong to the body that is stored. ETag: the one by which the body was confirmed stays.
# Vary: the stored response was chosen by it.
_NEVER_UPDATED: Final = _NEVER_STORED | {
    names.CONTENT_ENCODING,
    names.CONTENT_LENGTH,
    b"content-md5",
    names.CONTENT_RANGE,
    names.ETAG,
    names.VARY,
}


def connection_options(response: ResponseHeader) -> frozenset[bytes]:
    """Read which fields a response says are of the connection only.

    Args:
        response: The head.

    Returns:
        Their names in lower case.
    """
    return frozenset(
        item.strip(b" \t").lower()
        for line in response.get_all_raw(names.CONNECTION)
        for item in line.split(b",")
    )


def drops_structure(options: frozenset[bytes]) -> bool:
    """Tell whether removing fields of the connection would make another response of it.

    Args:
        options: What ``Connection`` names, in lower case.

    Returns:
        Whether one of the fields must not go.
    """
    return not options.isdisjoint(STRUCTURAL_FIELDS)


def stored_copy(response: ResponseHeader, hidden: Collection[bytes]) -> ResponseHeader:
    """Copy a head without what must not be stored.

    Args:
        response: The head.
        hidden: Names of further fields to leave out, in lower case.

    Returns:
        The copy.
    """
    copy = response.copy()
    copy.remove_headers(_NEVER_STORED.union(connection_options(response), hidden))
    return copy


def add_date(response: ResponseHeader, response_time: float) -> None:
    """Add ``Date`` where an origin has not, so that the age is known later.

    Args:
        response: The head; changed in place if there is no date that can be read.
        response_time: When it arrived; seconds since the epoch.
    """
    value = response.get(names.DATE)
    if value is None or parse_http_date(value, response_time) is None:
        response.insert_header(b"Date", format_http_date(response_time))


def merged(
    stored: ResponseHeader, update: ResponseHeader, hidden: Collection[bytes]
) -> ResponseHeader:
    """Update a stored head from one that confirms it.

    Args:
        stored: The stored head.
        update: The head of a 304, or of the response to a HEAD.
        hidden: Names of further fields that are not taken over, in lower case.

    Returns:
        A new head: the fields of ``update`` replace those of the same name. What belongs to the
        stored body, or to the connection, stays as it was.
    """
    ignored = _NEVER_UPDATED.union(connection_options(update), hidden)
    taken = [field for field in update.raw_items if field[0].lower() not in ignored]
    head = stored.copy()
    head.remove_headers({name.lower() for name, _ in taken})
    for name, value in taken:
        head.append_header(name, value)
    return head
