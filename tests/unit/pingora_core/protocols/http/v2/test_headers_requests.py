"""Requests received over HTTP/2: which are malformed, which refused, and what the rest become.

The sections are of RFC 9113 (HTTP/2) unless another RFC is named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hpack import HeaderTuple, NeverIndexedHeaderTuple

from pingora_core.protocols.http.v1 import HeadLimits
from pingora_core.protocols.http.v2._field_rules import _MAX_GOOD_NAMES, _good_names
from pingora_core.protocols.http.v2.headers import UNKNOWN
from pingora_error import HTTPStatus
from pingora_http import Version
from tests.unit.pingora_core.protocols.http.v2.blocks import (
    pseudo,
    read,
    refused,
)

if TYPE_CHECKING:
    from tests.unit.pingora_core.protocols.http.v2.blocks import (
        Block,
    )


def test_plain_request() -> None:
    """A request becomes a head as HTTP/1 has it, Host first."""
    fields = [(b"accept", b"*/*"), (b"x-empty", b"")]

    decoded = read([*pseudo(path=b"/a?b=c"), *fields], end_stream=True)

    header = decoded.header
    assert (header.raw_method, header.raw_target) == (b"GET", b"/a?b=c")
    assert header.version is Version.HTTP_20
    assert header.raw_items == [(b"host", b"example.com"), *fields]
    assert (decoded.protocol, decoded.content_length) == (None, 0)


def test_pseudo_fields_in_any_order() -> None:
    """The order among pseudo-header fields means nothing (section 8.3)."""
    assert read(pseudo()[::-1]) == read(pseudo())


@pytest.mark.parametrize("count", range(4))
def test_short_blocks(count: int) -> None:
    """A block that ends early lacks something, whatever is left."""
    assert refused(pseudo()[:count]).startswith("no :")


@pytest.mark.parametrize(
    ("block", "why"),
    [
        (pseudo(None), "no :method"),
        (pseudo(scheme=None), "no :scheme"),
        (pseudo(path=None), "no :path"),
        ([], "no :method"),
        ([(b"host", b"h")], "no :method"),
        ([*pseudo(), (b":method", b"POST")], "repeated pseudo"),
        ([*pseudo(), (b":method", b"GET")], "repeated pseudo"),
        ([*pseudo(), (b":path", b"/other")], "repeated pseudo"),
        ([*pseudo(), (b":authority", b"example.com")], "repeated pseudo"),
        ([(b":path", b"/x"), *pseudo()], "repeated pseudo"),
        ([*pseudo(), (b":status", b"200")], "unknown pseudo"),
        ([*pseudo(), (b":host", b"h")], "unknown pseudo"),
        ([*pseudo(), (b":", b"h")], "unknown pseudo"),
        ([*pseudo(authority=None), (b":Authority", b"h")], "unknown pseudo"),
        ([(b":method ", b"GET"), *pseudo()], "unknown pseudo"),
        ([*pseudo(), (b"a", b"b"), (b":path", b"/x")], "malformed field name"),
        ([(b"a", b"b"), *pseudo()], "malformed field name"),
        ([*pseudo()[:2], (b"a", b"b"), *pseudo()[2:]], "malformed field name"),
        ([*pseudo()[:3], (b"a", b"b"), *pseudo()[3:]], "malformed field name"),
        ([pseudo()[0], (b"a", b"b"), pseudo()[1], pseudo()[3], (b"c", b"d")], "unknown pseudo"),
    ],
)
def test_pseudo_fields(block: Block, why: str) -> None:
    """Each is there once, before all others, and known (section 8.3)."""
    assert refused(block).startswith(why)


@pytest.mark.parametrize(
    "method",
    [b"", b" ", b"GET ", b" GET", b"GET /evil HTTP/1.1", b"GE\tT", b"GET\r\nX: y", b"G:T", b"\xe9"],
)
def test_malformed_methods(method: bytes) -> None:
    """A method is a token (RFC 9110 section 9.1)."""
    assert refused(pseudo(method)) == "malformed :method"


@pytest.mark.parametrize("method", [b"M-SEARCH", b"get", b"PRI", b"!"])
def test_unusual_methods(method: bytes) -> None:
    """Any token is a method."""
    assert read(pseudo(method)).header.raw_method == method


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"a",
        b"*",
        b"?a",
        b"/a b",
        b" /",
        b"/ ",
        b"/\t",
        b"/\0",
        b"/\x7f",
        b"/#frag",
        b"/caf\xc3\xa9",
        b"http://evil/",
        b"//evil /",
        b"/ HTTP/1.1\r\nHost: evil\r\n\r\n",
        b"/\r",
        b"/\n",
        b"example.com:443",
    ],
)
def test_malformed_paths(path: bytes) -> None:
    """A path is in origin-form and of visible ASCII, without a fragment (section 8.3.1)."""
    assert refused(pseudo(path=path)) == "malformed :path"


@pytest.mark.parametrize("path", [b"/", b"//", b"//x", b"/?", b"/a%00", b'/|"<>{}', b"/a?b?c:@"])
def test_good_paths(path: bytes) -> None:
    """What HTTP/1 takes for a target is one here."""
    assert read(pseudo(path=path)).header.raw_target == path


def test_asterisk() -> None:
    """The target * is for OPTIONS (section 8.3.1)."""
    assert read(pseudo(b"OPTIONS", b"*")).header.raw_target == b"*"


@pytest.mark.parametrize("scheme", [b"http", b"https", b"HTTPS"])
def test_schemes(scheme: bytes) -> None:
    """Both schemes of HTTP, in any case; what follows from one is the connection's to say."""
    assert read(pseudo(scheme=scheme)).header.get("host") == "example.com"


