"""The two messages, written by hand, are those of protobuf's own runtime."""

from __future__ import annotations

import pytest
from grpc_health.v1 import health_pb2
from hypothesis import given, strategies as st

from pingora_error import Error, ErrorSource, ErrorType
from pingora_load_balancing.health._grpc_messages import (
    ServingStatus,
    decode_response,
    encode_request,
)


def _framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


@pytest.mark.parametrize("service", ["", "shop.Cart", "x" * 127, "x" * 128, "ü" * 10_000])
def test_a_request_is_what_the_runtime_writes(service: str) -> None:
    """Byte for byte."""
    expected = health_pb2.HealthCheckRequest(service=service).SerializeToString()

    assert encode_request(service) == _framed(expected)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=300))
def test_the_runtime_reads_any_request(service: str) -> None:
    """Whatever the name of the service is."""
    message = health_pb2.HealthCheckRequest.FromString(encode_request(service)[5:])

    assert message.service == service


@pytest.mark.parametrize("status", list(ServingStatus))
def test_a_response_that_the_runtime_wrote(status: ServingStatus) -> None:
    """All statuses, with the names that they have there."""
    number = health_pb2.HealthCheckResponse.ServingStatus.Value(status.name)
    message = health_pb2.HealthCheckResponse(status=number).SerializeToString()

    assert decode_response(_framed(message)) == status


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (b"", 0),
        (b"\x08\x01", 1),
        # The last one counts.
        (b"\x08\x02\x08\x01", 1),
        # A status of the future, an enumeration that is negative.
        (b"\x08\xac\x02", 300),
        (b"\x08" + b"\xff" * 9 + b"\x01", 2**64 - 1),
        # Fields of the future, of each wire type.
        (b"\x10\x05\x08\x01", 1),
        (b"\x11" + b"x" * 8 + b"\x08\x01", 1),
        (b"\x12\x03abc\x08\x01", 1),
        (b"\x15" + b"x" * 4 + b"\x08\x01", 1),
    ],
)
def test_fields(message: bytes, status: int) -> None:
    """What is not known is skipped, as protobuf demands."""
    assert decode_response(_framed(message)) == status
    known = health_pb2.HealthCheckResponse.FromString(message).status
    assert known & 0xFFFFFFFF == status & 0xFFFFFFFF


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0\0\0\0",
        b"\0\0\0\0\1",
        b"\0\0\0\0\0\0",
        _framed(b"\x08\x01") * 2,
        b"\1\0\0\0\2\x08\x01",
        _framed(b"\x08"),
        _framed(b"\x08\x81"),
        _framed(b"\x08" + b"\xff" * 11),
        _framed(b"\x12\x04abc"),
        _framed(b"\x11abc"),
        _framed(b"\x0b"),
        _framed(b"\x0f"),
    ],
)
def test_what_is_no_message(body: bytes) -> None:
    """It is refused, with an error that blames the peer."""
    with pytest.raises(Error, match="HealthCheckResponse") as caught:
        decode_response(body)

    assert caught.value.etype is ErrorType.READ_ERROR
    assert caught.value.esource is ErrorSource.UPSTREAM


@given(st.binary(max_size=40))
def test_any_message_is_read_or_refused(message: bytes) -> None:
    """Nothing else happens, and what is read is what the runtime reads."""
    try:
        status = decode_response(_framed(message))
    except Error:
        return
    try:
        known = health_pb2.HealthCheckResponse.FromString(message).status
    except Exception:  # noqa: BLE001 - stricter about fields that are not ours
        return
    assert known & 0xFFFFFFFF == status & 0xFFFFFFFF
