"""An error carries what, where from, whether to retry, in which context and because of what."""

from __future__ import annotations

import copy
import pickle

import pytest

from pingora_error import Custom, CustomCode, Error, ErrorSource, ErrorType, HTTPStatus, RetryType


def test_chain_of_error() -> None:
    """A cause prints after its effect, with type and context of each."""
    inner = Error(ErrorType.INTERNAL_ERROR)
    outer = Error(HTTPStatus(400), "test", cause=inner)

    assert str(outer) == "HTTPStatus 400 context: test cause: InternalError"
    assert outer.root_etype is ErrorType.INTERNAL_ERROR
    assert outer.root_cause is inner


def test_chain_of_error_linked_afterwards() -> None:
    """A cause set after construction counts for the chain."""
    outer = Error(HTTPStatus(400))
    outer.cause = Error(ErrorType.INTERNAL_ERROR)

    assert str(outer) == "HTTPStatus 400 cause: InternalError"
    assert outer.root_etype is ErrorType.INTERNAL_ERROR


def test_error_context() -> None:
    """The context prints after the type."""
    error = Error(ErrorType.INTERNAL_ERROR)
    error.context = "my context"

    assert str(error) == "InternalError context: my context"


def test_minimal_error_prints_its_type_only() -> None:
    """An unset source, an empty context and a missing cause leave no trace."""
    assert str(Error(ErrorType.READ_ERROR)) == "ReadError"
    assert repr(Error(ErrorType.READ_ERROR)) == "<Error ReadError>"


def test_source_and_type_equal_to_the_outer_hop_are_not_repeated() -> None:
    """Only what differs from hop to hop is printed."""
    first = Error.up(ErrorType.READ_ERROR, "head")
    second = Error.up(ErrorType.H1_ERROR, "response", cause=first)
    third = Error.down(ErrorType.H1_ERROR, cause=second)

    assert str(third) == (
        "Downstream H1Error cause: Upstream context: response cause: ReadError context: head"
    )


def test_hop_with_nothing_of_its_own_is_left_out() -> None:
    """No "cause:" is left dangling."""
    error = Error.up(ErrorType.READ_ERROR, cause=OSError("x")).more_context("a").more_context("b")

    assert str(error) == "Upstream ReadError context: b cause: context: a cause: OSError: x"


def test_foreign_cause_prints_with_its_type() -> None:
    """The end of the chain names the exception, also when it has no text."""
    with_text = Error(ErrorType.READ_ERROR, cause=OSError(104, "Connection reset by peer"))
    without = Error(ErrorType.READ_TIMEDOUT, cause=TimeoutError())

    assert (
        str(with_text)
        == "ReadError cause: ConnectionResetError: [Errno 104] Connection reset by peer"
    )
    assert str(without) == "ReadTimedout cause: TimeoutError"


def test_message_stays_on_one_line() -> None:
    """What a peer sent cannot begin a new line of the log, nor ring its bell."""
    error = Error.down(ErrorType.INVALID_HTTP_HEADER, "name 'a\r\nGET /fake\x07\u2028é'")

    assert str(error) == (r"Downstream InvalidHTTPHeader context: name 'a\r\nGET /fake\x07\u2028é'")


def test_cycle_of_causes_ends() -> None:
    """A chain that bites its tail is printed once round."""
    error = Error(ErrorType.READ_ERROR)
    outer = error.more_context("outer")
    error.cause = outer

    assert str(outer) == "ReadError context: outer"
    assert outer.root_cause is error


def test_context_trait() -> None:
    """More context is a hop of the same type, source and retry decision."""
    inner = Error.up(ErrorType.INTERNAL_ERROR, "one", retry=RetryType.RETRY)
    outer = inner.more_context("another")

    assert str(outer) == "Upstream InternalError context: another cause: context: one"
    assert outer.esource is ErrorSource.UPSTREAM
    assert outer.retry is RetryType.RETRY
    assert outer.cause is inner


def test_cause_trait() -> None:
    """The cause is Python's own, so that tracebacks show it."""
    inner = Error(ErrorType.INTERNAL_ERROR)
    outer = Error(HTTPStatus(400), "another", cause=inner)

    assert outer.__cause__ is inner
    assert outer.cause is inner
    assert outer.__suppress_context__


def test_raise_from_sets_the_cause() -> None:
    """The statement of the language does what the argument does, but for the retry decision."""
    with pytest.raises(Error) as caught:
        raise Error(ErrorType.READ_ERROR) from ConnectionResetError("gone")

    assert str(caught.value) == "ReadError cause: ConnectionResetError: gone"


