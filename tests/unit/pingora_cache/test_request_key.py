"""Keys of requests: what is one resource has one key, and nothing else has (CVE-2026-2836)."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings, strategies as st

from pingora_cache import _key_parts
from pingora_cache._key_parts import encode_parts, request_prefix, start
from pingora_cache.key import CacheKey
from pingora_http import RequestHeader, Version

_TOKEN = st.sampled_from([b"GET", b"HEAD", b"POST", b"PURGE"])
_HOSTS = st.sampled_from(
    [b"a", b"A", b"a:80", b"a:443", b"a:", b"b", b"a.", b"a,b", b"u@a", b"[::1]", b"[::1]:80", b""]
)
_PATHS = st.sampled_from(
    [b"/", b"//", b"/a", b"/A", b"/%2F", b"/a?", b"/a?b", b"/a#", b"/a#b", b"*"]
)


def _request(
    target: str | bytes = "/a?b=c",
    *hosts: str | bytes,
    method: str = "GET",
    version: Version = Version.HTTP_11,
) -> RequestHeader:
    fields: list[tuple[str | bytes, str | bytes]] = [("Host", host) for host in hosts]
    return RequestHeader(method, target, version, headers=[*fields, ("Cookie", "a"), ("X", "y")])


def _key(
    target: str | bytes = "/a?b=c",
    *hosts: str | bytes,
    scheme: str = "http",
    method: str = "GET",
) -> CacheKey:
    return CacheKey.for_request(_request(target, *hosts, method=method), scheme=scheme)


def _all_differ(keys: list[CacheKey]) -> None:
    for one, other in itertools.combinations(keys, 2):
        assert one != other, (one.primary, other.primary)


def test_the_parts_of_a_plain_request() -> None:
    """Scheme, authority and target, each with its length before it."""
    key = _key("/a?b=c", "Example.com")

    assert key.primary == encode_parts([b"http", b"example.com", b"/a?b=c"])
    assert key.namespace == b""
    assert key.user_tag == ""
    assert key.variance is None
    assert key == CacheKey(key.primary)
    assert key == CacheKey.for_uri("http", "example.com", "/a?b=c")


def test_hosts_are_not_confused() -> None:
    """CVE-2026-2836: one path on two hosts is two resources, however the host is named."""
    _all_differ(
        [
            _key("/", "victim.example"),
            _key("/", "attacker.example"),
            _key("/"),
            _key("http://other.example/", "other.example"),
        ]
    )


def test_schemes_are_not_confused() -> None:
    """What is sent in the open is not served as what was not."""
    assert _key("/", "a", scheme="http") != _key("/", "a", scheme="https")
    assert _key("/", "a", scheme="HTTPS") == _key("/", "a", scheme="https")


@pytest.mark.parametrize(
    ("scheme", "host", "same"),
    [
        ("http", "a:80", True),
        ("http", "A:80", True),
        ("http", "a:", True),
        ("http", "a:443", False),
        ("http", "a:8080", False),
        ("https", "a:443", True),
        ("https", "a:80", False),
        ("ftp", "a:80", False),
    ],
)
def test_default_ports(scheme: str, host: str, same: bool) -> None:
    """The port that goes without saying may be said; any other is another origin."""
    assert (_key("/", host, scheme=scheme) == _key("/", "a", scheme=scheme)) is same


def test_addresses() -> None:
    """An IPv6 address keeps its brackets and is not cut at its colons."""
    assert _key("/", "[::1]:80") == _key("/", "[::1]")
    assert _key("/", "[FE80::1]") == _key("/", "[fe80::1]")
    _all_differ([_key("/", "[::80]"), _key("/", "[::]"), _key("/", "[::1]:8080")])


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_get_and_head_share(method: str) -> None:
    """A HEAD is answered from what a GET has stored."""
    assert _key("/", "a", method=method) == CacheKey.for_uri("http", "a", "/")


def test_other_methods_do_not_share() -> None:
    """Method override: the answer to a POST is nobody else's, and a method has its case."""
    _all_differ(
        [_key("/", "a", method=name) for name in ("GET", "POST", "get", "PURGE", "OPTIONS")]
    )


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("http://a/x?y", "a"),
        ("http://A:80/x?y", "a:80"),
        ("HTTP://a:/x?y", "A"),
        ("http://a/x?y", None),
    ],
)
def test_absolute_form(target: str, host: str | None) -> None:
    """RFC 9112 section 3.2.2: a target in absolute-form names the same resource."""
    hosts = [] if host is None else [host]

    assert _key(target, *hosts) == _key("/x?y", "a")


