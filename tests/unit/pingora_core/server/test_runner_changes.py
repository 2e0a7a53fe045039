"""ServiceRunner: services that come and go while the server runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pingora_core.conf import CONFIG_ERROR, ServerConf
from pingora_core.services import Placement, Restart, Service, ServiceState
from pingora_error import Error, ErrorSource, ErrorType
from tests.support.waiting import eventually
from tests.unit.pingora_core.server.fakes import Draining, Failing, Recorder, Stubborn
from tests.unit.pingora_core.server.running import Running

if TYPE_CHECKING:
    from pingora_core.services import ServiceContext

pytestmark = pytest.mark.usefixtures("no_leaks")


def assert_nothing_is_left(running: Running, *names: str) -> None:
    """Only these services are known to graph and runner."""
    assert [handle.name for handle in running.graph] == list(names)
    assert list(running.runner.states) == list(names)


# -------------------------------------------------------------------------------------- adding


async def test_a_service_can_be_added() -> None:
    """add() returns when the service is ready, and it stops with the others."""
    journal: list[str] = []
    ready = asyncio.Event()
    async with Running(Recorder("a", journal)) as running:
        await eventually(lambda: running.runner.is_ready)
        adding = asyncio.create_task(
            running.runner.add(running.graph.add(Recorder("b", journal, ready)))
        )
        await eventually(lambda: journal == ["a starts", "b starts"])
        assert not adding.done()
        # The server is as ready as before.
        assert running.runner.is_ready
        ready.set()
        await adding
        assert running.runner.states == {"a": ServiceState.READY, "b": ServiceState.READY}
        running.runner.begin_shutdown()
        await running.ended()

    assert sorted(journal[2:]) == ["a ends", "b ends"]


async def test_a_job_that_is_done_at_once_can_be_added() -> None:
    """A service that ends before it says that it is ready was started all right."""

    class Once(Service):
        notifies_ready = True

        async def start_service(self, context: ServiceContext) -> None:
            pass

    async with Running() as running:
        handle = running.graph.add(Once("once"))
        await running.runner.add(handle)
        assert running.runner.states == {"once": ServiceState.ENDED}
        await running.runner.remove(handle)
        assert_nothing_is_left(running)


@pytest.mark.parametrize("is_early", [True, False])
async def test_a_service_that_fails_to_start_is_its_adders_problem(is_early: bool) -> None:
    """The failure is raised by add(), nothing is left of the service, and the server goes on."""
    failing = Failing([Error(ErrorType.BIND_ERROR, "in use")], is_early=is_early)
    failing.on_failure = Restart()
    async with Running(Recorder("a", [])) as running:
        with pytest.raises(Error, match="service 'failing' failed") as caught:
            await running.runner.add(running.graph.add(failing))
        assert caught.value.root_etype is ErrorType.BIND_ERROR
        assert running.runner.failure is None
        assert_nothing_is_left(running, "a")

        # At once again, now without a failure.
        await running.runner.add(running.graph.add(failing))
        assert failing.starts == 2
        assert_nothing_is_left(running, "a", "failing")


async def test_an_added_service_that_fails_later_is_treated_by_its_policy() -> None:
    """Once add() has returned, a failure stops the server or restarts the service."""

    class Late(Service):
        async def start_service(self, context: ServiceContext) -> None:
            await fail.wait()
            fail.clear()
            raise KeyError(self.name)

    fail = asyncio.Event()
    async with Running() as running:
        tough = Late("tough")
        tough.on_failure = Restart(initial_delay=0.001)
        await running.runner.add(running.graph.add(tough))
        fail.set()
        await eventually(lambda: not fail.is_set())
        await eventually(lambda: running.runner.states["tough"] is ServiceState.READY)
        assert running.runner.failure is None

        await running.runner.add(running.graph.add(Late("frail")))
        fail.set()
        await eventually(lambda: running.runner.failure is not None)
        assert "service 'frail' failed" in str(running.runner.failure)


async def test_a_service_that_is_not_set_up_right_is_not_started() -> None:
    """check() is asked before anything starts."""
    journal: list[str] = []

    class Wrong(Recorder):
        def check(self) -> None:
            raise Error(CONFIG_ERROR, "no", source=ErrorSource.INTERNAL)

    async with Running() as running:
        with pytest.raises(Error, match="ConfigError"):
            await running.runner.add(running.graph.add(Wrong("wrong", journal)))
        assert_nothing_is_left(running)

    assert journal == []


async def test_an_added_service_waits_for_its_dependencies() -> None:
    """It may depend on what runs, and on what is being added at the same time."""
    journal: list[str] = []
    ready = asyncio.Event()
    async with Running(Recorder("a", journal)) as running:
        back = running.graph.add(Recorder("back", journal, ready))
        front = running.graph.add(Recorder("front", journal))
        front.add_dependencies([running.handles[0], back])
        adding = [asyncio.create_task(running.runner.add(each)) for each in (back, front)]
        await eventually(lambda: journal == ["a starts", "back starts"])
        ready.set()
        await asyncio.gather(*adding)
        assert journal == ["a starts", "back starts", "front starts"]


async def test_a_failing_hook_is_a_failure_to_start() -> None:
    """What on_startup_delay() raises is told to the adder too."""

    class Hooked(Recorder):
        def on_startup_delay(self, delay: float) -> None:
            raise KeyError(delay)

    async with Running(Recorder("a", [])) as running:
        handle = running.graph.add(Hooked("hooked", []))
        handle.add_dependency(running.handles[0])
        with pytest.raises(Error, match="service 'hooked' failed"):
            await running.runner.add(handle)
        assert running.runner.failure is None
        assert_nothing_is_left(running, "a")


async def test_what_depends_on_a_service_that_fails_to_start_fails_with_it() -> None:
    """A whole chain is out again, each adder is told why, and none of the rest was started."""
    journal: list[str] = []
    fail = asyncio.Event()

    class Failing(Service):
        notifies_ready = True

        async def start_service(self, context: ServiceContext) -> None:
            await fail.wait()
            raise KeyError("x")

    async with Running() as running:
        names = ["back", "middle", "front"]
        services = [Failing("back"), Recorder("middle", journal), Recorder("front", journal)]
        handles = [running.graph.add(service) for service in services]
        handles[1].add_dependency(handles[0])
        handles[2].add_dependency(handles[1])
        adding = [asyncio.create_task(running.runner.add(each)) for each in handles]
        await eventually(lambda: list(running.runner.states) == names)
        fail.set()
        outcomes = await asyncio.gather(*adding, return_exceptions=True)

        assert "service 'back' failed" in str(outcomes[0])
        assert "'middle' failed: it depends on 'back'" in str(outcomes[1])
        assert "'front' failed: it depends on 'back'" in str(outcomes[2])
        assert_nothing_is_left(running)
        assert running.runner.failure is None

    assert journal == []


async def test_adding_can_be_given_up() -> None:
    """Cancelling add() breaks the service off and takes it out again."""
    broken_off: list[str] = []

    class Slow(Service):
        notifies_ready = True

        async def start_service(self, context: ServiceContext) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                broken_off.append(self.name)
                raise

    async with Running() as running:
        service = Slow("a")
        adding = asyncio.create_task(running.runner.add(running.graph.add(service)))
        await eventually(lambda: running.runner.states.get("a") is ServiceState.STARTING)
        adding.cancel()
        await asyncio.wait([adding])
        assert adding.cancelled()
        await eventually(lambda: not running.runner.states)
        assert_nothing_is_left(running)

    assert broken_off == ["a"]


@pytest.mark.parametrize("ends_by", ["shutdown", "failure"])
async def test_a_stop_ends_an_addition(ends_by: str) -> None:
    """A server that stops tells whoever is adding a service, and takes it out again."""
    ready = asyncio.Event()
    failing = Recorder("failing", [])
    async with Running(failing) as running:
        runner = running.runner
        back = running.graph.add(Recorder("back", [], ready))
        front = running.graph.add(Recorder("front", []))
        front.add_dependency(back)
        adding = [asyncio.create_task(runner.add(each)) for each in (back, front)]
        await eventually(lambda: runner.states.get("back") is ServiceState.STARTING)
        if ends_by == "shutdown":
            runner.begin_shutdown()
            ready.set()
        else:
            runner.failure = Error(ErrorType.INTERNAL_ERROR, "another service")
            ready.set()
            await eventually(adding[1].done)
            runner.begin_shutdown()
        outcomes = await asyncio.gather(*adding, return_exceptions=True)

    assert isinstance(outcomes[1], RuntimeError)
    assert "was told to end before it was ready" in str(outcomes[1])


async def test_too_early_and_too_late_is_refused() -> None:
    """Services are added to a server that runs; nothing is left of a refused one."""
    service = Recorder("late", [])
    running = Running()
    with pytest.raises(RuntimeError, match="the server has not started"):
        await running.runner.add(running.graph.add(service))
    async with running:
        running.runner.begin_shutdown()
        with pytest.raises(RuntimeError, match="the server stops"):
            await running.runner.add(running.graph.add(service))
        assert_nothing_is_left(running)


async def test_what_makes_no_sense_is_refused() -> None:
    """Twice, from elsewhere, or on top of something that does not run."""
    journal: list[str] = []
    async with Running(Recorder("a", journal)) as running, Running(Recorder("b", [])) as elsewhere:
        with pytest.raises(ValueError, match="'a' runs already"):
            await running.runner.add(running.handles[0])
        with pytest.raises(ValueError, match="'b' is not in this server"):
            await running.runner.add(elsewhere.handles[0])

        idle = running.graph.add(Recorder("idle", journal))
        front = running.graph.add(Recorder("front", journal))
        front.add_dependency(idle)
        with pytest.raises(ValueError, match="'front' depends on 'idle', which was not started"):
            await running.runner.add(front)
        assert [handle.name for handle in running.graph] == ["a", "idle"]
        await running.runner.remove(idle)
        assert_nothing_is_left(running, "a")


# ----------------------------------------------------------------------------- one worker of many


async def test_an_added_service_for_one_worker_waits_for_its_turn() -> None:
    """Where another worker leads, add() returns at once; a start that fails later has a policy."""
    failing = Failing([KeyError("x")], is_early=True)
    failing.placement = Placement.ONE_WORKER
    failing.on_failure = Restart(initial_delay=0.001)
    async with Running(is_leader=False) as running:
        await running.runner.add(running.graph.add(failing))
        assert running.runner.states == {"failing": ServiceState.WAITING}
        assert failing.starts == 0
        running.runner.lead()
        await eventually(lambda: running.runner.states["failing"] is ServiceState.READY)
        assert failing.starts == 2
        assert running.runner.failure is None


async def test_a_service_for_one_worker_can_be_removed_where_it_does_not_run() -> None:
    """There is nothing to wait for, and leading does not bring it back."""
    journal: list[str] = []
    service = Recorder("one", journal)
    service.placement = Placement.ONE_WORKER
    async with Running(service, is_leader=False) as running:
        await running.runner.remove(running.handles[0])
        assert_nothing_is_left(running)
        running.runner.lead()
        assert running.runner.has_ended

    assert journal == []


async def test_nothing_can_wait_for_what_runs_elsewhere() -> None:
    """An every-worker service cannot be added on top of one that is for one worker."""
    service = Recorder("one", [])
    service.placement = Placement.ONE_WORKER
    async with Running(service, is_leader=False) as running:
        handle = running.graph.add(Recorder("all", []))
        handle.add_dependency(running.handles[0])
        with pytest.raises(Error, match="'all' runs in every worker and depends on 'one'"):
            await running.runner.add(handle)
        assert_nothing_is_left(running, "one")


# ------------------------------------------------------------------------------------ removing


async def test_a_service_can_be_removed_and_added_again() -> None:
    """Only that service is told to end; what is in flight may end first; then nothing is left."""
    journal: list[str] = []
    draining = Draining("b", journal)
    async with Running(Recorder("a", journal), draining) as running:
        await eventually(lambda: running.runner.is_ready)
        removing = asyncio.create_task(running.runner.remove(running.handles[1], 30))
        await draining.shutdown_seen.wait()
        assert running.runner.states["b"] is ServiceState.STOPPING
        with pytest.raises(RuntimeError, match="'b' was removed but has not ended"):
            await running.runner.add(running.graph.add(draining))
        draining.drained.set()
        await removing
        assert_nothing_is_left(running, "a")

        await running.runner.add(running.graph.add(draining))
        assert_nothing_is_left(running, "a", "b")

    assert journal[:5] == ["a starts", "b starts", "b ends", "b has drained", "b starts"]


async def test_what_outlasts_its_time_is_broken_off(caplog: pytest.LogCaptureFixture) -> None:
    """After the timeout the service is cancelled, which is said."""
    journal: list[str] = []
    async with Running(Draining("a", journal)) as running:
        await eventually(lambda: journal == ["a starts"])
        await running.runner.remove(running.handles[0], 0.01)
        assert_nothing_is_left(running)

    assert journal == ["a starts", "a ends", "a is cut off"]
    assert "breaking off what is still in flight in: a" in caplog.text


async def test_streams_are_ended_in_time() -> None:
    """Long-lived exchanges of a removed service are told to end before it is broken off."""

    class Streaming(Service):
        async def start_service(self, context: ServiceContext) -> None:
            over = asyncio.Event()
            context.shutdown.subscribe_end_of_streams(over.set)
            await over.wait()

    conf = ServerConf(stream_drain_seconds=0.01)
    async with Running(Streaming("a"), Streaming("b"), conf=conf) as running:
        await eventually(lambda: running.runner.is_ready)
        await running.runner.remove(running.handles[0])
        await running.runner.remove(running.handles[1], 0.005)
        assert_nothing_is_left(running)


async def test_what_will_not_end_is_an_error() -> None:
    """A service that swallows its cancellation is left behind; whoever removes it is told."""
    stubborn = Stubborn()
    async with Running(stubborn) as running:
        await eventually(lambda: running.runner.is_ready)
        with pytest.raises(Error, match="'stubborn' would not end and is left behind"):
            await running.runner.remove(running.handles[0], 0)
        assert len(running.graph) == 0
        assert running.runner.running == ["stubborn"]
        stubborn.released.set()
        await eventually(lambda: not running.runner.states)


async def test_a_removal_that_is_cancelled_breaks_the_service_off() -> None:
    """Whoever gives up waiting has given up on what was in flight."""
    journal: list[str] = []
    draining = Draining("a", journal)
    async with Running(draining) as running:
        await eventually(lambda: journal == ["a starts"])
        removing = asyncio.create_task(running.runner.remove(running.handles[0]))
        await draining.shutdown_seen.wait()
        removing.cancel()
        await asyncio.wait([removing])
        assert removing.cancelled()
        await eventually(lambda: not running.runner.states)

    assert journal == ["a starts", "a ends", "a is cut off"]


async def test_what_others_depend_on_stays() -> None:
    """A service with dependents is refused and goes on; twice removed is refused too."""
    async with Running(Recorder("back", []), Recorder("front", []), depends=[(1, 0)]) as running:
        back, front = running.handles
        await eventually(lambda: running.runner.is_ready)
        with pytest.raises(ValueError, match="'back' cannot be removed: it is needed by 'front'"):
            await running.runner.remove(back)
        assert running.runner.states["back"] is ServiceState.READY
        await running.runner.remove(front)
        await running.runner.remove(back)
        with pytest.raises(ValueError, match="'back' is not in this server"):
            await running.runner.remove(back)
        assert_nothing_is_left(running)


async def test_a_service_that_is_being_added_can_be_removed() -> None:
    """Its adder hears that it was told to end."""
    journal: list[str] = []
    async with Running() as running:
        handle = running.graph.add(Recorder("a", journal, asyncio.Event()))
        adding = asyncio.create_task(running.runner.add(handle))
        await eventually(lambda: journal == ["a starts"])
        await running.runner.remove(handle, 0)
        with pytest.raises(RuntimeError, match="told to end before it was ready"):
            await adding
        assert_nothing_is_left(running)


async def test_a_pause_before_a_restart_does_not_delay_a_removal() -> None:
    """Between two tries there is nothing to wait for."""
    failing = Failing([KeyError("one")])
    failing.on_failure = Restart(initial_delay=3600, max_delay=3600)
    async with Running(failing) as running:
        await eventually(lambda: running.runner.states["failing"] is ServiceState.RESTARTING)
        await running.runner.remove(running.handles[0])
        assert_nothing_is_left(running)


async def test_a_removal_during_a_stop_ends_with_it() -> None:
    """What is being removed when the server stops is part of the stop."""
    journal: list[str] = []
    draining = Draining("a", journal)
    async with Running(draining) as running:
        await eventually(lambda: journal == ["a starts"])
        removing = asyncio.create_task(running.runner.remove(running.handles[0]))
        await draining.shutdown_seen.wait()
        running.runner.begin_shutdown()
        assert running.runner.running == ["a"]
        running.runner.cancel()
        await removing
        await running.ended()


async def test_coming_and_going_leaves_nothing_behind() -> None:
    """Hundreds of services later the runner knows only those that are there."""
    async with Running(Recorder("a", [])) as running:
        for number in range(200):
            service = Recorder(f"service {number}", [])
            handle = running.graph.add(service)
            await running.runner.add(handle)
            await running.runner.remove(handle)
        assert_nothing_is_left(running, "a")
