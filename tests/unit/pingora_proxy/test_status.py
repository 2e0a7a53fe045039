"""Which status a client gets for which error."""

from __future__ import annotations

import pytest

from pingora_error import Custom, Error, ErrorSource, ErrorType, HTTPStatus
from pingora_proxy import default_status

_DOWN = ErrorSource.DOWNSTREAM
_UP = ErrorSource.UPSTREAM


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Error(HTTPStatus(418)), 418),
        (Error(HTTPStatus(431), source=_DOWN), 431),
        (Error(HTTPStatus(503), source=_UP), 503),
        (Error(ErrorType.CONNECT_REFUSED, source=_UP), 502),
        (Error(ErrorType.INVALID_HTTP_HEADER, source=_UP), 502),
        (Error(ErrorType.CONNECT_TIMEDOUT, source=_UP), 504),
        (Error(ErrorType.READ_TIMEDOUT, source=_UP), 504),
        (Error(ErrorType.WRITE_TIMEDOUT, source=_UP), 504),
        (Error(ErrorType.TLS_HANDSHAKE_TIMEDOUT, source=_UP), 504),
        (Error(ErrorType.INVALID_HTTP_HEADER, source=_DOWN), 400),
        (Error(Custom("InvalidChunk"), source=_DOWN), 400),
        (Error(ErrorType.READ_TIMEDOUT, source=_DOWN), 408),
        (Error(ErrorType.WRITE_TIMEDOUT, source=_DOWN), 0),
        (Error(ErrorType.CONNECTION_CLOSED, source=_DOWN), 0),
        (Error(ErrorType.READ_ERROR, source=_DOWN), 0),
        (Error(ErrorType.WRITE_ERROR, source=_DOWN), 0),
        (Error(ErrorType.INTERNAL_ERROR, source=ErrorSource.INTERNAL), 500),
        (Error(ErrorType.UNKNOWN_ERROR), 500),
    ],
    ids=str,
)
def test_default_status(error: Error, status: int) -> None:
    """An HTTPStatus names its own; otherwise the source decides, and deadlines have their own."""
    assert default_status(error) == status
