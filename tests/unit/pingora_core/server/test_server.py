"""Server: options, bootstrap, running in process, exit codes."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import TYPE_CHECKING, NoReturn

import pytest

from pingora_core.conf import CONFIG_ERROR, Opt, ServerConf
from pingora_core.server import ExecutionPhase, ManualShutdownSignal, Server, ShutdownSignal
from pingora_core.services import Service
from pingora_error import Error, ErrorType
from tests.support.waiting import eventually
from tests.unit.pingora_core.server.fakes import Failing, Recorder

if TYPE_CHECKING:
    from pathlib import Path

    from pingora_core.services import ServiceContext

BOOTSTRAPPED = [ExecutionPhase.BOOTSTRAP, ExecutionPhase.BOOTSTRAP_COMPLETE]
GRACEFUL = [
    *BOOTSTRAPPED,
    ExecutionPhase.RUNNING,
    ExecutionPhase.GRACEFUL_TERMINATE,
    ExecutionPhase.SHUTDOWN_STARTED,
    ExecutionPhase.SHUTDOWN_GRACE_PERIOD,
    ExecutionPhase.SHUTDOWN_RUNTIMES,
    ExecutionPhase.TERMINATED,
]
FAST = [
    *BOOTSTRAPPED,
    ExecutionPhase.RUNNING,
    ExecutionPhase.SHUTDOWN_STARTED,
    ExecutionPhase.SHUTDOWN_RUNTIMES,
    ExecutionPhase.TERMINATED,
]


class Unsound(Service):
    """Is not set up as it should be."""

    def check(self) -> None:
        raise Error(CONFIG_ERROR, "service 'unsound': got 1, allowed: 2")

    async def start_service(self, context: ServiceContext) -> NoReturn:
        raise AssertionError


def phases_of(server: Server) -> list[ExecutionPhase]:
    phases: list[ExecutionPhase] = []
    server.on_execution_phase(phases.append)
    return phases


def stop_when_running(server: Server, request: ShutdownSignal) -> ManualShutdownSignal:
    manual = ManualShutdownSignal()

    def send(phase: ExecutionPhase) -> None:
        if phase is ExecutionPhase.RUNNING:
            manual.send(request)

    server.on_execution_phase(send)
    return manual


# --------------------------------------------------------------------------------- phase order


@pytest.mark.parametrize(
    ("request_", "expected"),
    [(ShutdownSignal.GRACEFUL_TERMINATE, GRACEFUL), (ShutdownSignal.FAST_SHUTDOWN, FAST)],
    ids=["graceful", "fast"],
)
def test_run_goes_through_the_phases_and_returns(
    request_: ShutdownSignal, expected: list[ExecutionPhase]
) -> None:
    """run() with a signal of one's own starts, stops and comes back."""
    server = Server()
    journal: list[str] = []
    server.add_service(Recorder("a", journal))
    phases = phases_of(server)
    assert str(server.phase) == "Setup"

    server.run(stop_when_running(server, request_))

    assert phases == expected
    assert str(server.phase) == "Terminated"
    assert journal[0] == "a starts"


@pytest.mark.parametrize(
    ("number", "expected"),
    [(signal.SIGTERM, GRACEFUL), (signal.SIGINT, FAST)],
    ids=["SIGTERM", "SIGINT"],
)
def test_running_is_announced_after_the_signal_handlers_are_there(
    number: signal.Signals, expected: list[ExecutionPhase]
) -> None:
    """A signal sent in the very moment of Running is a shutdown, not a death."""
    server = Server()
    phases = phases_of(server)

    def kill(phase: ExecutionPhase) -> None:
        if phase is ExecutionPhase.RUNNING:
            os.kill(os.getpid(), number)

    server.on_execution_phase(kill)
    server.run()

    assert phases == expected


async def test_a_server_can_run_in_a_loop_that_exists() -> None:
    """serve() is for programs and tests that have a loop; phases can be iterated there."""
    server = Server()
    watch = server.watch_execution_phase()
    manual = ManualShutdownSignal()
    task = asyncio.create_task(server.serve(manual))

    seen = []
    async for phase in watch:
        seen.append(phase)
        if phase is ExecutionPhase.RUNNING:
            manual.send(ShutdownSignal.GRACEFUL_TERMINATE)
    await task

    assert seen == GRACEFUL


