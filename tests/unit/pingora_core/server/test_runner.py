"""ServiceRunner: states, leading, reload, and that failures have consequences."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pingora_core.conf import ServerConf
from pingora_core.services import Placement, Restart, Service, ServiceState
from pingora_error import Error, ErrorType
from tests.support.waiting import eventually
from tests.unit.pingora_core.server.fakes import Draining, Failing, Recorder, Stubborn
from tests.unit.pingora_core.server.running import Running

if TYPE_CHECKING:
    from pingora_core.services import ServiceContext

pytestmark = pytest.mark.usefixtures("no_leaks")


def led(service: Service) -> Service:
    """Make a service one for one worker."""
    service.placement = Placement.ONE_WORKER
    return service


# -------------------------------------------------------------------------------------- states


async def test_states_tell_the_life_of_each_service() -> None:
    """From waiting over starting and ready to stopping and ended, each service has its own."""
    journal: list[str] = []
    ready = asyncio.Event()
    front, back = Draining("front", journal), Recorder("back", journal, ready)
    async with Running(front, back, depends=[(0, 1)]) as running:
        runner = running.runner
        assert runner.states == {"front": ServiceState.WAITING, "back": ServiceState.WAITING}
        await eventually(lambda: journal == ["back starts"])
        assert runner.states == {"front": ServiceState.WAITING, "back": ServiceState.STARTING}
        assert not runner.is_ready
        ready.set()
        await eventually(lambda: runner.is_ready)
        assert runner.states == {"front": ServiceState.READY, "back": ServiceState.READY}

        runner.begin_shutdown()
        assert runner.states == {"front": ServiceState.STOPPING, "back": ServiceState.STOPPING}
        await eventually(lambda: runner.running == ["front"])
        assert runner.states == {"front": ServiceState.STOPPING, "back": ServiceState.ENDED}
        front.drained.set()
        await running.ended()

    assert set(runner.states.values()) == {ServiceState.ENDED}


async def test_services_of_one_name_are_told_apart() -> None:
    """A name that is there twice is numbered, in the order of start."""
    async with Running(Recorder("a", []), Recorder("a", []), Recorder("b", [])) as running:
        assert list(running.runner.states) == ["a", "a #2", "b"]


async def test_a_job_that_is_done_has_ended_and_nothing_else_happens() -> None:
    """A service that returns early is no failure."""

    class Once(Service):
        async def start_service(self, context: ServiceContext) -> None:
            pass

    async with Running(Once("once"), Recorder("a", [])) as running:
        await eventually(lambda: running.runner.states["once"] is ServiceState.ENDED)
        assert running.runner.is_ready
        assert running.runner.failure is None
        assert running.runner.running == ["a"]


async def test_a_server_without_services_is_ready_once_it_has_started() -> None:
    """Nothing to wait for is ready, and has ended; but not before the start."""
    running = Running()
    readiness = [running.runner.is_ready]
    async with running:
        readiness.append(running.runner.is_ready)
        assert running.runner.has_ended

    assert readiness == [False, True]


async def test_dependents_are_told_to_stop_first() -> None:
    """At a stop a service hears of it before what it depends on does."""
    journal: list[str] = []

    class Told(Service):
        async def start_service(self, context: ServiceContext) -> None:
            context.shutdown.subscribe(lambda: journal.append(self.name))
            await context.shutdown.wait()

    async with Running(Told("back"), Told("front"), depends=[(1, 0)]) as running:
        await eventually(lambda: running.runner.is_ready)
        await asyncio.sleep(0)

    assert journal == ["front", "back"]


async def test_a_service_that_waits_does_not_delay_the_stop() -> None:
    """A dependent of something that never comes up ends at once, without having started."""
    journal: list[str] = []
    back = Recorder("back", journal, asyncio.Event())
    async with Running(Recorder("front", journal), back, depends=[(0, 1)]) as running:
        await eventually(lambda: journal == ["back starts"])
        running.runner.begin_shutdown()
        await eventually(lambda: running.runner.running == ["back"])

        assert running.runner.states["front"] is ServiceState.ENDED


async def test_the_end_of_streams_is_passed_on() -> None:
    """The second stage of a stop reaches every service that has not ended."""
    seen: list[str] = []

    class Streaming(Service):
        async def start_service(self, context: ServiceContext) -> None:
            over = asyncio.Event()
            context.shutdown.subscribe_end_of_streams(over.set)
            await over.wait()
            seen.append(self.name)

    async with Running(Streaming("a"), Streaming("b"), Recorder("c", [])) as running:
        await eventually(lambda: running.runner.is_ready)
        running.runner.begin_shutdown()
        await eventually(lambda: running.runner.running == ["a", "b"])
        assert not seen
        running.runner.end_streams()
        await running.ended()

    assert seen == ["a", "b"]


# ------------------------------------------------------------------------------------- leading


async def test_one_process_alone_runs_everything() -> None:
    """Without other workers the services that are for one of them run with all others."""
    journal: list[str] = []
    async with Running(Recorder("all", journal), led(Recorder("one", journal))) as running:
        await eventually(lambda: running.runner.is_ready)
        assert journal == ["all starts", "one starts"]
        assert not running.runner.has_resigned
        running.runner.begin_shutdown()
        assert not running.runner.has_resigned
        await running.ended()
        assert running.runner.has_resigned


async def test_who_does_not_lead_is_ready_without_the_services_of_the_leader() -> None:
    """A one-worker service waits for its turn, does not count, and ends with the rest."""
    journal: list[str] = []
    services = (Recorder("all", journal), led(Recorder("one", journal)))
    async with Running(*services, is_leader=False) as running:
        runner = running.runner
        await eventually(lambda: runner.is_ready)
        assert runner.states == {"all": ServiceState.READY, "one": ServiceState.WAITING}
        assert runner.running == ["all"]
        runner.begin_shutdown()
        assert runner.has_resigned
        await running.ended()
        runner.lead()
        assert runner.has_ended

    assert journal == ["all starts", "all ends"]
    assert runner.states["one"] is ServiceState.ENDED


async def test_a_new_leader_starts_what_was_waiting() -> None:
    """lead() starts the one-worker services in their order, once; readiness is not taken back."""
    journal: list[str] = []
    ready = asyncio.Event()
    services = (
        led(Recorder("front", journal)),
        led(Recorder("back", journal, ready)),
        Recorder("all", journal),
    )
    async with Running(*services, depends=[(0, 1), (0, 2)], is_leader=False) as running:
        runner = running.runner
        await eventually(lambda: runner.is_ready)
        runner.lead()
        runner.lead()
        assert runner.is_ready
        await eventually(lambda: journal == ["all starts", "back starts"])
        ready.set()
        await eventually(lambda: journal == ["all starts", "back starts", "front starts"])
        assert set(runner.states.values()) == {ServiceState.READY}


@pytest.mark.parametrize("when", ["before the start", "right after it"])
async def test_leading_early_counts_for_readiness(when: str) -> None:
    """A process that is told to lead before it is ready is ready with the led services only."""
    ready = asyncio.Event()
    services = (Recorder("all", []), led(Recorder("one", [], ready)))
    running = Running(*services, is_leader=False)
    if when == "before the start":
        running.runner.lead()
    async with running:
        running.runner.lead()
        await eventually(lambda: running.runner.states["one"] is ServiceState.STARTING)
        assert not running.runner.is_ready
        ready.set()
        await eventually(lambda: running.runner.is_ready)


# -------------------------------------------------------------------------------------- reload


class Reloading(Recorder):
    """Writes down what it is reloaded with, or fails to."""

    failure: BaseException | None = None

    async def reload(self, conf: ServerConf) -> None:
        if self.failure is not None:
            raise self.failure
        self.journal.append(f"{self.name} reloads {conf.max_retries}")


async def test_a_reload_reaches_what_runs_or_will_run() -> None:
    """Each service hears of it, those that wait too; those that have ended do not."""
    journal: list[str] = []

    class Done(Reloading):
        async def start_service(self, context: ServiceContext) -> None:
            pass

    services = (Reloading("a", journal), Done("done", journal), led(Reloading("one", journal)))
    async with Running(*services, is_leader=False) as running:
        await eventually(lambda: running.runner.states["done"] is ServiceState.ENDED)
        await running.runner.reload(ServerConf(max_retries=7))
        assert running.runner.conf.max_retries == 7

        assert journal == ["a starts", "a reloads 7", "one reloads 7"]


async def test_a_service_that_starts_after_a_reload_gets_the_new_configuration() -> None:
    """What is started later, by leading for instance, runs with what is in use then."""
    seen: list[int] = []

    class Looking(Service):
        async def start_service(self, context: ServiceContext) -> None:
            seen.append(context.conf.max_retries)
            await context.shutdown.wait()

    async with Running(led(Looking("one")), is_leader=False) as running:
        await running.runner.reload(ServerConf(max_retries=7))
        running.runner.lead()
        await eventually(lambda: seen == [7])


@pytest.mark.parametrize("failure", [KeyError("x"), asyncio.CancelledError()], ids=repr)
async def test_services_that_fail_to_reload_are_named_and_the_others_reload(
    failure: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """One service's mistake keeps no other from the new configuration, and stops nothing."""
    journal: list[str] = []
    broken = Reloading("broken", journal)
    broken.failure = failure
    async with Running(broken, Reloading("fine", journal)) as running:
        await eventually(lambda: running.runner.is_ready)
        with pytest.raises(Error, match="did not take over the new configuration: 'broken'"):
            await running.runner.reload(ServerConf(max_retries=7))
        assert running.runner.failure is None
        assert len(running.runner.running) == 2

    assert "fine reloads 7" in journal
    assert "reload: " in caplog.text


