"""The workers of a supervisor: who is started when, who leads, and who is killed."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import pytest

from pingora_core.conf import CONFIG_ERROR, ServerConf
from pingora_core.listeners.fds import ListenFds
from pingora_core.listeners.l4 import TcpServerAddress, UdsServerAddress
from pingora_core.server.signals import ShutdownSignal
from pingora_core.server.workers.channel import (
    Beat,
    Channel,
    Failed,
    Lead,
    Obtain,
    Ready,
    Recycle,
    Released,
    Resigned,
    Stop,
    Supply,
)
from pingora_core.server.workers.crew import Crew
from tests.support.clock import FakeClock
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from pingora_core.server.workers._processes import Order, WorkerProcess
    from pingora_core.server.workers.channel import FromWorker, ToWorker

GRACEFUL = ShutdownSignal.GRACEFUL_TERMINATE


class Hand:
    """A worker as the supervisor sees it: a process that sleeps, and the other end of its line."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.ours, self.theirs = Channel.pair()
        self.pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})

    def say(self, message: FromWorker) -> None:
        self.theirs.send(message)

    def heard(self) -> list[ToWorker]:
        """Return what it was told since the last time."""
        messages: list[ToWorker] = []
        with suppress(BlockingIOError):
            while (received := self.theirs.receive_from_supervisor()) is not None:
                messages.append(received[0])
                for fd in received[1]:
                    os.close(fd)
        return messages

    def kill(self) -> None:
        self.theirs.close()
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class Team:
    """A crew whose forks are `Hand`s."""

    def __init__(self, conf: ServerConf) -> None:
        self.clock = FakeClock()
        self.fds = ListenFds()
        loop = asyncio.get_running_loop()
        self.crew = Crew(conf, self.fds, loop, lambda: None, clock=self.clock)
        self.hands: list[Hand] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.crew.stop(ShutdownSignal.FAST_SHUTDOWN, lame_duck=0.0, is_whole_server=True)
        for hand in self.hands:
            hand.kill()
        await self.gone()
        self.fds.close()

    async def gone(self, *hands: Hand) -> None:
        """Wait until the crew has noticed that these, or all, have ended."""
        pids = {hand.pid for hand in hands or self.hands}

        def noticed() -> bool:
            self.crew.reap()
            return not pids & {worker.pid for worker in self.crew.workers}

        await eventually(noticed, "the end of the workers")

    def fork(self) -> list[Hand]:
        """Carry out the orders."""
        forked: list[Hand] = []
        while (order := self.crew.take_order()) is not None:
            hand = Hand(order)
            self.crew.forked(order, hand.pid, hand.ours)
            forked.append(hand)
        self.hands += forked
        return forked

    async def serving(self, *hands: Hand) -> None:
        """Have them say that they are ready."""
        for hand in hands:
            hand.say(Ready())
        pids = {hand.pid for hand in hands}
        await eventually(lambda: pids <= {each.pid for each in self.crew.serving}, "readiness")

    async def started(self, count: int) -> Sequence[Hand]:
        """Start as many, ready."""
        self.crew.resize(count)
        hands = self.fork()
        await self.serving(*hands)
        for hand in hands:
            hand.heard()
        return hands

    async def read(self) -> None:
        """Let the crew take in what was said."""
        for _ in range(3):
            await asyncio.sleep(0)

    async def told(self, hand: Hand, wanted: type[ToWorker]) -> ToWorker:
        found: list[ToWorker] = []

        def has_come() -> bool:
            found.extend(each for each in hand.heard() if isinstance(each, wanted))
            return bool(found)

        await eventually(has_come, wanted.__name__)
        return found[0]


def conf_of(**values: object) -> ServerConf:
    text = "".join(f"{key}: {value}\n" for key, value in values.items())
    return ServerConf.from_yaml(text)


@pytest.fixture
async def team() -> AsyncIterator[Team]:
    async with Team(conf_of(worker_restart_limit=3)) as made:
        yield made


# ------------------------------------------------------------------------------------- starting


async def test_it_is_ready_when_every_place_is_filled(team: Team) -> None:
    """Each worker is ordered once; the server is ready with the last of them."""
    team.crew.resize(2)
    first, second = team.fork()
    assert [first.order.index, second.order.index] == [0, 1]

    await team.serving(first)
    was_ready = team.crew.is_ready
    await team.serving(second)

    assert (was_ready, team.crew.is_ready) == (False, True)
    assert team.crew.take_order() is None


async def test_what_a_worker_said_before_the_server_was_ready_stops_it(team: Team) -> None:
    """A mistake that keeps the first worker from starting would keep all of them."""
    team.crew.resize(2)
    hand, _ = team.fork()
    hand.say(Failed("address: got 'x'", is_config=True))
    hand.kill()

    await team.gone(hand)

    assert team.crew.failure is not None
    assert team.crew.failure.etype == CONFIG_ERROR
    assert team.crew.failure.context == "address: got 'x'"


