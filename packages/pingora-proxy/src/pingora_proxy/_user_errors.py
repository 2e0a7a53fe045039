"""Turning whatever a callback raises into the error that ends the request."""

from __future__ import annotations

from pingora_error import Error, ErrorType

__all__ = ["as_error"]


def as_error(error: Exception, phase: str) -> Error:
    """Wrap a foreign exception.

    Args:
        error: What was raised.
        phase: Where: the callback or step that ran.

    Returns:
        ``error`` itself if it is an :class:`Error`, else an internal one with it as the cause.
    """
    if isinstance(error, Error):
        return error
    return Error.internal(
        ErrorType.INTERNAL_ERROR, f"{type(error).__name__} in {phase}", cause=error
    )
