"""Execution phases: their announcement to callbacks and watches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_core.server.phases import ExecutionPhase, PhaseAnnouncer

if TYPE_CHECKING:
    import pytest


def test_a_callback_hears_each_phase_until_it_unsubscribes() -> None:
    """Subscribers are called in the order of the phases; leaving twice is harmless."""
    announcer = PhaseAnnouncer()
    heard: list[ExecutionPhase] = []
    unsubscribe = announcer.subscribe(heard.append)

    assert str(announcer.phase) == "Setup"
    announcer.enter(ExecutionPhase.BOOTSTRAP)
    unsubscribe()
    unsubscribe()
    announcer.enter(ExecutionPhase.BOOTSTRAP_COMPLETE)

    assert heard == [ExecutionPhase.BOOTSTRAP]
    assert announcer.phase is ExecutionPhase.BOOTSTRAP_COMPLETE
    assert str(announcer.phase) == "BootstrapComplete"


def test_a_callback_that_fails_does_not_stop_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What a callback raises is logged; the server and other callbacks go on."""
    announcer = PhaseAnnouncer()
    heard: list[ExecutionPhase] = []

    def broken(phase: ExecutionPhase) -> None:
        raise KeyError(phase)

    announcer.subscribe(broken)
    announcer.subscribe(heard.append)
    announcer.enter(ExecutionPhase.RUNNING)

    assert heard == [ExecutionPhase.RUNNING]
    assert "a phase callback failed" in caplog.text


async def test_a_watch_keeps_phases_and_ends_after_terminated() -> None:
    """Phases before the watch are not told; those before the iteration are."""
    announcer = PhaseAnnouncer()
    announcer.enter(ExecutionPhase.BOOTSTRAP)
    watch = announcer.watch()
    announcer.enter(ExecutionPhase.RUNNING)
    announcer.enter(ExecutionPhase.TERMINATED)

    assert [phase async for phase in watch] == [ExecutionPhase.RUNNING, ExecutionPhase.TERMINATED]
    assert [phase async for phase in watch] == []
