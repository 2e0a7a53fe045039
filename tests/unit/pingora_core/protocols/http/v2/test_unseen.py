"""What the library is not told of changes nothing: the same frames lead to the same frames."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, cast
from unittest.mock import patch

import pytest
from hpack import Decoder, Encoder
from hypothesis import example, given, settings, strategies as st

from pingora_core.protocols.http.v2._engine import load_library
from pingora_core.protocols.http.v2._frames import PREFACE, settings_frame
from pingora_core.protocols.http.v2._server_connection import ServerConnection
from pingora_core.protocols.http.v2.options import Http2Options, Http2Stats
from pingora_error import Error
from pingora_http import HeaderMap, ResponseHeader
from tests.support.h2_frames import frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from h2.connection import H2Connection

    from pingora_core.protocols.http.v2.server import HttpSession
    from pingora_core.protocols.interfaces import Stream

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING = range(7)
GOAWAY, WINDOW_UPDATE, CONTINUATION = range(7, 10)
END_STREAM, END_HEADERS, PADDED, WITH_PRIORITY = 1, 4, 8, 32

Step = tuple[str, int, int]


class FakeStream:
    """Bytes that a test hands in, and those that come out."""

    def __init__(self) -> None:
        self.on_data: Callable[[], None] | None = None
        self.incoming = b""
        self.written: list[bytes] = []
        self.needs_drain = self.at_eof = self.is_closed = False

    @property
    def buffered(self) -> int:
        return len(self.incoming)

    def set_on_disconnect(self, callback: Callable[[], None] | None) -> None:
        pass

    def take(self) -> bytes:
        data, self.incoming = self.incoming, b""
        return data

    def write(self, data: bytes) -> None:
        self.written.append(bytes(data))

    def close(self, *, discard_input: bool, linger: float | None) -> None:
        self.is_closed = True

    def deliver(self, data: bytes) -> None:
        self.incoming += data
        if self.on_data is not None:
            self.on_data()


def _reference_engine(client_side: bool, in_force: dict[int, int]) -> H2Connection:
    engine = load_library("h2").make(client_side, in_force)
    engine.encoder = Encoder()
    engine.decoder = Decoder()
    return engine


class Client:
    """Makes the bytes of the steps that are a client's, the same for both servers."""

    def __init__(self) -> None:
        self._encoder = Encoder()
        self._next = 1

    def opening(self, flavour: int, path: int) -> bytes:  # noqa: C901, PLR0912 - a case each
        """A request on a new stream, or on one that cannot be."""
        stream = self._next
        fields = [
            (b":method", b"GET"),
            (b":scheme", b"http"),
            (b":path", b"/%d" % path),
            (b":authority", b"a.example"),
            (b"x-same", b"yes"),
        ]
        if flavour == 1:  # malformed, but an error of the stream
            fields.append((b"Upper", b"case"))
        block = self._encoder.encode(fields)
        self._next += 2
        flags = END_STREAM | END_HEADERS
        match flavour:
            case 2:
                flags &= ~END_STREAM
            case 3:
                flags |= PADDED
                block = b"\x03" + block + bytes(3)
            case 4:
                flags |= WITH_PRIORITY
                block = bytes(5) + block
            case 5:  # depends on itself
                flags |= WITH_PRIORITY
                block = stream.to_bytes(4, "big") + b"\0" + block
            case 6:
                return frame(HEADERS, END_STREAM, stream, block[:2]) + frame(
                    CONTINUATION, END_HEADERS, stream, block[2:]
                )
            case 7:  # of the other side
                stream += 1
            case 8:  # one that is there, or has been
                stream = max(1, stream - 2)
            case 9:
                block = b"\x82\xff\xff\xff\xff\xff\xff\xff"
            case 10:  # leaves numbers out
                self._next += 4
                stream += 4
            case 11:  # its first bit is reserved
                stream |= 1 << 31
            case 12:  # shorter than its priority
                flags |= WITH_PRIORITY
                block = b"\0\0\0"
            case _:
                pass
        return frame(HEADERS, flags, stream, block)

    def bytes_of(self, step: Step) -> bytes | None:  # noqa: PLR0911 - a case each
        """What a step sends; None if it is one of the server's."""
        kind, first, second = step
        stream = 2 * first + 1
        match kind:
            case "open":
                return self.opening(first, second)
            case "data":
                return frame(DATA, second & 1, stream, b"x" * (second * 40))
            case "reset":
                return frame(RST_STREAM, 0, stream, second.to_bytes(4, "big"))
            case "window":
                # Streams, the connection, too much, and nothing, which is an error.
                size = (0, 7, 300, 70000, 2**31 - 1)[second % 5]
                return frame(WINDOW_UPDATE, 0, stream if first else 0, size.to_bytes(4, "big"))
            case "priority":
                return frame(PRIORITY, 0, stream, bytes(5))
            case "ping":
                return frame(PING, 0, 0, bytes(8))
            case "settings":
                # The window that streams begin with, that of those that are open too.
                return settings_frame([(4, (0, 10, 100, 65535, 200000)[second % 5]), (5, 16384)])
            case "table":
                return settings_frame([(1, (0, 64, 4096, 65536)[second % 4])])
            case "odd":
                return frame(12 if second else PUSH_PROMISE, 0, stream, b"????")
            case "continuation":
                return frame(CONTINUATION, END_HEADERS, stream, b"\x82")
            case _:
                return None


