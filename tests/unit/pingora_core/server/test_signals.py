"""Shutdown signals: from the operating system and by hand."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from pingora_core.server.signals import (
    ManualShutdownSignal,
    ShutdownSignal,
    UnixShutdownSignalWatch,
)


@pytest.mark.parametrize(
    ("number", "meaning"),
    [
        (signal.SIGINT, ShutdownSignal.FAST_SHUTDOWN),
        (signal.SIGTERM, ShutdownSignal.GRACEFUL_TERMINATE),
        (signal.SIGQUIT, ShutdownSignal.GRACEFUL_UPGRADE),
    ],
)
async def test_each_signal_has_its_meaning(number: signal.Signals, meaning: ShutdownSignal) -> None:
    """A signal sent to the process arrives as what the server should do."""
    with UnixShutdownSignalWatch() as watch:
        os.kill(os.getpid(), number)
        received = await asyncio.wait_for(watch.recv(), 30)

    assert received is meaning


async def test_signals_that_come_together_are_kept() -> None:
    """A second signal is not lost while nobody listens."""
    with UnixShutdownSignalWatch() as watch:
        os.kill(os.getpid(), signal.SIGTERM)
        first = await asyncio.wait_for(watch.recv(), 30)
        os.kill(os.getpid(), signal.SIGINT)
        second = await asyncio.wait_for(watch.recv(), 30)

    assert (first, second) == (ShutdownSignal.GRACEFUL_TERMINATE, ShutdownSignal.FAST_SHUTDOWN)


async def test_the_handlers_are_gone_afterwards() -> None:
    """Leaving the context gives the signals back to their defaults."""
    with UnixShutdownSignalWatch():
        pass

    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


async def test_outside_of_the_main_thread_signals_are_refused_with_advice() -> None:
    """A server in another thread is told to bring its own signal."""

    def listen() -> None:
        with UnixShutdownSignalWatch():
            pass

    with pytest.raises(RuntimeError, match="pass a shutdown_signal"):
        await asyncio.to_thread(listen)


async def test_a_manual_signal_sent_early_waits() -> None:
    """What is sent before anybody listens is received first."""
    manual = ManualShutdownSignal()
    manual.send(ShutdownSignal.GRACEFUL_TERMINATE)
    manual.send(ShutdownSignal.FAST_SHUTDOWN)

    assert await manual.recv() is ShutdownSignal.GRACEFUL_TERMINATE
    assert await manual.recv() is ShutdownSignal.FAST_SHUTDOWN


async def test_a_manual_signal_can_come_from_another_thread() -> None:
    """send() wakes the loop that listens."""
    manual = ManualShutdownSignal()
    receiver = asyncio.create_task(manual.recv())
    await asyncio.sleep(0)

    threading.Thread(target=manual.send, args=(ShutdownSignal.FAST_SHUTDOWN,)).start()

    assert await asyncio.wait_for(receiver, 30) is ShutdownSignal.FAST_SHUTDOWN


def test_a_manual_signal_after_the_end_is_harmless() -> None:
    """Once the loop is closed there is nothing left to stop."""
    manual = ManualShutdownSignal()

    async def receive() -> None:
        manual.send(ShutdownSignal.FAST_SHUTDOWN)
        await manual.recv()

    asyncio.run(receive())

    manual.send(ShutdownSignal.FAST_SHUTDOWN)
