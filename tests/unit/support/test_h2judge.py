"""The judge of HTTP/2 frames: it finds every fault that it is meant to find, and invents none.

The sections are of RFC 9113.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hpack import Encoder
from hypothesis import given, strategies as st

from tests.support.h2judge import Judge, block_faults
from tests.support.h2wire import (
    ACK,
    END_HEADERS,
    END_STREAM,
    MAX_WINDOW,
    PADDED,
    PRIORITY_FLAG,
    Code,
    Frame,
    FrameReader,
    Kind,
    Setting,
    block_pieces,
    data_frame,
    goaway_frame,
    header_frames,
    hpack_indexed,
    hpack_literal,
    hpack_table_size,
    parse_settings,
    ping_frame,
    priority_frame,
    rst_frame,
    settings_ack,
    settings_frame,
    window_frame,
)

if TYPE_CHECKING:
    from tests.support.h2wire import (
        Fields,
    )

_GET: Fields = [
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":authority", b"h"),
    (b":path", b"/"),
]
_POST: Fields = [(b":method", b"POST"), *_GET[1:]]


class Client:
    """Makes frames in order and has them judged."""

    def __init__(self, **settings: int) -> None:
        self.judge = Judge()
        self.encoder = Encoder()
        announced = {Setting[name.upper()]: value for name, value in settings.items()}
        self.judge.sent(settings_frame(announced))
        self.send(settings_frame(), settings_ack())

    def send(self, *frames: Frame) -> list[str]:
        for frame in frames:
            self.judge.received(frame)
        return self.judge.violations

    def head(self, stream_id: int, fields: Fields = _POST, *, end: bool = False) -> list[str]:
        return self.send(*header_frames(stream_id, self.encoder.encode(fields), end=end))


def _found(violations: list[str], what: str) -> None:
    assert len(violations) == 1, violations
    assert what in violations[0]


# ----------------------------------------------------------------------- the wire


@given(
    st.lists(
        st.builds(
            Frame,
            st.integers(0, 255),
            st.integers(0, 255),
            st.integers(0, MAX_WINDOW),
            st.binary(max_size=40),
            st.booleans(),
        )
    ),
    st.lists(st.integers(0, 200)),
)
def test_frames_round_trip(frames: list[Frame], cuts: list[int]) -> None:
    """Frames are read as they were written, wherever the bytes are cut."""
    wire = b"".join(frame.encode() for frame in frames)
    places = [0, *sorted(cut for cut in cuts if cut < len(wire)), len(wire)]
    reader = FrameReader()

    read = [
        frame for start, end in itertools.pairwise(places) for frame in reader.feed(wire[start:end])
    ]

    assert read == frames
    assert not reader.pending


def test_hand_made_blocks() -> None:
    """Header blocks that are put together by hand are what HPACK reads."""
    long = b"v" * 300
    judge = Client().judge
    block = (
        hpack_table_size(4096)
        + hpack_indexed(2)
        + hpack_indexed(6)
        + hpack_indexed(4)
        + hpack_literal(b":authority", b"h", first=0x00)
        + hpack_literal(b"x", long)
        + hpack_indexed(62)
        + hpack_literal(b"y", b"", first=0x10)
    )

    fields = judge.received(*header_frames(1, block, end=True))

    assert fields == [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":path", b"/"),
        (b":authority", b"h"),
        (b"x", long),
        (b"x", long),
        (b"y", b""),
    ]
    assert judge.violations == []


def test_padding() -> None:
    """Padding and priority are taken away, unless there is more of it than payload."""
    assert block_pieces(data_frame(1, b"ab", padding=3)) == b"ab"
    assert block_pieces(Frame(Kind.HEADERS, PRIORITY_FLAG | PADDED, 1, b"\1" + b"12345x\0")) == b"x"
    assert block_pieces(Frame(Kind.HEADERS, PRIORITY_FLAG, 1, b"1234")) is None
    assert block_pieces(Frame(Kind.DATA, PADDED, 1, b"\2a")) is None
    assert block_pieces(Frame(Kind.DATA, PADDED, 1, b"")) is None
    assert parse_settings(settings_frame([(1, 2), (1, 3)]).payload) == [(1, 2), (1, 3)]


def test_frames_tell_what_they_are() -> None:
    """A frame says its name, its number and its error code."""
    assert str(Frame(0x77, 1, 3, b"x")) == "type 0x77 on stream 3 (0x1, 1 bytes)"
    assert str(data_frame(1, b"x")).startswith("DATA on stream 1")
    assert (goaway_frame(5, Code.CANCEL).number, goaway_frame(5, Code.CANCEL).code) == (5, 8)
    assert rst_frame(1, Code.CANCEL).code == Code.CANCEL
    assert data_frame(1, b"abc").encode(length=7)[:3] == b"\0\0\7"


# ---------------------------------------------------------------------- the judge


def test_good_exchanges() -> None:
    """A client that does all things right is not blamed."""
    client = Client(max_concurrent_streams=2)
    client.judge.sent(ping_frame(b"12345678"))

    client.head(1)
    client.send(data_frame(1, b"abc", padding=4), data_frame(1, end=True))
    client.head(3, [*_POST, (b"content-length", b"5"), (b"te", b"trailers")])
    client.send(data_frame(3, b"hello"))
    client.head(3, [(b"x-trailer", b"1")], end=True)
    client.judge.sent(data_frame(1, end=True))
    client.head(5, _GET, end=True)
    client.send(
        ping_frame(b"12345678", ack=True),
        ping_frame(),
        window_frame(0, 10),
        window_frame(5, 10),
        priority_frame(7),
        rst_frame(3),
        Frame(0x77, 0xFF, 9, b"grease"),
        goaway_frame(0),
    )

    assert client.judge.finish() == []


def test_nothing_is_owed_forever() -> None:
    """What a client never acknowledges is a fault at the end."""
    client = Client()
    client.judge.sent(settings_frame({Setting.MAX_FRAME_SIZE: 20000}))
    client.judge.sent(ping_frame())

    assert len(client.judge.finish()) == 2


def test_settings_come_first() -> None:
    """A connection begins with SETTINGS (section 3.4)."""
    judge = Judge()
    judge.received(window_frame(0, 1))

    _found(judge.violations, "first frame")


_SHAPES = [
    (Frame(Kind.PING, 0, 0, b"1234567"), "wrong size"),
    (Frame(Kind.RST_STREAM, 0, 1, b"\0\0\0"), "wrong size"),
    (Frame(Kind.WINDOW_UPDATE, 0, 0, b"\0\0\0\1\0"), "wrong size"),
    (Frame(Kind.PRIORITY, 0, 3, b"1234"), "wrong size"),
    (Frame(Kind.PING, 0x80, 0, b"12345678"), "undefined flags"),
    (Frame(Kind.SETTINGS, 0x2), "undefined flags"),
    (Frame(Kind.PING, 0, 1, b"12345678"), "wrong kind of stream"),
    (Frame(Kind.SETTINGS, 0, 1), "wrong kind of stream"),
    (Frame(Kind.PRIORITY, 0, 0, b"\0\0\0\1\0"), "wrong kind of stream"),
    (Frame(Kind.PING, 0, 0, b"12345678", reserved=True), "reserved"),
    (Frame(Kind.DATA, 0, 1, bytes(16385)), "larger than"),
    (Frame(Kind.DATA, PADDED, 1, b"\5abc"), "padding as long"),
    (Frame(Kind.DATA, PADDED, 1, b"\1ab"), "padding is not zero"),
    (Frame(Kind.SETTINGS, 0, 0, b"12345"), "no multiple"),
    (Frame(Kind.SETTINGS, ACK, 0, b"123456"), "with a payload"),
    (Frame(Kind.PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2"), "cannot push"),
    (Frame(Kind.CONTINUATION, END_HEADERS, 1), "of nothing"),
    (priority_frame(5, 5), "depends on itself"),
    (Frame(Kind.HEADERS, PRIORITY_FLAG | END_HEADERS, 3, b"\0\0\0\3\0"), "depends on itself"),
    (settings_frame({Setting.ENABLE_PUSH: 2}), "setting 2"),
    (settings_frame({Setting.INITIAL_WINDOW_SIZE: 2**31}), "setting 4"),
    (settings_frame({Setting.MAX_FRAME_SIZE: 16383}), "setting 5"),
    (settings_frame({Setting.ENABLE_CONNECT_PROTOCOL: 1}), "setting 8"),
    (window_frame(0, 0), "increment of 0"),
    (window_frame(0, MAX_WINDOW), "window beyond"),
    (window_frame(1, MAX_WINDOW), "window beyond"),
    (window_frame(3, 1), "on an idle stream"),
    (rst_frame(3), "on an idle stream"),
    (data_frame(3), "on an idle stream"),
    (ping_frame(b"unasked!", ack=True), "answers no PING"),
    (settings_ack(), "acknowledges nothing"),
    (goaway_frame(1), "names a stream"),
    (Frame(Kind.GOAWAY, payload=bytes(4)), "too short"),
]


@pytest.mark.parametrize(("frame", "what"), _SHAPES)
def test_faults_of_single_frames(frame: Frame, what: str) -> None:
    """A frame that is wrong by itself is found."""
    client = Client()
    client.head(1)

    assert what in client.send(frame)[0]


def test_header_blocks_are_not_interrupted() -> None:
    """Nothing comes between HEADERS and its CONTINUATION (section 4.3)."""
    client = Client()
    frames = header_frames(1, client.encoder.encode(_GET), size=4)

    _found(client.send(frames[0], ping_frame()), "within a header block")


def test_header_blocks_in_pieces() -> None:
    """A header block may come in pieces."""
    client = Client()

    assert client.send(*header_frames(1, client.encoder.encode(_GET), end=True, size=3)) == []
    assert client.judge.streams[1].peer_ended


def test_header_blocks_are_hpack() -> None:
    """What is no HPACK is a fault (section 4.3)."""
    _found(Client().send(*header_frames(1, hpack_indexed(100))), "HPACK")


@pytest.mark.parametrize(
    "frame",
    [data_frame(1), data_frame(1, b"x"), Frame(Kind.HEADERS, END_HEADERS | END_STREAM, 1)],
)
@pytest.mark.parametrize("ended", [True, False])
def test_frames_after_the_end(frame: Frame, ended: bool) -> None:
    """Nothing follows END_STREAM or RST_STREAM (section 5.1)."""
    client = Client()
    client.head(1, _GET, end=ended)
    if not ended:
        client.send(rst_frame(1))

    assert "after" in client.send(frame)[0]


def test_window_updates_after_the_end() -> None:
    """Windows are opened until the client itself has reset the stream."""
    client = Client()
    client.head(1, _GET, end=True)
    client.judge.sent(rst_frame(1))

    assert client.send(window_frame(1, 5), rst_frame(1)) == []
    _found(client.send(window_frame(1, 5)), "after RST_STREAM")


def test_order_of_streams() -> None:
    """Streams are odd and rise; those that were left out are closed (section 5.1.1)."""
    client = Client()
    client.head(5, _GET, end=True)
    client.head(3, _GET, end=True)
    client.head(8, _GET, end=True)

    assert len(client.judge.violations) == 2
    assert "closed stream" in client.send(data_frame(1))[-1]


def test_concurrent_streams() -> None:
    """No stream is opened beyond the limit, once it is acknowledged (section 5.1.2)."""
    client = Client(max_concurrent_streams=1)
    client.head(1, _GET, end=True)
    client.judge.sent(data_frame(1, end=True))
    client.head(3, _GET, end=True)

    assert client.judge.violations == []
    client.head(5, _GET, end=True)
    _found(client.judge.violations, "beyond 1")


def test_windows() -> None:
    """Data stays within both windows, as they were opened (section 6.9)."""
    client = Client(initial_window_size=10)
    client.head(1)
    client.head(3)

    assert client.send(data_frame(1, b"x" * 8, padding=1), data_frame(1)) == []
    client.judge.sent(window_frame(1, 5))
    assert client.send(data_frame(1, b"x" * 5)) == []
    _found(client.send(data_frame(1, b"x")), "stream's window by 1")
    client.judge.window = 3
    assert "connection's window" in client.send(data_frame(3, b"x" * 5))[-1]


def test_windows_that_shrink() -> None:
    """A smaller window counts from its acknowledgement on, and may be negative (6.9.2)."""
    client = Client()
    client.head(1)
    client.judge.sent(settings_frame({Setting.INITIAL_WINDOW_SIZE: 4}))

    assert client.send(data_frame(1, b"x" * 10), settings_ack()) == []
    assert client.judge.streams[1].window == -6
    assert client.send(data_frame(1)) == []
    _found(client.send(data_frame(1, b"x")), "stream's window by 7")


def test_windows_for_sending() -> None:
    """The client's windows are kept, too, for an origin that sends by them."""
    client = Client()
    client.head(1)
    client.judge.sent(data_frame(1, b"x" * 10))
    client.send(settings_frame({Setting.INITIAL_WINDOW_SIZE: 5}), window_frame(1, 3))

    assert client.judge.streams[1].send_window == 5 - 10 + 3
    assert client.judge.send_window == 65525


