"""Which status a client gets for which error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_error import ErrorSource, ErrorType, HTTPStatus

if TYPE_CHECKING:
    from pingora_error import Error

__all__ = ["default_status"]

_TIMEOUTS = frozenset(
    {
        ErrorType.CONNECT_TIMEDOUT,
        ErrorType.TLS_HANDSHAKE_TIMEDOUT,
        ErrorType.READ_TIMEDOUT,
        ErrorType.WRITE_TIMEDOUT,
    }
)
_CLIENT_GONE = frozenset(
    {
        ErrorType.WRITE_ERROR,
        ErrorType.WRITE_TIMEDOUT,
        ErrorType.READ_ERROR,
        ErrorType.CONNECTION_CLOSED,
    }
)


def default_status(error: Error) -> int:
    """Map an error to the status that tells a client about it.

    Args:
        error: What ended the request.

    Returns:
        The status; 0 when there is nobody left to tell. An ``HTTPStatus`` kind names its own;
        from upstream 504 for deadlines, else 502; from downstream 408 for a request that came
        too slowly, 0 for a client that is gone, else 400; from inside 500.
    """
    kind = error.etype
    if isinstance(kind, HTTPStatus):
        return kind.code
    match error.esource:
        case ErrorSource.UPSTREAM:
            return 504 if kind in _TIMEOUTS else 502
        case ErrorSource.DOWNSTREAM:
            if kind is ErrorType.READ_TIMEDOUT:
                return 408
            return 0 if kind in _CLIENT_GONE else 400
        case _:
            return 500