async def test_a_reload_can_be_cancelled() -> None:
    """Whoever gives up on a reload is not told of a failure instead."""
    entered = asyncio.Event()

    class Slow(Recorder):
        async def reload(self, conf: ServerConf) -> None:
            entered.set()
            await asyncio.Event().wait()

    async with Running(Slow("slow", [])) as running:
        task = asyncio.create_task(running.runner.reload(ServerConf()))
        await entered.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


# ------------------------------------------------------------------------------------ failures


async def test_a_restart_is_seen_in_the_state() -> None:
    """Between two tries the service is restarting, then it is ready again."""
    failing = Failing([KeyError("one")])
    failing.on_failure = Restart(initial_delay=0.05)
    async with Running(failing) as running:
        await eventually(lambda: running.runner.states["failing"] is ServiceState.RESTARTING)
        await eventually(lambda: running.runner.states["failing"] is ServiceState.READY)
        assert running.runner.failure is None


async def test_a_crash_loop_stops_the_server_if_the_policy_says_so() -> None:
    """After max_restarts within the window the service is given up, which the message tells."""
    failing = Failing([KeyError(number) for number in range(10)])
    failing.on_failure = Restart(initial_delay=0.001, max_restarts=3, restart_window=3600)
    async with Running(failing) as running:
        await eventually(lambda: running.runner.failure is not None)
        assert failing.starts == 4
        assert running.runner.states["failing"] is ServiceState.FAILED
        assert "given up after 3 restarts in 3600 s" in str(running.runner.failure)
        assert "service 'failing' failed" in str(running.runner.failure)


