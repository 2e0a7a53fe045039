"""Byte ranges: answering a Range request out of a complete response.

For whoever holds, or is just receiving, a whole 200 response, such as a cache. The head is turned
into a 206 or 416; the body is cut while it passes by, one piece at a time.

Rules of this file: ranges of one response ascend and do not overlap; what a client asks for in
another order, or twice, is answered with the whole body, which RFC 9110 section 14.2 allows and
which no client can use to have one body sent many times.

Source: pingora-core/src/protocols/http/range_filter (as in pingora-proxy/src/proxy_cache.rs);
RFC 9110 sections 13.1.5, 14.
"""

from __future__ import annotations

import itertools
import re
import secrets
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeAlias

from pingora_http.date import parse_http_date

if TYPE_CHECKING:
    from pingora_http import RequestHeader, ResponseHeader

__all__ = [
    "MAX_RANGES",
    "MultiRange",
    "NotPartial",
    "RangeBody",
    "RangeType",
    "SingleRange",
    "parse_range",
    "range_header_filter",
]

MAX_RANGES: Final = 200

_UNIT: Final = re.compile(rb"[ \t]*bytes[ \t]*=", re.IGNORECASE)
_SPEC: Final = re.compile(rb"([0-9]{0,18})-([0-9]{0,18})")
# A 416 describes no content.
_CONTENT_FIELDS: Final = frozenset(
    {b"accept-ranges", b"content-encoding", b"content-type", b"transfer-encoding"}
)


class NotPartial(Enum):
    """Why there is no part to send.

    Attributes:
        NONE: No range was asked for, or none that counts: the whole body is sent.
        INVALID: None of the ranges lies within the body: 416 without a body.
    """

    NONE = "none"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class SingleRange:
    """Consecutive bytes of a body.

    Attributes:
        start: Offset of the first byte.
        end: Offset behind the last byte.
    """

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class MultiRange:
    """Several ranges of one body, sent as ``multipart/byteranges``.

    Attributes:
        ranges: The ranges; ascending, without overlap.
        total: Length of the whole body in bytes.
        boundary: What delimits the parts.
        content_type: Media type of each part.
    """

    ranges: tuple[SingleRange, ...]
    total: int
    boundary: str
    content_type: bytes = b"application/octet-stream"

    def part_head(self, part: SingleRange) -> bytes:
        """Make what stands in front of a part.

        Args:
            part: One of the ranges.

        Returns:
            Delimiter and fields, the empty line included.
        """
        return b"\r\n--%b\r\nContent-Type: %b\r\nContent-Range: bytes %d-%d/%d\r\n\r\n" % (
            self.boundary.encode(),
            self.content_type,
            part.start,
            part.end - 1,
            self.total,
        )

    @property
    def ending(self) -> bytes:
        """What stands behind the last part."""
        return b"\r\n--%b--\r\n" % self.boundary.encode()

    @property
    def content_length(self) -> int:
        """Bytes of the whole multipart body."""
        parts = sum(len(self.part_head(part)) + part.end - part.start for part in self.ranges)
        return parts + len(self.ending)


RangeType: TypeAlias = NotPartial | SingleRange | MultiRange


def parse_range(
    value: bytes, length: int, *, max_ranges: int = MAX_RANGES
) -> tuple[SingleRange, ...] | None:
    """Read a Range field against the length of a body.

    Args:
        value: The field.
        length: Bytes of the body.
        max_ranges: More ranges than these are not served.

    Returns:
        The ranges that lie within the body, cut to it; none: answer 416. None when the field is
        to be ignored: another unit, malformed, too many ranges, or ranges that overlap or do not
        ascend.

    Examples:
        >>> parse_range(b"bytes=0-1,-2", 10)
        (SingleRange(start=0, end=2), SingleRange(start=8, end=10))
        >>> parse_range(b"bytes=10-11", 10)
        ()
    """
    unit = _UNIT.match(value)
    if unit is None:
        return None
    text = value[unit.end() :]
    if text.count(b",") >= max_ranges:
        return None
    found: list[SingleRange] = []
    for spec in text.split(b","):
        spec = spec.strip(b" \t")  # noqa: PLW2901 - the blanks are no part of it
        if spec in {b"", b"-"}:
            continue  # nothing is asked for; with nothing else, that is a 416 as upstream
        match = _SPEC.fullmatch(spec)
        if match is None:
            return None
        part = _within(match[1], match[2], length)
        if part is None:
            continue
        if part.end == part.start:
            return None  # the last bytes of an empty body: all of it
        found.append(part)
    for before, after in itertools.pairwise(found):
        if after.start < before.end:
            return None
    return tuple(found)


