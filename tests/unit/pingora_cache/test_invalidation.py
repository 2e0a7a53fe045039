"""What an unsafe request makes obsolete (RFC 9111 section 4.4)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from pingora_cache.invalidation import Invalidated, invalidated
from pingora_http import RequestHeader, ResponseHeader
from tests.support.cache_policy import POLICY

_OWN = Invalidated("http", b"example.com", b"/a/b?c")


def _targets(
    *fields: tuple[str, str],
    method: str = "POST",
    target: str = "/a/b?c",
    host: str = "example.com",
    scheme: str = "http",
    status: int = 200,
) -> list[Invalidated]:
    request = RequestHeader(method, target, headers=[("Host", host)])
    response = ResponseHeader(status, headers=fields)
    return POLICY.invalidated(request, response, scheme=scheme)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH", "get", "X"])
def test_methods_that_may_change_something(method: str) -> None:
    """A method that is unsafe, or not known, makes its own target obsolete."""
    assert _targets(method=method) == [_OWN]


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE"])
def test_safe_methods(method: str) -> None:
    """A safe one makes nothing obsolete."""
    assert _targets(("Location", "/x"), method=method) == []


@pytest.mark.parametrize(
    ("status", "done"),
    [(200, True), (201, True), (204, True), (303, True), (304, True), (399, True), (400, False),
     (404, False), (500, False), (103, False)],
)  # fmt: skip
def test_only_success_counts(status: int, *, done: bool) -> None:
    """What failed has changed nothing."""
    assert bool(_targets(status=status)) is done


@pytest.mark.parametrize(
    ("reference", "target"),
    [
        ("/x", b"/x"),
        ("x", b"/a/x"),
        ("../x?y=z", b"/x?y=z"),
        ("?d", b"/a/b?d"),
        ("//EXAMPLE.com/x", b"/x"),
        ("http://example.com/x", b"/x"),
        ("HTTP://Example.Com:80/x#frag", b"/x"),
        ("http://user@example.com/x", b"/x"),
        ("http://example.com", b"/"),
        ("/caf\xe9|x", b"/caf\xe9|x"),
    ],
)
@pytest.mark.parametrize("name", ["Location", "Content-Location"])
def test_what_the_response_points_to(name: str, reference: str, target: bytes) -> None:
    """What it names is obsolete, too, relative to the request."""
    assert _targets((name, reference)) == [_OWN, Invalidated("http", b"example.com", target)]


@pytest.mark.parametrize(
    "reference",
    [
        "http://other.com/x",
        "https://example.com/x",
        "http://example.com:81/x",
        "//other.com/x",
        "http://example.com.other.com/x",
        "http://example.com@other.com/x",
        "http://[::1/x",
        "http://example.com:port/x",
        "mailto:a@b",
    ],
)
def test_other_origins(reference: str) -> None:
    """Nobody empties the cache of somebody else, nor trips over nonsense."""
    assert _targets(("Location", reference), ("Content-Location", reference)) == [_OWN]


def test_both_and_each_once() -> None:
    """Both fields count, and what is named twice is told once."""
    assert [at.target for at in _targets(("Location", "/x"), ("Content-Location", "/y"))] == [
        b"/a/b?c", b"/x", b"/y",
    ]  # fmt: skip
    assert len(_targets(("Location", "/x"), ("Content-Location", "/x"))) == 2
    assert _targets(("Location", "/a/b?c")) == [_OWN]
    assert _targets(("Location", "")) == [_OWN]


@pytest.mark.parametrize(
    ("host", "scheme", "target", "expected"),
    [
        ("Example.COM:80", "http", "/", Invalidated("http", b"example.com", b"/")),
        ("example.com:443", "https", "/", Invalidated("https", b"example.com", b"/")),
        ("example.com:443", "http", "/", Invalidated("http", b"example.com:443", b"/")),
        ("[::1]:8080", "http", "/", Invalidated("http", b"[::1]:8080", b"/")),
        ("a", "http", "http://B:80/x?", Invalidated("http", b"b", b"/x?")),
        ("a", "http", "//x//y/../z", Invalidated("http", b"a", b"//x//y/../z")),
        ("a", "http", "/a|b\xe9?", Invalidated("http", b"a", b"/a|b\xe9?")),
    ],
)
def test_the_own_target(host: str, scheme: str, target: str, expected: Invalidated) -> None:
    """It is told as it was stored: the host in one form, path and query byte by byte."""
    assert _targets(host=host, scheme=scheme, target=target) == [expected]


@pytest.mark.parametrize("host", ["", "[::1", "a:port"])
def test_requests_without_a_host(host: str) -> None:
    """Without a host that can be read nothing was stored."""
    assert _targets(host=host) == []
    request = RequestHeader("CONNECT", "a:1", headers=[("Host", "a:1")])
    assert invalidated(request, ResponseHeader(200), scheme="http") == []


@settings(deadline=None)
@given(st.text(alphabet="".join(map(chr, [*range(33, 127), 9, 32, *range(160, 256)])), max_size=20))
def test_any_reference(reference: str) -> None:
    """Whatever a response points to, there is an answer, and all of it is of one origin."""
    for at in _targets(("Location", reference)):
        assert at[:2] == _OWN[:2]
        assert at.target[:1] == b"/"
