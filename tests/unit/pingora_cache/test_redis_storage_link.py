"""Questions to Redis: in time or not at all, over few connections, and not while it is away."""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    ConnectionError as RedisConnectionError,
    NoScriptError,
    ReadOnlyError,
    ResponseError,
)

from pingora_cache.redis import REDIS_AWAY, REDIS_REFUSED
from pingora_cache.redis._link import Link
from pingora_cache.redis._scripts import BEGIN
from pingora_cache.storage import STORAGE_CLOSED
from pingora_error import Error
from tests.support.cache_redis import FaultyRedis, deaf, failing, lying
from tests.support.clock import FakeClock
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pingora_cache.redis import RedisClient


def _link(
    client: RedisClient, *, timeout: float = 10.0, commands: int = 4, clock: FakeClock | None = None
) -> Link:
    clock = clock or FakeClock()
    return Link(client, timeout=timeout, max_commands=commands, name="cache", clock=clock)


async def _ask(link: Link) -> object:
    return await link.run(BEGIN, ["key"], [b"argument", 3])


async def _fails(link: Link, etype: object = REDIS_AWAY) -> Error:
    with pytest.raises(Error) as caught:
        await _ask(link)
    assert caught.value.etype == etype
    return caught.value


async def test_a_script_is_sent_once() -> None:
    """Its text goes over only when Redis does not know it."""

    class _Recording:
        def __init__(self) -> None:
            self.asked: list[tuple[bytes | str | float, ...]] = []

        async def execute_command(self, *args: bytes | str | float) -> object:
            self.asked.append(args)
            if len(self.asked) == 2:
                raise NoScriptError
            return 7

    client = _Recording()
    link = _link(client)

    assert await _ask(link) == 7
    assert await _ask(link) == 7

    rest = (1, "key", b"argument", 3)
    assert client.asked == [
        ("EVALSHA", BEGIN.sha, *rest),
        ("EVALSHA", BEGIN.sha, *rest),
        ("EVAL", BEGIN.text, *rest),
    ]
    await link.close()


@pytest.mark.parametrize(
    "error",
    [
        RedisConnectionError("gone"),
        BusyLoadingError("loading"),
        ClusterDownError("CLUSTERDOWN"),
        ConnectionResetError(),
        TimeoutError(),
        EOFError(),
        UnicodeDecodeError("ascii", b"\xff", 0, 1, "the protocol has lost step"),
        RuntimeError("the client has a bug"),
    ],
    ids=repr,
)
async def test_no_answer_opens_the_circuit(error: Exception) -> None:
    """Whatever the client raises becomes an Error, and Redis is left alone for a while."""
    client = FaultyRedis()
    client.faults["*"] = failing(error)
    link = _link(client)

    assert (await _fails(link)).cause is error
    assert (link.is_away, link.failures, link.refusals) == (True, 1, 0)
    await _fails(link)
    assert (client.asked, link.failures, link.refusals) == (["BEGIN"], 1, 1)
    await link.close()


@pytest.mark.parametrize("error", [ResponseError("OOM"), ReadOnlyError("READONLY")], ids=repr)
async def test_a_refusal_is_an_answer(error: Exception) -> None:
    """Redis is there: what else is asked may well be done."""
    client = FaultyRedis()
    client.faults["*"] = failing(error)
    link = _link(client)

    assert (await _fails(link, REDIS_REFUSED)).cause is error
    assert (link.is_away, link.failures) == (False, 0)
    client.faults["*"] = lying(1)
    assert await _ask(link) == 1
    await link.close()


async def test_an_answer_that_does_not_come(caplog: pytest.LogCaptureFixture) -> None:
    """It is waited for as long as was said; one line in the log when Redis goes, one when it comes."""
    client, clock = FaultyRedis(), FakeClock()
    client.faults["*"] = deaf
    link = _link(client, timeout=0.01, clock=clock)

    with caplog.at_level(logging.INFO, "pingora_cache"):
        for _ in range(3):
            await _fails(link)
            clock.advance(5.0)
        client.faults["*"] = lying(1)
        link.timeout = 10.0
        assert await _ask(link) == 1

    assert (link.is_away, link.failures) == (False, 3)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    await link.close()


async def test_those_that_ask_together_wait_together() -> None:
    """Many that get no answer are one failure, and the next is not asked at all."""
    client = FaultyRedis()
    client.faults["*"] = deaf
    link = _link(client, timeout=0.01, commands=20)

    results = await asyncio.gather(*(_ask(link) for _ in range(20)), return_exceptions=True)

    assert {type(result) for result in results} == {Error}
    assert link.failures == 20
    await _fails(link)
    assert link.refusals == 1
    await link.close()


class _Stubborn:
    """Does not end when it is cancelled, as happens to clients in Python 3.11."""

    def __init__(self) -> None:
        self.asked = 0
        self.cancelled = 0
        self.end = asyncio.Event()

    async def execute_command(self, *_: bytes | str | float) -> object:
        self.asked += 1
        while not self.end.is_set():
            try:
                await self.end.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
        raise ConnectionResetError


async def test_a_client_that_does_not_end_holds_nobody_up() -> None:
    """The deadline holds, and it is cancelled again and again until it has ended."""
    client, clock = _Stubborn(), FakeClock()
    link = _link(client, timeout=0.01, clock=clock)

    await _fails(link)
    await eventually(lambda: client.cancelled >= 3)
    assert client.asked == 1

    client.end.set()
    await link.close()


