"""A worker's side of the line to its supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import pytest

from pingora_core.conf import CONFIG_ERROR, ServerConf
from pingora_core.listeners.fds import ListenFds
from pingora_core.listeners.l4 import TcpServerAddress
from pingora_core.runtime.counters import COUNTERS
from pingora_core.server.signals import ControlSignal, ShutdownSignal
from pingora_core.server.workers import worker as module
from pingora_core.server.workers.channel import (
    Beat,
    Channel,
    Failed,
    Lead,
    Obtain,
    Ready,
    Recycle,
    Released,
    Reload,
    Reloaded,
    ReopenLogs,
    Resigned,
    Stop,
    Supply,
    pack_text,
)
from pingora_core.server.workers.worker import WorkerLink
from pingora_error import Error, ErrorType
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pingora_core.server.signals import ServerSignal
    from pingora_core.server.workers.channel import FromWorker, ToWorker

GRACEFUL = ShutdownSignal.GRACEFUL_TERMINATE


class Line:
    """A link and the supervisor's end of it."""

    def __init__(self, conf: ServerConf) -> None:
        self.ours, theirs = Channel.pair()
        self.theirs = theirs
        self.fds = ListenFds()
        self.link = WorkerLink(theirs, conf, self.fds)
        self.applied: list[ServerConf] = []
        self.failure: Exception | None = None
        self.calls: list[str] = []
        self.said: list[FromWorker] = []

    async def __aenter__(self) -> Self:
        async def apply(conf: ServerConf) -> None:
            if self.failure is not None:
                raise self.failure
            self.applied.append(conf)

        self.link.attach(
            lead=lambda: self.calls.append("lead"),
            apply=apply,
            reopen=lambda: self.calls.append("reopen"),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self.link.detach()
        self.ours.close()
        self.theirs.close()
        self.link.fds.close()
        self.fds.close()

    def tell(self, message: ToWorker, fds: tuple[int, ...] = ()) -> None:
        self.ours.send(message, fds)

    def reload(self, text: str) -> None:
        fd = pack_text(text)
        self.tell(Reload("conf.yaml"), (fd,))
        os.close(fd)

    async def heard(self, wanted: type[FromWorker]) -> FromWorker:
        """Wait for news of a kind, and return them."""

        def has_come() -> bool:
            with suppress(BlockingIOError):
                while (received := self.ours.receive_from_worker()) is not None:
                    self.said.append(received[0])
            return any(isinstance(each, wanted) for each in self.said)

        await eventually(has_come, wanted.__name__)
        return next(each for each in self.said if isinstance(each, wanted))

    async def signal(self) -> ServerSignal:
        return await asyncio.wait_for(self.link.recv(), 30)

    async def is_quiet(self) -> bool:
        waiting = asyncio.ensure_future(self.link.recv())
        for _ in range(5):
            await asyncio.sleep(0)
        is_quiet = not waiting.done()
        waiting.cancel()
        return is_quiet


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    async with Line(ServerConf()) as made:
        yield made


# ---------------------------------------------------------------------------------------- orders


async def test_a_stop_is_a_signal(line: Line) -> None:
    """The supervisor decides how, and how long the lame duck period is."""
    line.tell(Stop(GRACEFUL, 2.5))

    assert await line.signal() is GRACEFUL
    assert line.link.lame_duck(ServerConf(lame_duck_seconds=9.0)) == 2.5
    assert line.link.fds.serves_backlog


async def test_a_worker_that_stops_alone_leaves_what_waits_to_the_others(line: Line) -> None:
    """What the kernel has queued is served by workers that go on."""
    line.tell(Stop(GRACEFUL, is_whole_server=False))

    await line.signal()

    assert not line.link.fds.serves_backlog


async def test_a_stop_that_is_told_twice_does_not_force(line: Line) -> None:
    """A service manager may signal all processes of a server; that is one stop, not two."""
    os.kill(os.getpid(), signal.SIGTERM)
    assert await line.signal() is GRACEFUL
    line.tell(Stop(GRACEFUL))
    assert await line.is_quiet()

    line.tell(Stop(ShutdownSignal.FAST_SHUTDOWN))

    assert await line.signal() is ShutdownSignal.FAST_SHUTDOWN


async def test_without_a_supervisor_it_stops(line: Line) -> None:
    """Nobody would replace it, upgrade it or stop it any more."""
    line.ours.close()

    assert await line.signal() is GRACEFUL
    assert line.link.lame_duck(ServerConf()) == 0


async def test_leading_and_logs_are_passed_on(line: Line) -> None:
    """Leadership begins at once; logs are reopened in the order of signals."""
    line.tell(Lead())
    line.tell(ReopenLogs())

    assert await line.signal() is ControlSignal.REOPEN_LOGS
    line.link.reopen_logs()
    assert line.calls == ["lead", "reopen"]


async def test_a_reload_is_applied_and_answered(line: Line) -> None:
    """The configuration is the supervisor's, not what is in the file by now."""
    line.reload("max_retries: 3\nown: [1, 2]\n")

    assert await line.signal() is ControlSignal.RELOAD
    await line.link.reload()

    assert await line.heard(Reloaded) == Reloaded()
    (conf,) = line.applied
    assert (conf.max_retries, conf.extra, conf.source) == (3, {"own": [1, 2]}, "conf.yaml")


async def test_of_two_reloads_the_later_counts(line: Line) -> None:
    """A configuration that is out of date already is not taken on."""
    line.reload("max_retries: 3\n")
    line.reload("max_retries: 4\n")
    assert await line.signal() is ControlSignal.RELOAD
    assert await line.signal() is ControlSignal.RELOAD

    await line.link.reload()
    await line.link.reload()

    assert [conf.max_retries for conf in line.applied] == [4]


async def test_a_reload_that_is_refused_is_told(line: Line) -> None:
    """The supervisor hears why, in one line; the worker goes on as it was."""
    line.failure = ValueError("no\nway")
    line.reload("max_retries: 3\n")
    await line.signal()

    with pytest.raises(ValueError, match="way"):
        await line.link.reload()

    assert await line.heard(Reloaded) == Reloaded("no way")


async def test_a_reload_that_makes_no_sense_is_told(line: Line) -> None:
    """Neither does it change anything."""
    line.reload("max_retries: none\n")

    answer = await line.heard(Reloaded)

    assert isinstance(answer, Reloaded)
    assert "max_retries: got 'none'" in (answer.failure or "")
    assert await line.is_quiet()


# ------------------------------------------------------------------------------------------ news


async def test_it_tells_how_it_fares(line: Line) -> None:
    """Ready with its addresses, and later that others may lead; why it ends."""
    line.link.running()
    line.link.resigned()
    line.link.failed(Error(CONFIG_ERROR, "a\nb"))

    assert await line.heard(Ready) == Ready(())
    assert await line.heard(Resigned) == Resigned()
    assert await line.heard(Failed) == Failed("a b", is_config=True)


async def test_it_gives_signs_of_life(line: Line) -> None:
    """With the numbers that a supervisor may want to show."""
    beat = await line.heard(Beat)

    assert isinstance(beat, Beat)
    assert beat.requests == COUNTERS.requests
    assert beat.memory > 1 << 20


@pytest.mark.parametrize(
    ("conf", "reason"),
    [
        (ServerConf(worker_max_requests=1), "it has served"),
        (ServerConf(worker_max_memory=1), "it occupies"),
    ],
    ids=["requests", "memory"],
)
async def test_it_asks_once_to_be_replaced(
    conf: ServerConf, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a limit it goes on serving until the supervisor has another one."""
    monkeypatch.setattr(module, "BEAT_INTERVAL", 0.01)
    monkeypatch.setattr(COUNTERS, "requests", 5)
    async with Line(conf) as line:
        recycle = await line.heard(Recycle)
        assert isinstance(recycle, Recycle)
        assert reason in recycle.reason
        line.said.clear()
        for _ in range(3):
            await line.heard(Beat)
            line.said = [each for each in line.said if not isinstance(each, Beat)]

        assert line.said == []
        assert await line.is_quiet()


def test_workers_that_started_together_are_not_recycled_together() -> None:
    """The number of requests after which it happens differs."""
    conf = ServerConf(worker_max_requests=1000, worker_max_requests_jitter=500)

    limits = {module._with_jitter(conf) for _ in range(200)}

    assert all(1000 <= (limit or 0) <= 1500 for limit in limits)
    assert len(limits) > 50


# --------------------------------------------------------------------------------------- sockets


async def test_it_gets_a_socket_from_the_supervisor(line: Line) -> None:
    """An address that is new is bound there, so that all workers share it."""
    address = TcpServerAddress("127.0.0.1:0")
    getting = asyncio.ensure_future(line.link.fds.acquire(address))
    assert await line.heard(Obtain) == Obtain(tcp=address)
    with socket.create_server(("127.0.0.1", 0)) as made:
        line.tell(Supply(address.key), (made.fileno(),))
        with await getting as got:
            assert got.getsockname() == made.getsockname()

    line.link.fds.release(address)

    assert await line.heard(Released) == Released(address.key)


async def test_a_socket_that_cannot_be_had_is_an_error(line: Line) -> None:
    """The supervisor's reason reaches whoever wanted to listen."""
    address = TcpServerAddress("127.0.0.1:0")
    getting = asyncio.ensure_future(line.link.fds.acquire(address))
    await line.heard(Obtain)

    line.tell(Supply(address.key, "listen on 127.0.0.1:0: in use"))

    with pytest.raises(Error, match="in use") as caught:
        await getting
    assert caught.value.etype is ErrorType.BIND_ERROR


async def test_a_socket_that_nobody_waits_for_is_closed(line: Line) -> None:
    """An answer that comes too late leaves nothing behind."""
    near, far = socket.socketpair()
    with far:
        line.tell(Supply("127.0.0.1:1"), (near.fileno(),))
        near.close()
        line.tell(ReopenLogs())
        await line.signal()
        far.settimeout(30)
        assert far.recv(1) == b""
