"""Foreign exceptions and missing values become errors at the seams, and only there."""

from __future__ import annotations

import asyncio

import pytest

from pingora_error import (
    Error,
    ErrorSource,
    ErrorType,
    HTTPStatus,
    RetryType,
    error_context,
    or_err,
    wrap,
)


def test_wrap_turns_a_listed_exception() -> None:
    """The foreign exception is the cause of an error of the given type, source and context."""
    with (
        pytest.raises(Error) as caught,
        wrap(
            KeyError, OSError, etype=ErrorType.READ_ERROR, source=ErrorSource.UPSTREAM, context="x"
        ),
    ):
        raise ConnectionResetError("gone")

    assert str(caught.value) == "Upstream ReadError context: x cause: ConnectionResetError: gone"
    assert caught.value.__suppress_context__


def test_wrap_passes_an_exception_that_is_not_listed() -> None:
    """Bugs stay bugs."""
    with pytest.raises(TypeError), wrap(OSError, etype=ErrorType.READ_ERROR):
        raise TypeError


def test_wrap_passes_an_error_as_it_is() -> None:
    """What has crossed a seam is not renamed at the next."""
    inner = Error(ErrorType.CONNECTION_CLOSED)

    with pytest.raises(Error) as caught, wrap(Exception, etype=ErrorType.READ_ERROR):
        raise inner

    assert caught.value is inner


def test_wrap_passes_cancellation() -> None:
    """Cancelling is no failure."""
    with pytest.raises(asyncio.CancelledError), wrap(Exception, etype=ErrorType.READ_ERROR):
        raise asyncio.CancelledError


def test_wrap_without_an_exception_does_nothing() -> None:
    """The block that succeeds is left alone, time after time."""
    guard = wrap(OSError, etype=ErrorType.READ_ERROR)

    with guard:
        first = 1
    with guard:
        second = 2

    assert first + second == 3


def test_wrap_of_nothing_is_misuse() -> None:
    """A seam that looks for no exception guards nothing."""
    with pytest.raises(TypeError, match="at least one exception"):
        wrap(etype=ErrorType.READ_ERROR)


def test_error_context_adds_a_hop() -> None:
    """The error that leaves has the same type, source and decision, and more context."""
    with pytest.raises(Error) as caught, error_context("reading the head"):
        raise Error.up(ErrorType.READ_TIMEDOUT, retry=RetryType.RETRY)

    assert str(caught.value) == "Upstream ReadTimedout context: reading the head"
    assert caught.value.should_retry


def test_error_context_passes_foreign_exceptions() -> None:
    """Context is for errors; others pass as they are, and success passes too."""
    guard = error_context("unused")

    with guard:
        pass
    with pytest.raises(OSError, match="disk"), guard:
        raise OSError("disk")


@pytest.mark.parametrize("value", ["", 0, False, "there"])
def test_option_some_ok(value: object) -> None:
    """Anything but None is a value, also if it is false."""
    assert or_err(value, ErrorType.INTERNAL_ERROR) is value


def test_option_none_err() -> None:
    """None is missing, and says in which context."""
    with pytest.raises(Error) as caught:
        or_err(None, HTTPStatus(404), "no such route")

    assert str(caught.value) == "HTTPStatus 404 context: no such route"
