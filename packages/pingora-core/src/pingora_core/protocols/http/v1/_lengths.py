"""Reading the value of Content-Length, and remembering what was read."""

from __future__ import annotations

from typing import Final

__all__ = ["known_length", "to_length"]

# 2**63 - 1 has 19 digits; nobody sends more, and 64-bit peers behind us must agree.
_MAX_LENGTH: Final = (1 << 63) - 1
_MAX_LENGTH_DIGITS: Final = 19
_MAX_KNOWN: Final = 1024

_lengths: Final[dict[bytes, int]] = {}

known_length: Final = _lengths.get
"""What `to_length` has read: whoever asks here first saves two calls per response (2026-11)."""


def to_length(value: bytes) -> int | None:
    """Read the value of a Content-Length.

    Args:
        value: The text.

    Returns:
        The length in bytes; None when it is not a plain decimal number below 2**63.

    Source: RFC 9110 section 8.6.
    """
    if not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS:
        return None
    length = int(value)
    if length > _MAX_LENGTH:
        return None
    if len(_lengths) >= _MAX_KNOWN:
        _lengths.clear()
    _lengths[value] = length
    return length
