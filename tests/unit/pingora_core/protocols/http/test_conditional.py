"""Conditional requests answered with 304."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from pingora_core.protocols.http.conditional import (
    not_modified_filter,
    to_304,
    weak_validate_etag,
)
from pingora_http import RequestHeader, ResponseHeader

_DATE = "Fri, 26 Mar 2010 00:05:00 GMT"
_EARLIER = "Fri, 26 Mar 2010 00:03:00 GMT"
_LATER = "Sun, 28 Mar 2010 01:07:00 GMT"


@pytest.mark.parametrize(
    ("candidates", "etag", "matches"),
    [
        ("*", '"xyzzy"', True),
        (" * ", 'W/"xyzzy"', True),
        ("*", "xyzzy", True),
        ("*", None, True),
        ('"xyzzy"', None, False),
        # Weak comparison
        ('"xyzzy"', '"xyzzy"', True),
        ('"xyzzy"', 'W/"xyzzy"', True),
        ('W/"xyzzy"', '"xyzzy"', True),
        ('W/"xyzzy"', 'W/"xyzzy"', True),
        ('"abc"', '"xyzzy"', False),
        ('"abc"', 'W/"xyzzy"', False),
        ('W/"abc"', '"xyzzy"', False),
        ('w/"xyzzy"', '"xyzzy"', False),
        # Lists
        ('a, "xyzzy","r2d2xxxx", "c3piozzzz",zzzfoo', '"xyzzy"', True),
        ('a, "r2d2xxxx" , W/"xyzzy"', '"xyzzy"', True),
        ('foobar", "r2d2xxxx", "c3piozzzz",zzzfoo', '"xyzzy"', False),
        ('foobar", "r2d2xxxxyzzy", "c3piozzzz",zzzfoo, "xyzzy,xyzzy"', '"xyzzy"', False),
        (',,, "xyzzy" ,', '"xyzzy"', True),
        ("", '"xyzzy"', False),
        # Commas and quotes
        ('"xyzzy,xyz,x,y", "xyzzy"', '"xyz,x"', False),
        ('",,,,", ",,,"', '",,,"', True),
        ('",,,,", ",,"', '",,,"', False),
        ('"', '"', True),
        ('"open, "xyzzy"', '"xyzzy"', False),
        ('""', '""', True),
        # Without quotes, as some origins and clients have it
        ("xyzzy", "xyzzy", True),
        ('"xyzzy"', "xyzzy", False),
        ("xyzzy", '"xyzzy"', False),
        ('a, "r2d2xxxx",   xyzzy ', "xyzzy", True),
        ('a, "xyzzy,xyzzy"', "xyzzy", False),
    ],
)
def test_weak_validate_etag(candidates: str, etag: str | None, matches: bool) -> None:
    """A tag is found in the list, weak or strong, and only as a whole."""
    assert weak_validate_etag(candidates, etag) is matches


@given(st.text(alphabet='W/"a, \t*'), st.text(alphabet='W/"a,'))
def test_any_list_of_tags_can_be_read(candidates: str, etag: str) -> None:
    """No value is an error, or takes for ever."""
    weak_validate_etag(candidates, etag)


@given(
    st.lists(st.text(alphabet="abc,/W", max_size=4), min_size=1, max_size=5),
    st.text(alphabet="abc,/W", max_size=4),
)
def test_well_formed_lists_are_split_rightly(tags: list[str], etag: str) -> None:
    """In a list of quoted tags, membership is what matches."""
    candidates = ", ".join(f'"{tag}"' for tag in tags)

    assert weak_validate_etag(candidates, f'W/"{etag}"') is (etag in tags)


def _get(*fields: tuple[str, str], method: str = "GET") -> RequestHeader:
    return RequestHeader(method, "/", headers=fields)


def _ok(*fields: tuple[str, str], status: int = 200) -> ResponseHeader:
    return ResponseHeader(status, headers=fields)


@pytest.mark.parametrize(
    ("request_", "response", "expected"),
    [
        pytest.param(_get(), _ok(("ETag", '"a"')), False, id="no condition"),
        # If-None-Match
        pytest.param(_get(("If-None-Match", '"a"')), _ok(("ETag", 'W/"a"')), True, id="tag"),
        pytest.param(_get(("If-None-Match", '"b"')), _ok(("ETag", '"a"')), False, id="other tag"),
        pytest.param(_get(("If-None-Match", '"a"')), _ok(), False, id="no tag"),
        pytest.param(_get(("If-None-Match", "*")), _ok(), True, id="any"),
        pytest.param(
            _get(("If-None-Match", '"b"'), ("If-None-Match", '"a"')),
            _ok(("ETag", '"a"')),
            True,
            id="two lines",
        ),
        pytest.param(
            _get(("If-None-Match", '"a"'), method="HEAD"), _ok(("ETag", '"a"')), True, id="HEAD"
        ),
        pytest.param(
            _get(("If-None-Match", '"a"'), method="POST"), _ok(("ETag", '"a"')), False, id="POST"
        ),
        pytest.param(
            _get(("If-None-Match", '"a"')), _ok(("ETag", '"a"'), status=404), False, id="404"
        ),
        pytest.param(
            _get(("If-None-Match", '"a"')), _ok(("ETag", '"a"'), status=206), False, id="206"
        ),
        # If-Modified-Since
        pytest.param(
            _get(("If-Modified-Since", _DATE)), _ok(("Last-Modified", _DATE)), True, id="same date"
        ),
        pytest.param(
            _get(("If-Modified-Since", _EARLIER)),
            _ok(("Last-Modified", _DATE)),
            False,
            id="modified since",
        ),
        pytest.param(
            _get(("If-Modified-Since", _LATER)),
            _ok(("Last-Modified", _DATE)),
            True,
            id="modified before",
        ),
        pytest.param(
            _get(("If-Modified-Since", "Friday, 26-Mar-10 00:05:00 GMT")),
            _ok(("Last-Modified", "Fri Mar 26 00:05:00 2010")),
            True,
            id="old date formats",
        ),
        pytest.param(_get(("If-Modified-Since", _DATE)), _ok(), False, id="no date"),
        pytest.param(
            _get(("If-Modified-Since", _DATE)), _ok(("Date", _DATE)), True, id="made before"
        ),
        pytest.param(
            _get(("If-Modified-Since", _EARLIER)), _ok(("Date", _DATE)), False, id="made since"
        ),
        pytest.param(
            _get(("If-Modified-Since", _LATER)),
            _ok(("Last-Modified", "yesterday"), ("Date", _DATE)),
            False,
            id="bad date, made before",
        ),
        pytest.param(
            _get(("If-Modified-Since", "yesterday")),
            _ok(("Last-Modified", _DATE)),
            False,
            id="bad condition",
        ),
        pytest.param(
            _get(("If-Modified-Since", _DATE)),
            _ok(("Last-Modified", "yesterday")),
            False,
            id="bad date",
        ),
        pytest.param(
            _get(("If-Modified-Since", _DATE), method="PUT"),
            _ok(("Last-Modified", _DATE)),
            False,
            id="PUT",
        ),
        # Both
        pytest.param(
            _get(("If-None-Match", '"b"'), ("If-Modified-Since", _LATER)),
            _ok(("ETag", '"a"'), ("Last-Modified", _DATE)),
            False,
            id="the tag decides alone",
        ),
    ],
)
def test_not_modified_filter(
    request_: RequestHeader, response: ResponseHeader, expected: bool
) -> None:
    """Only GET and HEAD with a matching validator, for a 200, are answered with 304."""
    assert not_modified_filter(request_, response) is expected


def test_to_304_describes_no_content() -> None:
    """The status changes, its phrase too, and what described the content is gone."""
    response = ResponseHeader(
        200,
        reason="Fine",
        headers=[
            ("Date", _DATE),
            ("Content-Length", "5"),
            ("Content-Type", "text/plain"),
            ("Transfer-Encoding", "chunked"),
            ("Content-Encoding", "gzip"),
            ("Accept-Ranges", "bytes"),
            ("ETag", '"a"'),
            ("Cache-Control", "max-age=60"),
            ("Vary", "Accept"),
        ],
    )

    to_304(response)

    assert (response.status, response.reason) == (304, "Not Modified")
    assert list(response) == [
        ("Date", _DATE),
        ("ETag", '"a"'),
        ("Cache-Control", "max-age=60"),
        ("Vary", "Accept"),
    ]
