"""The heads of the answers that the server makes up itself.

They come without a page: what to tell a human is the application's business.
"""

from __future__ import annotations

import time
from typing import Final

from pingora_http import ResponseHeader, Version
from pingora_http.date import http_date
from pingora_http.status import REASON_PHRASES

__all__ = ["SERVER_NAME", "generate_error"]

SERVER_NAME: Final = b"Pingora"

_SERVER: Final = (b"Server", SERVER_NAME)
_NO_CONTENT: Final = (b"Content-Length", b"0")
_NO_STORE: Final = (b"Cache-Control", b"private, no-store")


def generate_error(code: int, *, now: float | None = None) -> ResponseHeader:
    """Make the head of an error answer.

    Args:
        code: The status, 200 to 999. An answer must come of this even when something has gone
            wrong with the code: one that cannot end an exchange becomes 500.
        now: Seconds since the epoch for ``Date``; None for the current time.

    Returns:
        A head of its own with ``Server``, ``Date``, ``Content-Length: 0`` (which 204 and 304 must not
        have) and ``Cache-Control: private, no-store``.

    Source: pingora-core/src/protocols/http/error_resp.rs.
    """
    if not 200 <= code <= 999:
        code = 500
    date = (b"Date", http_date(int(time.time() if now is None else now)))
    if code in {204, 304}:
        items = [_SERVER, date, _NO_STORE]
    else:
        items = [_SERVER, date, _NO_CONTENT, _NO_STORE]
    return ResponseHeader.from_wire(code, REASON_PHRASES.get(code, b""), Version.HTTP_11, items)
