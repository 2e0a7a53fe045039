"""The life of a server in an event loop: start order, readiness, stop, failures."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pingora_core.conf import ServerConf
from pingora_core.listeners.fds import ListenFds
from pingora_core.server import ExecutionPhase, ManualShutdownSignal, ShutdownSignal
from pingora_core.server.lifecycle import Lifecycle
from pingora_core.server.phases import PhaseAnnouncer
from pingora_core.services import Restart, Service, ServiceGraph
from pingora_error import Error, ErrorType
from tests.support.waiting import eventually
from tests.unit.pingora_core.server.fakes import Draining, Failing, Recorder, Stubborn

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.services import ServiceHandle

RUNNING = ExecutionPhase.RUNNING
GRACEFUL = [
    RUNNING,
    ExecutionPhase.GRACEFUL_TERMINATE,
    ExecutionPhase.SHUTDOWN_STARTED,
    ExecutionPhase.SHUTDOWN_GRACE_PERIOD,
    ExecutionPhase.SHUTDOWN_RUNTIMES,
    ExecutionPhase.TERMINATED,
]
FAST = [
    RUNNING,
    ExecutionPhase.SHUTDOWN_STARTED,
    ExecutionPhase.SHUTDOWN_RUNTIMES,
    ExecutionPhase.TERMINATED,
]

TERMINATE = ShutdownSignal.GRACEFUL_TERMINATE
FAST_SHUTDOWN = ShutdownSignal.FAST_SHUTDOWN


class Life:
    """A lifecycle under test.

    Args:
        services: What it runs.
        grace: Grace period, seconds.
        timeout: Time for what is cut off, seconds.
    """

    def __init__(self, *services: Service, grace: float = 30, timeout: float = 30) -> None:
        self.signal = ManualShutdownSignal()
        self.phases: list[ExecutionPhase] = []
        self.handles: list[ServiceHandle] = []
        self.announcer = PhaseAnnouncer()
        self.announcer.subscribe(self.phases.append)
        self.graph = ServiceGraph()
        self.handles = [self.graph.add(service) for service in services]
        self.conf = ServerConf(
            grace_period_seconds=grace, graceful_shutdown_timeout_seconds=timeout
        )

    async def run(self, fds: ListenFds | None = None) -> None:
        life = Lifecycle(self.graph, self.conf, fds or ListenFds(), self.announcer)
        async with asyncio.timeout(30):
            await life.run(self.signal)

    def start(self, fds: ListenFds | None = None) -> asyncio.Task[None]:
        return asyncio.create_task(self.run(fds))

    def on(self, phase: ExecutionPhase, action: Callable[[], object]) -> None:
        def act(entered: ExecutionPhase) -> None:
            if entered is phase:
                action()

        self.announcer.subscribe(act)

    def send_when_running(self, *signals: ShutdownSignal) -> None:
        for each in signals:
            self.on(RUNNING, partial(self.signal.send, each))


pytestmark = pytest.mark.usefixtures("no_leaks")


# ------------------------------------------------------------------------------------ starting


async def test_running_is_announced_when_every_service_is_ready() -> None:
    """One service that is not ready yet keeps the server from being Running."""
    journal: list[str] = []
    ready = asyncio.Event()
    life = Life(Recorder("a", journal), Recorder("b", journal, ready))
    task = life.start()
    await asyncio.sleep(0.01)

    assert journal == ["a starts", "b starts"]
    assert life.phases == []
    ready.set()
    life.send_when_running(TERMINATE)
    await task
    assert life.phases == GRACEFUL


async def test_a_service_starts_when_its_dependencies_are_ready() -> None:
    """Dependents wait for readiness, not only for the start, and are told how long they waited."""
    journal: list[str] = []
    ready = asyncio.Event()
    front = Recorder("front", journal)
    back = Recorder("back", journal, ready)
    life = Life(front, back)
    life.handles[0].add_dependency(life.handles[1])
    task = life.start()
    await asyncio.sleep(0.02)

    assert journal == ["back starts"]
    ready.set()
    life.send_when_running(TERMINATE)
    await task

    assert journal[:2] == ["back starts", "front starts"]
    assert sorted(journal[2:]) == ["back ends", "front ends"]
    assert len(front.delays) == 1
    assert front.delays[0] >= 0.01
    assert back.delays == []


async def test_a_signal_before_running_stops_the_start() -> None:
    """A server whose services hang in their start can still be stopped."""
    journal: list[str] = []
    never = asyncio.Event()
    life = Life(Recorder("front", journal), Recorder("back", journal, never), grace=0.01)
    life.handles[0].add_dependency(life.handles[1])
    task = life.start()
    await asyncio.sleep(0.01)

    life.signal.send(TERMINATE)
    await task

    assert journal == ["back starts"]
    assert life.phases == GRACEFUL[1:]


async def test_a_service_that_ends_counts_as_ready() -> None:
    """One-time work may end; what depends on it starts, and the server goes on."""

    class Once(Service):
        notifies_ready = True

        async def start_service(self, context: object) -> None:
            journal.append("once")

    journal: list[str] = []
    life = Life(Once("once"), Recorder("a", journal))
    life.handles[1].add_dependency(life.handles[0])
    life.send_when_running(TERMINATE)

    await life.run()

    assert journal == ["once", "a starts", "a ends"]


# ------------------------------------------------------------------------------------ stopping


async def test_graceful_stop_ends_as_soon_as_nothing_is_in_flight() -> None:
    """The grace period is a limit, not a sleep."""
    journal: list[str] = []
    service = Draining("a", journal)
    life = Life(service)
    life.send_when_running(TERMINATE)
    task = life.start()
    await service.shutdown_seen.wait()

    assert life.phases == GRACEFUL[:4]
    assert not task.done()
    service.drained.set()
    await task

    assert life.phases == GRACEFUL
    assert journal == ["a starts", "a ends", "a has drained"]


async def test_what_outlasts_the_grace_period_is_cut_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After the grace period the services are cancelled, and named."""
    journal: list[str] = []
    life = Life(Draining("a", journal), grace=0.02)
    life.send_when_running(TERMINATE)

    await life.run()

    assert journal == ["a starts", "a ends", "a is cut off"]
    assert life.phases == GRACEFUL
    assert "breaking off what is still in flight in: a" in caplog.text


