"""CONNECT over HTTP/2, of either kind, received and sent.

The sections are of RFC 9113 (HTTP/2) unless another RFC is named.
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

import pytest

from pingora_core.protocols.http.v2.headers import UNKNOWN, encode_request, encode_response
from pingora_error import Error, HTTPStatus
from pingora_http import RequestHeader, ResponseHeader
from tests.unit.pingora_core.protocols.http.v2.blocks import (
    BAD,
    KEY,
    extended_connect,
    pseudo,
    read,
    refused,
)

if TYPE_CHECKING:
    from tests.unit.pingora_core.protocols.http.v2.blocks import (
        Block,
    )

_CONNECT = pseudo(b"CONNECT", None, scheme=None, authority=b"example.com:443")


def test_connect() -> None:
    """CONNECT names host and port, which become target and Host (section 8.5)."""
    decoded = read([*_CONNECT, (b"a", b"b")])

    header = decoded.header
    assert (header.raw_method, header.raw_target) == (b"CONNECT", b"example.com:443")
    assert header.raw_items == [(b"host", b"example.com:443"), (b"a", b"b")]
    assert (decoded.protocol, decoded.content_length) == (None, UNKNOWN)


@pytest.mark.parametrize("end_stream", [False, True])
def test_connect_has_no_content(end_stream: bool) -> None:
    """What follows is no content: a length of 0 is dropped, any other refused."""
    decoded = read([*_CONNECT, (b"content-length", b"0")], end_stream=end_stream)

    assert decoded.content_length == UNKNOWN
    assert decoded.header.get("content-length") is None
    refused([*_CONNECT, (b"content-length", b"5")], end_stream=end_stream)
    refused([*_CONNECT, (b"content-length", b"0"), (b"content-length", b"0")])


def test_connect_not_allowed() -> None:
    """Unless it is allowed, a good CONNECT is answered with 405; a bad one is malformed."""
    refused(_CONNECT, HTTPStatus(405), allow_connect=False)
    refused([*_CONNECT, (b":path", b"/")], BAD, allow_connect=False)


@pytest.mark.parametrize(
    "block",
    [
        pseudo(b"CONNECT", None, scheme=None, authority=None),
        [*pseudo(b"CONNECT", None, scheme=None, authority=None), (b"host", b"h:1")],
        pseudo(b"CONNECT", None, authority=b"h:1"),
        pseudo(b"CONNECT", b"/", scheme=None, authority=b"h:1"),
        pseudo(b"CONNECT", b"/", authority=b"h:1"),
        pseudo(b"CONNECT", None, scheme=None, authority=b"h"),
        pseudo(b"CONNECT", None, scheme=None, authority=b"h:"),
        pseudo(b"CONNECT", None, scheme=None, authority=b"h:0"),
        pseudo(b"CONNECT", None, scheme=None, authority=b"user@h:1"),
        pseudo(b"CONNECT", None, scheme=None, authority=b"http://h:1"),
        [*_CONNECT, (b"host", b"other:443")],
        [*_CONNECT, (b"host", b"example.com")],
        [*_CONNECT, (b"host", b"example.com:443"), (b"host", b"example.com:443")],
        [*_CONNECT, (b":unknown", b"")],
    ],
)
def test_malformed_connect(block: Block) -> None:
    """CONNECT has :authority with a port, and neither :scheme nor :path (section 8.5)."""
    refused(block)


def test_connect_with_host() -> None:
    """Host may say the same."""
    decoded = read([*_CONNECT, (b"host", b"Example.com:443")])

    assert decoded.header.raw_items == [(b"host", b"example.com:443")]


# --------------------------------------------------------------- extended CONNECT


def test_websocket_becomes_an_upgrade() -> None:
    """Extended CONNECT is shown as the GET that a client of HTTP/1 sends (RFC 8441 section 5)."""
    version = (b"sec-websocket-version", b"13")

    decoded = read(extended_connect(version))

    header = decoded.header
    assert (header.raw_method, header.raw_target) == (b"GET", b"/chat")
    assert header.raw_items == [
        (b"host", b"example.com"),
        version,
        (b"connection", b"Upgrade"),
        (b"upgrade", b"websocket"),
        (b"sec-websocket-key", b64encode(KEY)),
    ]
    assert (decoded.protocol, decoded.content_length) == (b"websocket", UNKNOWN)


def test_websocket_key_of_the_client() -> None:
    """A key that was sent is kept: there is no second one."""
    key = (b"sec-websocket-key", b"AAAA")

    assert read(extended_connect(key)).header.get_all_raw(key[0]) == [b"AAAA"]


@pytest.mark.parametrize("protocol", [b"connect-udp", b"webtransport", b"HTTP/2.0", b"x"])
def test_other_protocols(protocol: bytes) -> None:
    """Any protocol that Upgrade can name is passed on, without WebSocket's key."""
    decoded = read(extended_connect(protocol=protocol))

    assert decoded.protocol == protocol
    assert decoded.header.get_raw(b"upgrade") == protocol
    assert decoded.header.get("sec-websocket-key") is None