def test_absolute_form_without_a_path() -> None:
    """An empty path is that of the root."""
    assert _key("http://a", "a") == _key("/", "a")
    assert _key("http://a?x", "a") == _key("/?x", "a")


def test_a_target_that_contradicts() -> None:
    """A target that names another host, scheme or user than the rest of the request does is its own.

    An origin may go by the target or by the rest: neither gets into the slot of the other.
    """
    _all_differ(
        [
            _key("/", "victim"),
            _key("/", "attacker"),
            _key("http://victim/", "victim", "attacker"),
            _key("http://victim/", "attacker"),
            _key("http://attacker/", "victim"),
            _key("https://victim/", "victim"),
            _key("ftp://victim/", "victim"),
            _key("http://user@victim/", "victim"),
            _key("http://user:password@victim/", "victim"),
            _key("http://victim@attacker/", "attacker"),
            _key("http://victim/#x", "victim"),
            _key("http://attacker@attacker/", "attacker"),
            _key("http://victim:8080/", "victim"),
        ]
    )


def test_host_twice() -> None:
    """Origins differ in which of two Host fields they follow: no slot is shared with them."""
    _all_differ(
        [
            _key("/", "a"),
            _key("/", "b"),
            _key("/", "a", "b"),
            _key("/", "b", "a"),
            _key("/", "a", "a"),
            _key("/", "a,b"),
            _key("http://a/", "b"),
        ]
    )


def test_other_fields_twice() -> None:
    """Fields that are no part of the key may be repeated."""
    request = _request("/", "A")
    request.append_header("Cookie", "b")

    assert CacheKey.for_request(request, scheme="http") == _key("/", "a")


def test_the_target_is_left_alone() -> None:
    """What looks alike may differ for the origin: nothing in path and query is made one."""
    targets = [
        "/",
        "//",
        "/a",
        "/A",
        "/a/",
        "/./a",
        "/%61",
        "/%2F",
        "/%2f",
        "/a?",
        "/a?b&c",
        "/a?c&b",
    ]
    _all_differ([_key(target, "a") for target in (*targets, "/a#b", "/a%23b", "/a;b", "*")])


def test_a_long_target() -> None:
    """The length of a target does not matter."""
    for size in (1023, 1024, 70_000):
        target = b"/" + b"x" * (size - 1)
        assert _key(target, "a").primary == encode_parts([b"http", b"a", target])


def test_connect_and_asterisk() -> None:
    """Targets that are no path have keys, too."""
    _all_differ(
        [
            _key("a:443", "a:443", method="CONNECT"),
            _key("/", "a:443", method="CONNECT"),
            _key("a:443", "a:443"),
            _key("*", "a", method="OPTIONS"),
            _key("/", "a", method="OPTIONS"),
        ]
    )


def test_what_is_added() -> None:
    """Parts of the application's own follow, in order, each of them kept apart."""
    request = _request("/", "a")
    keys = [
        CacheKey.for_request(request, scheme="http", extra=extra)
        for extra in ((), ("a",), ("a", "b"), ("b", "a"), ("ab",), ("a", ""), ("",))
    ]
    _all_differ(keys)
    assert keys[1] == CacheKey.for_request(request, scheme="http", extra=[b"a"])
    assert keys[1] == CacheKey.for_request(request, scheme="http", extra=(x for x in "a"))
    assert keys[0] == CacheKey.for_request(request, scheme="http", extra=iter(()))
    assert keys[2] == CacheKey.for_uri("http", "a", "/", extra=("a", b"b"))
    assert _key("/", "a", method="POST") not in {
        CacheKey.for_request(request, scheme="http", extra=("POST",)),
        CacheKey.for_request(request, scheme="http", extra=("POST http",)),
    }


def test_namespace_and_tag() -> None:
    """A key for a request takes what the constructor takes."""
    request = _request("/", "a")
    key = CacheKey.for_request(request, scheme="http", namespace="n", user_tag="me")

    assert (key.namespace, key.user_tag) == (b"n", "me")
    assert key == CacheKey.for_uri("http", b"A", b"/", namespace=b"n", user_tag="me")
    assert key == CacheKey(key.primary, namespace="n", user_tag="me")
    assert key != CacheKey.for_request(request, scheme="http", user_tag="me")