def test_a_server_can_run_in_another_thread() -> None:
    """With a signal of one's own the main thread is not needed."""
    server = Server()
    phases = phases_of(server)
    manual = stop_when_running(server, ShutdownSignal.GRACEFUL_TERMINATE)
    thread = threading.Thread(target=server.run, args=(manual,))

    thread.start()
    thread.join(30)

    assert phases == GRACEFUL


# ----------------------------------------------------------------------------------- bootstrap


def test_bootstrap_is_done_once() -> None:
    """A program may bootstrap early; run() does not repeat it."""
    server = Server()
    phases = phases_of(server)

    server.bootstrap()
    server.bootstrap()
    assert phases == BOOTSTRAPPED
    server.run(stop_when_running(server, ShutdownSignal.FAST_SHUTDOWN))

    assert phases == FAST


async def test_bootstrap_as_a_service_waits_for_its_dependencies() -> None:
    """BootstrapComplete comes only after what the bootstrap depends on is ready."""
    server = Server()
    ready = asyncio.Event()
    journal: list[str] = []
    first = server.add_service(Recorder("first", journal, ready))
    server.bootstrap_as_a_service().add_dependency(first)
    phases = phases_of(server)
    manual = stop_when_running(server, ShutdownSignal.FAST_SHUTDOWN)
    task = asyncio.create_task(server.serve(manual))
    await asyncio.sleep(0.02)

    assert journal == ["first starts"]
    assert phases == []
    ready.set()
    await task

    assert phases == FAST


def test_bootstrap_as_a_service_is_added_once_and_not_too_late() -> None:
    """Asking twice gives the same handle; after a bootstrap it is a mistake."""
    server = Server()

    assert server.bootstrap_as_a_service() is server.bootstrap_as_a_service()
    server.bootstrap()
    with pytest.raises(RuntimeError, match="bootstrap is done"):
        server.bootstrap_as_a_service()


def test_a_service_that_is_not_set_up_well_keeps_the_server_from_starting() -> None:
    """What a service's own check finds is raised before anything runs."""
    server = Server()
    journal: list[str] = []
    server.add_services([Recorder("a", journal), Unsound("unsound")])

    with pytest.raises(Error) as caught:
        server.run(ManualShutdownSignal())

    assert caught.value.etype == CONFIG_ERROR
    assert journal == []


# ------------------------------------------------------------------------------------- misuse


def test_a_server_runs_once() -> None:
    """Neither a second run nor a late service goes unnoticed."""
    server = Server()
    server.run(stop_when_running(server, ShutdownSignal.FAST_SHUTDOWN))

    with pytest.raises(RuntimeError, match="runs once"):
        server.run(ManualShutdownSignal())
    with pytest.raises(RuntimeError, match="'a' comes too late"):
        server.add_service(Recorder("a", []))


# ------------------------------------------------------------------------------- configuration


def test_the_configuration_comes_from_the_file_of_the_options(tmp_path: Path) -> None:
    """-c names the file that the server runs with."""
    path = tmp_path / "conf.yaml"
    path.write_text("max_retries: 3")

    server = Server(Opt(conf=str(path)))

    assert server.configuration.max_retries == 3
    assert server.options.conf == str(path)


def test_a_configuration_that_is_given_wins(caplog: pytest.LogCaptureFixture) -> None:
    """-c is ignored, with a warning, when the program brings its configuration."""
    server = Server(Opt(conf="/nowhere.yaml"), ServerConf(max_retries=5))

    assert server.configuration.max_retries == 5
    assert "-c /nowhere.yaml is ignored" in caplog.text