@pytest.mark.parametrize("scheme", [b"ftp", b"ws", b"h2c", b"a+b.c-d"])
def test_foreign_schemes(scheme: bytes) -> None:
    """Another scheme is no error of HTTP/2, but nothing is served by it."""
    refused(pseudo(scheme=scheme), HTTPStatus(400))


@pytest.mark.parametrize(
    "scheme", [b"", b"https://evil/?", b"http ", b" http", b"http:", b"1http", b"h\r\nttp", b"h\0"]
)
def test_malformed_schemes(scheme: bytes) -> None:
    """A scheme that is none is an attempt at something (RFC 3986 section 3.1)."""
    assert refused(pseudo(scheme=scheme)) == "malformed :scheme"


@pytest.mark.parametrize(
    "authority",
    [
        b"",
        b" ",
        b"a b",
        b"user@example.com",
        b"user:pw@example.com",
        b"example.com/",
        b"example.com/evil",
        b"example.com?",
        b"example.com#",
        b"example.com:x",
        b"example.com:65536",
        b":80",
        b"a\r\nX: y",
        b"a\0",
        b"a, b",
        b"[::1",
        b"caf\xc3\xa9",
    ],
)
def test_malformed_authorities(authority: bytes) -> None:
    """An authority is a host and maybe a port; no user information (section 8.3.1)."""
    refused(pseudo(authority=authority))
    refused([*pseudo(authority=None), (b"host", authority)])


@pytest.mark.parametrize("authority", [b"h", b"H.Example:8443", b"[::1]:1", b"127.0.0.1", b"h:"])
def test_good_authorities(authority: bytes) -> None:
    """What HTTP/1 takes for a Host is an authority, and is kept as it was sent."""
    assert read(pseudo(authority=authority)).header.get_raw(b"host") == authority


def test_host_instead_of_authority() -> None:
    """A translated request may name its host in Host (section 8.3.1)."""
    block = [*pseudo(authority=None), (b"a", b"b"), (b"host", b"h:1")]

    assert read(block).header.raw_items == [(b"host", b"h:1"), (b"a", b"b")]


