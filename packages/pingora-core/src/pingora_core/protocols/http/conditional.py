"""Conditional requests: whether a response may be answered with 304 Not Modified instead.

For whoever holds a complete 200 response, such as a cache; an origin evaluates its own
conditions. ``If-Match`` and ``If-Unmodified-Since`` are the origin's business
(RFC 9111 section 4.3.2) and pass unread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pingora_http.date import parse_http_date

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pingora_http import HeaderMap, RequestHeader, ResponseHeader

__all__ = ["not_modified_filter", "to_304", "weak_validate_etag"]

# RFC 9110 section 15.4.5: a 304 describes no content. nginx removes the same ones.
_CONTENT_FIELDS: Final = frozenset(
    {
        b"accept-ranges",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"transfer-encoding",
    }
)


def not_modified_filter(request: RequestHeader, response: ResponseHeader) -> bool:
    """Tell whether the client already has what the response would give it.

    ``If-None-Match`` counts alone when it is there; otherwise ``If-Modified-Since`` does. A date
    that cannot be read is no condition (RFC 9110 section 13.1.3). A response that does not say
    when it was modified was not after its ``Date`` (RFC 9111 section 4.3.2).

    Args:
        request: The client's request head.
        response: The head of the response that is at hand.

    Returns:
        True for GET and HEAD when the response is a 200 and its validator matches: send a 304.

    Source: pingora-core/src/protocols/http/conditional_filter.rs; RFC 9110 section 13.2.2.
    """
    # For other methods a match would mean 412, which is the origin's to say.
    if response.status != 200 or request.raw_method not in {b"GET", b"HEAD"}:
        return False
    candidates = request.get_all("if-none-match")
    if candidates:
        return weak_validate_etag(", ".join(candidates), response.get("etag"))
    since = _date(request, "if-modified-since")
    if since is None:
        return False
    name = "last-modified" if "last-modified" in response else "date"
    modified = _date(response, name)
    return modified is not None and modified <= since


def weak_validate_etag(candidates: str, etag: str | None) -> bool:
    """Compare entity tags weakly (RFC 9110 section 8.8.3.2).

    Args:
        candidates: The value of ``If-None-Match``: ``*`` or a list of tags. Tags without quotes,
            which some clients and origins use, are read up to the next comma.
        etag: The tag of the response; None when it has none, which only ``*`` matches.

    Returns:
        Whether one of them is the same, marks of weakness aside. A tag with quotes and one
        without are different.

    Examples:
        >>> weak_validate_etag('W/"a,b", "c"', '"a,b"')
        True
    """
    if candidates.strip(" \t") == "*":
        return True
    if etag is None:
        return False
    wanted = etag.removeprefix("W/")
    return any(tag == wanted for tag in _tags(candidates))


def to_304(response: ResponseHeader) -> None:
    """Turn the head of a response into a 304 Not Modified.

    Args:
        response: The head; changed in place. What describes the content is removed.
    """
    response.set_status(304)
    response.remove_headers(_CONTENT_FIELDS)


def _tags(text: str) -> Iterator[str]:
    """Split a list of entity tags; a comma between quotes belongs to the tag.

    Yields:
        The tags without the mark of weakness, quotes included.
    """
    position = 0
    while position < len(text):
        if text[position] in ", \t":
            position += 1
            continue
        if text.startswith("W/", position):
            position += 2
        end = text.find('"', position + 1) + 1 if text.startswith('"', position) else 0
        if not end:
            end = text.find(",", position)
            if end < 0:
                end = len(text)
        yield text[position:end].rstrip(" \t")
        position = end


def _date(header: HeaderMap, name: str) -> int | None:
    value = header.get(name)
    return None if value is None else parse_http_date(value)