async def test_a_second_signal_forces() -> None:
    """Whoever asks twice does not wait for the grace period."""
    journal: list[str] = []
    service = Draining("a", journal)
    life = Life(service)
    life.send_when_running(TERMINATE)
    task = life.start()
    await service.shutdown_seen.wait()

    life.signal.send(TERMINATE)
    await task

    assert journal == ["a starts", "a ends", "a is cut off"]
    assert life.phases == GRACEFUL


async def test_a_fast_shutdown_does_not_wait() -> None:
    """Everything is cancelled at once; services still hear of the shutdown."""
    journal: list[str] = []
    life = Life(Draining("a", journal))
    life.send_when_running(FAST_SHUTDOWN)

    await life.run()

    assert journal == ["a starts", "a is cancelled"]
    assert life.phases == FAST


@pytest.mark.parametrize("by", ["deadline", "signal"])
async def test_a_service_that_will_not_end_is_left_behind(
    by: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Cleaning up has a deadline too, and one more signal ends it."""
    service = Stubborn()
    life = Life(service, timeout=0.02 if by == "deadline" else 30)
    life.send_when_running(FAST_SHUTDOWN)
    task = life.start()
    await service.cancelled.wait()
    if by == "signal":
        life.signal.send(FAST_SHUTDOWN)

    await task

    assert "would not end and are left behind: stubborn" in caplog.text
    assert life.phases == FAST
    service.released.set()


async def test_cancelling_the_server_is_a_fast_shutdown() -> None:
    """Whoever embeds the server can end it like any coroutine; nothing stays behind."""
    journal: list[str] = []
    service = Recorder("a", journal)
    life = Life(service)
    task = life.start()
    await asyncio.sleep(0.01)

    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert journal == ["a starts", "a is cancelled"]
    assert life.phases == FAST


async def test_an_upgrade_that_fails_leaves_the_server_running(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A hand-over that cannot be done must not stop the server."""
    life = Life(Recorder("a", []))
    life.send_when_running(ShutdownSignal.GRACEFUL_UPGRADE, FAST_SHUTDOWN)

    await life.run()

    assert "GracefulUpgrade failed, the server goes on as it was: " in caplog.text
    transferring = ExecutionPhase.GRACEFUL_UPGRADE_TRANSFERRING_FDS
    assert life.phases == [FAST[0], transferring, *FAST]


async def test_a_watch_that_answers_at_once_does_not_hang_the_server() -> None:
    """Even the most eager watch leaves the loop to the services."""

    class Eager:
        async def recv(self) -> ShutdownSignal:
            return TERMINATE

    journal: list[str] = []
    life = Life(Recorder("a", journal))

    async with asyncio.timeout(30):
        await Lifecycle(life.graph, life.conf, ListenFds(), life.announcer).run(Eager())

    assert life.phases[-1] is ExecutionPhase.TERMINATED


async def test_a_watch_that_fails_stops_the_server() -> None:
    """A server that cannot be told to stop any more does not go on unseen."""

    class Broken:
        async def recv(self) -> ShutdownSignal:
            await asyncio.sleep(0.01)
            msg = "no more"
            raise OSError(msg)

    journal: list[str] = []
    life = Life(Recorder("a", journal))

    with pytest.raises(Error, match="watch for shutdown signals failed"):
        await Lifecycle(life.graph, life.conf, ListenFds(), life.announcer).run(Broken())

    assert journal == ["a starts", "a ends"]
    assert life.phases == GRACEFUL


# ------------------------------------------------------------------------------------ failures


async def test_a_failure_at_the_start_stops_the_server_at_once() -> None:
    """What never came up is an error with the service's name, whatever its policy."""
    failing = Failing([Error(ErrorType.BIND_ERROR, "127.0.0.1:80")], is_early=True)
    failing.on_failure = Restart()
    journal: list[str] = []
    life = Life(Draining("other", journal), failing)

    with pytest.raises(Error) as caught:
        await life.run()

    assert "service 'failing' failed" in str(caught.value)
    assert caught.value.root_etype is ErrorType.BIND_ERROR
    assert failing.starts == 1
    assert journal == ["other starts", "other is cancelled"]
    assert life.phases == FAST[1:]


async def test_a_failure_before_a_predecessor_has_stopped_is_a_graceful_end() -> None:
    """What was accepted beside it is finished; the first order to stop is not one to hurry."""
    journal: list[str] = []
    busy = Draining("busy", journal)
    life = Life(busy, Failing([RuntimeError("told to")], is_early=True))
    with socket.create_server(("127.0.0.1", 0)) as predecessors:
        fds = ListenFds({"127.0.0.1:0": predecessors.dup()}, is_lent=True)
        running = life.start(fds)
        await asyncio.wait_for(busy.shutdown_seen.wait(), 30)

        life.signal.send(TERMINATE)
        await asyncio.sleep(0.01)
        busy.drained.set()

        with pytest.raises(Error, match="service 'failing' failed"):
            await running
        fds.close()
    assert life.phases == GRACEFUL[1:]
    assert journal[-1] == "busy has drained"


async def test_a_dependent_of_what_failed_is_not_started() -> None:
    """A failure at the start does not release the services that waited for it."""
    journal: list[str] = []
    life = Life(Recorder("a", journal), Failing([KeyError("x")], is_early=True))
    life.handles[0].add_dependency(life.handles[1])

    with pytest.raises(Error, match="service 'failing' failed"):
        await life.run()

    assert journal == []


async def test_a_failure_while_running_stops_the_server_gracefully(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By default no service dies silently: the server drains and reports."""

    class Late(Service):
        async def start_service(self, context: object) -> None:
            await fail.wait()
            raise KeyError("late")

    fail = asyncio.Event()
    journal: list[str] = []
    life = Life(Recorder("a", journal), Late("late"))
    life.on(RUNNING, fail.set)

    with pytest.raises(Error) as caught:
        await life.run()

    assert isinstance(caught.value.root_cause, KeyError)
    assert "service 'late' failed" in caplog.text
    assert journal == ["a starts", "a ends"]
    assert life.phases == GRACEFUL


async def test_a_service_may_be_restarted_instead(caplog: pytest.LogCaptureFixture) -> None:
    """With Restart it starts again after a pause; each failure is logged with its traceback."""
    failing = Failing([KeyError("one"), KeyError("two")])
    failing.on_failure = Restart(initial_delay=0.001)
    life = Life(failing)
    task = life.start()
    await eventually(lambda: failing.starts == 3, "the third start")

    life.signal.send(FAST_SHUTDOWN)
    await task

    assert life.phases == FAST
    messages = [record for record in caplog.records if "next try in" in record.getMessage()]
    assert len(messages) == 2
    assert all(record.exc_info for record in messages)


async def test_a_pause_before_a_restart_does_not_delay_the_stop() -> None:
    """A shutdown ends the pause, and the service is not started again."""
    failing = Failing([KeyError("one")])
    failing.on_failure = Restart(initial_delay=30)
    life = Life(failing)
    life.send_when_running(TERMINATE)

    await life.run()

    assert failing.starts == 1
    assert life.phases == GRACEFUL


async def test_a_cancellation_nobody_asked_for_is_a_failure() -> None:
    """A service that ends by a stray CancelledError is not taken for one that was stopped."""
    life = Life(Failing([asyncio.CancelledError()]))

    with pytest.raises(Error, match="service 'failing' failed"):
        await life.run()


async def test_a_failure_during_the_stop_is_logged_and_changes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A server that was asked to stop has stopped as asked."""

    class Clumsy(Service):
        async def start_service(self, context: object) -> None:
            await stop.wait()
            raise KeyError("clumsy")

    stop = asyncio.Event()
    life = Life(Clumsy("clumsy"))
    life.send_when_running(TERMINATE)
    life.on(ExecutionPhase.SHUTDOWN_GRACE_PERIOD, stop.set)

    await life.run()

    assert "service 'clumsy' failed" in caplog.text
    assert "while it stops" in caplog.text


async def test_a_failing_hook_stops_the_server() -> None:
    """on_startup_delay is part of the service: its failure is a failure to start."""

    class Hooked(Recorder):
        def on_startup_delay(self, delay: float) -> None:
            raise KeyError(delay)

    journal: list[str] = []
    life = Life(Hooked("hooked", journal), Recorder("b", journal))
    life.handles[0].add_dependency(life.handles[1])

    with pytest.raises(Error, match="service 'hooked' failed"):
        await life.run()