@pytest.mark.parametrize(
    ("opt", "conf", "said"),
    [
        (Opt(), ServerConf(workers=0), "ServerConf: workers: got 0, allowed: a whole number"),
        (Opt(), ServerConf(ca_file="/nowhere.pem"), "ServerConf: ca_file: got '/nowhere.pem'"),
    ],
)
def test_what_cannot_be_done_is_refused(
    opt: Opt, conf: ServerConf, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program ends with one line and exit code 2; without options the same is raised."""
    with pytest.raises(SystemExit) as exit_:
        Server(opt, conf)

    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert f": error: {said}" in error
    assert error.count("\n") == 1
    if opt == Opt():
        with pytest.raises(Error) as caught:
            Server(conf=conf)
        assert said in caught.value.context


def test_a_bad_file_ends_the_program_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names the file, the key, the value and what is allowed."""
    path = tmp_path / "conf.yaml"
    path.write_text("threads: none")

    with pytest.raises(SystemExit) as exit_:
        Server(Opt(conf=str(path)))

    assert exit_.value.code == 2
    said = f"{path}: threads: got 'none', allowed: a whole number from 1 to 1024, or auto\n"
    assert capsys.readouterr().err.endswith(f": error: {said}")


# ---------------------------------------------------------------------------------- exit codes


def run_forever(server: Server) -> int | str | None:
    with pytest.raises(SystemExit) as caught:
        server.run_forever(stop_when_running(server, ShutdownSignal.GRACEFUL_TERMINATE))
    return caught.value.code


def test_a_shutdown_that_was_asked_for_is_exit_code_0(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is said and the process ends well."""
    assert run_forever(Server()) == 0
    assert capsys.readouterr().err == ""


def test_a_service_that_fails_at_the_start_is_exit_code_1(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The line names the service and why it failed."""
    server = Server()
    server.add_service(Failing([Error(ErrorType.BIND_ERROR, "on 127.0.0.1:80")], is_early=True))

    assert run_forever(server) == 1
    error = capsys.readouterr().err
    assert "service 'failing' failed" in error
    assert "BindError" in error
    assert "on 127.0.0.1:80" in error
    assert error.count("\n") == 1


def test_a_service_that_is_not_set_up_well_is_exit_code_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A bad address is the same kind of mistake as a bad configuration file."""
    server = Server()
    server.add_service(Unsound("unsound"))

    assert run_forever(server) == 2
    assert capsys.readouterr().err.endswith(": error: service 'unsound': got 1, allowed: 2\n")


def test_the_test_option_checks_and_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """-t says that the configuration is valid and exits with 0."""
    path = tmp_path / "conf.yaml"
    path.write_text("")
    server = Server(Opt(test=True, conf=str(path)))
    journal: list[str] = []
    server.add_service(Recorder("a", journal))
    server.bootstrap_as_a_service()

    assert run_forever(server) == 0
    assert capsys.readouterr().err.endswith(f": configuration is valid: {path}\n")
    assert journal == []


def test_the_test_option_finds_what_a_service_finds(capsys: pytest.CaptureFixture[str]) -> None:
    """-t looks at the services too, and exits with 2."""
    server = Server(Opt(test=True))
    server.add_service(Unsound("unsound"))

    assert run_forever(server) == 2
    assert "got 1, allowed: 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("opt", "conf", "said"),
    [
        (Opt(upgrade=True), ServerConf(), "ServerConf: option -u: not available"),
        (Opt(), ServerConf(daemon=True), "ServerConf: daemon: not available"),
        (Opt(), ServerConf(workers=2), "ServerConf: workers: not available"),
    ],
)
async def test_what_needs_a_process_is_refused_in_a_loop(
    opt: Opt, conf: ServerConf, said: str
) -> None:
    """Nothing can be forked or taken over where an event loop runs already."""
    server = Server(opt, conf)

    with pytest.raises(Error) as caught:
        await server.serve()

    assert said in caught.value.context


async def test_services_come_and_go_while_the_server_runs() -> None:
    """A service can be started and stopped in a running server, and is refused in one that is not."""
    ran: list[str] = []

    class Worker(Service):
        async def start_service(self, context: ServiceContext) -> None:
            ran.append("start")
            await context.shutdown.wait()
            ran.append("end")

    server = Server(conf=ServerConf())
    signals = ManualShutdownSignal()
    serving = asyncio.create_task(server.serve(signals))
    await eventually(lambda: server.is_ready, "readiness")

    handle = await server.start_service(Worker("worker"))
    assert ran == ["start"]
    await server.stop_service(handle)
    assert ran == ["start", "end"]

    signals.send(ShutdownSignal.GRACEFUL_TERMINATE)
    await serving
    with pytest.raises(RuntimeError, match="does not run"):
        await server.start_service(Worker("late"))