async def test_the_pause_is_shortened_at_random() -> None:
    """The runner's random numbers decide how much of a pause is left."""
    failing = Failing([KeyError("one"), KeyError("two")])
    failing.on_failure = Restart(initial_delay=3600, max_delay=3600, jitter=1)
    async with Running(failing, uniform=lambda: 1.0) as running:
        await eventually(lambda: failing.starts == 3)
        assert running.runner.failure is None


@pytest.mark.parametrize(
    "error", [SystemExit(3), BaseExceptionGroup("x", [SystemExit()])], ids=repr
)
async def test_a_service_that_exits_is_a_service_that_fails(error: BaseException) -> None:
    """sys.exit() in a service does not cut off all others: the server stops as for any failure."""
    async with Running(Recorder("a", []), Failing([error])) as running:
        await eventually(lambda: running.runner.failure is not None)
        assert "service 'failing' failed" in str(running.runner.failure)
        assert running.runner.running == ["a"]


async def test_a_notice_of_readiness_from_an_earlier_try_counts_for_nothing() -> None:
    """What a failed try left behind cannot make the pause after it look like a running service."""
    contexts: list[ServiceContext] = []

    class Leaving(Failing):
        notifies_ready = True

        async def start_service(self, context: ServiceContext) -> None:
            contexts.append(context)
            if len(contexts) == 1:
                context.ready.notify_ready()
            await super().start_service(context)

    leaving = Leaving([KeyError("one")], is_early=True)
    leaving.on_failure = Restart(initial_delay=3600, max_delay=3600)
    async with Running(leaving) as running:
        await eventually(lambda: running.runner.states["failing"] is ServiceState.RESTARTING)
        contexts[0].ready.notify_ready()
        assert running.runner.states["failing"] is ServiceState.RESTARTING


async def test_a_cancelled_service_that_fails_instead_is_not_restarted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A fast stop is one even for a service that answers a cancellation with an error."""

    class Sore(Service):
        async def start_service(self, context: ServiceContext) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise KeyError("sore") from None

    sore = Sore("sore")
    sore.on_failure = Restart()
    async with Running(sore) as running:
        await eventually(lambda: running.runner.is_ready)
        await asyncio.sleep(0)
        running.runner.cancel()
        await running.ended()
        assert running.runner.states == {"sore": ServiceState.FAILED}
        assert running.runner.failure is None

    assert "service 'sore' failed" in caplog.text


async def test_a_failure_before_the_first_readiness_is_final_whatever_the_policy() -> None:
    """What never came up stops the server; the error keeps its type for whoever reads it."""
    failing = Failing([Error(ErrorType.BIND_ERROR, "127.0.0.1:80")], is_early=True)
    failing.on_failure = Restart()
    async with Running(failing) as running:
        await eventually(lambda: running.runner.failure is not None)
        assert running.runner.failure is not None
        assert running.runner.failure.root_etype is ErrorType.BIND_ERROR
        assert failing.starts == 1


async def test_what_will_not_end_still_counts_as_running() -> None:
    """A service that swallows its cancellation is named as what is left."""
    stubborn = Stubborn()
    async with Running(stubborn) as running:
        await eventually(lambda: running.runner.is_ready)
        await asyncio.sleep(0)
        running.runner.begin_shutdown()
        running.runner.cancel()
        await stubborn.cancelled.wait()
        assert running.runner.running == ["stubborn"]
        assert not running.runner.has_ended
        stubborn.released.set()
        await running.ended()
