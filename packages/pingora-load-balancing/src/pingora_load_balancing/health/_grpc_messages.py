"""The two messages of ``grpc.health.v1``, in protobuf's encoding and gRPC's framing.

They are written out by hand because each has one field: a protobuf runtime would be a dependency of
megabytes, with generated code that has to fit its version, for what is a length and a number. The
tests hold them against that runtime.

Source: grpc/health/v1/health.proto, protobuf's encoding guide, gRPC's PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from pingora_error import Error, ErrorSource, ErrorType

__all__ = ["ServingStatus", "decode_response", "encode_request"]

_PREFIX: Final = 5
# Tag of field 1 with wire type 2 (length-delimited), and with wire type 0 (varint).
_SERVICE: Final = 0x0A
_STATUS: Final = 0x08
_KIND, _PEER = ErrorType.READ_ERROR, ErrorSource.UPSTREAM
_WHAT: Final = "no HealthCheckResponse"


class ServingStatus(IntEnum):
    """What a server says of a service."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


def encode_request(service: str) -> bytes:
    """Write a framed ``HealthCheckRequest``.

    Args:
        service: Name of the service; empty for the server as a whole.

    Returns:
        The body of the request.
    """
    name = service.encode()
    # A field at its default is left out.
    message = bytes((_SERVICE, *_varint(len(name)))) + name if name else b""
    return b"\0" + len(message).to_bytes(4, "big") + message


def _varint(number: int) -> bytes:
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def decode_response(body: bytes) -> int:
    """Read a framed ``HealthCheckResponse``.

    Args:
        body: The body of the answer.

    Returns:
        The status: a `ServingStatus`, or a number that a newer protocol may have added.

    Raises:
        Error: ``READ_ERROR`` if it is not exactly one such message, not compressed.
    """
    if len(body) < _PREFIX or len(body) != _PREFIX + int.from_bytes(body[1:_PREFIX], "big"):
        raise Error(_KIND, f"{_WHAT}: {len(body)} bytes are not one message", source=_PEER)
    if body[0]:
        raise Error(_KIND, f"{_WHAT}: compressed, which was not offered", source=_PEER)
    status = 0
    at = _PREFIX
    while at < len(body):
        tag, at = _read_varint(body, at)
        if tag == _STATUS:
            # The last one counts, as everywhere in protobuf.
            status, at = _read_varint(body, at)
        else:
            at = _skip(body, at, tag & 7)
    if at != len(body):
        raise Error(_KIND, f"{_WHAT}: a field goes on behind the end", source=_PEER)
    return status


def _read_varint(body: bytes, at: int) -> tuple[int, int]:
    number = 0
    # Ten bytes hold 64 bits.
    for shift in range(0, 70, 7):
        if at >= len(body):
            raise Error(_KIND, f"{_WHAT}: a number goes on behind the end", source=_PEER)
        byte = body[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & 0xFFFFFFFFFFFFFFFF, at
    raise Error(_KIND, f"{_WHAT}: a number of more than 64 bits", source=_PEER)


def _skip(body: bytes, at: int, wire_type: int) -> int:
    match wire_type:
        case 0:
            return _read_varint(body, at)[1]
        case 1:
            return at + 8
        case 2:
            length, at = _read_varint(body, at)
            return at + length
        case 5:
            return at + 4
        case _:
            raise Error(_KIND, f"{_WHAT}: wire type {wire_type}", source=_PEER)
