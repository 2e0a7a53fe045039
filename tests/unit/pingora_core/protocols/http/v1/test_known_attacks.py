"""Attacks that worked on proxies, the original among them, read byte by byte as a session would."""

from __future__ import annotations

import pytest

from pingora_core.protocols.http.v1.framing import is_upgrade_request
from pingora_error import ErrorType, HTTPStatus
from pingora_http import RequestHeader
from tests.conformance.http1_reading import ENGINES, read_all

_SMUGGLED = b"GET /admin HTTP/1.1\r\nHost: victim\r\n\r\n"

engines = pytest.mark.parametrize("engine", ENGINES)


def _bodies(engine: str, data: bytes) -> list[tuple[bytes, bytes]]:
    """Read requests; return target and body of each."""
    messages = read_all(engine, "request", data).messages
    heads = [message.head for message in messages]
    assert all(isinstance(head, RequestHeader) for head in heads)
    return [
        (message.head.raw_target, message.body)
        for message in messages
        if isinstance(message.head, RequestHeader)
    ]


def _refused(engine: str, data: bytes) -> None:
    reading = read_all(engine, "request", data)

    assert reading.verdict == "refuse"
    assert reading.messages == []
    assert reading.error is not None
    assert reading.error.etype in {ErrorType.INVALID_HTTP_HEADER, HTTPStatus(501)}


@engines
def test_premature_upgrade(engine: str) -> None:
    """CVE-2026-2833: asking for an upgrade changes no framing.

    The original passed on whatever followed a request with Upgrade as raw bytes, before anybody
    had answered 101. Here the body is what Content-Length says, to the byte; what follows stays
    out of it, and is a request of its own if the answer is not 101.
    """
    head = b"POST /up HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\n"

    reading = read_all(engine, "request", head + b"\r\n" + _SMUGGLED)
    with_body = read_all(engine, "request", head + b"Content-Length: 3\r\n\r\nabc" + _SMUGGLED)

    assert [message.body for message in reading.messages] == [b""]
    assert reading.rest == _SMUGGLED
    assert [message.body for message in with_body.messages] == [b"abc"]
    assert with_body.rest == _SMUGGLED


@engines
@pytest.mark.parametrize(
    "fields",
    [b"Upgrade: x\r\n", b"Upgrade: x\r\nConnection: keep-alive\r\n", b"Connection: Upgrade\r\n"],
)
def test_half_an_upgrade(engine: str, fields: bytes) -> None:
    """CVE-2026-2833: Upgrade without Connection is no upgrade; the next request is read."""
    data = b"GET /up HTTP/1.1\r\nHost: h\r\n" + fields + b"\r\n" + _SMUGGLED

    assert _bodies(engine, data) == [(b"/up", b""), (b"/admin", b"")]


@engines
def test_upgrade_in_http10(engine: str) -> None:
    """CVE-2026-2833: Upgrade in HTTP/1.0 is ignored (RFC 9110 section 7.8)."""
    data = b"GET /up HTTP/1.0\r\nConnection: keep-alive, Upgrade\r\nUpgrade: x\r\n\r\n" + _SMUGGLED

    reading = read_all(engine, "request", data)

    assert len(reading.messages) == 2
    head = reading.messages[0].head
    assert isinstance(head, RequestHeader)
    assert not is_upgrade_request(head)


@engines
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_close_delimited_request(engine: str, version: bytes) -> None:
    """CVE-2026-2835: a request without framing fields has no body, in HTTP/1.0 neither.

    The original read the body of such a request until the connection closed.
    """
    data = b"POST /a HTTP/%b\r\nHost: h\r\nConnection: keep-alive\r\n\r\n" % version + _SMUGGLED

    assert _bodies(engine, data) == [(b"/a", b""), (b"/admin", b"")]


@engines
@pytest.mark.parametrize(
    "fields",
    [
        b"Transfer-Encoding: identity, chunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: identity\r\nContent-Length: 5\r\n",
        b"Transfer-Encoding: chunked, identity\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n",
    ],
)
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_several_codings(engine: str, version: bytes, fields: bytes) -> None:
    """CVE-2026-2835: all Transfer-Encoding values count, whichever line they are on.

    The original looked at one of them, dropped Content-Length for it, and read until close.
    """
    data = b"POST / HTTP/%b\r\nHost: h\r\n%b\r\n0\r\n\r\n" % (version, fields)

    _refused(engine, data + _SMUGGLED)


@engines
def test_chunked_in_http10(engine: str) -> None:
    """CVE-2026-2835: Transfer-Encoding in HTTP/1.0 is refused (RFC 9112 section 6.1)."""
    data = (
        b"POST / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n"
        b"\r\n0\r\n\r\n"
    )

    _refused(engine, data + _SMUGGLED)


@engines
@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 13\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
    ],
    ids=["CL.TE", "TE.CL"],
)
def test_both_framings(engine: str, fields: bytes) -> None:
    """Issue 945 of the original: a message framed in two ways is refused, not repaired."""
    _refused(engine, b"POST / HTTP/1.1\r\nHost: h\r\n" + fields + b"\r\n0\r\n\r\n" + _SMUGGLED)


@engines
@pytest.mark.parametrize("line", [b"GET http://a/x HTTP/1.1", b"GET https://a HTTP/1.0"])
def test_two_hosts_in_one_request(engine: str, line: bytes) -> None:
    """CVE-2026-2836: one request has one host, whichever part a cache key is made of.

    The original's default key had no host at all. Ours has, and with it a target and a Host that
    disagree would poison one site's cache with another's; so the target's replaces the other.
    """
    reading = read_all(engine, "request", line + b"\r\nHost: b\r\n\r\n")

    head = reading.messages[0].head
    assert isinstance(head, RequestHeader)
    assert head.authority == head.get("host") == "a"
    assert head.get_all("host") == ["a"]


@engines
@pytest.mark.parametrize(
    "chunks",
    [
        b"5;\n\r\nhello\r\n0\r\n\r\n",
        b"5;a\nxyz\r\nhello\r\n0\r\n\r\n",
        b"5;a\rxyz\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhelloXX0\r\n\r\n",
        b"0\n\r\n",
        b"0\r\n\n",
        b"0;\r\n\r\n",
    ],
)
def test_line_ends_in_chunked_bodies(engine: str, chunks: bytes) -> None:
    """Chunk lines and chunk ends that two recipients see end at different bytes are refused."""
    data = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks

    reading = read_all(engine, "request", data + _SMUGGLED)

    assert reading.verdict == "refuse"
    assert reading.messages == []


@engines
def test_pipelining_is_exact(engine: str) -> None:
    """Requests behind requests begin at the very byte behind the body."""
    data = (
        b"POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n\r\n"
        b"POST /2 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nA: b\r\n\r\n"
        b"\r\nGET /3 HTTP/1.1\r\nHost: h\r\n\r\n"
    )

    assert _bodies(engine, data) == [(b"/1", b"\r\n"), (b"/2", b"x"), (b"/3", b"")]