async def test_a_crash_is_answered_at_once_and_the_next_after_a_pause(team: Team) -> None:
    """The first time may be bad luck; later the pauses keep a broken program from spinning."""
    (hand,) = await team.started(1)
    hand.kill()
    await team.gone(hand)
    (hand,) = team.fork()

    hand.kill()
    await team.gone(hand)

    assert team.crew.take_order() is None
    await eventually(lambda: bool(team.fork()), "the next order")


async def test_too_many_crashes_with_nobody_serving_end_the_server(team: Team) -> None:
    """What does nothing but crash is given up, for whoever manages the server to see."""
    (hand,) = await team.started(1)
    for _ in range(4):
        hand.kill()
        await team.gone(hand)
        if team.crew.failure is None:
            await eventually(lambda: bool(team.fork()), "the next order")
            hand = team.hands[-1]

    assert team.crew.failure is not None
    assert "SIGKILL; this happened more than 3 times within 60 s" in str(team.crew.failure)


async def test_too_many_crashes_beside_others_that_serve_only_take_longer(
    team: Team, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that can serve is not stopped because one of its workers cannot."""
    _, second = await team.started(2)
    hand = second
    for _ in range(4):
        hand.kill()
        await team.gone(hand)
        if "60.0 s" not in caplog.text:
            await eventually(lambda: bool(team.fork()), "the next order")
            hand = team.hands[-1]

    assert team.crew.failure is None
    assert "it is started again in 60.0 s" in caplog.text


async def test_a_failed_fork_is_tried_again(team: Team, caplog: pytest.LogCaptureFixture) -> None:
    """A machine that is out of processes for a moment does not lose a worker for good."""
    team.crew.resize(1)
    order = team.crew.take_order()
    assert order is not None

    team.crew.fork_failed(order, OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)))

    assert team.crew.take_order() == order
    assert "worker 0 cannot be started: Resource temporarily unavailable" in caplog.text


async def test_fewer_places_stop_the_workers_in_those_that_go(team: Team) -> None:
    """They end in the graceful way, and are not replaced."""
    _, second = await team.started(2)

    team.crew.resize(1)

    assert isinstance(await team.told(second, Stop), Stop)
    second.kill()
    await team.gone(second)
    assert team.crew.take_order() is None


# ------------------------------------------------------------------------------------ recycling


async def test_the_new_worker_is_ready_before_the_old_one_is_stopped(team: Team) -> None:
    """A planned replacement leaves no gap."""
    (old,) = await team.started(1)
    old.say(Recycle("it is old"))
    await eventually(lambda: bool(team.fork()), "the order")
    new = team.hands[-1]
    assert new.order.replaces is not None
    assert not [each for each in old.heard() if isinstance(each, Stop)]

    await team.serving(new)

    stop = await team.told(old, Stop)
    assert stop == Stop(GRACEFUL, is_whole_server=False)


async def test_one_worker_at_a_time_is_recycled(team: Team) -> None:
    """Limits reached together do not double the memory of the server."""
    first, second = await team.started(2)
    first.say(Recycle("a"))
    second.say(Recycle("b"))
    await eventually(lambda: bool(team.fork()), "the first order")
    await team.read()
    assert team.crew.take_order() is None

    await team.serving(team.hands[-1])

    order = team.crew.take_order()
    assert order is not None
    assert {team.hands[-1].order.index, order.index} == {0, 1}


async def test_a_replacement_that_dies_leaves_the_old_worker_serving(
    team: Team, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is lost by a replacement that cannot start."""
    (old,) = await team.started(1)
    old.say(Recycle("it is old"))
    await eventually(lambda: bool(team.fork()), "the order")
    new = team.hands[-1]

    new.kill()
    await team.gone(new)

    assert f"before it was ready: worker 0 ({old.pid}) goes on" in caplog.text
    assert [worker.pid for worker in team.crew.serving] == [old.pid]


# ----------------------------------------------------------------------------------- leadership


async def test_there_is_one_leader(team: Team) -> None:
    """The first worker leads from its fork on; the others are not told."""
    team.crew.resize(3)
    assert not team.crew.has_leader
    hands = team.fork()
    await team.serving(*hands)
    await team.read()

    assert [worker.index for worker in team.crew.workers if worker.is_leader] == [0]
    assert not [each for hand in hands for each in hand.heard()]


async def test_another_worker_leads_when_the_leader_dies(team: Team) -> None:
    """It does not wait for the replacement."""
    first, second = await team.started(2)

    first.kill()
    await team.gone(first)

    assert isinstance(await team.told(second, Lead), Lead)


async def test_another_worker_leads_when_the_leader_has_resigned(team: Team) -> None:
    """While it ends the services of one worker run there; only then elsewhere."""
    first, second = await team.started(2)
    first.say(Recycle("it is old"))
    await eventually(lambda: bool(team.fork()), "the order")
    await team.serving(team.hands[-1])
    await team.told(first, Stop)
    assert not second.heard()

    first.say(Resigned())

    await eventually(lambda: any(Lead() in hand.heard() for hand in team.hands), "the next leader")


# ---------------------------------------------------------------------------------------- pulse


def is_killed(worker: WorkerProcess) -> bool:
    return os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


async def test_a_worker_that_does_not_answer_is_killed(
    team: Team, caplog: pytest.LogCaptureFixture
) -> None:
    """Others, whose beats arrive, are left alone."""
    first, second = await team.started(2)
    for _ in range(40):
        team.clock.advance(1.0)
        second.say(Beat(0, 0))
        await team.read()
        team.crew.check_pulse()

    assert f"worker 0 ({first.pid}) has not answered for 30 s and is killed" in caplog.text
    await team.gone(first)
    assert [worker.pid for worker in team.crew.serving] == [second.pid]


async def test_nobody_is_killed_after_the_machine_has_slept(team: Team) -> None:
    """When the supervisor itself did not run, silence says nothing about the workers."""
    await team.started(2)
    team.clock.advance(3600.0)

    team.crew.check_pulse()
    team.clock.advance(1.0)
    team.crew.check_pulse()

    assert not [worker for worker in team.crew.workers if is_killed(worker)]


async def test_a_worker_that_will_not_stop_is_killed(
    team: Team, caplog: pytest.LogCaptureFixture
) -> None:
    """After the sum of its deadlines it has had its time."""
    _, second = await team.started(2)
    team.crew.resize(1)
    for _ in range(311):
        team.clock.advance(1.0)
        for hand in team.hands:
            hand.say(Beat(0, 0))
        await team.read()
        team.crew.check_pulse()

    assert f"worker 1 ({second.pid}) would not end and is killed" in caplog.text
    await team.gone(second)


# -------------------------------------------------------------------------------------- sockets


async def test_a_worker_is_given_a_socket_that_was_made_for_it(team: Team) -> None:
    """An address that is added while the server runs is bound once, by the supervisor."""
    first, second = await team.started(2)
    address = TcpServerAddress("127.0.0.1:0")
    first.say(Obtain.of(address))
    assert await team.told(first, Supply) == Supply(address.key)
    second.say(Obtain.of(address))
    assert await team.told(second, Supply) == Supply(address.key)

    assert list(team.fds.sockets) == [address.key]


async def test_a_worker_is_told_why_there_is_no_socket(team: Team, tmp_path: Path) -> None:
    """A failure to bind reaches whoever asked."""
    (hand,) = await team.started(1)
    hand.say(Obtain.of(UdsServerAddress(str(tmp_path / "nowhere" / "a.sock"))))

    supply = await team.told(hand, Supply)

    assert isinstance(supply, Supply)
    assert "nowhere/a.sock" in (supply.failure or "")


async def test_a_socket_is_closed_when_the_last_worker_has_released_it(team: Team) -> None:
    """One that no worker uses would let clients wait for nobody."""
    first, second = await team.started(2)
    address = TcpServerAddress("127.0.0.1:0")
    for hand in (first, second):
        hand.say(Obtain.of(address))
        await team.told(hand, Supply)

    first.say(Released(address.key))
    await team.read()
    assert address.key in team.fds
    second.say(Released(address.key))

    await eventually(lambda: address.key not in team.fds, "the end of the socket")


async def test_a_socket_released_while_a_worker_starts_is_closed_when_it_is_ready(
    team: Team,
) -> None:
    """Where a new worker is going to listen is waited for, but no socket is forgotten over it."""
    (first,) = await team.started(1)
    address = TcpServerAddress("127.0.0.1:0")
    first.say(Obtain.of(address))
    await team.told(first, Supply)
    team.crew.resize(2)
    (second,) = team.fork()
    first.say(Released(address.key))
    first.say(Beat(0, 0))
    await team.read()
    assert address.key in team.fds

    await team.serving(second)

    assert address.key not in team.fds


async def test_nonsense_from_a_worker_is_not_believed(
    team: Team, caplog: pytest.LogCaptureFixture
) -> None:
    """A message that makes no sense is told and changes nothing, descriptors in it are closed."""
    (hand,) = await team.started(1)
    stray, other = socket.socketpair()
    with stray, other, socket.socket(fileno=os.dup(hand.theirs.fileno())) as raw:
        socket.send_fds(raw, [b'{"type": "Rule"}'], [stray.fileno()])
        await eventually(lambda: "a message between supervisor and worker" in caplog.text, "log")
        stray.close()
        other.settimeout(30)
        assert other.recv(1) == b""
    assert len(team.crew.serving) == 1