@pytest.mark.parametrize(("declared", "end"), [(b"3", True), (b"9", True), (b"5", False)])
def test_content_length(declared: bytes, end: bool) -> None:
    """Content-Length is kept, also when trailers end the stream (section 8.1.1)."""
    client = Client()
    client.head(1, [*_POST, (b"content-length", declared)])
    client.send(data_frame(1, b"hello", end=end))
    if not end:
        client.head(1, [(b"x", b"y")], end=True)

    assert bool(client.judge.violations) is end


def test_trailers() -> None:
    """Trailers end the stream and hold no pseudo-header fields (section 8.1)."""
    client = Client()
    client.head(1)
    client.head(1, [(b"x", b"y")])

    _found(client.judge.violations, "without END_STREAM")


def test_no_stream_after_goaway() -> None:
    """A client that has said goodbye opens nothing more (section 6.8)."""
    client = Client()
    client.send(goaway_frame())

    _found(client.head(1, _GET, end=True), "after its GOAWAY")


def test_size_of_header_lists() -> None:
    """A header list is no larger than announced (section 6.5.2)."""
    client = Client(max_header_list_size=200)

    _found(client.head(1, [*_GET, (b"x", b"y" * 100)]), "header list")


# ---------------------------------------------------------------- header sections


@pytest.mark.parametrize(
    "fields",
    [
        _GET,
        [*_GET, (b"host", b"h"), (b"te", b"trailers"), (b"x", b""), (b"a", b"b\tc \xff")],
        [*_GET[:2], *_GET[3:], (b"host", b"h")],
        [(b":method", b"CONNECT"), (b":authority", b"h:1")],
        [(b":method", b"OPTIONS"), *_GET[1:3], (b":path", b"*")],
        [*_GET[:3], (b":path", b'/a?b=[]|%20"')],
    ],
)
def test_good_sections(fields: Fields) -> None:
    """A good header section has no fault."""
    assert block_faults(fields) == []


