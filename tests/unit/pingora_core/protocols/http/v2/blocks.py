"""Header blocks for the tests, and what the functions under test make of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import pytest

from pingora_core.protocols.http.v1.parser import DEFAULT_LIMITS
from pingora_core.protocols.http.v2.headers import decode_request, decode_response
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from pingora_core.protocols.http.v1 import HeadLimits
    from pingora_core.protocols.http.v2.headers import DecodedRequest, DecodedResponse
    from pingora_error import ErrorKind

Block: TypeAlias = list[tuple[bytes, bytes]]

BAD: Final = ErrorType.INVALID_HTTP_HEADER
#: What the tests use for randomness.
KEY: Final = b"0123456789abcdef"


def pseudo(
    method: bytes | None = b"GET",
    path: bytes | None = b"/",
    *,
    scheme: bytes | None = b"https",
    authority: bytes | None = b"example.com",
    protocol: bytes | None = None,
) -> Block:
    """Make the pseudo-header fields of a request; None leaves one out."""
    fields = [
        (b":method", method),
        (b":scheme", scheme),
        (b":authority", authority),
        (b":path", path),
        (b":protocol", protocol),
    ]
    return [(name, value) for name, value in fields if value is not None]


def extended_connect(*fields: tuple[bytes, bytes], protocol: bytes = b"websocket") -> Block:
    """Make an extended CONNECT."""
    return [*pseudo(b"CONNECT", b"/chat", protocol=protocol), *fields]


def read(
    block: Block,
    *,
    end_stream: bool = False,
    allow_connect: bool = True,
    offered: bool = True,
    limits: HeadLimits = DEFAULT_LIMITS,
) -> DecodedRequest:
    """Decode a request; its block is not changed by that."""
    before = block.copy()
    try:
        return decode_request(
            block,
            end_stream=end_stream,
            allow_connect=allow_connect,
            extended_connect=offered,
            random=lambda size: KEY[:size],
            limits=limits,
        )
    finally:
        assert block == before


def refused(
    block: Block,
    kind: ErrorKind = BAD,
    *,
    end_stream: bool = False,
    allow_connect: bool = True,
    offered: bool = True,
    limits: HeadLimits = DEFAULT_LIMITS,
) -> str:
    """Check that a request is refused, by blaming the client; return why."""
    with pytest.raises(Error) as caught:
        read(
            block,
            end_stream=end_stream,
            allow_connect=allow_connect,
            offered=offered,
            limits=limits,
        )
    assert caught.value.etype == kind
    assert caught.value.esource is ErrorSource.DOWNSTREAM
    return caught.value.context


def answer(
    block: Block,
    *,
    end_stream: bool = False,
    method: bytes = b"GET",
    limits: HeadLimits = DEFAULT_LIMITS,
) -> DecodedResponse:
    """Decode a response."""
    return decode_response(block, end_stream=end_stream, request_method=method, limits=limits)


def refused_answer(
    block: Block,
    *,
    end_stream: bool = False,
    method: bytes = b"GET",
    limits: HeadLimits = DEFAULT_LIMITS,
) -> str:
    """Check that a response is refused as malformed, by blaming the upstream; return why."""
    with pytest.raises(Error) as caught:
        answer(block, end_stream=end_stream, method=method, limits=limits)
    assert caught.value.etype is BAD
    assert caught.value.esource is ErrorSource.UPSTREAM
    return caught.value.context