def test_nobody_named() -> None:
    """A request for nobody is refused with 400, as in HTTP/1 (RFC 9112 section 3.2)."""
    refused(pseudo(authority=None), HTTPStatus(400))


@pytest.mark.parametrize(
    ("scheme", "authority", "host"),
    [
        (b"https", b"example.com", b"example.com"),
        (b"https", b"example.com", b"EXAMPLE.com"),
        (b"https", b"example.com:443", b"example.com"),
        (b"http", b"example.com", b"example.com:80"),
        (b"HTTP", b"example.com", b"example.com:"),
        (b"https", b"[::1]:443", b"[::1]"),
    ],
)
def test_host_beside_authority(scheme: bytes, authority: bytes, host: bytes) -> None:
    """Host may say the same in other words; what goes on is the authority (section 8.3.1)."""
    block = [*pseudo(scheme=scheme, authority=authority), (b"a", b"b"), (b"host", host)]

    assert read(block).header.raw_items == [(b"host", authority), (b"a", b"b")]


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        (b"example.com", b"evil.com"),
        (b"example.com", b"example.com:80"),
        (b"example.com", b"example.com:8443"),
        (b"example.com", b""),
        (b"example.com", b"example.com."),
        (b"example.com", b"example.com, evil.com"),
        (b"example.com", b"user@example.com"),
        (b"[::1]", b"[::2]"),
    ],
)
def test_host_against_authority(authority: bytes, host: bytes) -> None:
    """Two hosts are an attack on whoever looks at the other one (section 8.3.1)."""
    assert refused([*pseudo(authority=authority), (b"host", host)]).startswith("Host and")


@pytest.mark.parametrize("authority", [b"h", None])
def test_several_hosts(authority: bytes | None) -> None:
    """Host is there once, even if all say the same (RFC 9112 section 3.2)."""
    block = [*pseudo(authority=authority), (b"host", b"h"), (b"host", b"h")]

    assert refused(block) == "repeated host"


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b"Accept",
        b"x-Y",
        b"HOST",
        b"a b",
        b" a",
        b"a ",
        b"a:",
        b"a:b",
        b"transfer-encoding:chunked\r\nx",
        b"a\r\nb",
        b"a\n",
        b"a\0",
        b"a\t",
        b"a\x7f",
        b"a\x80",
        b"a(b",
        b"a/b",
        b"a,b",
        b'a"b',
        b":",
        b"a" * 100 + b"A",
    ],
)
def test_malformed_names(name: bytes) -> None:
    """A name is a token in lower case (section 8.2.1)."""
    for block in ([*pseudo(), (name, b"v")], [*pseudo(), (b"a", b"b"), (name, b"v")]):
        assert "field" in refused(block)


@pytest.mark.parametrize("name", [b"x_y", b"a.b", b"!#$%&'*+-.^_`|~09", b"a" * 100])
def test_good_names(name: bytes) -> None:
    """Any other token is a name."""
    assert (name, b"v") in read([*pseudo(), (name, b"v")]).header.raw_items


@pytest.mark.parametrize(
    "value",
    [b"\0", b"a\0b", b"a\rb", b"a\nb", b"a\r\nX: y", b"\r", b"a\x01", b"a\x7f", b"a\x0bb", b"\x1b"],
)
def test_control_characters_in_values(value: bytes) -> None:
    """No control character is in a value, but for the tab (section 8.2.1)."""
    assert refused([*pseudo(), (b"a", value)]).startswith("control")
    assert refused([*pseudo(), (b"a", b"b"), (b"a", value), (b"c", b"")]).startswith("control")


@pytest.mark.parametrize("value", [b" ", b"\t", b" a", b"a ", b"\ta", b"a\t", b"  ", b" a "])
@pytest.mark.parametrize("others", [[], [(b"x", b"")], [(b"x", b"y"), (b"z", b"")]])
def test_white_space_around_values(value: bytes, others: Block) -> None:
    """No white space is around a value (section 8.2.1)."""
    assert refused([*pseudo(), (b"a", value), *others]).startswith("white space")
    assert refused([*pseudo(), *others, (b"a", value)]).startswith("white space")