async def test_who_asks_can_be_cancelled_whatever_the_client_does() -> None:
    """And the question is given up: another may find out whether Redis is there."""
    client, clock = _Stubborn(), FakeClock()
    link = _link(client, clock=clock)
    asking = asyncio.create_task(_ask(link))
    await eventually(lambda: client.asked)

    asking.cancel()
    await asyncio.wait([asking], timeout=10)

    assert asking.cancelled()
    await eventually(lambda: client.cancelled)
    assert (link.is_away, link.failures) == (False, 0)
    client.end.set()
    await link.close()


async def test_a_client_that_is_cancelled_by_others_is_a_failure() -> None:
    """It does not look as if whoever asks was cancelled."""

    class _Closing:
        async def execute_command(self, *_: bytes | str | float) -> object:
            raise asyncio.CancelledError

    link = _link(_Closing())

    await _fails(link)
    assert link.is_away
    await link.close()


async def test_no_more_questions_at_a_time_than_allowed() -> None:
    """Others wait for a place, in turn; whoever gives up makes room."""
    client = FaultyRedis()
    gate = asyncio.Event()
    running = most = 0

    async def slow(_: object) -> object:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1
        return 1

    client.faults["*"] = slow
    link = _link(client, commands=3)
    tasks = [asyncio.create_task(_ask(link)) for _ in range(10)]
    await eventually(lambda: running == 3)
    tasks[5].cancel()
    await asyncio.sleep(0)
    gate.set()
    await asyncio.wait(tasks)

    assert most == 3
    assert [task.cancelled() for task in tasks].count(True) == 1
    assert [task.result() for task in tasks if not task.cancelled()] == [1] * 9
    assert len(client.asked) == 9
    await link.close()


async def test_a_question_that_found_no_place_says_nothing_about_redis() -> None:
    """It fails in time, and others go on."""
    client = FaultyRedis()
    gate = asyncio.Event()

    async def slow(_: object) -> object:
        await gate.wait()
        return 1

    client.faults["*"] = slow
    link = _link(client, commands=1)
    first = asyncio.create_task(_ask(link))
    await eventually(lambda: client.asked)

    with pytest.raises(Error) as caught:
        await link.run(BEGIN, ["key"], [], timeout=0.01)

    assert isinstance(caught.value.cause, TimeoutError)
    assert (link.is_away, link.failures) == (False, 0)
    gate.set()
    assert await first == 1
    await link.close()


async def test_a_late_timer_leaves_time_to_read_the_answer() -> None:
    """When this process was held up, the answer may be there already."""
    client = FaultyRedis()
    loop = asyncio.get_running_loop()

    async def prompt(_: object) -> object:
        # Some turns of the loop, as it takes to read from a socket.
        for _turn in range(5):
            await asyncio.sleep(0)
        return 1

    client.faults["*"] = prompt
    link = _link(client, timeout=0.01)
    answer = link.run(BEGIN, ["key"], [])
    begun = loop.time()
    while loop.time() < begun + 0.05:  # nothing else runs meanwhile
        pass

    assert await answer == 1
    assert not link.is_away
    await link.close()


async def test_a_committed_question_is_asked_while_redis_is_away() -> None:
    """The rest of a body that has been promised is worth a try."""
    client = FaultyRedis()
    client.faults["*"] = failing(ConnectionResetError())
    link = _link(client)
    await _fails(link)

    client.faults["*"] = lying(1)
    assert await link.run(BEGIN, ["key"], [], is_committed=True) == 1
    await _fails(link)
    assert link.is_away
    await link.close()


async def test_an_answer_that_nobody_waits_for() -> None:
    """Its failure is not reported by the loop."""
    client = FaultyRedis()
    client.faults["*"] = failing(ConnectionResetError())
    link = _link(client)

    answer = link.run(BEGIN, ["key"], [])
    await eventually(answer.done)
    del answer
    await link.close()


async def test_a_closed_link() -> None:
    """Questions under way and those that wait end with an Error; nothing can be asked any more."""
    client = FaultyRedis()
    client.faults["*"] = deaf
    link = _link(client, commands=2)
    tasks = [asyncio.create_task(_ask(link)) for _ in range(4)]
    await eventually(lambda: len(client.asked) == 2)

    await link.close()
    await link.close()

    for task in tasks:
        with pytest.raises(Error) as caught:
            await task
        assert caught.value.etype == STORAGE_CLOSED
    await _fails(link, STORAGE_CLOSED)
    assert link.is_closed


async def test_closing_does_not_wait_for_a_client_that_does_not_end() -> None:
    """Longer than for an answer."""
    client = _Stubborn()
    link = _link(client, timeout=0.01)
    with suppress(Error):
        await _ask(link)

    await asyncio.wait_for(link.close(), 10)

    client.end.set()


@pytest.mark.parametrize(
    ("timeout", "commands"), [(0.0, 1), (-1.0, 1), (math.inf, 1), (math.nan, 1), (1.0, 0)]
)
def test_a_bad_number_is_misuse(timeout: float, commands: int) -> None:
    """Nothing is ever waited for without an end, and somebody may ask."""
    with pytest.raises(ValueError, match=r"longer than 0|at least 1"):
        _link(FaultyRedis(), timeout=timeout, commands=commands)