@pytest.mark.parametrize(
    ("target", "same"),
    [("", "/"), ("/a#b", "/a"), ("#b", "/"), ("?x#b", "/?x"), ("/a?b#c?d", "/a?b"), ("a", "/a")],
)
def test_the_end_of_a_uri(target: str, same: str) -> None:
    """A key can be made for what a Location says: a fragment is not sent, a path begins by /."""
    assert CacheKey.for_uri("http", "a", target) == _key(same, "a")


def test_uri_text_is_latin1() -> None:
    """Text is what heads make of bytes."""
    assert CacheKey.for_uri("http", "a", "/\xe4") == CacheKey.for_uri("http", "a", b"/\xe4")
    with pytest.raises(ValueError, match="latin-1"):
        CacheKey.for_uri("http", "a", "/\u20ac")


@pytest.mark.parametrize("scheme", ["", "ht tp", "http,", "http:", "h\u20actp", "http\0"])
def test_what_is_no_scheme(scheme: str) -> None:
    """A scheme that is none is a mistake of the programmer's."""
    with pytest.raises(ValueError, match="scheme"):
        _key("/", "a", scheme=scheme)
    with pytest.raises(ValueError, match="scheme"):
        _key("http://a/", "a", scheme=scheme)


def test_hosts_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever invents hosts fills no memory, and gets the right key."""
    starts: dict[str, dict[bytes, bytes]] = {"http": {}, "https": {}}
    monkeypatch.setattr(_key_parts, "_starts", starts)
    for number in range(2500):
        host = b"H%d" % number
        for _ in range(2):
            assert start("http", host, b"/") == encode_parts([b"http", host.lower(), b"/"])
    start("http", b"x" * 10_000, b"/")
    start("ftp", b"x", b"/")

    assert len(starts["http"]) <= 1024
    assert max(map(len, starts["http"])) <= 256
    assert not starts["https"]
    assert len(starts) == 2


def _meaning(method: bytes, target: bytes, hosts: list[bytes]) -> tuple[object, ...]:
    """What a plain request asks for; all there is of one that is not plain."""

    def normal(host: bytes) -> bytes:
        return host.lower().removesuffix(b":80").removesuffix(b":")

    kind = b"" if method in {b"GET", b"HEAD"} else method
    names = tuple(map(normal, hosts))
    if target[:7].lower() != b"http://":
        return (kind, names or (b"",), target)
    authority, _, path = target[7:].partition(b"/")
    named = normal(authority.rpartition(b"@")[2])
    others = () if names in {(), (named,)} else names
    if b"@" in authority or b"#" in path:
        return (kind, others, named, target)
    if others:
        return (kind, others, named, b"/" + path)
    return (kind, (named,), b"/" + path)


@given(
    one=st.tuples(_TOKEN, st.tuples(st.booleans(), _HOSTS, _PATHS), st.lists(_HOSTS, max_size=2)),
    other=st.tuples(_TOKEN, st.tuples(st.booleans(), _HOSTS, _PATHS), st.lists(_HOSTS, max_size=2)),
)
@settings(max_examples=400)
def test_keys_meet_only_if_the_requests_do(
    one: tuple[bytes, tuple[bool, bytes, bytes], list[bytes]],
    other: tuple[bytes, tuple[bool, bytes, bytes], list[bytes]],
) -> None:
    """H1, CVE-2026-2836: two requests have one key only if they ask for the same."""
    keys, meanings = [], []
    for method, (absolute, named, path), hosts in (one, other):
        target = b"http://" + named + path if absolute and named and path != b"*" else path
        items = [(b"Host", host) for host in hosts]
        request = RequestHeader.from_wire(method, target, Version.HTTP_11, items)
        keys.append(CacheKey.for_request(request, scheme="http"))
        meanings.append(_meaning(method, target, hosts))

    if keys[0] == keys[1]:
        assert meanings[0] == meanings[1]


@given(host=_HOSTS, path=_PATHS)
@settings(max_examples=100)
def test_the_short_way_is_the_long_way(host: bytes, path: bytes) -> None:
    """What is remembered for a host is what it is computed to be."""
    request = RequestHeader.from_wire(b"GET", path, Version.HTTP_11, [(b"Host", host)])

    assert request_prefix(request, "http") == start("http", host, path)
