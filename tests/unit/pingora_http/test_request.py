"""The head of a request: method, the four forms of a target, and the bytes on the wire."""

from __future__ import annotations

import pytest

from pingora_error import Error, ErrorType
from pingora_http import RequestHeader, Version


def test_a_request_is_written_as_given() -> None:
    """Request line, fields in order and the empty line."""
    request = RequestHeader("GET", "/a?b", headers=[("Host", "h"), ("X-y", "z")])

    assert request.to_wire() == b"GET /a?b HTTP/1.1\r\nHost: h\r\nX-y: z\r\n\r\n"


@pytest.mark.parametrize(
    ("version", "minor"),
    [(Version.HTTP_10, b"0"), (Version.HTTP_11, b"1"), (Version.HTTP_20, b"1")],
)
@pytest.mark.parametrize("headers", [[], [("A", "b")]], ids=["no field", "a field"])
def test_version_on_the_wire(
    version: Version, minor: bytes, headers: list[tuple[str, str]]
) -> None:
    """Only HTTP/1.0 is written as such; what came by HTTP/2 leaves as HTTP/1.1."""
    request = RequestHeader("GET", "/", version, headers)

    fields = b"A: b\r\n" if headers else b""
    assert request.to_wire() == b"GET / HTTP/1.%b\r\n%b\r\n" % (minor, fields)


@pytest.mark.parametrize(
    ("method", "target", "raw_path", "path", "query", "authority"),
    [
        ("GET", "/", b"/", "/", None, None),
        ("GET", "/a/b?c=d?e", b"/a/b?c=d?e", "/a/b", "c=d?e", None),
        ("GET", "/a?", b"/a?", "/a", "", None),
        ("GET", "//a/b", b"//a/b", "//a/b", None, None),
        ("GET", "/http://x/", b"/http://x/", "/http://x/", None, None),
        ("GET", "http://h:8/p?q", b"/p?q", "/p", "q", "h:8"),
        ("GET", "HTTPS://h", b"/", "/", None, "h"),
        ("GET", "http://h?q", b"/?q", "/", "q", "h"),
        ("GET", "http://u:p@h:8/p", b"/p", "/p", None, "h:8"),
        ("GET", "http://h/p@q", b"/p@q", "/p@q", None, "h"),
        ("GET", "http://[::1]:8/", b"/", "/", None, "[::1]:8"),
        ("OPTIONS", "http://h", b"*", "*", None, "h"),
        ("OPTIONS", "http://h/", b"/", "/", None, "h"),
        ("OPTIONS", "*", b"*", "*", None, None),
        ("CONNECT", "h:443", b"", "", None, "h:443"),
        ("GET", "a/b?c", b"a/b?c", "a/b", "c", None),
        ("GET", "a?x://y", b"a?x://y", "a", "x://y", None),
    ],
)
def test_target_forms(
    method: str,
    target: str,
    raw_path: bytes,
    path: str,
    query: str | None,
    authority: str | None,
) -> None:
    """RFC 9112 section 3.2: path, query and host are found in each form of a target."""
    request = RequestHeader(method, target)

    assert request.raw_path == raw_path
    assert (request.path, request.query) == (path, query)
    assert request.authority == authority


@pytest.mark.parametrize(
    ("target", "extension"),
    [
        ("/a/b.tar.gz?x=1.2", "gz"),
        ("/a.b/c", None),
        ("/", None),
        ("/a.", ""),
        ("/.profile", "profile"),
        ("http://h.com/x.css", "css"),
    ],
)
def test_uri_file_extension(target: str, extension: str | None) -> None:
    """The extension is what follows the last dot of the last segment."""
    assert RequestHeader("GET", target).uri_file_extension == extension


def test_a_target_need_not_be_text() -> None:
    """Bytes above ASCII in a target stay as they are, and can be replaced."""
    target = b"/Hello\xf0\x90\x80World"
    request = RequestHeader("GET", target)

    assert request.raw_path == target
    assert request.path == "/Hello\xf0\x90\x80World"
    request.set_target(request.path)
    assert request.raw_target == target
    request.set_target("/HelloWorld")
    assert request.raw_path == b"/HelloWorld"


