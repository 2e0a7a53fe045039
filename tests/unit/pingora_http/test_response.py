"""The head of a response: status, reason phrase, and the bytes on the wire."""

from __future__ import annotations

import pytest

from pingora_error import Error, ErrorType
from pingora_http import ResponseHeader, Version


def test_a_response_is_written_as_given() -> None:
    """Status line, fields in order and the empty line."""
    response = ResponseHeader(200, headers=[("Server", "s"), ("x-Y", "z")])

    assert response.to_wire() == b"HTTP/1.1 200 OK\r\nServer: s\r\nx-Y: z\r\n\r\n"


@pytest.mark.parametrize(
    ("version", "minor"),
    [(Version.HTTP_10, b"0"), (Version.HTTP_11, b"1"), (Version.HTTP_20, b"1")],
)
@pytest.mark.parametrize("headers", [[], [("A", "b")]], ids=["no field", "a field"])
def test_version_on_the_wire(
    version: Version, minor: bytes, headers: list[tuple[str, str]]
) -> None:
    """Only HTTP/1.0 is written as such."""
    response = ResponseHeader(204, version, headers)

    fields = b"A: b\r\n" if headers else b""
    assert response.to_wire() == b"HTTP/1.%b 204 No Content\r\n%b\r\n" % (minor, fields)


def test_reason_phrase() -> None:
    """A phrase of one's own is kept; the canonical one, or None, is no such thing."""
    response = ResponseHeader(200)
    assert response.reason == "OK"

    response.set_reason_phrase("Just Fine")
    assert (response.reason, response.raw_reason) == ("Just Fine", b"Just Fine")
    assert response.to_wire() == b"HTTP/1.1 200 Just Fine\r\n\r\n"

    response.set_reason_phrase("OK")
    response.status = 404
    assert response.reason == "Not Found"

    response.set_reason_phrase(b"gone")
    response.set_reason_phrase(None)
    assert response.reason == "Not Found"


def test_reason_given_at_once() -> None:
    """The constructor takes a phrase too, which may be empty."""
    assert ResponseHeader(404, reason="Nope").reason == "Nope"
    assert ResponseHeader(404, reason="").to_wire() == b"HTTP/1.1 404 \r\n\r\n"


def test_a_new_status_brings_its_phrase() -> None:
    """A phrase belongs to its status: it does not survive a change of it."""
    response = ResponseHeader(404, reason="Nope")

    response.set_status(503)

    assert response.reason == "Service Unavailable"


def test_a_status_without_a_phrase() -> None:
    """An unregistered status is written with an empty phrase."""
    assert ResponseHeader(599).to_wire() == b"HTTP/1.1 599 \r\n\r\n"


@pytest.mark.parametrize("status", [0, 99, 1000, -200])
def test_bad_statuses_are_refused(status: int) -> None:
    """A status has three digits; anything else is a bug of the program."""
    with pytest.raises(ValueError, match="three digits"):
        ResponseHeader(status)


@pytest.mark.parametrize("reason", ["a\r\nX: y", "\0", "\N{SNOWMAN}"])
def test_bad_reasons_are_refused(reason: str) -> None:
    """Nothing that would end the line gets into it."""
    response = ResponseHeader(200)

    with pytest.raises(Error) as caught:
        response.set_reason_phrase(reason)

    assert caught.value.etype is ErrorType.INVALID_HTTP_HEADER
    assert response.reason == "OK"


def test_set_content_length() -> None:
    """The length replaces what was there, and cannot be negative."""
    response = ResponseHeader(200, headers=[("content-length", "5")])

    response.set_content_length(1 << 40)

    assert list(response) == [("Content-Length", "1099511627776")]
    with pytest.raises(ValueError, match="negative"):
        response.set_content_length(-1)


def test_from_wire_keeps_the_phrase_that_was_sent() -> None:
    """What a parser made is taken as it is, an empty phrase included."""
    items = [(b"Server", b"s")]

    response = ResponseHeader.from_wire(200, b"", Version.HTTP_10, items)
    canonical = ResponseHeader.from_wire(200, b"OK", Version.HTTP_11, [])

    assert response.raw_items is items
    assert response.to_wire() == b"HTTP/1.0 200 \r\nServer: s\r\n\r\n"
    assert canonical == ResponseHeader(200)


@pytest.mark.parametrize("looked_up", [False, True], ids=["no index", "index"])
def test_a_copy_is_independent(looked_up: bool) -> None:
    """Changes to a copy do not show in the original."""
    response = ResponseHeader(404, headers=[("A", "b")], reason="Nope")
    if looked_up:
        assert response.get("a") == "b"
    copy = response.copy()
    assert copy == response

    copy.set_status(200)
    copy.insert_header("A", "c")
    copy.set_version(Version.HTTP_10)

    assert response.to_wire() == b"HTTP/1.1 404 Nope\r\nA: b\r\n\r\n"


def test_equality() -> None:
    """Two heads are equal when they say the same."""
    response = ResponseHeader(200, headers=[("A", "b")])

    assert response == ResponseHeader(200, headers=[("a", "b")], reason="OK")
    assert response != ResponseHeader(201, headers=[("A", "b")])
    assert response != ResponseHeader(200, headers=[("A", "b")], reason="Fine")
    assert response != ResponseHeader(200, Version.HTTP_10, [("A", "b")])
    assert response != ResponseHeader(200)
    assert response != 200
    with pytest.raises(TypeError):
        hash(response)


def test_repr_shows_no_values() -> None:
    """Cookies must not get into logs."""
    assert repr(ResponseHeader(200, headers=[("Set-Cookie", "secret")])) == (
        "<ResponseHeader 200 with 1 fields>"
    )
