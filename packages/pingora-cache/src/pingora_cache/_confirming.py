"""Whether what the upstream says is about the response that is stored.

Source: RFC 9111 sections 4.3.3 to 4.3.5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_cache.vary import vary_names
from pingora_http import names

if TYPE_CHECKING:
    from pingora_http import RequestHeader, ResponseHeader

__all__ = ["answers_condition", "head_matches", "vary_grew"]


def answers_condition(request: RequestHeader, stored: ResponseHeader) -> bool:
    """Tell whether a 304 answers the question whether the stored response is still good.

    Args:
        request: The head of the request as it was sent upstream.
        stored: The stored head.

    Returns:
        False if the condition of the request is not the validator of the stored response: the
        client has something else, and that is what the 304 confirms.
    """
    etag = request.get_raw(names.IF_NONE_MATCH)
    if etag is not None:
        return etag == stored.get_raw(names.ETAG)
    since = request.get_raw(names.IF_MODIFIED_SINCE)
    return since is None or since == stored.get_raw(names.LAST_MODIFIED)


def vary_grew(stored: ResponseHeader, update: ResponseHeader) -> bool:
    """Tell whether a response now depends on request fields that it did not depend on.

    Args:
        stored: The stored head.
        update: The head that came.

    Returns:
        Whether the stored response may be wrong for requests that it was right for.
    """
    before, after = vary_names(stored), vary_names(update)
    return before is None or after is None or not set(after) <= set(before)


def head_matches(stored: ResponseHeader, update: ResponseHeader) -> bool:
    """Tell whether the response to a HEAD is about the body that is stored.

    Args:
        stored: The stored head.
        update: The head of the response to the HEAD.

    Returns:
        False if one of the fields that tell, where both have it, differs.
    """
    for name in (names.ETAG, names.LAST_MODIFIED, names.CONTENT_LENGTH, names.CONTENT_ENCODING):
        theirs = update.get_raw(name)
        if theirs is not None and theirs != stored.get_raw(name):
            return False
    return True
