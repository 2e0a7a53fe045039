"""Byte ranges of complete responses: as the original's range filter, and as slicing says."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from pingora_http import RequestHeader, ResponseHeader
from pingora_proxy.range_filter import (
    MAX_RANGES,
    MultiRange,
    NotPartial,
    RangeBody,
    SingleRange,
    parse_range,
    range_header_filter,
)

_DATE = "Tue, 03 May 2022 01:04:39 GMT"


def request(*fields: tuple[str, str], method: str = "GET") -> RequestHeader:
    return RequestHeader(method, "/", headers=fields)


def response(
    length: int | None = 10, *fields: tuple[str, str], status: int = 200
) -> ResponseHeader:
    header = ResponseHeader(status, headers=fields)
    if length is not None:
        header.set_content_length(length)
    return header


# ------------------------------------------------------------------------ parse_range


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"bytes=0-1", (SingleRange(0, 2),)),
        (b"bYTes=0-9", (SingleRange(0, 10),)),
        (b"bytes=0-12", (SingleRange(0, 10),)),
        (b"bytes=0-", (SingleRange(0, 10),)),
        (b"bytes=2-1", ()),
        (b"bytes=10-11", ()),
        (b"bytes=-2", (SingleRange(8, 10),)),
        (b"bytes=-12", (SingleRange(0, 10),)),
        (b"bytes=-", ()),
        (b"bytes=", ()),
        (b"bytes=  ", ()),
        (b"bytes= 3 - 4", None),
        (b" bytes = 3-4 ", (SingleRange(3, 5),)),
        (b"bytes", None),
        (b"items=0-1", None),
        (b"bytes=a-b", None),
        (b"bytes=0-1x", None),
        (b"bytes=+0-1", None),
        (b"bytes=0--1", None),
        (b"bytes=\xd9\xa1-\xd9\xa2", None),
        (b"bytes=" + b"9" * 5000 + b"-", None),
        (b"", None),
    ],
)
def test_parse_range(value: bytes, expected: tuple[SingleRange, ...] | None) -> None:
    """One range is cut to the body; outside of it there is none; what is malformed is ignored."""
    assert parse_range(value, 10) == expected


@pytest.mark.parametrize(
    ("value", "length", "expected"),
    [
        (b"bytes=0-1,4-5", 10, (SingleRange(0, 2), SingleRange(4, 6))),
        (b"bytes=0-1, 4-5, 400-499", 320, (SingleRange(0, 2), SingleRange(4, 6))),
        (
            b"bytes=0-1, 4-5, 400-499",
            500,
            (SingleRange(0, 2), SingleRange(4, 6), SingleRange(400, 500)),
        ),
        (b"bytes=0-,-2", 10, None),
        (b"bytes=0-3,2-5", 10, None),
        (b"bytes=4-5,0-1", 10, None),
        (b"bytes=0-1,0-1", 10, None),
        (b"bytes=0-5,10-", 2, (SingleRange(0, 2),)),
        (b"bytes=0-1,5-4", 10, (SingleRange(0, 2),)),
        (b"bytes=10-,20-30", 10, ()),
        (b"bytes=0-0,1-1,,", 10, (SingleRange(0, 1), SingleRange(1, 2))),
        (b"bytes=0-1,x", 10, None),
    ],
)
def test_parse_range_header_multi(
    value: bytes, length: int, expected: tuple[SingleRange, ...] | None
) -> None:
    """Of several ranges those within the body count, if they ascend and do not overlap."""
    assert parse_range(value, length) == expected


def test_parse_range_counts() -> None:
    """As many ranges as the limit says are served, one more is too many."""
    ranges = [b"%d-%d" % (at, at) for at in range(0, 2 * MAX_RANGES + 2, 2)]
    value = b"bytes=" + b",".join(ranges[:MAX_RANGES])

    parts = parse_range(value, 1000)
    assert parts is not None
    assert len(parts) == MAX_RANGES
    assert parse_range(value + b"," + ranges[MAX_RANGES], 1000) is None
    assert parse_range(b"bytes=0-0,2-2", 10, max_ranges=1) is None


@pytest.mark.parametrize(
    ("value", "length", "expected"),
    [
        (b"bytes=-0", 10, ()),
        (b"bytes=-0", 0, ()),
        (b"bytes=-1", 0, None),
        (b"bytes=0-", 0, ()),
        (b"bytes=0-0", 0, ()),
        (b"bytes=-0,0-1", 10, (SingleRange(0, 2),)),
    ],
)
def test_nothing_is_no_range(
    value: bytes, length: int, expected: tuple[SingleRange, ...] | None
) -> None:
    """No range has an end before its start: not the last 0 bytes, not those of an empty body."""
    assert parse_range(value, length) == expected


_NUMBER = st.one_of(st.integers(0, 14), st.sampled_from([10**17, 10**18]))
_SPEC = st.one_of(
    st.builds(lambda a, b: f"{a}-{b}", _NUMBER, _NUMBER),
    st.builds(lambda a: f"{a}-", _NUMBER),
    st.builds(lambda b: f"-{b}", _NUMBER),
    st.sampled_from(["", "-", "x", "1", "1-2-3", "0x1-2", "\u0661-\u0662", "--1", " 1-2 ", "1 -2"]),
)


def _naive(specs: list[str], length: int) -> list[range] | None:
    # What RFC 9110 section 14.1.2 says, told again with Python's slicing.
    found: list[range] = []
    for spec in (spec.strip(" \t") for spec in specs):
        if spec in {"", "-"}:
            continue
        match = re.fullmatch(r"([0-9]*)-([0-9]*)", spec)
        if match is None or max(map(len, match.groups())) > 18:
            return None
        first, last = match.groups()
        whole = range(length)
        if not first:
            part = whole[-int(last) :] if int(last) else range(0)
            if int(last) and not length:
                return None
        elif last and int(last) < int(first):
            part = range(0)
        else:
            part = whole[int(first) : int(last) + 1 if last else None]
        if len(part):
            found.append(part)
    return found if all(a[-1] < b[0] for a, b in pairwise(found)) else None


@given(st.lists(_SPEC, min_size=1, max_size=4), st.integers(0, 12))
def test_parse_range_equals_slicing(specs: list[str], length: int) -> None:
    """Whatever is asked for, at whatever length, is what slicing gives."""
    parts = parse_range(b"bytes=" + ",".join(specs).encode(), length)
    expected = _naive(specs, length)

    if expected is None:
        assert parts is None
    else:
        assert parts is not None
        assert [range(part.start, part.end) for part in parts] == expected


# ---------------------------------------------------------------- range_header_filter


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_range_filter_single(method: str) -> None:
    """Without a range it is told that there may be one; with one the head is that of a 206."""
    plain, partial = (
        response(10, ("Accept-Ranges", "none")),
        response(10, ("Accept-Ranges", "bytes")),
    )

    assert range_header_filter(request(method=method), plain) is NotPartial.NONE
    asked = request(("Range", "bytes=0-1"), method=method)
    assert range_header_filter(asked, partial) == SingleRange(0, 2)
    assert (plain.status, plain.get("accept-ranges")) == (200, "bytes")
    assert (partial.status, partial.get("content-length")) == (206, "2")
    assert partial.get("content-range") == "bytes 0-1/10"
    assert partial.get("accept-ranges") is None


def test_range_filter_outside() -> None:
    """A range outside the body is a 416, which describes no content."""
    header = response(
        10,
        ("Accept-Ranges", "bytes"),
        ("Content-Encoding", "gzip"),
        ("Content-Type", "text/plain"),
        ("Transfer-Encoding", "gzip"),
        ("ETag", '"a"'),
    )

    assert range_header_filter(request(("Range", "bytes=1-0")), header) is NotPartial.INVALID
    assert header.status == 416
    assert sorted(header) == [
        ("Content-Length", "0"),
        ("Content-Range", "bytes */10"),
        ("ETag", '"a"'),
    ]


@pytest.mark.parametrize(
    ("method", "status", "length"),
    [("POST", 200, 10), ("GET", 404, 10), ("GET", 206, 10), ("GET", 200, None)],
)
def test_range_filter_does_not_count(method: str, status: int, length: int | None) -> None:
    """Other methods, other statuses and bodies of unknown length are left alone."""
    header = response(length, status=status)
    before = list(header)

    asked = request(("Range", "bytes=0-1"), method=method)
    assert range_header_filter(asked, header) is NotPartial.NONE
    assert (header.status, list(header)) == (status, before)


def test_range_filter_multipart() -> None:
    """Several ranges are sent as multipart, whose boundary and length the head tells."""
    header = response(10, ("Content-Type", "text/plain"))
    ranges = range_header_filter(request(("Range", "bytes=0-1,3-4,6-7")), header)

    assert isinstance(ranges, MultiRange)
    assert ranges.ranges == (SingleRange(0, 2), SingleRange(3, 5), SingleRange(6, 8))
    assert re.fullmatch("[0-9a-f]{16}", ranges.boundary)
    assert header.status == 206
    assert header.get("content-type") == f"multipart/byteranges; boundary={ranges.boundary}"
    assert header.get("content-length") == str(len(_cut(ranges, b"0123456789", 10)))
    assert header.get("content-range") is None


def test_range_filter_multipart_other_ends() -> None:
    """Overlapping ranges give the whole, none within the body a 416, one of them a plain 206."""
    overlapping, outside, one = response(), response(), response()

    assert range_header_filter(request(("Range", "bytes=0-3,2-5")), overlapping) is NotPartial.NONE
    assert range_header_filter(request(("Range", "bytes=10-,20-")), outside) is NotPartial.INVALID
    assert range_header_filter(request(("Range", "bytes=0-4,20-")), one) == SingleRange(0, 5)
    assert [header.status for header in (overlapping, outside, one)] == [200, 416, 206]


_VALIDATORS = (("Last-Modified", _DATE), ("ETag", '"a"'))


@pytest.mark.parametrize(
    ("condition", "counts"),
    [
        (_DATE, True),
        (f" {_DATE}", True),
        ("Tue, 03 May 2022 01:04:40 GMT", False),
        ('"a"', True),
        ('"b"', False),
        ('W/"a"', False),
        ("a", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("ranges", ["bytes=0-1", "bytes=0-1,3-4"])
def test_if_range(condition: str, ranges: str, counts: bool) -> None:
    """The range counts only if If-Range names exactly the response at hand."""
    header = response(10, *_VALIDATORS)
    asked = request(("Range", ranges), ("If-Range", condition))

    assert (range_header_filter(asked, header) is not NotPartial.NONE) is counts
    assert header.status == (206 if counts else 200)


@pytest.mark.parametrize(
    ("date", "counts"),
    [
        (None, True),
        ("Tue, 03 May 2022 01:04:40 GMT", True),
        (_DATE, False),
        ("Tue, 03 May 2022 01:04:38 GMT", False),
        ("yesterday", False),
    ],
)
def test_if_range_by_a_weak_date(date: str | None, counts: bool) -> None:
    """What was modified in the second of its Date may have been so twice: the whole is sent."""
    fields = (("Last-Modified", _DATE), *(() if date is None else (("Date", date),)))
    asked = request(("Range", "bytes=0-1"), ("If-Range", _DATE))

    assert (range_header_filter(asked, response(10, *fields)) is not NotPartial.NONE) is counts


def test_if_range_without_a_validator() -> None:
    """What has no validator cannot match, and a weak one promises nothing about bytes."""
    asked = request(("Range", "bytes=0-1"), ("If-Range", '"a"'))

    assert range_header_filter(asked, response()) is NotPartial.NONE
    assert range_header_filter(asked, response(10, ("ETag", 'W/"a"'))) is NotPartial.NONE


# -------------------------------------------------------------------------- RangeBody


def _cut(ranges: SingleRange | MultiRange, body: bytes, size: int) -> bytes:
    cutter = RangeBody(ranges)
    return b"".join(cutter.feed(body[at : at + size]) for at in range(0, len(body), size))


@pytest.mark.parametrize("size", [1, 3, 9])
@pytest.mark.parametrize(("start", "end"), [(0, 1), (4, 6), (1, 7), (0, 9), (8, 9)])
def test_range_body_filter_single(start: int, end: int, size: int) -> None:
    """However the body comes in pieces, exactly the range comes out."""
    assert _cut(SingleRange(start, end), b"123456789", size) == b"123456789"[start:end]


_PARTS = MultiRange((SingleRange(0, 2), SingleRange(4, 6), SingleRange(7, 9)), 10, "b", b"text/css")


@pytest.mark.parametrize("size", [10, 3, 1])
def test_range_body_filter_multipart(size: int) -> None:
    """One chunk, four chunks and ten give the same parts and the same ending."""
    assert _cut(_PARTS, b"0123456789", size) == (
        b"\r\n--b\r\nContent-Type: text/css\r\nContent-Range: bytes 0-1/10\r\n\r\n01"
        b"\r\n--b\r\nContent-Type: text/css\r\nContent-Range: bytes 4-5/10\r\n\r\n45"
        b"\r\n--b\r\nContent-Type: text/css\r\nContent-Range: bytes 7-8/10\r\n\r\n78"
        b"\r\n--b--\r\n"
    )


def test_range_body_is_done_early() -> None:
    """Behind the last range nothing is wanted, and nothing comes out."""
    cutter = RangeBody(SingleRange(1, 3))

    assert (cutter.feed(b"0"), cutter.is_done) == (b"", False)
    assert (cutter.feed(b"1234"), cutter.is_done) == (b"12", True)
    assert cutter.feed(b"5") == b""


def _jump(ranges: SingleRange | MultiRange, body: bytes, size: int) -> bytes:
    # As for a source that can seek.
    cutter = RangeBody(ranges)
    out: list[bytes] = []
    source = memoryview(body)
    while not cutter.is_done:
        wanted = cutter.next_jump()
        if wanted is not None:
            source = memoryview(body)[wanted.start : wanted.end]
        out.append(cutter.feed(bytes(source[:size])))
        source = source[size:]
    return b"".join(out)


@given(
    st.binary(min_size=1, max_size=30),
    st.lists(st.integers(0, 30), min_size=2, max_size=8, unique=True),
    st.integers(1, 31),
)
def test_range_body_equals_slicing(body: bytes, cuts: list[int], size: int) -> None:
    """Read in any pieces, or by jumping from part to part, all parts are slices of the body."""
    bounds = sorted({min(cut, len(body)) for cut in cuts})
    parts = tuple(
        SingleRange(start, end)
        for start, end in zip(bounds[::2], bounds[1::2], strict=False)
        if start < end
    )
    if not parts:
        return
    multi = MultiRange(parts, len(body), "x")
    expected = (
        b"".join(multi.part_head(part) + body[part.start : part.end] for part in parts)
        + multi.ending
    )

    assert _cut(multi, body, size) == _jump(multi, body, size) == expected
    assert multi.content_length == len(expected)
    one = parts[0]
    assert _cut(one, body, size) == _jump(one, body, size) == body[one.start : one.end]