@pytest.mark.parametrize("target", ["", "/a b", "/a\r\nX: y", "/\x00", "/\t", "/\N{SNOWMAN}"])
def test_bad_targets_are_refused(target: str) -> None:
    """Nothing that would end the target or the line gets into it."""
    request = RequestHeader("GET", "/ok")

    with pytest.raises(Error) as caught:
        request.set_target(target)

    assert caught.value.etype is ErrorType.INVALID_HTTP_HEADER
    assert request.raw_target == b"/ok"


@pytest.mark.parametrize("method", ["", "GE T", "GET\r\n", "G\xc4T", b"\xff"])
def test_bad_methods_are_refused(method: str | bytes) -> None:
    """RFC 9110 section 9.1: a method is a token."""
    with pytest.raises(Error) as caught:
        RequestHeader(method, "/")

    assert caught.value.etype is ErrorType.INVALID_HTTP_HEADER


def test_setters() -> None:
    """Method, target and version can be changed; case of a method counts."""
    request = RequestHeader(b"get", b"/")
    assert request.method == "get"

    request.set_method("M-SEARCH")
    request.set_raw_target(b"*")
    request.set_version(Version.HTTP_10)

    assert request.to_wire() == b"M-SEARCH * HTTP/1.0\r\n\r\n"


def test_send_end_stream() -> None:
    """The choice exists in HTTP/2 only, defaults to yes, and is copied."""
    request = RequestHeader("GET", "/", Version.HTTP_20)
    refusing = request.copy()
    refusing.set_send_end_stream(False)

    assert RequestHeader("GET", "/").send_end_stream is None
    assert request.send_end_stream is True
    assert refusing.copy().send_end_stream is False


def test_from_wire_takes_what_a_parser_made() -> None:
    """Nothing is checked and the list is not copied."""
    items = [(b"Host", b"h")]

    request = RequestHeader.from_wire(b"GET", b"/", Version.HTTP_11, items)

    assert request.raw_items is items
    assert request.get("host") == "h"
    assert request.send_end_stream is None


@pytest.mark.parametrize("looked_up", [False, True], ids=["no index", "index"])
def test_a_copy_is_independent(looked_up: bool) -> None:
    """Changes to a copy do not show in the original."""
    request = RequestHeader("GET", "/", headers=[("Host", "h")])
    if looked_up:
        assert request.get("host") == "h"
    copy = request.copy()
    assert copy == request

    copy.set_method("PUT")
    copy.set_target("/other")
    copy.insert_header("Host", "other")

    assert request.to_wire() == b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    assert type(copy) is RequestHeader


def test_equality() -> None:
    """Two heads are equal when they say the same."""
    request = RequestHeader("GET", "/", headers=[("Host", "h")])

    assert request == RequestHeader("GET", "/", headers=[("host", "h")])
    assert request != RequestHeader("get", "/", headers=[("Host", "h")])
    assert request != RequestHeader("GET", "/x", headers=[("Host", "h")])
    assert request != RequestHeader("GET", "/", Version.HTTP_10, [("Host", "h")])
    assert request != RequestHeader("GET", "/")
    assert request != "GET /"
    with pytest.raises(TypeError):
        hash(request)


def test_repr_shows_neither_query_nor_values() -> None:
    """Tokens in queries must not get into logs."""
    request = RequestHeader("GET", "/a?secret", headers=[("Cookie", "secret")])

    assert repr(request) == "<RequestHeader GET /a with 1 fields>"


@pytest.mark.parametrize(
    ("fields", "value"),
    [
        (["a=1"], "1"),
        (["b=2; a=1"], "1"),
        (["b=2", "x; a=1;c"], "1"),
        (["a=1; a=2"], "1"),
        (["a=b=c"], "b=c"),
        (['a="1"'], '"1"'),
        (["a="], ""),
        (["a=\xe9"], "\xe9"),
        (["a"], None),
        (["A=1; aa=2"], None),
        ([], None),
    ],
)
def test_cookies(fields: list[str], value: str | None) -> None:
    """Found in any of the fields, as HTTP/2 may send them; by the exact name."""
    request = RequestHeader(
        "GET", "/", headers=[("Cookie", field.encode("latin-1")) for field in fields]
    )
    assert request.cookie("a") == value
