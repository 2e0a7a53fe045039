"""The seams: where foreign exceptions, and values that are missing, become an ``Error``."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, final

from pingora_error._error import Error
from pingora_error._source import ErrorSource

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import TracebackType

    from pingora_error._kind import ErrorKind

__all__ = ["error_context", "or_err", "wrap"]

_T = TypeVar("_T")


def wrap(
    *exceptions: type[Exception],
    etype: ErrorKind,
    source: ErrorSource = ErrorSource.UNSET,
    context: str = "",
) -> AbstractContextManager[None]:
    """Turn foreign exceptions that leave the block into an ``Error`` with them as its cause.

    An ``Error`` passes as it is, whatever is listed: it has crossed its seam already.

    Args:
        *exceptions: The exceptions to turn, at least one; others pass as they are.
        etype: What failed.
        source: The side to blame.
        context: What is going on in the block.

    Returns:
        The context manager; it may be entered any number of times.

    Raises:
        TypeError: If no exception is listed.

    Examples:
        >>> from pingora_error import ErrorType
        >>> with wrap(ValueError, etype=ErrorType.INVALID_HTTP_HEADER, context="Content-Length"):
        ...     int("ten")
        Traceback (most recent call last):
        ...
        pingora_error._error.Error: InvalidHTTPHeader context: Content-Length cause: ValueError: invalid literal for int() with base 10: 'ten'

    Source: trait OrErr in pingora-error/src/lib.rs.
    """
    if not exceptions:
        msg = "wrap() needs at least one exception to look for"
        raise TypeError(msg)
    return _Wrap(exceptions, etype, source, context)


def error_context(context: str) -> AbstractContextManager[None]:
    """Add a hop of context to an ``Error`` that leaves the block.

    Args:
        context: What is going on in the block.

    Returns:
        The context manager; it may be entered any number of times.

    Source: trait Context in pingora-error/src/lib.rs.
    """
    return _Context(context)


def or_err(value: _T | None, etype: ErrorKind, context: str = "") -> _T:
    """Insist on a value.

    Args:
        value: What may be missing.
        etype: What failed if it is.
        context: What was going on.

    Returns:
        The value.

    Raises:
        Error: Of the given type, if the value is None.

    Source: trait OkOrErr in pingora-error/src/lib.rs.
    """
    if value is None:
        raise Error(etype, context)
    return value


# Classes rather than @contextmanager: 0.5 instead of 1.3 microseconds when nothing is raised.
@final
class _Wrap:
    __slots__ = ("_context", "_etype", "_exceptions", "_source")

    def __init__(
        self,
        exceptions: tuple[type[Exception], ...],
        etype: ErrorKind,
        source: ErrorSource,
        context: str,
    ) -> None:
        self._exceptions = exceptions
        self._etype = etype
        self._source = source
        self._context = context

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, self._exceptions) and not isinstance(error, Error):
            raise Error(self._etype, self._context, source=self._source) from error


@final
class _Context:
    __slots__ = ("_context",)

    def __init__(self, context: str) -> None:
        self._context = context

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, Error):
            raise error.more_context(self._context) from error