def _serve_step(session: HttpSession, step: Step) -> str:
    kind, _, size = step
    try:
        match kind:
            case "head":
                header = ResponseHeader(103 if size == 1 else 200)
                header.append_header("date", "Mon, 24 Nov 2026 10:00:00 GMT")
                header.append_header("x-long", "y" * (size * 9000 if size > 3 else size))
                session.send_response_header(header, end=size == 2)
            case "body":
                session.send_response_body(b"z" * (size * 50), end=False)
            case "last":
                session.send_response_body(b"z" * (size * 50), end=True)
            case "trailers":
                session.send_response_trailers(HeaderMap([("x-sum", "1")]))
            case _:
                session.shutdown()
    except Error as error:
        return str(error.etype)
    return ""


async def _run(steps: list[Step]) -> list[object]:
    """What a server does about the steps, as a client reads it."""
    stream = FakeStream()
    sessions: dict[int, HttpSession] = {}
    left = asyncio.Event()
    log: list[object] = []

    async def serve(session: HttpSession) -> None:
        sessions[session.stream.id] = session
        log.append((session.stream.id, session.is_refused, str(session.request.raw_target)))
        await left.wait()

    connection = ServerConnection(cast("Stream", stream), Http2Options(), serve)
    running = asyncio.ensure_future(connection.run())
    await asyncio.sleep(0)
    client = Client()
    stream.deliver(PREFACE + settings_frame([]))
    for step in steps:
        data = client.bytes_of(step)
        if data is not None:
            # Each step for itself: when a frame is refused, the library does not tell of those that
            # came with it, while those that it never saw have been served.
            stream.deliver(data)
            continue
        for _ in range(3):
            await asyncio.sleep(0)
        session = sessions.get(2 * step[1] + 1)
        if session is not None:
            log.append(_serve_step(session, step))
    for _ in range(3):
        await asyncio.sleep(0)
    log.append([(s.stream.error is None, s.stream.is_sent) for s in sessions.values()])
    left.set()
    for _ in range(3):
        await asyncio.sleep(0)
    connection.close()
    await running
    return [log, _read(b"".join(stream.written)), connection.options.stats.malformed]


def _read(data: bytes) -> list[object]:
    decoder = Decoder()
    decoder.max_allowed_table_size = 65536
    frames: list[object] = []
    block = b""
    while data:
        size = 9 + int.from_bytes(data[:3], "big")
        kind, flags, payload = data[3], data[4], data[9:size]
        if kind in {HEADERS, CONTINUATION}:
            block += payload
            if flags & END_HEADERS:
                frames.append((kind, flags, data[5:9], list(decoder.decode(block, raw=True))))
                block = b""
        else:
            frames.append((kind, flags, data[5:9], payload))
        data = data[size:]
    return frames


def _both(steps: list[Step]) -> tuple[list[object], list[object]]:
    library = load_library("h2")
    reference = replace(library, make=_reference_engine, unseen=None)
    results = []
    for chosen in (library, reference):
        with (
            patch(
                "pingora_core.protocols.http.v2._send_side.load_library", lambda _, it=chosen: it
            ),
            asyncio.Runner() as runner,
        ):
            results.append(runner.run(_run(steps)))
    return results[0], results[1]


_SERVER = ("head", "head", "body", "last", "last", "trailers", "shutdown")
_CLIENT = (
    "data", "reset", "window", "window", "priority", "ping", "settings", "table", "odd",
    "continuation",
)  # fmt: skip
_openings = st.tuples(
    st.just("open"), st.sampled_from([0] * 12 + list(range(13))), st.integers(0, 2)
)
_steps = st.lists(
    st.one_of(
        _openings,
        st.tuples(st.sampled_from(_SERVER), st.integers(0, 5), st.integers(0, 6)),
        st.tuples(st.sampled_from(_CLIENT), st.integers(0, 5), st.integers(0, 6)),
    ),
    max_size=25,
)
_GET = ("open", 0, 0)