@pytest.mark.parametrize(
    "fields",
    [
        [],
        _GET[1:],
        _GET[:3],
        [*_GET[:2], _GET[3]],
        [*_GET, _GET[0]],
        [*_GET, (b":x", b"")],
        [*_GET, (b"a", b"b"), (b":path", b"/")],
        [*_GET, (b"A", b"b")],
        [*_GET, (b"", b"b")],
        [*_GET, (b"a", b" b")],
        [*_GET, (b"a", b"b\r\n")],
        [*_GET, (b"connection", b"close")],
        [*_GET, (b"transfer-encoding", b"chunked")],
        [*_GET, (b"te", b"gzip")],
        [*_GET, (b"host", b"other")],
        [*_GET, (b"content-length", b"1"), (b"content-length", b"1")],
        [*_GET, (b"content-length", b"+1")],
        [*_GET[:3], (b":path", b"")],
        [*_GET[:3], (b":path", b"*")],
        [*_GET[:3], (b":path", b"/a b")],
        [*_GET[:3], (b":path", b"/#")],
        [_GET[0], (b":scheme", b"ftp"), *_GET[2:]],
        [(b":method", b"A B"), *_GET[1:]],
        [*_GET[:2], (b":authority", b"u@h"), _GET[3]],
        [(b":method", b"CONNECT"), *_GET[1:]],
        [(b":method", b"CONNECT")],
        [(b":method", b"CONNECT"), *_GET[1:], (b":protocol", b"websocket")],
    ],
)
def test_bad_sections(fields: Fields) -> None:
    """A bad one has at least one."""
    assert block_faults(fields)


def test_extended_connect() -> None:
    """Extended CONNECT is good where it was announced (RFC 8441 section 3)."""
    fields = [(b":method", b"CONNECT"), *_GET[1:], (b":protocol", b"websocket")]

    assert block_faults(fields, extended_connect=True) == []
    assert block_faults([*fields[:2], *fields[3:]], extended_connect=True)


def test_pseudo_fields_in_trailers() -> None:
    """Trailers have no pseudo-header fields (section 8.1)."""
    assert block_faults([(b"x", b"y")], trailers=True) == []
    assert block_faults(_GET, trailers=True)