def test_root_of_an_error_without_cause_is_itself() -> None:
    """An error alone is its own root."""
    error = Error(Custom("Quota"))

    assert error.root_cause is error
    assert error.root_etype == Custom("Quota")


def test_root_cause_is_the_first_foreign_exception() -> None:
    """The walk goes through errors only and stops at the first other exception."""
    foreign = OSError("disk")
    foreign.__cause__ = ValueError("deeper")
    error = Error(ErrorType.FILE_READ_ERROR, cause=foreign).more_context("outer")

    assert error.root_cause is foreign
    assert error.root_etype is ErrorType.FILE_READ_ERROR


@pytest.mark.parametrize(
    ("error", "source"),
    [
        (Error(ErrorType.READ_ERROR), ErrorSource.UNSET),
        (Error.up(ErrorType.READ_ERROR), ErrorSource.UPSTREAM),
        (Error.down(ErrorType.READ_ERROR), ErrorSource.DOWNSTREAM),
        (Error.internal(ErrorType.READ_ERROR), ErrorSource.INTERNAL),
        (Error(ErrorType.READ_ERROR).as_up(), ErrorSource.UPSTREAM),
        (Error(ErrorType.READ_ERROR).as_down(), ErrorSource.DOWNSTREAM),
        (Error.up(ErrorType.READ_ERROR).as_in(), ErrorSource.INTERNAL),
    ],
    ids=["plain", "up", "down", "internal", "as_up", "as_down", "as_in"],
)
def test_source(error: Error, source: ErrorSource) -> None:
    """Each constructor and each setter blames its side."""
    assert error.esource is source


def test_source_prints_pingoras_word() -> None:
    """The source prints as in upstream's logs."""
    assert [str(source) for source in ErrorSource] == ["Upstream", "Downstream", "Internal", ""]


def test_setters_return_the_error_itself() -> None:
    """A source is set in the line that raises."""
    error = Error(ErrorType.READ_ERROR)

    assert error.as_up() is error
    assert error.as_down() is error
    assert error.as_in() is error


def test_retry_is_off_by_default() -> None:
    """A failure is not retried unless somebody says so."""
    error = Error(ErrorType.CONNECT_REFUSED)

    assert error.retry is RetryType.NO_RETRY
    assert not error.should_retry


@pytest.mark.parametrize("retry", list(RetryType), ids=str)
def test_retry_is_inherited_from_a_cause_of_ours(retry: RetryType) -> None:
    """Wrapping does not lose the decision of the inner error."""
    inner = Error(ErrorType.WRITE_ERROR, retry=retry)

    assert Error(ErrorType.H1_ERROR, cause=inner).retry is retry


def test_retry_given_outweighs_the_cause() -> None:
    """An outer layer may decide otherwise."""
    inner = Error(ErrorType.WRITE_ERROR, retry=RetryType.RETRY)

    outer = Error(ErrorType.H1_ERROR, cause=inner, retry=RetryType.NO_RETRY)

    assert outer.retry is RetryType.NO_RETRY


def test_retry_is_not_inherited_from_a_foreign_cause() -> None:
    """A foreign exception has no decision to give."""
    assert Error(ErrorType.H1_ERROR, cause=OSError()).retry is RetryType.NO_RETRY


def test_undecided_counts_as_no() -> None:
    """Asking before ``decide_reuse`` is safe (upstream panics)."""
    assert not Error(ErrorType.WRITE_ERROR, retry=RetryType.REUSED_ONLY).should_retry


@pytest.mark.parametrize(
    ("retry", "reused", "decided"),
    [
        (RetryType.REUSED_ONLY, True, RetryType.RETRY),
        (RetryType.REUSED_ONLY, False, RetryType.NO_RETRY),
        (RetryType.RETRY, False, RetryType.RETRY),
        (RetryType.NO_RETRY, True, RetryType.NO_RETRY),
    ],
)
def test_decide_reuse(retry: RetryType, reused: bool, decided: RetryType) -> None:
    """Only the undecided is decided by whether the connection was reused."""
    error = Error(ErrorType.WRITE_ERROR, retry=retry)

    error.decide_reuse(reused)

    assert error.retry is decided


def test_set_retry() -> None:
    """The decision can be changed either way."""
    error = Error(ErrorType.CONNECT_TIMEDOUT)

    error.set_retry(True)
    assert error.should_retry
    error.set_retry(False)
    assert not error.should_retry


def test_error_survives_pickle_and_copy() -> None:
    """An error crosses processes with all it says itself; causes stay behind, as in Python."""
    error = Error.up(CustomCode("Quota", 429), "tenant 7", retry=RetryType.RETRY)

    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (twin.etype, twin.esource, twin.context, twin.retry) == (
            error.etype,
            error.esource,
            error.context,
            error.retry,
        )
