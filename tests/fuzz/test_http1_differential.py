"""Two engines, one judge: whatever bytes come, both engines read the same or both refuse.

Where the engines are known to differ on messages that the judge would let pass, the difference is
listed in ``KNOWN_DIFFERENCES`` with the reading that is stricter; the default engine must be the
stricter one.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import assume, example, given, settings, strategies as st

from pingora_core.protocols.http.v1 import BodyReader, BodyWriter
from pingora_core.protocols.http.v1.body_reader import FORBIDDEN_TRAILERS
from pingora_core.protocols.http.v1.framing import CHUNKED
from pingora_error import Error
from pingora_http import HeaderMap, RequestHeader, ResponseHeader
from tests.conformance.http1_reading import ENGINES, read_all, read_head

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conformance.http1_reading import Kind

# Messages that the default engine refuses and the reference engine reads, rightly.
KNOWN_DIFFERENCES: Final = {
    "a tab behind the coding in Transfer-Encoding": re.compile(
        rb"\r\ntransfer-encoding:[ \t]*chunked[ ]*\t", re.IGNORECASE
    ),
}

# ---------------------------------------------------------------- making messages

_PRINTABLE = st.integers(0x21, 0x7E).map(lambda number: bytes([number]))
_ODD_BYTES = st.sampled_from(
    [
        b"\0",
        b"\r",
        b"\n",
        b"\r\n",
        b"\t",
        b" ",
        b"\x0b",
        b"\x0c",
        b"\x7f",
        b"\x80",
        b"\xff",
        b"",
        b":",
    ]
)
_METHODS = st.sampled_from(
    [
        b"GET",
        b"POST",
        b"HEAD",
        b"OPTIONS",
        b"CONNECT",
        b"PRI",
        b"BREW",
        b"get",
        b"G T",
        b"G\xe9T",
        b"",
    ]
)
_TARGETS = st.sampled_from(
    [
        b"/", b"/a?b", b"*", b"http://h/a", b"https://h", b"h:443", b"[::1]:443", b"/a#b", b"a",
        b"http://u@h/", b"/\xc3\xa9", b'/"|', b"//h", b"", b"/a b",
    ]
)  # fmt: skip
_VERSIONS = st.sampled_from(
    [
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"HTTP/1.2",
        b"HTTP/2.0",
        b"HTTP/0.9",
        b"http/1.1",
        b"HTTP/1.1 ",
        b"RTSP/1.0",
        b"",
    ]
)
_NAMES = st.sampled_from(
    [
        b"Host", b"host", b"Content-Length", b"CONTENT-LENGTH", b"Transfer-Encoding",
        b"transfer-encoding", b"Connection", b"Upgrade", b"X-A", b"x-a", b"A ", b" A", b"\tA", b"",
        b"A(", b"Content_Length", b"A\r\nB",
    ]
)  # fmt: skip
_VALUES = st.sampled_from(
    [
        b"h", b"a:80", b"[::1]", b"a b", b"u@h", b"", b"0", b"3", b"03", b"-1", b"+3", b"3, 3", b"3,4",
        b"3\t", b"chunked", b"Chunked", b"gzip, chunked", b"chunked, gzip", b"identity", b"chunked\t",
        b"close", b"keep-alive, Upgrade", b"websocket", b"x\r\n y", b"x\r\n\ty", b"\xff\xfe", b"a\x00",
        b"a\rb", b"a\nb", b"99999999999999999999",
    ]
)  # fmt: skip
_COLONS = st.sampled_from([b": ", b":", b":\t", b" : ", b":  ", b";", b""])
_LINE_ENDS = st.sampled_from([b"\r\n"] * 30 + [b"\n", b"\r", b"\r\r\n", b" \r\n", b"\t\r\n"])


@st.composite
def _lines(draw: st.DrawFn, first: bytes) -> bytes:
    data = first + draw(_LINE_ENDS)
    if draw(st.integers(0, 9)):
        data += b"Host: h\r\n"
    for _ in range(draw(st.integers(0, 4))):
        data += draw(_NAMES) + draw(_COLONS) + draw(_VALUES) + draw(_LINE_ENDS)
    return data + b"\r\n"


@st.composite
def _requests(draw: st.DrawFn) -> bytes:
    # Mostly good lines, so that what follows is looked at too.
    if draw(st.integers(0, 3)):
        return draw(_lines(draw(st.sampled_from([b"GET / HTTP/1.1", b"POST /a HTTP/1.0"]))))
    line = draw(_METHODS) + b" " + draw(_TARGETS) + b" " + draw(_VERSIONS)
    return draw(_lines(line))


@st.composite
def _responses(draw: st.DrawFn) -> bytes:
    version = draw(
        st.sampled_from([b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"ICY"])
    )
    status = draw(
        st.sampled_from(
            [b"200", b"101", b"100", b"204", b"304", b"500", b"099", b"600", b"20", b"2000", b"+20"]
        )
    )
    reason = draw(
        st.sampled_from([b" OK", b" ", b"", b" a\tb ", b" \xff", b"\tOK", b" a\x00", b"  x"])
    )
    return draw(_lines(version + b" " + status + reason))


@st.composite
def _disturbed(draw: st.DrawFn, messages: st.SearchStrategy[bytes]) -> bytes:
    """Messages with a few bytes put in, taken out or exchanged."""
    data = draw(messages)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        end = at + draw(st.integers(0, 2))
        data = data[:at] + draw(st.one_of(_ODD_BYTES, _PRINTABLE)) + data[end:]
    return data


_BODIES = st.sampled_from(
    [
        b"", b"abc", b"abcGET / HTTP/1.1\r\nHost: h\r\n\r\n", b"3\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\r\n0\r\nA: b\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", b"0\r\n\r\n", b"3;a=b\r\nabc\r\n0\r\n\r\n",
        b"3\nabc\r\n0\r\n\r\n", b"-3\r\nabc\r\n0\r\n\r\n", b"3\r\nabcd\r\n0\r\n\r\n",
    ]
)  # fmt: skip


# ------------------------------------------------------------------------- heads


def _read(
    engine: str, kind: Kind, head: bytes
) -> tuple[RequestHeader | ResponseHeader, int] | None:
    try:
        return read_head(engine, kind, head)
    except Error:
        return None


def _is_known(data: bytes) -> bool:
    return any(pattern.search(data) for pattern in KNOWN_DIFFERENCES.values())


def _agree(kind: Kind, head: bytes) -> None:
    default, reference = (_read(engine, kind, head) for engine in ENGINES)

    if _is_known(head):
        assert default is None or default == reference
        return
    assert default == reference
    if default is None:
        return
    parsed, _ = default
    # What was accepted is one line for each field, and nothing that ends a line but CRLF.
    lines = head.count(b"\r\n")
    assert lines == head.count(b"\r") == head.count(b"\n")
    if not isinstance(parsed, RequestHeader) or b"://" not in parsed.raw_target:
        assert lines == len(parsed) + 2 or b"CONNECT" in head
    # And what we write of it is read as the same by both.
    for engine in ENGINES:
        assert _read(engine, kind, parsed.to_wire()) == default


@settings(max_examples=300, deadline=None)
@given(_disturbed(_requests()))
@example(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\t\r\n\r\n")
@example(b"POST / HTTP/1.1\r\nHost: h\rX: y\n\r\n\r\n")
@example(b"GET / HTTP/1.2\r\nHost: h\r\n\r\n")
@example(b"PRI * HTTP/2.0\r\n\r\n")
def test_request_heads(head: bytes) -> None:
    """Both engines and the judge accept the same request heads, with the same contents."""
    assume(head.endswith(b"\r\n\r\n") and head.find(b"\r\n\r\n") == len(head) - 4)

    _agree("request", head)


@settings(max_examples=300, deadline=None)
@given(_disturbed(_responses()))
@example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\t\r\n\r\n")
@example(b"HTTP/1.2 200 OK\r\n\r\n")
def test_response_heads(head: bytes) -> None:
    """Both engines and the judge accept the same response heads, with the same contents."""
    assume(head.endswith(b"\r\n\r\n") and head.find(b"\r\n\r\n") == len(head) - 4)

    _agree("response", head)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """No bytes make an engine fail in a way of its own: all errors are ours."""
    for kind in ("request", "response"):
        for prefix in (b"", b"GET / HTTP/1.1\r\n", b"HTTP/1.1 200 OK\r\n"):
            head = prefix + data.replace(b"\r\n\r\n", b"") + b"\r\n\r\n"
            if not _is_known(head):
                first, second = (_read(engine, kind, head) for engine in ENGINES)
                assert first == second


@settings(max_examples=200, deadline=None)
@given(_disturbed(st.builds(bytes.__add__, _requests(), _BODIES)))
def test_whole_connections(data: bytes) -> None:
    """Both engines see the same messages on a connection, and the same bytes left over."""
    assume(not _is_known(data))

    default, reference = (read_all(engine, "request", data) for engine in ENGINES)

    assert default.messages == reference.messages
    assert (default.verdict, default.rest) == (reference.verdict, reference.rest)


@pytest.mark.parametrize("name", sorted(KNOWN_DIFFERENCES))
def test_known_differences_are_real(name: str) -> None:
    """A listed difference exists, and the default engine is the stricter one."""
    head = {
        "a tab behind the coding in Transfer-Encoding": (
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\t\r\n\r\n"
        ),
    }[name]

    assert KNOWN_DIFFERENCES[name].search(head)
    assert _read("httptools", "request", head) is None
    assert _read("h11", "request", head) is not None


# ------------------------------------------------------------------------ bodies


def _decode(pieces: list[bytes]) -> tuple[object, ...]:
    reader = BodyReader(CHUNKED)
    payload = b""
    try:
        for piece in pieces:
            payload += reader.feed(piece)
    except Error as error:
        return (error.etype,)
    trailers = None if reader.trailers is None else list(reader.trailers)
    return payload, reader.is_done, reader.excess, trailers


def _cut(data: bytes, cuts: list[int]) -> list[bytes]:
    at = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(at)]


_CHUNK_TEXT = st.lists(
    st.sampled_from(
        [
            b"3\r\nabc\r\n",
            b"A\r\n0123456789\r\n",
            b"1;a=b\r\nx\r\n",
            b"0\r\n",
            b"\r\n",
            b"X: y\r\n",
            b"0\r\n\r\n",
        ]
    ),
    max_size=6,
).map(b"".join)


@settings(max_examples=300, deadline=None)
@given(_disturbed(_CHUNK_TEXT), st.lists(st.integers(0, 200), max_size=8))
def test_chunked_bodies_do_not_depend_on_packets(data: bytes, cuts: list[int]) -> None:
    """However the bytes of a body are cut, payload, end, trailers and excess are the same."""
    whole = _decode([data])
    pieces = _decode(_cut(data, cuts))

    if len(whole) > 1 or len(pieces) > 1:
        assert pieces == whole


_FIELDS = st.lists(
    st.tuples(
        st.text("abcXYZ-", min_size=1, max_size=5).filter(
            lambda name: name.lower().encode() not in FORBIDDEN_TRAILERS
        ),
        st.text("abc 1;=", max_size=8),
    ),
    max_size=3,
)


@given(
    st.lists(st.binary(max_size=50), max_size=5), _FIELDS, st.lists(st.integers(0, 300), max_size=4)
)
def test_bodies_survive_the_wire(
    payload: list[bytes], fields: list[tuple[str, str]], cuts: list[int]
) -> None:
    """What a writer encodes a reader decodes, with trailers, cut anywhere, to the last byte."""
    trailers = HeaderMap(fields)
    writer = BodyWriter(CHUNKED)
    wire = b"".join([writer.encode(piece) for piece in payload]) + writer.finish(trailers)

    found = _decode(_cut(wire + b"NEXT", cuts))

    assert found == (b"".join(payload), True, b"NEXT", list(trailers) or None)


# ----------------------------------------------------------------------- headers

_TEXT = st.text(st.characters(max_codepoint=0xFF), max_size=12)


@given(_TEXT, _TEXT, _TEXT, _TEXT)
def test_what_a_program_may_build_is_read_back(
    method: str, target: str, name: str, value: str
) -> None:
    """A head that our own classes accept leaves as exactly one head, or is refused on the way in.

    No text, however odd, lets a value become a second field or a second request.
    """
    builders: list[Callable[[], RequestHeader | ResponseHeader]] = [
        lambda: RequestHeader(method, "/" + target, headers=[("Host", "h"), ("X" + name, value)]),
        lambda: ResponseHeader(200, headers=[("X" + name, value)], reason=target),
    ]
    for build in builders:
        try:
            head = build()
        except Error:
            continue
        wire = head.to_wire()

        assert wire.count(b"\r\n") == wire.count(b"\n") == wire.count(b"\r") == len(head) + 2
        assert wire.find(b"\r\n\r\n") == len(wire) - 4