@pytest.mark.parametrize("value", [b"", b"a b", b"a\tb", b"\xe9", b"a: b", b"0"])
def test_good_values(value: bytes) -> None:
    """Everything else is, an empty value and bytes beyond ASCII included."""
    assert read([*pseudo(), (b"a", value), (b"a", b"")]).header.get_all_raw(b"a") == [value, b""]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"connection", b"close"),
        (b"connection", b""),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"keep-alive"),
        (b"transfer-encoding", b"chunked"),
        (b"transfer-encoding", b"identity"),
        (b"upgrade", b"websocket"),
        (b"upgrade", b"h2c"),
    ],
)
def test_connection_specific_fields(name: bytes, value: bytes) -> None:
    """What frames or routes a message of HTTP/1 makes one of HTTP/2 malformed (section 8.2.2)."""
    assert refused([*pseudo(), (name, value)]).startswith("connection-specific")
    assert refused([*pseudo(b"POST"), (b"content-length", b"5"), (name, value)])


@pytest.mark.parametrize("value", [b"", b"gzip", b"trailers, gzip", b"trailers;q=1", b"chunked"])
def test_te(value: bytes) -> None:
    """TE says trailers, or the request is malformed (section 8.2.2)."""
    assert refused([*pseudo(), (b"te", value)]).startswith("te other")
    assert refused([*pseudo(), (b"te", b"trailers"), (b"te", value)]).startswith("te other")


@pytest.mark.parametrize("value", [b"trailers", b"Trailers"])
def test_te_trailers(value: bytes) -> None:
    """TE may say trailers, as gRPC does."""
    assert read([*pseudo(), (b"te", value)]).header.get_raw(b"te") == value


# ----------------------------------------------------------------- content-length


@pytest.mark.parametrize(
    ("value", "length"), [(b"0", 0), (b"5", 5), (b"007", 7), (b"9223372036854775807", 2**63 - 1)]
)
def test_content_length(value: bytes, length: int) -> None:
    """A length is a plain decimal number (RFC 9110 section 8.6)."""
    decoded = read([*pseudo(b"POST"), (b"content-length", value)])

    assert decoded.content_length == length
    assert decoded.header.get_raw(b"content-length") == value


@pytest.mark.parametrize(
    "value",
    [b"", b"-1", b"+5", b"5,5", b"5, 5", b"0x5", b"5.0", b"1_0", b"\xb2", b"9223372036854775808"],
)
def test_malformed_content_length(value: bytes) -> None:
    """Nothing else is."""
    assert refused([*pseudo(b"POST"), (b"content-length", value)]).startswith("malformed content")


@pytest.mark.parametrize("second", [b"5", b"6"])
def test_repeated_content_length(second: bytes) -> None:
    """A length is told once; equal ones are refused too, as in HTTP/1."""
    block = [*pseudo(b"POST"), (b"content-length", b"5"), (b"a", b"b"), (b"content-length", second)]

    assert refused(block) == "repeated content-length"


def test_content_length_beside_repeated_fields() -> None:
    """Other fields may repeat beside it."""
    block = [*pseudo(b"POST"), (b"a", b"1"), (b"a", b"2"), (b"content-length", b"5")]

    assert read(block).content_length == 5


def test_content_length_at_the_end_of_the_stream() -> None:
    """A length promises content; at the end of the stream there is none (section 8.1.1)."""
    assert refused([*pseudo(), (b"content-length", b"5")], end_stream=True).startswith("content-")
    assert read([*pseudo(), (b"content-length", b"0")], end_stream=True).content_length == 0


def test_no_content_length() -> None:
    """Without a length the end of the stream tells."""
    assert read(pseudo(b"POST")).content_length == UNKNOWN
    assert read(pseudo(b"POST"), end_stream=True).content_length == 0


