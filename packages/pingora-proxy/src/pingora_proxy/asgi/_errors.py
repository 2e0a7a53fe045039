"""What is said about applications that break the rules, and to applications whose client has gone."""

from __future__ import annotations

from pingora_error import Error, ErrorType

__all__ = ["ClientDisconnectedError", "application_error"]


class ClientDisconnectedError(OSError):
    """Raised by ``send`` when nobody is there any more (ASGI HTTP 2.4).

    An application may let it pass: it is nobody's fault and not logged.
    """


def application_error(what: str, cause: BaseException | None = None) -> Error:
    """Make the error for a fault of an application.

    Args:
        what: What it has done.
        cause: What it has raised.

    Returns:
        The error; a 500 for the client.
    """
    return Error.internal(ErrorType.INTERNAL_ERROR, what, cause=cause)
