"""The characters of HTTP: which bytes may stand in names, values, targets and methods.

Each set is given twice: as a pattern for one element, and as a table for ``bytes.translate``,
which deletes what is allowed and so leaves nothing of a good input (the fastest whole-head check
there is in pure Python).
"""

from __future__ import annotations

import re
from typing import Final

__all__ = [
    "FIELD_VALUE_BYTES",
    "TARGET_BYTES",
    "TOKEN_BYTES",
    "is_field_value",
    "is_target",
    "is_token",
]

#: ``tchar`` of RFC 9110 section 5.6.2.
TOKEN_BYTES: Final = (
    b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)
#: What a field value may hold (RFC 9110 section 5.5): visible characters, obs-text, space, tab.
FIELD_VALUE_BYTES: Final = bytes(
    [9, *range(0x20, 0x7F), *range(0x80, 0x100)],
)
#: What a request target may hold: visible ASCII, and obs-text as Pingora's raw paths may.
TARGET_BYTES: Final = bytes([*range(0x21, 0x7F), *range(0x80, 0x100)])

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_FIELD_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*").fullmatch
_TARGET = re.compile(rb"[\x21-\x7e\x80-\xff]+").fullmatch


def is_token(data: bytes) -> bool:
    """Say whether bytes are a token: a method or a field name.

    Args:
        data: The bytes.

    Returns:
        True for one or more ``tchar`` (RFC 9110 section 5.6.2).
    """
    return _TOKEN(data) is not None


def is_field_value(data: bytes) -> bool:
    """Say whether bytes may be a field value.

    Args:
        data: The bytes.

    Returns:
        False when there is a control character other than tab (RFC 9110 section 5.5).
    """
    return _FIELD_VALUE(data) is not None


def is_target(data: bytes) -> bool:
    """Say whether bytes may be a request target.

    Args:
        data: The bytes.

    Returns:
        False when empty, or with a control character or a space (RFC 9112 section 3.2).
    """
    return _TARGET(data) is not None
