"""Heads and verdicts in a line each, for tests of cache policies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_cache.policy import CachePolicy
from pingora_cache.verdict import Cacheable
from pingora_http import RequestHeader, ResponseHeader
from pingora_http.date import format_http_date

if TYPE_CHECKING:
    from pingora_cache.meta import CacheMeta

__all__ = ["NOW", "POLICY", "ago", "control", "get", "refusal", "respond", "store"]

NOW = 1_800_000_000.0
"""When responses arrive."""

POLICY = CachePolicy()


def ago(seconds: float) -> str:
    """Write a date before ``NOW``.

    Args:
        seconds: How long before; negative for later.

    Returns:
        The date as fields have it.
    """
    return format_http_date(NOW - seconds).decode()


def control(value: str) -> tuple[str, str]:
    """Make a ``Cache-Control`` field.

    Args:
        value: Its value.

    Returns:
        The field.
    """
    return ("Cache-Control", value)


def get(*fields: tuple[str, str], method: str = "GET") -> RequestHeader:
    """Make a request.

    Args:
        fields: Its fields, besides ``Host``.
        method: Its method.

    Returns:
        The head.
    """
    return RequestHeader(method, "/path", headers=[("Host", "example.com"), *fields])


def respond(*fields: tuple[str, str], status: int = 200) -> ResponseHeader:
    """Make a response.

    Args:
        fields: Its fields.
        status: Its status.

    Returns:
        The head.
    """
    return ResponseHeader(status, headers=fields)


def refusal(
    *fields: tuple[str, str],
    status: int = 200,
    request: RequestHeader | None = None,
    policy: CachePolicy = POLICY,
) -> str:
    """Have a policy decide about a response.

    Args:
        fields: Of the response.
        status: Of the response.
        request: The request; None for a plain GET.
        policy: The policy.

    Returns:
        The rule that forbids to store it; "" if it is stored.
    """
    response = respond(*fields, status=status)
    before = response.copy()
    verdict = policy.response_cacheable(
        request or get(), response, request_time=NOW, response_time=NOW
    )
    assert response == before
    return "" if isinstance(verdict, Cacheable) else verdict.detail


def store(
    *fields: tuple[str, str],
    status: int = 200,
    request: RequestHeader | None = None,
    policy: CachePolicy = POLICY,
    delay: float = 0.0,
) -> CacheMeta:
    """Have a policy store a response.

    Args:
        fields: Of the response.
        status: Of the response.
        request: The request; None for a plain GET.
        policy: The policy.
        delay: Seconds from the request to the response, which arrives at ``NOW``.

    Returns:
        What is stored.
    """
    verdict = policy.response_cacheable(
        request or get(),
        respond(*fields, status=status),
        request_time=NOW - delay,
        response_time=NOW,
    )
    assert isinstance(verdict, Cacheable), verdict
    return verdict.meta
