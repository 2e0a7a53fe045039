"""Judges what an HTTP/2 client sends, frame by frame, against RFC 9113, without doing I/O.

It is told what the server beside it sends, too: windows, settings and ended streams decide what
the client may do. Nothing is forgiven: a setting binds from its acknowledgement on, which a
client must send at once. Whatever is wrong is written down and the judging goes on.

The sections are of RFC 9113 unless another RFC is named.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hpack import Decoder, HPACKError

from tests.support.h2wire import (
    ACK,
    DEFAULT_FRAME_SIZE,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    MAX_WINDOW,
    PADDED,
    PRIORITY_FLAG,
    Kind,
    Setting,
    block_pieces,
    parse_settings,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.h2wire import Fields, Frame

__all__ = ["Judge", "StreamRecord", "block_faults"]

# Section 6: which flags mean anything; the others are unset when sending (section 4.1).
_FLAGS: Final = {
    Kind.DATA: END_STREAM | PADDED,
    Kind.HEADERS: END_STREAM | END_HEADERS | PADDED | PRIORITY_FLAG,
    Kind.SETTINGS: ACK,
    Kind.PUSH_PROMISE: END_HEADERS | PADDED,
    Kind.PING: ACK,
    Kind.CONTINUATION: END_HEADERS,
}
_SIZES: Final = {Kind.PRIORITY: 5, Kind.RST_STREAM: 4, Kind.PING: 8, Kind.WINDOW_UPDATE: 4}
_ON_CONNECTION: Final = {Kind.SETTINGS, Kind.PING, Kind.GOAWAY}

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+").fullmatch
_VALUE = re.compile(rb"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?").fullmatch
_PATH = re.compile(rb"(?:/[!\"$-~]*|\*)").fullmatch
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_AUTHORITY = re.compile(rb"[^@/?#\\\x00-\x20\x7f-\xff]+").fullmatch
_DIGITS = re.compile(rb"[0-9]+").fullmatch

_CONNECTION_SPECIFIC: Final = {
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"transfer-encoding",
    b"upgrade",
    b"http2-settings",
}
_REQUEST: Final = {b":method", b":scheme", b":path"}


@dataclass(slots=True)
class StreamRecord:
    """What is known of one stream.

    Attributes:
        window: Bytes that the client may still send.
        send_window: Bytes that the server may still send.
        peer_ended: Whether the client has sent END_STREAM.
        peer_reset: Whether the client has reset it.
        ended: Whether the server has sent END_STREAM.
        reset: Whether the server has reset it.
        declared: What Content-Length promises; None without one, or for CONNECT.
        received: Bytes of data.
    """

    window: int
    send_window: int
    peer_ended: bool = False
    peer_reset: bool = False
    ended: bool = False
    reset: bool = False
    declared: int | None = None
    received: int = 0

    @property
    def is_open(self) -> bool:
        """Whether it counts against the number of concurrent streams (section 5.1.2)."""
        return not (self.peer_reset or self.reset or (self.peer_ended and self.ended))


class Judge:
    """One connection, seen from the server.

    Attributes:
        violations: What the client has done wrong.
        streams: All streams that it has opened.
        settings: The server's settings that the client has acknowledged.
        peer_settings: The client's settings.
        window: Bytes that the client may still send on the connection.
        send_window: Bytes that the server may still send on it.
        goaway: Code of the client's GOAWAY, if it has sent one.
        unanswered_pings: PINGs of the server that wait for an answer.
    """

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.streams: dict[int, StreamRecord] = {}
        self.settings: dict[int, int] = {
            Setting.INITIAL_WINDOW_SIZE: DEFAULT_WINDOW,
            Setting.MAX_FRAME_SIZE: DEFAULT_FRAME_SIZE,
        }
        self.peer_settings: dict[int, int] = dict(self.settings)
        self.window = DEFAULT_WINDOW
        self.send_window = DEFAULT_WINDOW
        self.goaway: int | None = None
        self.unanswered_pings: list[bytes] = []
        self._unacknowledged: list[dict[int, int]] = []
        self._decoder = Decoder(1 << 24)
        self._block: tuple[Frame, bytearray] | None = None
        self._last_id = 0
        self._first = True
        self._judges: dict[int, Callable[[Frame], None]] = {
            Kind.DATA: self._data,
            Kind.PRIORITY: self._priority,
            Kind.RST_STREAM: self._reset,
            Kind.SETTINGS: self._settings,
            Kind.PUSH_PROMISE: lambda frame: self._fault(frame, "a client cannot push (8.4)"),
            Kind.PING: self._ping,
            Kind.GOAWAY: self._goaway,
            Kind.WINDOW_UPDATE: self._window_update,
            Kind.CONTINUATION: lambda frame: self._fault(frame, "of nothing (6.10)"),
        }

    def _fault(self, frame: Frame, what: str) -> None:
        self.violations.append(f"{frame}: {what}")

    def finish(self) -> list[str]:
        """Judge what is missing at the end.

        Returns:
            All violations.
        """
        missing = [f"SETTINGS not acknowledged: {batch}" for batch in self._unacknowledged]
        missing += [f"PING not answered: {data!r}" for data in self.unanswered_pings]
        return self.violations + missing

    # ------------------------------------------------------------- what was sent

    def sent(self, frame: Frame) -> None:
        """Learn what the server has sent.

        Args:
            frame: The frame.
        """
        stream = self.streams.get(frame.stream_id)
        match frame.kind:
            case Kind.SETTINGS if not frame.has(ACK):
                self._unacknowledged.append(dict(parse_settings(frame.payload)))
            case Kind.PING if not frame.has(ACK):
                self.unanswered_pings.append(frame.payload)
            case Kind.WINDOW_UPDATE if frame.stream_id == 0:
                self.window += frame.number
            case Kind.WINDOW_UPDATE if stream is not None:
                stream.window += frame.number
            case Kind.DATA if stream is not None:
                self.send_window -= len(frame.payload)
                stream.send_window -= len(frame.payload)
                stream.ended |= frame.has(END_STREAM)
            case Kind.HEADERS if stream is not None:
                stream.ended |= frame.has(END_STREAM)
            case Kind.RST_STREAM if stream is not None:
                stream.reset = True
            case _:
                pass

    # --------------------------------------------------------- what has arrived

    def received(self, frame: Frame) -> Fields | None:
        """Judge a frame of the client.

        Args:
            frame: The frame.

        Returns:
            The header section, if the frame completes one.
        """
        if self._first and (frame.kind != Kind.SETTINGS or frame.has(ACK)):
            self._fault(frame, "the first frame is not SETTINGS (3.4)")
        self._first = False
        self._judge_shape(frame)
        if self._block is not None and (
            frame.kind != Kind.CONTINUATION or frame.stream_id != self._block[0].stream_id
        ):
            self._fault(frame, "within a header block (4.3)")
            self._block = None
        if frame.kind == Kind.HEADERS:
            return self._headers(frame)
        if frame.kind == Kind.CONTINUATION and self._block is not None:
            return self._continue_block(frame)
        judge = self._judges.get(frame.kind)
        if judge is not None:
            judge(frame)
        return None

    def _judge_shape(self, frame: Frame) -> None:
        if frame.reserved:
            self._fault(frame, "reserved bit (4.1)")
        if len(frame.payload) > self.settings[Setting.MAX_FRAME_SIZE]:
            self._fault(frame, "larger than SETTINGS_MAX_FRAME_SIZE (4.2)")
        if frame.kind not in set(Kind):
            return
        kind = Kind(frame.kind)
        if frame.flags & ~_FLAGS.get(kind, 0):
            self._fault(frame, "undefined flags (4.1)")
        if len(frame.payload) != _SIZES.get(kind, len(frame.payload)):
            self._fault(frame, "wrong size (4.2)")
        if kind != Kind.WINDOW_UPDATE and (frame.stream_id == 0) != (kind in _ON_CONNECTION):
            self._fault(frame, "on the wrong kind of stream (6)")
        if frame.has(PADDED) and kind in {Kind.DATA, Kind.HEADERS}:
            rest = block_pieces(frame)
            if rest is None:
                self._fault(frame, "padding as long as the payload (6.1)")
            elif frame.payload and any(frame.payload[len(frame.payload) - frame.payload[0] :]):
                self._fault(frame, "padding is not zero (6.1)")

    def _stream(self, frame: Frame) -> StreamRecord | None:
        # The stream of a frame that neither opens one nor ends within it (section 5.1).
        stream = self.streams.get(frame.stream_id)
        if stream is None:
            state = "idle" if frame.stream_id > self._last_id else "closed"
            self._fault(frame, f"on an {state} stream (5.1)")
        elif stream.peer_reset:
            self._fault(frame, "after RST_STREAM (5.1)")
        return stream

    def _data(self, frame: Frame) -> None:
        size = len(frame.payload)
        self.window -= size
        if self.window < 0 and size:
            self._fault(frame, f"beyond the connection's window by {-self.window} (6.9)")
        stream = self._stream(frame)
        if stream is None:
            return
        stream.window -= size
        if stream.window < 0 and size:
            self._fault(frame, f"beyond the stream's window by {-stream.window} (6.9)")
        if stream.peer_ended:
            self._fault(frame, "after END_STREAM (5.1)")
        stream.received += len(block_pieces(frame) or b"")
        if frame.has(END_STREAM):
            self._end(frame, stream)

    def _end(self, frame: Frame, stream: StreamRecord) -> None:
        stream.peer_ended = True
        if stream.declared is not None and stream.declared != stream.received:
            what = f"{stream.received} bytes, content-length {stream.declared} (8.1.1)"
            self._fault(frame, what)

    def _reset(self, frame: Frame) -> None:
        stream = self._stream(frame)
        if stream is not None:
            stream.peer_reset = True

    def _window_update(self, frame: Frame) -> None:
        if frame.number == 0:
            self._fault(frame, "increment of 0 (6.9)")
        if frame.stream_id == 0:
            self.send_window += frame.number
            window = self.send_window
        else:
            stream = self._stream(frame)
            if stream is None:
                return
            stream.send_window += frame.number
            window = stream.send_window
        if window > MAX_WINDOW:
            self._fault(frame, "window beyond 2**31 - 1 (6.9.1)")

    def _priority(self, frame: Frame) -> None:
        if frame.number == frame.stream_id:
            self._fault(frame, "depends on itself (RFC 7540 5.3.1)")

    def _ping(self, frame: Frame) -> None:
        if not frame.has(ACK):
            return
        if frame.payload in self.unanswered_pings:
            self.unanswered_pings.remove(frame.payload)
        else:
            self._fault(frame, "answers no PING (6.7)")

    def _goaway(self, frame: Frame) -> None:
        if len(frame.payload) < 8:
            self._fault(frame, "too short (6.8)")
        if frame.number != 0:
            self._fault(frame, "names a stream that nobody opened (6.8)")
        self.goaway = frame.code

    # ---------------------------------------------------------------- settings

    def _settings(self, frame: Frame) -> None:
        if frame.has(ACK):
            if frame.payload:
                self._fault(frame, "acknowledgement with a payload (6.5)")
            if not self._unacknowledged:
                self._fault(frame, "acknowledges nothing (6.5)")
                return
            self._in_force(self._unacknowledged.pop(0))
            return
        if len(frame.payload) % 6:
            self._fault(frame, "no multiple of 6 (6.5)")
            return
        for code, value in parse_settings(frame.payload):
            if self._is_good_setting(code, value):
                if code == Setting.INITIAL_WINDOW_SIZE:
                    for stream in self.streams.values():
                        stream.send_window += value - self.peer_settings[code]
                self.peer_settings[code] = value
            else:
                self._fault(frame, f"setting {code} = {value} (6.5.2)")

    @staticmethod
    def _is_good_setting(code: int, value: int) -> bool:
        match code:
            case Setting.ENABLE_PUSH:
                return value in {0, 1}
            case Setting.INITIAL_WINDOW_SIZE:
                return value <= MAX_WINDOW
            case Setting.MAX_FRAME_SIZE:
                return DEFAULT_FRAME_SIZE <= value < 1 << 24
            case Setting.ENABLE_CONNECT_PROTOCOL:
                return False  # only servers send it (RFC 8441 section 3)
            case _:
                return True

    def _in_force(self, batch: dict[int, int]) -> None:
        window = batch.get(Setting.INITIAL_WINDOW_SIZE)
        if window is not None:
            for stream in self.streams.values():
                stream.window += window - self.settings[Setting.INITIAL_WINDOW_SIZE]
        table = batch.get(Setting.HEADER_TABLE_SIZE)
        if table is not None:
            self._decoder.max_allowed_table_size = table
        self.settings.update(batch)

    # ----------------------------------------------------------- header sections

    def _headers(self, frame: Frame) -> Fields | None:
        stream = self.streams.get(frame.stream_id)
        if stream is None:
            self._open(frame)
        elif stream.peer_reset:
            self._fault(frame, "after RST_STREAM (5.1)")
        elif stream.peer_ended:
            self._fault(frame, "after END_STREAM (5.1)")
        if frame.has(PRIORITY_FLAG):
            at = 1 if frame.has(PADDED) else 0
            if int.from_bytes(frame.payload[at : at + 4], "big") & MAX_WINDOW == frame.stream_id:
                self._fault(frame, "depends on itself (RFC 7540 5.3.1)")
        self._block = (frame, bytearray())
        return self._continue_block(frame)

    def _open(self, frame: Frame) -> None:
        if frame.stream_id % 2 == 0 or frame.stream_id <= self._last_id:
            self._fault(frame, f"opens a stream that is even or below {self._last_id} (5.1.1)")
        self._last_id = max(self._last_id, frame.stream_id)
        limit = self.settings.get(Setting.MAX_CONCURRENT_STREAMS)
        running = sum(stream.is_open for stream in self.streams.values())
        if limit is not None and running >= limit:
            self._fault(frame, f"a stream beyond {limit} concurrent ones (5.1.2)")
        if self.goaway is not None:
            self._fault(frame, "opens a stream after its GOAWAY (6.8)")
        self.streams[frame.stream_id] = StreamRecord(
            self.settings[Setting.INITIAL_WINDOW_SIZE],
            self.peer_settings[Setting.INITIAL_WINDOW_SIZE],
        )

    def _continue_block(self, frame: Frame) -> Fields | None:
        assert self._block is not None
        first, block = self._block
        block += frame.payload if frame is not first else block_pieces(frame) or b""
        if not frame.has(END_HEADERS):
            return None
        self._block = None
        try:
            decoded = self._decoder.decode(bytes(block), raw=True)
        except HPACKError as error:
            self._fault(first, f"HPACK: {error} (4.3)")
            return None
        fields = [(name, value) for name, value in decoded]
        self._section(first, fields)
        return fields

    def _section(self, frame: Frame, fields: Fields) -> None:
        stream = self.streams[frame.stream_id]
        limit = self.settings.get(Setting.MAX_HEADER_LIST_SIZE)
        size = sum(len(name) + len(value) + 32 for name, value in fields)
        if limit is not None and size > limit:
            self._fault(frame, f"header list of {size} bytes, {limit} allowed (6.5.2)")
        end = frame.has(END_STREAM)
        is_trailer = not (fields and fields[0][0][:1] == b":")
        allowed = self.settings.get(Setting.ENABLE_CONNECT_PROTOCOL) == 1
        for what in block_faults(fields, trailers=is_trailer, extended_connect=allowed):
            self._fault(frame, what)
        if is_trailer and not end:
            self._fault(frame, "trailers without END_STREAM (8.1)")
        if not is_trailer:
            values = dict(fields)
            length = values.get(b"content-length", b"")
            if _DIGITS(length) and values.get(b":method") != b"CONNECT":
                stream.declared = int(length)
        if end:
            self._end(frame, stream)


def block_faults(
    fields: Fields, *, trailers: bool = False, extended_connect: bool = False
) -> list[str]:
    """Judge the header section of a request, or its trailers.

    Args:
        fields: The section.
        trailers: Whether it is the trailers.
        extended_connect: Whether the server has announced RFC 8441.

    Returns:
        What is wrong with it.
    """
    faults: list[str] = []
    count = next((at for at, field in enumerate(fields) if field[0][:1] != b":"), len(fields))
    faults += _regular_faults(fields[count:])
    pseudo = dict(fields[:count])
    if trailers:
        return faults + ["pseudo-header field in trailers (8.1)"] * bool(pseudo)
    if len(pseudo) != count:
        faults.append("repeated pseudo-header field (8.3)")
    faults += _pseudo_faults(pseudo, extended_connect=extended_connect)
    hosts = [value for name, value in fields if name == b"host"]
    authority = pseudo.get(b":authority")
    if authority is None and len(hosts) != 1:
        faults.append("nobody is named (8.3.1)")
    if authority is not None and any(host != authority for host in hosts):
        faults.append("Host and :authority differ (8.3.1)")
    if authority is not None and _AUTHORITY(authority) is None:
        faults.append(f":authority {authority!r} (8.3.1)")
    lengths = [value for name, value in fields if name == b"content-length"]
    if len(lengths) > 1 or any(_DIGITS(value) is None for value in lengths):
        faults.append(f"content-length {lengths} (8.1.1)")
    return faults


def _regular_faults(fields: Fields) -> list[str]:
    faults: list[str] = []
    for name, value in fields:
        if _NAME(name) is None:
            faults.append(f"field name {name!r} (8.2.1)")
        if _VALUE(value) is None:
            faults.append(f"value {value!r} of {name!r} (8.2.1)")
        if name in _CONNECTION_SPECIFIC or (name == b"te" and value != b"trailers"):
            faults.append(f"connection-specific field {name!r} (8.2.2)")
    return faults


def _pseudo_faults(pseudo: dict[bytes, bytes], *, extended_connect: bool) -> list[str]:
    faults: list[str] = []
    method = pseudo.get(b":method", b"")
    expected = _REQUEST
    if method == b"CONNECT":
        if b":protocol" not in pseudo:
            expected = {b":method", b":authority"}
        elif extended_connect:
            expected = _REQUEST | {b":protocol", b":authority"}
        else:
            faults.append("extended CONNECT was not announced (RFC 8441 3)")
            expected = _REQUEST | {b":protocol"}
    if pseudo.keys() - {b":authority"} != expected - {b":authority"}:
        faults.append(f"pseudo-header fields {sorted(pseudo)} (8.3.1)")
    if b":authority" in expected and b":authority" not in pseudo:
        faults.append("CONNECT without :authority (8.5)")
    if _METHOD(method) is None:
        faults.append(f":method {method!r} (8.3.1)")
    path = pseudo.get(b":path")
    if path is not None and (_PATH(path) is None or (path == b"*" and method != b"OPTIONS")):
        faults.append(f":path {path!r} (8.3.1)")
    if pseudo.get(b":scheme", b"http") not in {b"http", b"https"}:
        faults.append(f":scheme {pseudo[b':scheme']!r} (8.3.1)")
    return faults
