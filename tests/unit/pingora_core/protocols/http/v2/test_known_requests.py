"""Requests that were judged before are judged alike."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hpack import NeverIndexedHeaderTuple
from hypothesis import given, settings, strategies as st

from pingora_core.protocols.http.v2 import _known_requests
from pingora_core.protocols.http.v2.headers import decode_request
from pingora_error import Error

if TYPE_CHECKING:
    from collections.abc import Iterator

Field = tuple[bytes, bytes]

_HEAD: list[Field] = [
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":authority", b"a.example"),
    (b":path", b"/one"),
    (b"accept", b"*/*"),
]
_FIELDS = st.sampled_from(
    [
        *_HEAD,
        (b":path", b"/two"),
        (b":path", b"no/slash"),
        (b":path", b""),
        (b":method", b"CONNECT"),
        (b":method", b"OPTIONS"),
        (b":protocol", b"websocket"),
        (b":scheme", b"https"),
        (b":status", b"200"),
        (b"host", b"a.example"),
        (b"host", b"b.example"),
        (b"te", b"trailers"),
        (b"te", b"gzip"),
        (b"connection", b"close"),
        (b"content-length", b"0"),
        (b"content-length", b"5"),
        (b"cookie", b"a=b"),
        (b"x-a", b" space"),
        NeverIndexedHeaderTuple(b"accept", b"*/*"),
    ]
)


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    _known_requests._requests.clear()
    yield
    _known_requests._requests.clear()


def _outcome(fields: list[Field], *, end: bool) -> object:
    try:
        decoded = decode_request(
            fields,
            end_stream=end,
            allow_connect=True,
            extended_connect=True,
            random=os.urandom,
        )
    except Error as error:
        return str(error)
    header = decoded.header
    items = [item for item in header.raw_items if item[0] != b"sec-websocket-key"]
    return (
        header.raw_method,
        header.raw_target,
        header.version,
        items,
        [getattr(item, "indexable", True) for item in items],
        {name: header.get_raw(name) for name, _ in items},
        decoded.protocol,
        decoded.content_length,
    )


@st.composite
def _variants(draw: st.DrawFn) -> list[list[Field]]:
    # The same fields in another order, with one more, or with one less.
    first = draw(st.one_of(st.just(_HEAD), st.lists(_FIELDS, max_size=7)))
    found = [first]
    for _ in range(draw(st.integers(1, 4))):
        fields = list(draw(st.sampled_from(found)))
        match draw(st.integers(0, 3)):
            case 0:
                fields = draw(st.permutations(fields))
            case 1:
                fields.insert(draw(st.integers(0, len(fields))), draw(_FIELDS))
            case 2 if fields:
                fields.pop(draw(st.integers(0, len(fields) - 1)))
            case _ if fields:
                fields[draw(st.integers(0, len(fields) - 1))] = draw(_FIELDS)
            case _:
                pass
        found.append(fields)
    return found


@given(_variants(), st.booleans())
@settings(max_examples=400, deadline=None)
def test_what_is_known_changes_nothing(requests: list[list[Field]], end: bool) -> None:
    """A request that resembles earlier ones is found to be what it is without them."""
    _known_requests._requests.clear()
    after = [_outcome(fields, end=end) for fields in requests * 2]

    for fields, outcome in zip(requests * 2, after, strict=True):
        _known_requests._requests.clear()
        assert outcome == _outcome(fields, end=end)


def test_a_path_behind_a_field_is_not_overlooked() -> None:
    """Without it, the two would be the same (RFC 9113 section 8.3)."""
    host = (b"host", b"a.example")
    good = [_HEAD[0], _HEAD[1], _HEAD[3], host]
    bad = [_HEAD[0], _HEAD[1], host, _HEAD[3]]

    assert not isinstance(_outcome(good, end=True), str)
    assert isinstance(_outcome(bad, end=True), str)


def test_what_one_request_does_to_its_head_the_next_does_not_see() -> None:
    """Each has a head of its own."""
    for _ in range(2):
        decoded = decode_request(
            _HEAD, end_stream=True, allow_connect=True, extended_connect=True, random=os.urandom
        )
        assert decoded.header.get("x-forwarded-for") is None
        assert decoded.header.get("accept") == "*/*"
        decoded.header.insert_header("X-Forwarded-For", "192.0.2.1")
        decoded.header.remove_header("accept")


@pytest.mark.parametrize("name", [b"cookie", b"authorization", b"x-api-key"])
def test_credentials_are_not_kept(name: bytes) -> None:
    """Nor what is long."""
    _outcome([*_HEAD, (name, b"secret")], end=True)
    _outcome([*_HEAD, (b"x-long", b"y" * 1100)], end=True)

    assert not _known_requests._requests


def test_few_are_kept() -> None:
    """However many different ones there are."""
    for number in range(1500):
        _outcome([*_HEAD, (b"x-number", b"%d" % number)], end=True)

    assert 0 < len(_known_requests._requests) <= 512
