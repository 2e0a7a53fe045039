"""Version 1 of the PROXY protocol: a line of text."""

from __future__ import annotations

import pytest

from pingora_core.protocols.address import InetAddress
from pingora_core.protocols.proxy_protocol import (
    PROXY_PROTOCOL_ERROR,
    ProxyCommand,
    ProxyFamily,
    ProxyHeader,
    ProxyTransport,
    encode_proxy_header,
    parse_proxy_header,
)
from pingora_error import Error, ErrorSource

TCP4 = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
LONGEST4 = b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n"
LONGEST6 = b"PROXY TCP6 %b %b 65535 65535\r\n" % ((b":".join([b"ffff"] * 8),) * 2)
LONGEST_UNKNOWN = LONGEST6.replace(b"TCP6", b"UNKNOWN")


def test_the_example_of_the_specification() -> None:
    """Section 2.1: the line says who connected to what, and the request is left alone."""
    parsed = parse_proxy_header(TCP4 + b"GET / HTTP/1.1\r\n")

    assert parsed is not None
    header, size = parsed
    assert size == len(TCP4)
    assert header.version == 1
    assert header.command is ProxyCommand.PROXY
    assert header.family is ProxyFamily.INET
    assert header.transport is ProxyTransport.STREAM
    assert header.source == InetAddress("192.168.0.1", 56324)
    assert header.destination == InetAddress("192.168.0.11", 443)
    assert encode_proxy_header(header) == TCP4


def test_what_haproxy_sends() -> None:
    """A line as HAProxy 2.6 wrote it with ``send-proxy``."""
    parsed = parse_proxy_header(b"PROXY TCP4 127.0.0.1 127.0.0.1 39142 34171\r\nhello")

    assert parsed is not None
    assert parsed[0].source == InetAddress("127.0.0.1", 39142)


@pytest.mark.parametrize(
    ("line", "source"),
    [
        (LONGEST4, InetAddress("255.255.255.255", 65535)),
        (LONGEST6, InetAddress(":".join(["ffff"] * 8), 65535)),
        (b"PROXY TCP6 ::1 ::2 0 1\r\n", InetAddress("::1", 0)),
        (b"PROXY TCP6 2001:DB8::A 2001:db8::b 1 2\r\n", InetAddress("2001:db8::a", 1)),
        # Not in the grammar, but what inet_ntop makes of a client of a dual-stack socket.
        (b"PROXY TCP6 ::ffff:1.2.3.4 ::ffff:5.6.7.8 1 2\r\n", InetAddress("::ffff:1.2.3.4", 1)),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN some thing else\r\n", None),
        (b"PROXY UNKNOWN \x00\xff\r\n", None),
        (LONGEST_UNKNOWN, None),
    ],
)
def test_valid_lines(line: bytes, source: InetAddress | None) -> None:
    """Each is read to its end; what follows UNKNOWN is ignored."""
    parsed = parse_proxy_header(line + b"\r\nPROXY")

    assert parsed is not None
    assert parsed[0].source == source
    assert parsed[1] == len(line)


@pytest.mark.parametrize("line", [TCP4, LONGEST6, b"PROXY UNKNOWN\r\n", LONGEST_UNKNOWN])
def test_a_line_that_is_not_complete_needs_more(line: bytes) -> None:
    """No prefix is taken for a header or refused."""
    for end in range(len(line)):
        assert parse_proxy_header(line[:end]) is None


def test_the_longest_line_has_107_bytes() -> None:
    """One byte more is too long, whether or not the line's end is near."""
    assert len(LONGEST_UNKNOWN) == 107
    fits = b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n"
    assert len(fits) == 107
    assert parse_proxy_header(fits) is not None
    for long in (b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n", b"PROXY UNKNOWN " + b"x" * 93):
        with pytest.raises(Error, match=r"CRLF|alone"):
            parse_proxy_header(long)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00",
        b"X",
        b"PROXYTCP4",
        b"proxy TCP4 ",
        b"PROXY  TCP4 ",
        b"PROXY TCP5 ",
        b"PROXY tcp4 ",
        b"PROXY UNKNOWNX",
        b"PROXY UNKNOWN\n",
        b"PROXY UNKNOWN\rx",
        b"PROXY UNKNOWN a\rb",
        b"PROXY UNKNOWN a\nb\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
        b"PROXY TCP4\r\n",
        b"PROXY TCP4 1.2.3.4\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
        b"PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3.4\t5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 00 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 65536 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 999999\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 0x2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 \xb2\r\n",
        b"PROXY TCP4 01.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3.256 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3.4. 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP6 ::1%1 ::1 1 2\r\n",
        b"PROXY TCP6 [::1] [::1] 1 2\r\n",
        b"PROXY TCP6 1::2::3 ::1 1 2\r\n",
        b"PROXY TCP6 12345::1 ::1 1 2\r\n",
        b"PROXY TCP6 1:2:3:4:5:6:7 ::1 1 2\r\n",
        b"PROXY TCP6 ::1 example.org 1 2\r\n",
    ],
)
def test_invalid_lines_are_refused(data: bytes) -> None:
    """Any byte that cannot be part of a header ends it, and the client is to blame."""
    with pytest.raises(Error) as caught:
        parse_proxy_header(data)

    assert caught.value.etype == PROXY_PROTOCOL_ERROR
    assert caught.value.esource is ErrorSource.DOWNSTREAM


def test_a_header_without_addresses_is_unknown() -> None:
    """What version 1 cannot say it says nothing about."""
    assert encode_proxy_header(ProxyHeader(version=1)) == b"PROXY UNKNOWN\r\n"
