"""The building blocks decide as Pingora's do."""

from __future__ import annotations

import pytest

from pingora_cache.control import DELTA_SECONDS_MAX, CacheControl
from pingora_cache.filters import (
    CacheMetaDefaults,
    request_cacheable,
    resp_cacheable,
    upstream_request_filter,
)
from pingora_cache.meta import CacheMeta
from pingora_cache.reason import NoCacheReason
from pingora_cache.verdict import Cacheable, Uncacheable
from pingora_http import RequestHeader, ResponseHeader
from pingora_http.date import format_http_date

_NOW = 1_800_000_000.0
_FRESH: dict[int, int | None] = {200: 10, 404: 5, 206: None}

DEFAULTS = CacheMetaDefaults(lambda status: _FRESH.get(status, 1), 0, DELTA_SECONDS_MAX)
BYPASS = CacheMetaDefaults(lambda _: None)


def _store(
    *fields: tuple[str, str],
    status: int = 200,
    defaults: CacheMetaDefaults = DEFAULTS,
    authorized: bool = False,
) -> CacheMeta | None:
    response = ResponseHeader(status, headers=fields)
    before = response.copy()
    verdict = resp_cacheable(
        CacheControl.from_header(response),
        response,
        authorization_present=authorized,
        defaults=defaults,
        now=_NOW,
    )
    assert response == before
    if isinstance(verdict, Cacheable):
        return verdict.meta
    assert verdict == Uncacheable(NoCacheReason.ORIGIN_NOT_CACHE)
    return None


def _stored(*fields: tuple[str, str], status: int = 200) -> CacheMeta:
    meta = _store(*fields, status=status)
    assert meta is not None
    return meta


def _control(value: str) -> tuple[str, str]:
    return ("Cache-Control", value)


def _expires(offset: float) -> tuple[str, str]:
    return ("Expires", format_http_date(_NOW + offset).decode())


def test_request_cacheable() -> None:
    """Responses to GET and HEAD may be stored."""
    methods = ["GET", "HEAD", "POST", "OPTIONS", "get"]

    assert [m for m in methods if request_cacheable(RequestHeader(m, "/"))] == ["GET", "HEAD"]


def test_resp_cacheable() -> None:
    """``max-age`` says how long a response is fresh."""
    meta = _stored(_control("max-age=12345"))

    assert meta.created == meta.updated == _NOW
    assert meta.is_fresh(_NOW)
    assert meta.is_fresh(_NOW + 12)
    assert not meta.is_fresh(_NOW + 12346)


@pytest.mark.parametrize("directive", ["private", "no-store"])
def test_resp_uncacheable_directives(directive: str) -> None:
    """Two directives forbid to store."""
    assert _store(_control(f"{directive}, max-age=12345")) is None


@pytest.mark.parametrize(
    ("control", "stored"),
    [
        (None, False),
        ("max-age=10", False),
        ("s-maxage=10", True),
        ("public, max-age=10", True),
        ("must-revalidate", True),
    ],
)
def test_resp_cache_authorization(control: str | None, *, stored: bool) -> None:
    """What was answered to credentials is stored only where that is said."""
    fields = [] if control is None else [_control(control)]

    meta = _store(*fields, authorized=True)

    assert (meta is not None) is stored
    assert meta is None or meta.is_fresh(_NOW)


def test_resp_zero_max_age() -> None:
    """With nothing to be fresh for, a response is stored, and stale at once."""
    meta = _stored(_control("max-age=0, public"))

    assert meta.fresh_until == _NOW - 1


@pytest.mark.parametrize("status", [200, 206])
def test_resp_expires(status: int) -> None:
    """``Expires`` says it too, for any status."""
    meta = _stored(_expires(5), status=status)

    assert meta.is_fresh(_NOW)
    assert not meta.is_fresh(_NOW + 6)


def test_resp_past_expires() -> None:
    """What has expired is stored, and stale."""
    meta = _store(("Expires", "Fri, 15 May 2015 15:34:21 GMT"), defaults=BYPASS)

    assert meta is not None
    assert not meta.is_fresh(_NOW)


@pytest.mark.parametrize(
    "value", ["Mon, 13 Feb 0002 12:00:00 GMT", "Fri, 01 Dec 99999 16:00:00 GMT", "0"]
)
def test_resp_nonstandard_expires(value: str) -> None:
    """What is no date is long past."""
    meta = _store(("Expires", value), defaults=BYPASS)

    assert meta is not None
    assert not meta.is_fresh(_NOW)