@pytest.mark.parametrize(
    "protocol",
    [b"", b"a, h2c", b"a b", b"a\r\nX: y", b" a", b"a/", b"/", b"a/b/c", b"a\0", b"websocket,"],
)
def test_malformed_protocols(protocol: bytes) -> None:
    """A protocol is one entry of Upgrade (RFC 9110 section 7.8)."""
    assert refused(extended_connect(protocol=protocol)) == "malformed :protocol"


@pytest.mark.parametrize("protocol", [b"h2c", b"H2C"])
def test_upgrade_to_http(protocol: bytes) -> None:
    """Nobody talks HTTP past the filters (section 3.1)."""
    refused(extended_connect(protocol=protocol), HTTPStatus(501))


def test_not_offered() -> None:
    """Without the setting :protocol is malformed (RFC 8441 section 3)."""
    refused(extended_connect(), offered=False)


@pytest.mark.parametrize(
    "block",
    [
        pseudo(b"GET", protocol=b"websocket"),
        pseudo(None, protocol=b"websocket"),
        pseudo(b"CONNECT", None, protocol=b"websocket"),
        pseudo(b"CONNECT", scheme=None, protocol=b"websocket"),
        pseudo(b"CONNECT", b"*", protocol=b"websocket"),
        pseudo(b"CONNECT", b"h:443", protocol=b"websocket"),
        [*extended_connect(), (b":protocol", b"websocket")],
        [(b":protocol", b"websocket"), *extended_connect()],
        extended_connect((b"connection", b"Upgrade")),
        extended_connect((b"upgrade", b"websocket")),
        extended_connect((b"content-length", b"5")),
        extended_connect((b"host", b"evil.com")),
    ],
)
def test_malformed_extended_connect(block: Block) -> None:
    """It has all of :scheme, :path, :authority, and :method is CONNECT (RFC 8441 section 4)."""
    refused(block)


def test_extended_connect_without_content() -> None:
    """A length of 0 is dropped: what follows is no content."""
    decoded = read(extended_connect((b"content-length", b"0")))

    assert decoded.content_length == UNKNOWN
    assert decoded.header.get("content-length") is None


def test_extended_connect_to_nobody() -> None:
    """It names a host as any request does."""
    refused(pseudo(b"CONNECT", authority=None, protocol=b"websocket"), HTTPStatus(400))


# ------------------------------------------------------------------------ sending


def test_sending_connect() -> None:
    """CONNECT leaves with :method and :authority only (section 8.5)."""
    header = RequestHeader(
        "CONNECT", "example.com:443", headers=[("Host", "old"), ("Content-Length", "0"), ("A", "b")]
    )

    assert encode_request(header, scheme=b"https", protocol=None) == [
        (b":method", b"CONNECT"),
        (b":authority", b"example.com:443"),
        (b"a", b"b"),
    ]


def test_sending_an_upgrade() -> None:
    """An upgrade leaves as extended CONNECT, without the handshake of HTTP/1."""
    header = RequestHeader(
        "GET",
        "/chat",
        headers=[
            ("Host", "example.com"),
            ("Connection", "Upgrade, X-Hop"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Key", "AAAA"),
            ("Sec-WebSocket-Version", "13"),
            ("X-Hop", "1"),
            ("Content-Length", "0"),
        ],
    )

    assert encode_request(header, scheme=b"https", protocol=b"websocket") == [
        (b":method", b"CONNECT"),
        (b":protocol", b"websocket"),
        (b":scheme", b"https"),
        (b":authority", b"example.com"),
        (b":path", b"/chat"),
        (b"sec-websocket-version", b"13"),
    ]


def test_sending_on_an_extended_connect() -> None:
    """What came as extended CONNECT leaves as such."""
    block = extended_connect((b"sec-websocket-version", b"13"), (b"origin", b"https://a"))
    decoded = read(block)

    sent = encode_request(decoded.header, scheme=b"https", protocol=decoded.protocol)

    assert sorted(sent) == sorted(block)
    assert read(sent) == decoded


def test_switching_protocols_becomes_200() -> None:
    """A 101 leaves as a 200, without the handshake of HTTP/1 (RFC 8441 section 5)."""
    header = ResponseHeader(
        101,
        headers=[
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Accept", "x"),
            ("Sec-WebSocket-Protocol", "chat"),
            ("Content-Length", "0"),
        ],
    )

    assert encode_response(header, date=b"now") == [
        (b":status", b"200"),
        (b"sec-websocket-protocol", b"chat"),
        (b"date", b"now"),
    ]


@pytest.mark.parametrize("host", ["", "a b", "user@h", "a/b"])
def test_sending_to_malformed_hosts(host: str) -> None:
    """A host that would be refused is not sent."""
    with pytest.raises(Error) as caught:
        encode_request(
            RequestHeader("GET", "/", headers=[("Host", host)]), scheme=b"http", protocol=None
        )
    assert caught.value.etype is BAD
