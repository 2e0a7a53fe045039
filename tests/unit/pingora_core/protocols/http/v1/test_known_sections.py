"""Field sections of requests that are remembered as a whole: they say what they said at first."""

from __future__ import annotations

import pytest

from pingora_core.protocols.http.v1 import _known_lines, _lengths
from pingora_core.protocols.http.v1._known_lines import KnownFields, PlainFields
from pingora_core.protocols.http.v1.framing import check_request_head, to_length
from pingora_core.protocols.http.v1.limits import HeadLimits
from pingora_core.protocols.http.v1.parser import DEFAULT_LIMITS, get_parser
from pingora_error import Error

_HEAD = b"GET %b HTTP/1.1\r\n%b\r\n\r\n"


@pytest.fixture(autouse=True)
def _nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_known_lines, "_plain_sections", {})


def _judged(section: bytes, target: bytes = b"/") -> type[list[tuple[bytes, bytes]]]:
    raw = _HEAD % (target, section)
    request = get_parser("httptools").parse_request(raw)
    check_request_head(raw, request, DEFAULT_LIMITS)
    reference = get_parser("h11").parse_request(raw)
    assert request == reference
    assert request.first_values() == reference.first_values()
    return type(request.raw_items)


@pytest.mark.parametrize(
    "section",
    [
        b"Host: a",
        b"Host: a\r\nAccept: x\r\naccept: y",
        b"Host: a\r\nConnection: upgrade\r\nUpgrade: websocket",
        b"Host: a\r\nX:  spaces around ",
    ],
)
def test_a_section_that_was_judged_is_not_judged_again(section: bytes) -> None:
    """The second request with the same fields is known, whatever its target; it says the same."""
    assert [_judged(section), _judged(section, b"/other")] == [KnownFields, PlainFields]


@pytest.mark.parametrize(
    "section",
    [
        b"Host: a\r\nContent-Length: 0",
        b"Host: a\r\nTransfer-Encoding: chunked",
        b"Host: a\r\nCookie: secret=1",
        b"Host: a\r\nAuthorization: Basic YTpi",
        b"Host: a\r\nX: " + b"x" * 1100,
    ],
)
def test_a_section_with_a_body_or_a_secret_is_judged_each_time(section: bytes) -> None:
    """What tells of a body, is a credential or is long is not remembered."""
    assert [_judged(section), _judged(section)] == [KnownFields, KnownFields]
    assert not _known_lines._plain_sections


@pytest.mark.parametrize(
    "section", [b"Host: a\r\nHost: a", b"Host: a b", b"Accept: x", b"Host: a\r\nContent-Length: x"]
)
def test_a_section_that_is_refused_is_refused_again(section: bytes) -> None:
    """Nothing is remembered of it."""
    raw = _HEAD % (b"/", section)
    for _ in range(2):
        with pytest.raises(Error):
            check_request_head(raw, get_parser("httptools").parse_request(raw), DEFAULT_LIMITS)
    assert not _known_lines._plain_sections


@pytest.mark.parametrize(
    "line",
    [b"GET /#x HTTP/1.1", b"GET http://b/ HTTP/1.1", b"CONNECT b:1 HTTP/1.1", b"GET / HTTP/1.2"],
)
def test_an_unusual_first_line_is_judged_with_a_known_section(line: bytes) -> None:
    """What was said of the fields says nothing of a line that is not as usual."""
    _judged(b"Host: a")
    _judged(b"Host: a")
    raw = b"%b\r\nHost: a\r\n\r\n" % line
    request = get_parser("httptools").parse_request(raw)
    assert type(request.raw_items) is not PlainFields
    if b"#" in line:
        with pytest.raises(Error, match="fragment"):
            check_request_head(raw, request, DEFAULT_LIMITS)
    else:
        check_request_head(raw, request, DEFAULT_LIMITS)
        assert request.get("host") == ("a" if line.startswith(b"GET / ") else request.authority)


def test_limits_hold_for_a_known_section() -> None:
    """Another listener may allow less than the one that has judged it."""
    section = b"Host: a\r\nAccept: x"
    assert [_judged(section), _judged(section)] == [KnownFields, PlainFields]
    raw = _HEAD % (b"/", section)
    request = get_parser("httptools").parse_request(raw)
    with pytest.raises(Error, match="too many"):
        check_request_head(raw, request, HeadLimits(max_fields=1))


def test_a_change_of_one_head_is_not_seen_in_another() -> None:
    """What is remembered is copied for each request."""
    raw = _HEAD % (b"/", b"Host: a")
    for _ in range(3):
        request = get_parser("httptools").parse_request(raw)
        check_request_head(raw, request, DEFAULT_LIMITS)
        assert list(request) == [("Host", "a")]
        request.insert_header("Host", "b")
        request.insert_header("X", "y")


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sections and lengths are forgotten when there are too many."""
    monkeypatch.setattr(_known_lines, "_MAX_SECTIONS", 3)
    monkeypatch.setattr(_lengths, "_MAX_KNOWN", 3)
    for number in range(20):
        _judged(b"Host: a\r\nX: %d" % number)
        assert to_length(b"%d" % number) == number
        assert len(_known_lines._plain_sections) <= 3
        assert len(_lengths._lengths) <= 3