def test_resp_multiple_expires() -> None:
    """``Expires`` that is there twice counts for nothing."""
    assert _store(_expires(5), _expires(10), defaults=BYPASS) is None
    assert _store(_expires(5), _expires(10)) is not None


def test_resp_cache_control_with_expires() -> None:
    """``Cache-Control`` comes before ``Expires``."""
    assert not _stored(_expires(5), _control("max-age=0")).is_fresh(_NOW)


def test_resp_stale_while_revalidate() -> None:
    """The window begins when the response has expired; the default counts if none is named."""
    meta = _stored(_control("max-age=10"))
    assert not meta.is_fresh(_NOW + 11)
    assert not meta.serve_stale_while_revalidate(_NOW)
    assert not meta.serve_stale_while_revalidate(_NOW + 11)

    meta = _stored(_control("max-age=10, stale-while-revalidate=5"))
    assert not meta.is_fresh(_NOW + 11)
    assert meta.serve_stale_while_revalidate(_NOW + 11)
    assert not meta.serve_stale_while_revalidate(_NOW + 16)


def test_resp_stale_if_error() -> None:
    """So it is with the other window."""
    fifty_years = _NOW + 86400 * 365 * 50
    meta = _stored(_control("max-age=10"))
    assert not meta.is_fresh(fifty_years)
    assert meta.serve_stale_if_error(fifty_years)

    meta = _stored(_control("max-age=10, stale-while-revalidate=5, stale-if-error=60"))
    assert meta.serve_stale_if_error(_NOW)
    assert meta.serve_stale_if_error(_NOW + 11)
    assert not meta.serve_stale_if_error(_NOW + 71)

    meta = _stored(_control("max-age=10, stale-if-error=0"))
    assert not meta.is_fresh(_NOW + 11)
    assert not meta.serve_stale_if_error(_NOW + 11)


def test_stale_windows_are_bounded() -> None:
    """A window with more than 31 bits is one for ever."""
    meta = _stored(_control("max-age=10, stale-if-error=4294967295"))

    assert meta.stale_if_error == DELTA_SECONDS_MAX


@pytest.mark.parametrize(
    ("status", "control", "seconds"),
    [
        (200, None, 10),
        (404, None, 5),
        (206, None, None),
        (206, "public, max-age=10", 10),
        (416, None, 1),
        (304, None, 10),
    ],
)
def test_resp_status_cache_defaults(status: int, control: str | None, seconds: int | None) -> None:
    """Defaults are by status, 304 counting as 200; what a response says comes first."""
    meta = _store(*([] if control is None else [_control(control)]), status=status)

    if seconds is None:
        assert meta is None
    else:
        assert meta is not None
        assert meta.is_fresh(_NOW + seconds)
        assert not meta.is_fresh(_NOW + seconds + 1)


def test_resp_cache_no_cache_fields() -> None:
    """Fields that are listed are not stored; others are."""
    cookie = ("Set-Cookie", "my-cookie")

    meta = _stored(cookie, _control('private="something", max-age=10'), ("Something", "foo"))
    assert "set-cookie" in meta.header
    assert "something" not in meta.header

    listed = _control('max-age=0, no-cache="meta1, SeT-Cookie ,meta2"')
    meta = _stored(cookie, listed, ("meta1", "foo"))
    assert list(meta.header) == [listed]


def _conditional(method: str = "GET") -> RequestHeader:
    names = ("If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range")
    fields = [("Host", "a"), *((name, "x") for name in names), ("Range", "bytes=0-1")]
    return RequestHeader(method, "/", headers=fields)


def test_upstream_request_filter() -> None:
    """The whole response is asked for, whatever the client wants of it."""
    request = _conditional("HEAD")

    upstream_request_filter(request, None)

    assert request.method == "GET"
    assert list(request) == [("Host", "a")]


def test_upstream_request_filter_validates() -> None:
    """A response that is stored is asked after by what it has of validators."""
    validators = [("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT"), ("ETag", 'W/"e"')]
    for fields in ([], validators[:1], validators[1:], validators):
        header = ResponseHeader(200, headers=fields)
        request = _conditional()

        upstream_request_filter(request, CacheMeta(header, created=_NOW, fresh_until=_NOW))

        assert request.get("if-modified-since") == header.get("last-modified")
        assert request.get("if-none-match") == header.get("etag")
