"""What a 304, or the response to a HEAD, does to a stored response (RFC 9111 section 4.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

from pingora_cache.filters import upstream_request_filter
from pingora_cache.policy import CachePolicy
from pingora_cache.verdict import Cacheable
from tests.support.cache_policy import NOW, POLICY, ago, control, get, respond, store

if TYPE_CHECKING:
    from pingora_cache.meta import CacheMeta
    from pingora_cache.verdict import RespCacheable
    from pingora_http import RequestHeader, ResponseHeader

_SHORT = control("max-age=2")
_ETAG = ("ETag", '"a"')
_LM = ("Last-Modified", "Wed, 01 Jan 2020 00:00:00 GMT")
_LATER = NOW + 1000


def _later(seconds: float = 0) -> tuple[str, str]:
    return ("Date", ago(-1000 - seconds))


def _conditional(meta: CacheMeta, *fields: tuple[str, str]) -> RequestHeader:
    request = get(*fields)
    upstream_request_filter(request, meta)
    return request


def _confirm(
    meta: CacheMeta,
    *fields: tuple[str, str],
    policy: CachePolicy = POLICY,
    request: RequestHeader | None = None,
) -> RespCacheable:
    not_modified = respond(*fields, status=304)
    before, stored = not_modified.copy(), meta.header.copy()
    verdict = policy.merge_304(
        meta,
        not_modified,
        request or _conditional(meta),
        request_time=_LATER,
        response_time=_LATER,
    )
    assert not_modified == before
    assert meta.header == stored
    return verdict


def _confirmed(
    meta: CacheMeta, *fields: tuple[str, str], policy: CachePolicy = POLICY
) -> CacheMeta:
    verdict = _confirm(meta, *fields, policy=policy)
    assert isinstance(verdict, Cacheable), verdict
    return verdict.meta


def _refused(meta: CacheMeta, *fields: tuple[str, str]) -> str:
    verdict = _confirm(meta, *fields)
    assert not isinstance(verdict, Cacheable)
    return verdict.detail


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("Test-Header", "A", "B"),
        ("Content-Foo", "A", "B"),
        ("Cache-Control", "max-age=2", "max-age=3600"),
        ("Content-Location", "/foo", "/bar"),
        ("Content-Security-Policy", "a", "b"),
        ("Content-Type", "text/plain", "text/plain;charset=utf-8"),
        ("Expires", ago(-5000), ago(-6000)),
        ("Last-Modified", ago(5000), ago(4000)),
        ("Set-Cookie2", "a=b", "a=c"),
        ("X-Frame-Options", "deny", "sameorigin"),
    ],
)
def test_fields_that_are_updated(name: str, before: str, after: str) -> None:
    """Fields of the 304 replace those of the stored response (section 3.2)."""
    meta = store(_SHORT if name != "Cache-Control" else ("X", ""), _ETAG, (name, before))

    assert _confirmed(meta, _later(), (name, after), _SHORT).header.get_all(name)[0] == after


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("Content-Encoding", "gzip", "br"),
        ("Content-Length", "5", "10"),
        ("Content-MD5", "A", "B"),
        ("Content-Range", "A", "B"),
        ("ETag", '"abcdef"', '"ghijkl"'),
        ("Vary", "Accept, Foo", "foo"),
    ],
)
def test_fields_that_belong_to_the_body(name: str, before: str, after: str) -> None:
    """What tells of the stored body stays, and so does what is not there twice."""
    meta = store(_SHORT, (name, before), _LM)

    assert _confirmed(meta, (name, after), _SHORT).header.get_all(name) == [before]
    if name != "Vary":
        without = store(_SHORT, _LM)
        assert name not in _confirmed(without, (name, after), _SHORT).header


def test_fields_that_the_304_does_not_have() -> None:
    """What the 304 leaves out is kept; repeated fields are replaced together."""
    meta = store(_SHORT, _ETAG, ("A", "1"), ("B", "1"), ("b", "2"), ("Date", ago(0)))

    header = _confirmed(meta, ("B", "3"), ("b", "4"), ("b", "5"), ("C", "6")).header

    assert list(header) == [
        _SHORT, _ETAG, ("A", "1"), ("B", "3"), ("b", "4"), ("b", "5"), ("C", "6"), _later(),
    ]  # fmt: skip


def test_fields_of_the_connection() -> None:
    """Nothing of the connection gets in by way of a 304."""
    meta = store(_SHORT, _ETAG, ("X", "1"))

    header = _confirmed(
        meta, ("Connection", "x, Foo"), ("X", "2"), ("Foo", "1"), ("Age", "0"), ("Upgrade", "a")
    ).header

    assert header.get("x") == "1"
    assert not {"connection", "foo", "age", "upgrade"} & {name.lower() for name, _ in header}


def test_times_begin_anew() -> None:
    """Age and freshness count from the 304 on; when the body was stored is remembered."""
    meta = store(_SHORT, _ETAG).replace(variance=bytes(16))

    new = _confirmed(meta, control("max-age=60"), _later(-10), ("Age", "20"))

    assert (new.created, new.updated) == (NOW, _LATER)
    assert new.age(_LATER) == 20
    assert new.fresh_until == _LATER + 40
    assert new.variance == bytes(16)


def test_a_304_without_a_date() -> None:
    """The stored date says nothing about the 304 (RFC 9110 section 6.6.1)."""
    meta = store(_SHORT, _ETAG, ("Date", ago(0)))

    new = _confirmed(meta)

    assert new.fresh_until == _LATER + 2
    assert new.header.get("date") == _later()[1]


def test_a_304_that_says_nothing_new() -> None:
    """Without directives in the 304 those that are stored hold."""
    assert _confirmed(store(_SHORT, _LM), _later()).fresh_until == _LATER + 2
    tagged = store(_SHORT, _LM, ("Cache-Tag", "a"))
    assert _confirmed(tagged).tags == (b"a",)
    assert _confirmed(tagged, ("Cache-Tag", "b")).tags == (b"b",)


@pytest.mark.parametrize("value", ["no-store", "private", 'x="'])
def test_a_304_that_forbids(value: str) -> None:
    """A response may become one that must not be stored."""
    assert _refused(store(_SHORT, _ETAG), control(value))
    assert _refused(store(_SHORT, _ETAG), ("CDN-Cache-Control", "no-store")) == "no-store"


def test_a_304_for_credentials() -> None:
    """What is said to one with credentials is not said to all."""
    meta = store(_SHORT, _ETAG)
    request = _conditional(meta, ("Authorization", "x"))

    verdict = _confirm(meta, control("max-age=60"), request=request)

    assert not isinstance(verdict, Cacheable)
    assert isinstance(_confirm(meta, control("public, max-age=60"), request=request), Cacheable)


@pytest.mark.parametrize(
    ("stored", "condition", "answered"),
    [
        ([_ETAG], ("If-None-Match", '"a"'), True),
        ([_ETAG], ("If-None-Match", '"b"'), False),
        ([_ETAG], ("If-None-Match", '"a", "b"'), False),
        ([_LM], ("If-None-Match", '"a"'), False),
        ([_LM], ("If-Modified-Since", _LM[1]), True),
        ([_LM], ("If-Modified-Since", ago(0)), False),
        ([_LM, _ETAG], ("If-None-Match", '"a"'), True),
    ],
)
def test_another_condition(
    stored: list[tuple[str, str]], condition: tuple[str, str], *, answered: bool
) -> None:
    """A 304 to the condition of a client confirms what the client has."""
    meta = store(_SHORT, *stored)

    assert isinstance(_confirm(meta, request=get(condition)), Cacheable) is answered


@pytest.mark.parametrize(
    ("stored", "new", "detail"),
    [
        (None, None, ""),
        ("Accept", None, ""),
        ("Accept", "accept", ""),
        ("Accept, Foo", "Foo", ""),
        (None, "Accept", "Vary changed"),
        ("Accept", "Accept, Foo", "Vary changed"),
        ("Accept", "*", "Vary changed"),
    ],
)
def test_vary_that_grows(stored: str | None, new: str | None, detail: str) -> None:
    """What now varies on more may be wrong for those it was right for."""
    meta = store(_SHORT, _ETAG, *([("Vary", stored)] if stored else []))
    fields = [("Vary", new)] if new else []

    if detail:
        assert _refused(meta, *fields) == detail
    else:
        assert _confirmed(meta, *fields).header.get("vary") == stored


@pytest.mark.parametrize("mode", ["deny", "strip"])
def test_cookies_of_a_304(mode: str) -> None:
    """A cookie that comes with the 304 does not get in, and does not forbid to go on."""
    policy = CachePolicy(set_cookie="deny" if mode == "deny" else "strip")
    meta = store(_SHORT, _ETAG)

    assert "set-cookie" not in _confirmed(meta, ("Set-Cookie", "a"), policy=policy).header
    storing = CachePolicy(set_cookie="store")
    old = store(_SHORT, _ETAG, ("Set-Cookie", "a=b"), policy=storing)
    new = _confirmed(old, ("Set-Cookie", "a=c"), policy=storing)
    assert new.header.get_all("set-cookie") == ["a=c"]


def test_listed_fields_of_a_304() -> None:
    """Fields that the 304 makes private are removed from what is stored."""
    meta = store(_SHORT, _ETAG, ("X", "1"))

    assert "x" not in _confirmed(meta, control('max-age=2, private="x"'), ("X", "2")).header


# ------------------------------------------------------------------------ HEAD


def _head(meta: CacheMeta, response: ResponseHeader) -> CacheMeta | None:
    return POLICY.freshened_by_head(
        meta, response, get(method="HEAD"), request_time=_LATER, response_time=_LATER
    )


def test_head_that_agrees() -> None:
    """A HEAD that is about the same body freshens it (section 4.3.5)."""
    meta = store(_SHORT, _ETAG, ("Content-Length", "5"), ("X", "1"), ("Y", "1"))

    new = _head(meta, respond(control("max-age=60"), _ETAG, ("Content-Length", "5"), ("X", "2")))

    assert new is not None
    assert new.fresh_until == _LATER + 60
    assert (new.created, new.header.get("x"), new.header.get("y")) == (NOW, "2", "1")


@pytest.mark.parametrize(
    "field",
    [
        ("ETag", '"b"'),
        ("Content-Length", "6"),
        ("Last-Modified", ago(0)),
        ("Content-Encoding", "gzip"),
        ("Vary", "X"),
        control("no-store"),
    ],
)
def test_head_that_does_not(field: tuple[str, str]) -> None:
    """A HEAD that tells of another body makes the stored one stale."""
    meta = store(control("max-age=9999"), _ETAG, _LM, ("Content-Length", "5"))

    new = _head(meta, respond(field))

    assert new is not None
    assert not new.is_fresh(_LATER)


def test_head_that_is_about_something_else() -> None:
    """A HEAD with another status, or for a stored error, says nothing."""
    assert _head(store(_SHORT, _ETAG), respond(_SHORT, status=410)) is None
    assert _head(store(_SHORT, _ETAG, status=404), respond(_SHORT)) is None


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["Cache-Control", "Vary", "ETag", "Date", "X", "Content-Length", "Age",
                             "Connection", "Expires", "Set-Cookie", "Pragma"]),
            st.sampled_from(["max-age=9", "no-store", "no-cache", "", "x", "*", "5", ago(0), "Vary"]),
        ),
        max_size=6,
    )
)  # fmt: skip
def test_any_304(fields: list[tuple[str, str]]) -> None:
    """Whatever a 304 says, the stored body keeps what tells of it, and there is a decision."""
    meta = store(_SHORT, _ETAG, ("Vary", "X"), ("Content-Length", "10"), ("X", "1"))

    verdict = _confirm(meta, *fields)

    if isinstance(verdict, Cacheable):
        header = verdict.meta.header
        assert header.get_all("etag") == ['"a"']
        assert header.get_all("content-length") == ["10"]
        assert header.get_all("vary") == ["X"]
        assert "set-cookie" not in header
        assert verdict.meta.fresh_until <= _LATER + 10
