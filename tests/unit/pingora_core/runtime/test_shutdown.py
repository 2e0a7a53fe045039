from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pingora_core.runtime.shutdown import ShutdownSwitch

if TYPE_CHECKING:
    import pytest


def test_the_watch_tells_when_the_shutdown_has_begun() -> None:
    """It is False until the switch is thrown, and True ever after."""
    switch = ShutdownSwitch()
    watch = switch.watch

    before = watch.is_shutting_down
    switch.start()

    assert before is False
    assert watch.is_shutting_down
    assert switch.watch is watch


def test_subscribers_are_called_once_in_order() -> None:
    """The order is that of subscription; a second start calls nobody."""
    switch = ShutdownSwitch()
    called: list[str] = []
    for name in "abc":
        switch.watch.subscribe(lambda name=name: called.append(name))  # type: ignore[misc]

    switch.start()
    switch.start()

    assert called == ["a", "b", "c"]


def test_a_late_subscriber_is_called_at_once() -> None:
    """Subscribing after the start cannot miss it."""
    switch = ShutdownSwitch()
    switch.start()
    called: list[bool] = []

    unsubscribe = switch.watch.subscribe(lambda: called.append(True))
    unsubscribe()

    assert called == [True]


def test_an_unsubscribed_function_is_not_called() -> None:
    """Taking a subscription back twice, or late, is harmless."""
    switch = ShutdownSwitch()
    called: list[bool] = []
    unsubscribe = switch.watch.subscribe(lambda: called.append(True))

    unsubscribe()
    unsubscribe()
    switch.start()
    unsubscribe()

    assert called == []


def test_a_subscriber_may_unsubscribe_another() -> None:
    """Whoever is taken back during the start is not called any more."""
    switch = ShutdownSwitch()
    called: list[str] = []
    switch.watch.subscribe(lambda: second())  # noqa: PLW0108 - it is bound later
    second = switch.watch.subscribe(lambda: called.append("second"))

    switch.start()

    assert called == []


def test_a_failing_subscriber_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """Its exception is logged, the others are called."""
    switch = ShutdownSwitch()
    called: list[bool] = []

    def fail() -> None:
        raise ValueError("broken subscriber")

    switch.watch.subscribe(fail)
    switch.watch.subscribe(lambda: called.append(True))
    with caplog.at_level(logging.ERROR):
        switch.start()

    assert called == [True]
    assert "broken subscriber" in caplog.text


async def test_wait_returns_when_the_shutdown_begins() -> None:
    """All waiters wake up, and one who comes late does not wait."""
    switch = ShutdownSwitch()
    tasks = [asyncio.create_task(switch.watch.wait()) for _ in range(3)]
    await asyncio.sleep(0)

    switch.start()

    await asyncio.gather(*tasks)
    await switch.watch.wait()


async def test_a_cancelled_waiter_disturbs_nobody() -> None:
    """Its subscription is gone before the shutdown begins."""
    switch = ShutdownSwitch()
    task = asyncio.create_task(switch.watch.wait())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])

    switch.start()

    assert task.cancelled()


def test_the_end_of_streams_is_a_second_stage() -> None:
    """It comes after the begin, has subscribers of its own, and calls each of them once."""
    switch = ShutdownSwitch()
    watch = switch.watch
    called: list[str] = []
    watch.subscribe(lambda: called.append("begin"))
    watch.subscribe_end_of_streams(lambda: called.append("end 1"))
    watch.subscribe_end_of_streams(lambda: called.append("end 2"))

    switch.start()
    at_begin = (list(called), watch.is_ending_streams)
    switch.end_streams()
    switch.end_streams()

    assert at_begin == (["begin"], False)
    assert called == ["begin", "end 1", "end 2"]
    assert watch.is_ending_streams


def test_the_end_of_streams_begins_a_shutdown_that_has_not_begun() -> None:
    """Nobody sees the second stage before the first."""
    switch = ShutdownSwitch()
    called: list[tuple[str, bool]] = []
    watch = switch.watch
    watch.subscribe_end_of_streams(lambda: called.append(("end", watch.is_ending_streams)))
    watch.subscribe(lambda: called.append(("begin", watch.is_ending_streams)))

    switch.end_streams()

    assert called == [("begin", False), ("end", True)]
    assert watch.is_shutting_down


def test_a_late_subscriber_to_the_end_of_streams_is_called_at_once() -> None:
    """An exchange that begins after it cannot miss it; one that began the shutdown's can wait."""
    switch = ShutdownSwitch()
    called: list[str] = []
    switch.start()
    taken_back = switch.watch.subscribe_end_of_streams(lambda: called.append("taken back"))
    taken_back()
    switch.end_streams()
    unsubscribe = switch.watch.subscribe_end_of_streams(lambda: called.append("late"))
    unsubscribe()

    assert called == ["late"]
