"""Request lines, the four forms of a target, and who is meant, behind either engine.

The sections are of RFC 9112 (HTTP/1.1) unless another RFC is named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pingora_core.protocols.http.v1._target import _MAX_GOOD_HOSTS, GOOD_HOSTS
from pingora_core.protocols.http.v1.framing import check_request_head
from pingora_core.protocols.http.v1.parser import DEFAULT_LIMITS
from pingora_error import Error, ErrorType
from pingora_http import RequestHeader, Version

if TYPE_CHECKING:
    from pingora_core.protocols.http.v1 import Http1Parser

_GOOD_HOSTS = [
    b"example.com",
    b"EXAMPLE.com.",
    b"example.com:80",
    b"example.com:",
    b"h:0",
    b"h:65535",
    b"127.0.0.1:8080",
    b"[::1]",
    b"[::1]:8080",
    b"[2001:db8::1.2.3.4]",
    b"under_score.example",
    b"a%20b",
    b"xn--bcher-kva.example",
    b"a!$&'()*+,;=~",
]
_BAD_HOSTS = [
    b"",
    b":80",
    b"h:x",
    b"h:-1",
    b"h:65536",
    b"h:000080",
    b"h:80:80",
    b"h:80,",
    b"a b",
    b"a, b",
    b"a\tb",
    b"a/b",
    b"a?b",
    b"a#b",
    b"a\\b",
    b"user@h",
    b"http://h",
    b"[::1",
    b"::1",
    b"[::1]x",
    b"[]",
    b"[1.2.3.4]",
    b"[:::1]",
    b"[fe80::1%25eth0]",
    b"[v1.x]",
    b"%",
    b"%2",
    b"%zz",
    b'"h"',
    b"<h>",
    b"\xc3\xa9",
]


def _request(
    parser: Http1Parser, line: bytes, host: bytes | None = b"h", rest: bytes = b""
) -> RequestHeader:
    field = b"" if host is None else b"Host: %b\r\n" % host
    raw = line + b"\r\n" + field + rest + b"\r\n"
    request = parser.parse_request(raw)
    check_request_head(raw, request, DEFAULT_LIMITS)
    return request


def _refused(
    parser: Http1Parser, line: bytes, host: bytes | None = b"h", rest: bytes = b""
) -> None:
    with pytest.raises(Error) as caught:
        _request(parser, line, host, rest)
    assert caught.value.etype is ErrorType.INVALID_HTTP_HEADER


# ---------------------------------------------------------------------- Host


@pytest.mark.parametrize("host", _GOOD_HOSTS)
def test_good_hosts(parser: Http1Parser, host: bytes) -> None:
    """RFC 3986 section 3.2.2: names, IPv4 and IPv6 addresses, with or without a port."""
    assert _request(parser, b"GET / HTTP/1.1", host).get_raw(b"host") == host
    assert _request(parser, b"GET http://%b/ HTTP/1.1" % host, host).get_raw(b"host") == host


@pytest.mark.parametrize("host", _BAD_HOSTS)
def test_bad_hosts(parser: Http1Parser, host: bytes) -> None:
    """Section 3.2: a Host with an invalid value is refused, whatever the target."""
    _refused(parser, b"GET / HTTP/1.1", host)
    _refused(parser, b"GET http://h/ HTTP/1.1", host)
    _refused(parser, b"GET / HTTP/1.0", host)


@pytest.mark.parametrize(
    "line", [b"GET / HTTP/1.1", b"GET http://h/ HTTP/1.1", b"OPTIONS * HTTP/1.1"]
)
def test_missing_host(parser: Http1Parser, line: bytes) -> None:
    """Section 3.2: an HTTP/1.1 request without Host is refused, even if its target has one."""
    _refused(parser, line, None)


def test_http10_needs_no_host(parser: Http1Parser) -> None:
    """RFC 1945 knows no Host."""
    assert _request(parser, b"GET / HTTP/1.0", None).get("host") is None


@pytest.mark.parametrize("second", [b"h", b"other"])
@pytest.mark.parametrize("line", [b"GET / HTTP/1.1", b"GET / HTTP/1.0", b"GET http://h/ HTTP/1.1"])
def test_several_hosts(parser: Http1Parser, line: bytes, second: bytes) -> None:
    """Section 3.2: more than one Host is refused, even if they agree."""
    _refused(parser, line, b"h", b"X: y\r\nhost: %b\r\n" % second)


def test_good_hosts_are_remembered_within_bounds(parser: Http1Parser) -> None:
    """A client with a new Host in every request cannot fill the memory."""
    for number in range(_MAX_GOOD_HOSTS + 10):
        _request(parser, b"GET / HTTP/1.1", b"h%d.example" % number)
    _request(parser, b"GET / HTTP/1.1", b"x" * 300)

    assert len(GOOD_HOSTS) <= _MAX_GOOD_HOSTS
    assert b"x" * 300 not in GOOD_HOSTS


# --------------------------------------------------------------- origin-form


@pytest.mark.parametrize(
    "target",
    [
        b"/",
        b"/a/b?c=d&e",
        b"//a/b",
        b"/?",
        b"/a%20b%zz",
        b'/"<>\\^`{|}',
        b"/a:b@c",
        b"/http://x/",
        b"/..;/a",
    ],
)
def test_origin_form(parser: Http1Parser, target: bytes) -> None:
    """Section 3.2.1: a path and a query; printable ASCII that RFC 3986 does not allow is passed
    on, for clients send it and it cannot be read in two ways."""
    request = _request(parser, b"GET " + target + b" HTTP/1.1")

    assert request.raw_target == target
    assert request.get("host") == "h"


@pytest.mark.parametrize(
    "target",
    [b"", b"a", b"a/b", b"?a", b"#", b"/#", b"/a#b", b"/a?b#c", b"/\xc3\xa9", b"/a\tb", b"/a\x7f"],
)
def test_targets_of_no_form(parser: Http1Parser, target: bytes) -> None:
    """Section 3.2: neither relative paths, nor fragments, nor bytes that no URI has."""
    _refused(parser, b"GET " + target + b" HTTP/1.1")


# ------------------------------------------------------------- absolute-form


@pytest.mark.parametrize(
    ("target", "host"),
    [
        (b"http://example.com/a?b", b"example.com"),
        (b"HTTPS://Example.com:8443", b"Example.com:8443"),
        (b"http://example.com?q", b"example.com"),
        (b"http://[::1]:8080/", b"[::1]:8080"),
        (b"http://h/user@other/", b"h"),
    ],
)
@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
def test_absolute_form(parser: Http1Parser, target: bytes, host: bytes, version: bytes) -> None:
    """Section 3.2.2: Host is ignored, and replaced by the host of the target."""
    request = _request(parser, b"GET " + target + b" " + version, b"evil.example", b"X: y\r\n")

    assert request.raw_target == target
    assert request.raw_items == [(b"Host", host), (b"X", b"y")]


def test_absolute_form_in_http10(parser: Http1Parser) -> None:
    """Section 3.2.2: a Host is made where none was sent."""
    request = _request(parser, b"GET http://h:8/ HTTP/1.0", None)

    assert request.raw_items == [(b"Host", b"h:8")]


@pytest.mark.parametrize(
    "target",
    [
        b"http://",
        b"http:///a",
        b"http:/a",
        b"http:a",
        b"http://h#a",
        b"http://h/a#b",
        b"http://user@h/",
        b"http://user:pass@h:80/",
        b"http://@h/",
        b"http://a@b@c/",
        b"http://h:x/",
        b"http://h\\a/",
        b"ftp://h/",
        b"ws://h/",
        b"file:///etc/passwd",
        b"s://]ufd/:",
        b"https//h/",
        b"://h/",
    ],
)
def test_bad_absolute_form(parser: Http1Parser, target: bytes) -> None:
    """RFC 9110 sections 4.2.1, 4.2.4: no empty host, no user information, HTTP schemes only."""
    _refused(parser, b"GET " + target + b" HTTP/1.1")


# --------------------------------------------------- authority- and asterisk-form


@pytest.mark.parametrize("target", [b"example.com:443", b"[::1]:443", b"127.0.0.1:1"])
def test_authority_form(parser: Http1Parser, target: bytes) -> None:
    """Section 3.2.3: CONNECT names host and port, and those count."""
    request = _request(parser, b"CONNECT " + target + b" HTTP/1.1", b"evil.example")

    assert request.raw_target == target
    assert request.get_raw(b"host") == target


@pytest.mark.parametrize(
    "target",
    [b"/", b"*", b"h", b"h:", b"h:0", b"h:99999", b"http://h:443/", b"u@h:443", b"h:443/", b":443"],
)
def test_bad_authority_form(parser: Http1Parser, target: bytes) -> None:
    """RFC 9110 section 9.3.6: without a valid port there is nowhere to connect to."""
    _refused(parser, b"CONNECT " + target + b" HTTP/1.1")


@pytest.mark.parametrize("method", [b"GET", b"POST", b"OPTIONS"])
def test_authority_form_is_for_connect(parser: Http1Parser, method: bytes) -> None:
    """Section 3.2.3: no other method names an authority alone."""
    _refused(parser, method + b" example.com:443 HTTP/1.1")


def test_asterisk_form(parser: Http1Parser) -> None:
    """Section 3.2.4: the asterisk is for OPTIONS, and is nothing but an asterisk."""
    assert _request(parser, b"OPTIONS * HTTP/1.1").raw_path == b"*"
    _refused(parser, b"GET * HTTP/1.1")
    _refused(parser, b"M-SEARCH * HTTP/1.1")
    _refused(parser, b"OPTIONS *a HTTP/1.1")


# --------------------------------------------------------- the line as a whole


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/1.9"])
def test_versions(parser: Http1Parser, version: bytes) -> None:
    """RFC 9110 section 2.5: a higher minor version counts as HTTP/1.1."""
    request = _request(parser, b"BREW / " + version)

    expected = Version.HTTP_10 if version == b"HTTP/1.0" else Version.HTTP_11
    assert request.version is expected


@pytest.mark.parametrize(
    ("line", "request_read"),
    [
        (b"GET / HTTP/1.1", (b"GET", b"/", Version.HTTP_10)),
        (b"GET / HTTP/1.0", (b"GET", b"/", Version.HTTP_11)),
        (b"GET /a HTTP/1.1", (b"GET", b"/", Version.HTTP_11)),
        (b"GET / HTTP/1.1", (b"PUT", b"/", Version.HTTP_11)),
        (b"GET  / HTTP/1.1", (b"GET", b"/", Version.HTTP_11)),
        (b"GET / HTTP/1.1 ", (b"GET", b"/", Version.HTTP_11)),
        (b"GET /a b HTTP/1.1", (b"GET", b"/a b", Version.HTTP_11)),
        (b"G(T / HTTP/1.1", (b"G(T", b"/", Version.HTTP_11)),
        (b" / HTTP/1.1", (b"", b"/", Version.HTTP_11)),
        (b"GET  HTTP/1.1", (b"GET", b"", Version.HTTP_11)),
    ],
)
def test_a_line_read_wrongly(line: bytes, request_read: tuple[bytes, bytes, Version]) -> None:
    """What an engine says about the line must be what the line says, and allowed."""
    raw = line + b"\r\nHost: h\r\n\r\n"
    request = RequestHeader.from_wire(*request_read, [(b"Host", b"h")])

    with pytest.raises(Error):
        check_request_head(raw, request, DEFAULT_LIMITS)
