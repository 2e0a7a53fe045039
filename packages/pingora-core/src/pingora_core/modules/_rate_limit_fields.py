"""The fields that tell a client its limits: draft-ietf-httpapi-ratelimit-headers-11 (May 2026).

``RateLimit-Policy`` has what stays the same, ``RateLimit`` what is left now. Both are lists of
strings with parameters in the form of RFC 9651. Rules of this file: no I/O, no clock.
"""

from __future__ import annotations

import base64
import math
from typing import Final

__all__ = [
    "RATE_LIMIT",
    "RATE_LIMIT_POLICY",
    "is_printable",
    "limit_item",
    "partition",
    "policy_item",
    "quota_exceeded",
    "seconds",
    "string",
]

RATE_LIMIT: Final = b"RateLimit"
RATE_LIMIT_POLICY: Final = b"RateLimit-Policy"

# RFC 9651 section 3.3.1: integers have 15 digits at most.
_LARGEST: Final = 10**15 - 1
# Differences of times are not exact: 60 seconds may come out as a hair more.
_ROUNDING: Final = 1e-6
_PROBLEM: Final = (
    b'{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded",'
    b'"title":"Request cannot be satisfied as assigned quota has been exceeded",'
    b'"status":%d,"violated-policies":[%b]}\n'
)


def is_printable(text: str) -> bool:
    """Tell whether a string can be said in a structured field.

    Args:
        text: The string.

    Returns:
        Whether it is ASCII from space to tilde.
    """
    return all(" " <= each <= "~" for each in text)


def string(text: str) -> bytes:
    """Write a string (RFC 9651 section 4.1.6); it is a JSON string too.

    Args:
        text: Printable ASCII.

    Returns:
        It in quotes.
    """
    return b'"%b"' % text.replace("\\", "\\\\").replace('"', '\\"').encode("ascii")


def seconds(duration: float) -> int:
    """Round a duration as ``Retry-After`` and ``w`` have it: up, and never to nothing.

    Args:
        duration: Seconds, finite.

    Returns:
        Whole seconds, at least 1.
    """
    return min(max(1, math.ceil(duration - _ROUNDING)), _LARGEST)


def policy_item(name: bytes, limit: int, window: float, unit: str | None) -> bytes:
    """Write an item of ``RateLimit-Policy``, but for its partition key.

    A window that is no whole number of seconds is told as the next longer one: who keeps to that
    keeps to the limit.

    Args:
        name: The policy's, as ``string`` writes it.
        limit: Its quota.
        window: Seconds in which so much is allowed; not told if it is not finite.
        unit: What the quota is counted in; None for requests.

    Returns:
        The item.
    """
    item = b"%b;q=%d" % (name, min(max(0, limit), _LARGEST))
    if unit is not None:
        item += b";qu=" + string(unit)
    return item + b";w=%d" % seconds(window) if math.isfinite(window) else item


def limit_item(name: bytes, remaining: int, window: float) -> bytes:
    """Write an item of ``RateLimit``, but for its partition key.

    Args:
        name: The policy's, as ``string`` writes it.
        remaining: What is left of the quota.
        window: Seconds for which that has to do; not told if they are not finite.

    Returns:
        The item.
    """
    left = min(max(remaining, 0), _LARGEST)
    if math.isfinite(window):
        return b"%b;r=%d;t=%d" % (name, left, seconds(window))
    return b"%b;r=%d" % (name, left)


def partition(key: bytes) -> bytes:
    """Write the partition key of an item (RFC 9651 section 4.1.8).

    Args:
        key: Whatever the server calls it.

    Returns:
        The parameter.
    """
    return b";pk=:%b:" % base64.b64encode(key)


def quota_exceeded(names: list[bytes], status: int) -> bytes:
    """Write the draft's problem of this type (RFC 9457).

    Args:
        names: Of the policies that refuse, as ``string`` writes them.
        status: Of the answer.

    Returns:
        JSON.
    """
    return _PROBLEM % (status, b",".join(names))
