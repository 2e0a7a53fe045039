"""The process of a server: its event loop, and the way out."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading

import pytest
import uvloop

from pingora_core.conf import CONFIG_ERROR, ServerConf
from pingora_core.server.process import exit_on_error, run_in_event_loop, say
from pingora_error import Error, ErrorType


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (Error(CONFIG_ERROR, "a.yaml: k: got 1,\nallowed: 2"), 2, "a.yaml: k: got 1, allowed: 2"),
        (Error(CONFIG_ERROR, "c").more_context("service 'a' failed"), 2, "service 'a' failed"),
        (Error(ErrorType.BIND_ERROR, "x"), 1, "BindError context: x"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(
    error: Error, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A configuration error anywhere in the chain is 2, everything else 1."""
    with pytest.raises(SystemExit) as caught, exit_on_error():
        raise error

    said = capsys.readouterr().err
    assert caught.value.code == code
    assert line in said
    assert said.count("\n") == 1


def test_other_exceptions_pass() -> None:
    """A bug keeps its traceback."""
    with pytest.raises(KeyError), exit_on_error():
        raise KeyError


def test_saying_something_to_nobody_is_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed standard error does not turn a clean end into a failure."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as nobody:
        monkeypatch.setattr("sys.stderr", nobody)
        say("something")
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), nobody.fileno())


def test_the_loop_is_uvloop_and_is_closed_afterwards() -> None:
    """The server brings its own loop and takes it away."""
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())

    run_in_event_loop(main, ServerConf())

    assert isinstance(loops[0], uvloop.Loop)
    assert loops[0].is_closed()


def test_tasks_that_were_left_are_cancelled() -> None:
    """What an application forgot gets to run its cleanup."""
    ends: list[str] = []
    tasks: set[asyncio.Task[None]] = set()

    async def forgotten() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ends.append("cleaned up")

    async def main() -> None:
        tasks.add(asyncio.create_task(forgotten()))
        await asyncio.sleep(0)

    run_in_event_loop(main, ServerConf())

    assert ends == ["cleaned up"]


def test_blocking_calls_run_in_as_many_threads_as_configured() -> None:
    """max_blocking_threads bounds the loop's executor."""
    running = 0
    most = 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.01)
        with lock:
            running -= 1

    async def main() -> None:
        await asyncio.gather(*(asyncio.to_thread(work) for _ in range(6)))

    run_in_event_loop(main, ServerConf(max_blocking_threads=2))

    assert most == 2


def test_a_thread_that_is_stuck_does_not_keep_the_process() -> None:
    """leave() ends the process within its limit even if a blocking call never returns."""
    program = (
        "import threading\n"
        "from pingora_core.server.process import leave\n"
        "threading.Thread(target=threading.Event().wait).start()\n"
        "leave(0.05)\n"
    )

    done = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)

    assert done.returncode == 0
