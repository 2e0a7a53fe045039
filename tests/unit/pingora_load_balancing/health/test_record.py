"""What is counted for a backend, and when what it counts as changes."""

from __future__ import annotations

from pingora_error import Custom, Error
from pingora_load_balancing import Backend, BackendState
from pingora_load_balancing.health import HealthRecord

_SICK = Error.up(Custom("Sick"))


def _record(*, is_healthy: bool = True) -> HealthRecord:
    return HealthRecord(BackendState(Backend("10.0.0.1:80"), is_healthy=is_healthy))


def test_a_new_record() -> None:
    """Nothing is known yet."""
    record = _record()

    assert not record.is_decided
    assert record.last_check is None
    assert record.last_error is None
    assert record.address == Backend("10.0.0.1:80").addr
    assert repr(record) == "<HealthRecord 10.0.0.1:80 healthy, 0 successes, 0 failures>"


def test_results_in_a_row() -> None:
    """An agreeing result starts the count of contradicting ones over."""
    record = _record()

    verdicts = [
        record.observe(success=success, threshold=3)
        for success in (False, False, True, False, False, False)
    ]

    assert verdicts == [False, False, False, False, False, True]
    assert (record.successes, record.failures, record.streak) == (1, 5, 3)


def test_a_flip() -> None:
    """The count starts over in the other direction."""
    record = _record()
    assert record.observe(success=False, threshold=1)
    record.state.is_healthy = False
    record.flipped(7.0)

    assert (record.streak, record.flips, record.last_flip) == (0, 1, 7.0)
    assert not record.observe(success=True, threshold=2)
    assert record.observe(success=True, threshold=2)
    assert "unhealthy" in repr(record)


def test_notes() -> None:
    """The last error stays to be seen after a success; a duration is never negative."""
    record = _record()
    record.note(_SICK, started=1.0, ended=1.5)
    record.note(None, started=4.0, ended=3.0)

    assert record.last_error is _SICK
    assert record.last_error_at == 1.5
    assert record.last_check == 3.0
    assert record.last_duration == 0.0
