"""Readiness and the restart policy."""

from __future__ import annotations

import asyncio

import pytest

from pingora_core.services import Restart, ServiceReadyNotifier


async def test_whoever_waits_is_released_when_the_service_is_ready() -> None:
    """wait() lasts until notify_ready(), and not at all afterwards."""
    ready = ServiceReadyNotifier()
    waiter = asyncio.create_task(ready.wait())
    await asyncio.sleep(0)

    assert not waiter.done()
    assert not ready.is_ready
    ready.notify_ready()
    await waiter
    await ready.wait()
    assert ready.is_ready


def test_the_callback_hears_of_readiness_once() -> None:
    """Being ready twice is being ready once."""
    calls: list[None] = []
    ready = ServiceReadyNotifier(lambda: calls.append(None))

    ready.notify_ready()
    ready.notify_ready()

    assert len(calls) == 1


def test_the_pause_doubles_up_to_its_limit_and_starts_over_after_a_long_run() -> None:
    """Quick failures space out; a service that lived is treated as new."""
    policy = Restart(initial_delay=1, max_delay=5, reset_after=60)

    pauses = [policy.next_delay(0, 0)]
    for _ in range(4):
        pauses.append(policy.next_delay(pauses[-1], 59.9))

    assert pauses == [1, 2, 4, 5, 5]
    assert policy.next_delay(5, 60) == 1


@pytest.mark.parametrize(
    ("initial_delay", "max_delay", "reset_after"),
    [(0, 1, 1), (-1, 1, 1), (2, 1, 1), (1, 1, -1), (float("nan"), 1, 1)],
)
def test_a_policy_that_makes_no_sense_is_refused(
    initial_delay: float, max_delay: float, reset_after: float
) -> None:
    """Numbers that would spin or shrink are a ValueError."""
    with pytest.raises(ValueError, match="wanted 0 < initial_delay <= max_delay"):
        Restart(initial_delay=initial_delay, max_delay=max_delay, reset_after=reset_after)
