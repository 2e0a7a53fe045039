"""Status codes and their standard phrases (IANA HTTP Status Code Registry)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

__all__ = ["reason_phrase"]

# Python's table; RFC 9110 renamed three, and Python 3.13 follows only then.
_PHRASES: Final = {status.value: status.phrase.encode("ascii") for status in HTTPStatus} | {
    413: b"Content Too Large",
    416: b"Range Not Satisfiable",
    418: b"",
    422: b"Unprocessable Content",
}


def reason_phrase(status: int) -> bytes:
    """Return the standard phrase of a status.

    Args:
        status: The code.

    Returns:
        The phrase; empty for a code that has none.
    """
    return _PHRASES.get(status, b"")
