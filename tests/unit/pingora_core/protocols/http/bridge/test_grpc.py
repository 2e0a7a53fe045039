"""The few things of gRPC that a proxy reads and writes itself."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from pingora_core.protocols.http.bridge import (
    GrpcStatus,
    decode_grpc_message,
    encode_grpc_message,
    format_grpc_timeout,
    grpc_status_of_http,
    is_grpc_request,
    parse_grpc_timeout,
    trailers_only,
)
from pingora_error import Error, ErrorSource, ErrorType
from pingora_http import RequestHeader


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", ""),
        ("plain text, with ~ and /", "plain text, with ~ and /"),
        ("50%", "50%25"),
        ("a\r\nb", "a%0D%0Ab"),
        ("¬∆", "%C2%AC%E2%88%86"),
    ],
)
def test_messages_are_percent_encoded(text: str, value: str) -> None:
    """What is not printable ASCII, and the percent sign, becomes ``%XX`` of its UTF-8."""
    assert encode_grpc_message(text) == value
    assert decode_grpc_message(value) == text


@given(st.text())
def test_every_message_survives(text: str) -> None:
    """Any text that can be encoded comes back, and its coded form is a field value."""
    value = encode_grpc_message(text)

    assert value.isascii()
    assert not value or value.isprintable()
    assert decode_grpc_message(value) == text.encode("utf-8", "replace").decode()


def test_decoding_a_message_never_fails() -> None:
    """The protocol forbids to lose a message over a bad escape."""
    assert decode_grpc_message("100% sure, %zz, %") == "100% sure, %zz, %"
    assert decode_grpc_message(b"%FF") == "\ufffd"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1H", 3600),
        ("2M", 120),
        ("3S", 3),
        ("250m", 0.25),
        ("1000u", 0.001),
        ("99999999n", 0.099999999),
        ("0m", 0),
        (b"10S", 10),
    ],
)
def test_timeouts(value: str | bytes, seconds: float) -> None:
    """A timeout is a number of up to eight digits and a unit."""
    assert parse_grpc_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    ["", "1", "m", "-1m", "1.5S", "123456789S", "1s", "1 S", "1S\n", "\N{ARABIC-INDIC DIGIT ONE}S"],
)
def test_other_timeouts_are_refused(value: str) -> None:
    """Anything else is the client's mistake."""
    with pytest.raises(Error) as caught:
        parse_grpc_timeout(value)

    assert caught.value.etype is ErrorType.INVALID_HTTP_HEADER
    assert caught.value.esource is ErrorSource.DOWNSTREAM


@pytest.mark.parametrize(
    ("seconds", "value"),
    [
        (0.05, "50000000n"),
        (0.5, "500000u"),
        (1.5, "1500000u"),
        (100.0001, "100001m"),
        (1e6, "1000000S"),
        (1e-12, "1n"),
        (1e30, "99999999H"),
    ],
)
def test_timeouts_are_written(seconds: float, value: str) -> None:
    """The finest unit is taken that there is room for, rounded up."""
    assert format_grpc_timeout(seconds) == value


@given(st.floats(min_value=1e-9, max_value=1e8))
def test_a_written_timeout_is_read_back(seconds: float) -> None:
    """Nothing is lost but what eight digits cannot hold, and no time is taken away."""
    read = parse_grpc_timeout(format_grpc_timeout(seconds))

    assert seconds * (1 - 1e-6) - 1e-9 <= read <= seconds * (1 + 1e-4) + 1e-9


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_no_time_cannot_be_written(seconds: float) -> None:
    """A deadline that has passed is answered, not passed on."""
    with pytest.raises(ValueError, match="more than 0"):
        format_grpc_timeout(seconds)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (400, GrpcStatus.INTERNAL),
        (401, GrpcStatus.UNAUTHENTICATED),
        (403, GrpcStatus.PERMISSION_DENIED),
        (404, GrpcStatus.UNIMPLEMENTED),
        (429, GrpcStatus.UNAVAILABLE),
        (503, GrpcStatus.UNAVAILABLE),
        (200, GrpcStatus.UNKNOWN),
        (500, GrpcStatus.UNKNOWN),
    ],
)
def test_http_statuses_are_mapped(code: int, status: GrpcStatus) -> None:
    """As gRPC's own table says."""
    assert grpc_status_of_http(code) is status


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/grpc", True),
        ("application/gRPC+proto", True),
        ("application/grpc; charset=utf-8", True),
        ("application/grpc-web", False),
        ("application/json", False),
        (None, False),
    ],
)
def test_grpc_requests_are_known_by_their_content_type(
    content_type: str | None, expected: bool
) -> None:
    """Only the media type and its suffixes count."""
    request = RequestHeader("POST", "/s/m")
    if content_type is not None:
        request.insert_header("Content-Type", content_type)

    assert is_grpc_request(request) is expected


def test_trailers_only() -> None:
    """A failed call is answered with HTTP status 200 and the outcome in the head."""
    header = trailers_only(GrpcStatus.RESOURCE_EXHAUSTED, "100% busy")

    assert header.status == 200
    assert list(header) == [
        ("Content-Type", "application/grpc"),
        ("grpc-status", "8"),
        ("grpc-message", "100%25 busy"),
    ]
    assert trailers_only(GrpcStatus.OK).get("grpc-message") is None
