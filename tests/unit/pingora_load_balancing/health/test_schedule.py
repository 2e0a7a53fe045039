"""The schedule hands records out in the order in which they are due, each once."""

from __future__ import annotations

from hypothesis import given, strategies as st

from pingora_load_balancing import Backend, BackendState
from pingora_load_balancing.health import HealthRecord
from pingora_load_balancing.health._schedule import Schedule


def _records(count: int) -> list[HealthRecord]:
    return [HealthRecord(BackendState(Backend(f"10.0.0.1:{n}"))) for n in range(1, count + 1)]


def test_order() -> None:
    """Those due first come first; those due at the same time in the order of their coming."""
    schedule = Schedule()
    a, b, c = _records(3)
    schedule.put(b, 2.0)
    schedule.put(c, 2.0)
    schedule.put(a, 1.0)

    assert schedule.pop_due(0.5) is None
    assert schedule.next_due() == 1.0
    assert [schedule.pop_due(2.0) for _ in range(4)] == [(a, 1.0), (b, 2.0), (c, 2.0), None]
    assert schedule.next_due() is None


def test_put_again_and_removed() -> None:
    """The newest time counts; what was removed does not come."""
    schedule = Schedule()
    a, b = _records(2)
    schedule.put(a, 1.0)
    schedule.put(b, 1.5)
    schedule.put(a, 2.0)
    schedule.remove(b)
    schedule.remove(b)

    assert len(schedule) == 1
    assert schedule.pop_due(9.0) == (a, 2.0)
    assert schedule.pop_due(9.0) is None


def test_a_clock_that_moves() -> None:
    """All times move with it."""
    schedule = Schedule()
    a, b = _records(2)
    schedule.put(a, 100.0)
    schedule.put(b, 101.0)

    schedule.shift(-100.0)

    assert schedule.next_due() == 0.0
    assert schedule.pop_due(0.5) == (a, 0.0)
    assert schedule.next_due() == 1.0


def test_what_is_dead_is_swept_up() -> None:
    """A set that changes all the time does not make the schedule grow."""
    schedule = Schedule()
    (record,) = _records(1)

    for number in range(10_000):
        schedule.put(record, float(number))
    for other in _records(1000):
        schedule.put(other, 1e6)
        schedule.remove(other)

    assert len(schedule._heap) <= 2 * len(schedule) + 64
    assert schedule.pop_due(1e7) == (record, 9999.0)


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "remove", "pop"]), st.integers(0, 5), st.integers(0, 9))
    )
)
def test_against_a_dictionary(steps: list[tuple[str, int, int]]) -> None:
    """It does what a sorted dictionary would do, only faster."""
    schedule = Schedule()
    records = _records(6)
    model: dict[HealthRecord, float] = {}
    for action, index, time in steps:
        record = records[index]
        if action == "put":
            schedule.put(record, time)
            model[record] = time
        elif action == "remove":
            schedule.remove(record)
            model.pop(record, None)
        else:
            found = schedule.pop_due(time)
            if found is None:
                assert not model or min(model.values()) > time
            else:
                assert found[1] == model.pop(found[0])
                assert found[1] <= time
                assert all(found[1] <= due for due in model.values())
        assert len(schedule) == len(model)