# ------------------------------------------------------------------------ cookies


def test_cookies_are_joined() -> None:
    """Pieces of cookies become one field, at the place of the first (section 8.2.3)."""
    block = [
        *pseudo(),
        (b"cookie", b"a=b"),
        (b"x", b"y"),
        (b"cookie", b"c=d"),
        (b"cookie", b""),
        (b"cookie", b"e"),
    ]

    assert read(block).header.raw_items == [
        (b"host", b"example.com"),
        (b"cookie", b"a=b; c=d; e"),
        (b"x", b"y"),
    ]


@pytest.mark.parametrize("values", [[b"", b"a"], [b"a", b""], [b"", b"a", b""]])
def test_empty_pieces_of_cookies(values: list[bytes]) -> None:
    """Empty pieces leave nothing behind, no white space above all."""
    block = [*pseudo(), *[(b"cookie", value) for value in values]]

    assert read(block).header.raw_items[1:] == [(b"cookie", b"a")]


def test_joined_cookies_stay_out_of_tables() -> None:
    """If one piece may not be in a table, the whole may not."""
    block = [*pseudo(), (b"cookie", b"a"), NeverIndexedHeaderTuple(b"cookie", b"b")]

    assert isinstance(read(block).header.raw_items[1], NeverIndexedHeaderTuple)


def test_one_cookie_beside_repeated_fields() -> None:
    """One piece is left as it is."""
    block = [*pseudo(), (b"a", b"b"), (b"cookie", b"c=d"), (b"a", b"b")]

    assert read(block).header.raw_items[1:] == block[4:]


def test_many_pieces_of_cookies() -> None:
    """Pieces count as one field; together they are a field that may be too large."""
    block = [*pseudo(), *[(b"cookie", b"abcdefg")] * 1000]

    assert len(read(block).header) == 2
    refused(block, HTTPStatus(431), limits=HeadLimits(max_field_size=8000))


# ------------------------------------------------------------------------- limits


def test_number_of_fields() -> None:
    """There may be as many fields as in HTTP/1, Host not counted when :authority named it."""
    block = [*pseudo(), *[(b"x-%d" % number, b"") for number in range(256)]]

    assert len(read(block).header) == 257
    refused([*block, (b"y", b"")], HTTPStatus(431))


@pytest.mark.parametrize("name", [b"a", b"a" * 99])
def test_size_of_a_field(name: bytes) -> None:
    """A field may be as large as a line of HTTP/1."""
    room = 32768 - 2 - len(name)

    read([*pseudo(), (name, b"v" * room)])
    refused([*pseudo(), (name, b"v" * (room + 1))], HTTPStatus(431))


def test_size_of_all_fields() -> None:
    """Many fields that are each small enough are the connection's to limit."""
    read([*pseudo(), *[(b"a", b"v" * 30000)] * 3])


def test_size_of_the_path() -> None:
    """A path may be as long as a target of HTTP/1 (RFC 9110 section 15.5.15)."""
    read(pseudo(path=b"/" * 16384))
    refused(pseudo(path=b"/" * 16385), HTTPStatus(414))


def test_memory_of_good_names_is_bounded() -> None:
    """A client that makes names up cannot make the memory of them grow without end."""
    for start in range(0, 2 * _MAX_GOOD_NAMES, 200):
        read([*pseudo(), *[(b"x-%d" % number, b"") for number in range(start, start + 200)]])

    assert len(_good_names) <= _MAX_GOOD_NAMES
    assert not _good_names & {b"te", b"connection", b"upgrade", b"transfer-encoding"}


def test_fields_of_hpack() -> None:
    """Fields keep what HPACK said of them, for whoever sends them on (RFC 7541 section 6.2.3)."""
    secret = NeverIndexedHeaderTuple(b"x-token", b"s")
    block: Block = [*[HeaderTuple(*field) for field in pseudo()], secret]

    assert read(block).header.raw_items[1] is secret