@given(_steps)
@settings(max_examples=200, deadline=None)
@example([_GET, _GET, ("head", 1, 0), ("last", 1, 1)])
@example([_GET, _GET, ("head", 1, 0), ("last", 1, 3), ("window", 1, 1), ("reset", 1, 8)])
@example([_GET, _GET, ("settings", 0, 1), ("head", 1, 0), ("last", 1, 3), ("window", 1, 2)])
@example([_GET, ("settings", 0, 1), _GET, ("head", 1, 0), ("last", 1, 3), ("settings", 0, 2)])
@example([_GET, _GET, ("head", 1, 0), ("body", 1, 3), ("data", 1, 1)])
@example([_GET, _GET, ("head", 1, 0), ("last", 1, 3), ("data", 1, 1)])
@example([_GET, _GET, ("head", 1, 1), ("head", 1, 0), ("trailers", 1, 0), ("open", 8, 0)])
@example([_GET, _GET, ("head", 1, 6), ("shutdown", 1, 0), ("window", 1, 1), ("data", 1, 0)])
@example([_GET, ("open", 6, 0), _GET, ("odd", 1, 0), _GET])
@example([_GET, ("open", 10, 0), ("window", 2, 1)])
@example([_GET, ("open", 11, 0), ("head", 1, 0), ("last", 1, 1)])
@example([_GET, ("table", 0, 1), _GET, ("head", 0, 0), ("table", 0, 0), ("head", 1, 0)])
def test_a_client_sees_no_difference(steps: list[Step]) -> None:
    """Whatever a client and an application do, it is as if the library had seen all of it."""
    seen, expected = _both(steps)

    assert seen == expected


@pytest.mark.parametrize("flavour", range(13))
@pytest.mark.parametrize("then", ["", "data", "reset", "window", "priority", "continuation"])
@pytest.mark.parametrize("when", ["open", "answered", "ended"])
def test_each_frame_on_each_stream(flavour: int, then: str, when: str) -> None:
    """Whatever comes on a stream, before its head, behind it, and when it has ended."""
    steps: list[Step] = [_GET, ("open", flavour, 1), ("other", 1, 0)]
    if when != "open":
        steps += [("head", 1, 0), ("last" if when == "ended" else "body", 1, 1)]
    if then:
        steps += [(then, 1, 1)]
    steps += [_GET, ("head", 2, 0), ("last", 2, 1)]

    seen, expected = _both(steps)

    assert seen == expected


def test_streams_that_the_library_is_told_of_do_not_pile_up() -> None:
    """Frames on streams that have ended make it know them again, for a while."""
    library = load_library("h2")
    engines: list[H2Connection] = []

    def make(client_side: bool, in_force: dict[int, int]) -> H2Connection:
        engines.append(library.make(client_side, in_force))
        return engines[-1]

    steps: list[Step] = [_GET]
    for number in range(1, 1200):
        steps += [_GET, ("head", number, 2), ("window", number, 1)]
    with (
        patch(
            "pingora_core.protocols.http.v2._send_side.load_library",
            lambda _: replace(library, make=make),
        ),
        asyncio.Runner() as runner,
    ):
        runner.run(_run(steps))

    assert len(engines[0].streams) < 600


def test_the_reserved_bit_hides_no_content() -> None:
    """A body is held to its Content-Length whatever the first bit of the stream's number is."""

    async def run() -> int:
        stream = FakeStream()
        options = Http2Options(stats=Http2Stats())

        async def serve(session: HttpSession) -> None:
            await session.stream.wait(None)

        connection = ServerConnection(cast("Stream", stream), options, serve)
        running = asyncio.ensure_future(connection.run())
        await asyncio.sleep(0)
        block = Encoder().encode(
            [
                (b":method", b"POST"),
                (b":scheme", b"http"),
                (b":path", b"/"),
                (b":authority", b"a.example"),
                (b"content-length", b"3"),
            ]
        )
        stream.deliver(PREFACE + settings_frame([]) + frame(HEADERS, END_HEADERS, 1, block))
        stream.deliver(frame(DATA, END_STREAM, 1 | 1 << 31, b"12345"))
        connection.close()
        await running
        return options.stats.malformed

    with asyncio.Runner() as runner:
        assert runner.run(run()) == 1