def range_header_filter(
    request: RequestHeader, response: ResponseHeader, *, max_ranges: int = MAX_RANGES
) -> RangeType:
    """Turn the head of a whole response into what a Range request asks for.

    Args:
        request: The client's head; GET and HEAD count.
        response: The head of the whole response; changed: into a 206 or 416, or told that ranges
            are accepted. Left alone unless it is a 200 with a Content-Length.
        max_ranges: More ranges than these are answered with the whole body.

    Returns:
        What to send of the body.
    """
    if response.status != 200 or request.raw_method not in {b"GET", b"HEAD"}:
        return NotPartial.NONE
    length = _length(response)
    if length is None:
        return NotPartial.NONE
    asked = request.get_raw(b"range")
    ranges = None
    if asked is not None and _if_range(request, response):
        ranges = parse_range(asked, length, max_ranges=max_ranges)
    if ranges is None:
        response.insert_header(b"Accept-Ranges", b"bytes")
        return NotPartial.NONE
    if not ranges:
        response.set_status(416)
        response.remove_headers(_CONTENT_FIELDS)
        response.set_content_length(0)
        response.insert_header(b"Content-Range", b"bytes */%d" % length)
        return NotPartial.INVALID
    response.set_status(206)
    response.remove_headers((b"accept-ranges",))
    return _partial_head(response, ranges, length)


def _partial_head(
    response: ResponseHeader, ranges: tuple[SingleRange, ...], length: int
) -> SingleRange | MultiRange:
    if len(ranges) == 1:
        (part,) = ranges
        response.set_content_length(part.end - part.start)
        response.insert_header(
            b"Content-Range", b"bytes %d-%d/%d" % (part.start, part.end - 1, length)
        )
        return part
    content_type = response.get_raw(b"content-type") or b"application/octet-stream"
    multi = MultiRange(ranges, length, secrets.token_hex(8), content_type)
    response.set_content_length(multi.content_length)
    response.insert_header(
        b"Content-Type", b"multipart/byteranges; boundary=%b" % multi.boundary.encode()
    )
    return multi


class RangeBody:
    """Cuts ranges out of a body that passes by in pieces.

    Args:
        ranges: What to send of it.

    Attributes:
        is_done: Whether nothing of what is still to come is wanted.
    """

    __slots__ = ("_index", "_jumped", "_multi", "_parts", "_position", "is_done")

    def __init__(self, ranges: SingleRange | MultiRange) -> None:
        self._multi = ranges if isinstance(ranges, MultiRange) else None
        self._parts = ranges.ranges if isinstance(ranges, MultiRange) else (ranges,)
        self._index = 0
        self._jumped = -1
        self._position = 0
        self.is_done: bool = False

    def next_jump(self) -> SingleRange | None:
        """Tell where to go on, for a source that can seek; it counts as done then.

        Returns:
            The next range, when nothing of it was taken yet; None while in the middle of one.
        """
        part = self._parts[self._index]
        if self._jumped == self._index:
            return None
        self._jumped = self._index
        self._position = part.start
        return part

    def feed(self, data: bytes) -> bytes:
        """Take the next piece of the body.

        Args:
            data: The piece.

        Returns:
            What of it is to be sent, with what goes between parts; maybe nothing.
        """
        begin = self._position
        self._position = end = begin + len(data)
        if self.is_done:
            return b""
        part = self._parts[self._index]
        if self._multi is None and part.start <= begin and end <= part.end:
            self.is_done = end == part.end
            return data
        out: list[bytes] = []
        while True:
            part = self._parts[self._index]
            if end <= part.start:
                break
            if self._multi is not None and begin <= part.start:
                out.append(self._multi.part_head(part))
            out.append(data[max(part.start - begin, 0) : part.end - begin])
            if end < part.end or not self._advance():
                break
        if self._index == len(self._parts) and self._multi is not None:
            out.append(self._multi.ending)
        return b"".join(out)

    def _advance(self) -> bool:
        # Goes to the next range; says whether there is one.
        self._index += 1
        self.is_done = self._index == len(self._parts)
        return not self.is_done


def _within(first: bytes, last: bytes, length: int) -> SingleRange | None:
    if not first:
        wanted = int(last)
        return SingleRange(max(length - wanted, 0), length) if wanted else None
    start = int(first)
    end = min(int(last) + 1, length) if last else length
    return SingleRange(start, end) if start < end and start < length else None


def _length(response: ResponseHeader) -> int | None:
    value = response.get_raw(b"content-length")
    return int(value) if value is not None and value.isdigit() else None


def _if_range(request: RequestHeader, response: ResponseHeader) -> bool:
    # Whether the range counts for the response at hand (RFC 9110 section 13.1.5).
    condition = request.get_raw(b"if-range")
    if condition is None:
        return True
    condition = condition.strip(b" \t")
    if condition.endswith(b'"'):
        # Strong comparison: a weak tag promises nothing about single bytes.
        return not condition.startswith(b"W/") and condition == response.get_raw(b"etag")
    return condition == response.get_raw(b"last-modified") and _is_strong_date(response)


def _is_strong_date(response: ResponseHeader) -> bool:
    # Within the second of its Date a response may still have become another one, with the same
    # Last-Modified, whose other half the client has (RFC 9110 section 8.8.2.2). One without a Date
    # has only just arrived.
    date = response.get("date")
    if date is None:
        return True
    sent, modified = parse_http_date(date), parse_http_date(response.get("last-modified") or "")
    return sent is not None and modified is not None and modified < sent
