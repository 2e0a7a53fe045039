"""Whatever Redis does, nobody gets an exception of it, and it is left alone while it is away."""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import suppress
from functools import partial
from typing import Protocol

import pytest
from redis.exceptions import NoScriptError, ResponseError

from pingora_limits.redis import RedisInflight, RedisRate, RedisSlidingWindow, RedisTokenBucket
from pingora_limits.redis._link import Link, Script, as_list, as_number, as_numbers
from tests.support.clock import FakeClock
from tests.support.waiting import eventually

_SCRIPT = Script("return {1}")


class _Make(Protocol):
    def __call__(self, *, name: str) -> object: ...


class _Client:
    """Answers with what it was given, in turn; raises what is an exception."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[bytes | str | float, ...]] = []

    async def execute_command(self, *args: bytes | str | float) -> object:
        self.asked.append(args)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def _link(client: _Client, clock: FakeClock) -> Link:
    return Link(client, timeout=5.0, name="a", clock=clock)


async def _run(link: Link) -> list[object] | None:
    return await link.run(_SCRIPT, ["key"], [b"argument", 3], as_list)


async def test_a_script_is_sent_once() -> None:
    """Its text goes over only when Redis does not know it."""
    client = _Client([1], NoScriptError(), [2])
    link = _link(client, FakeClock())

    assert await _run(link) == [1]
    assert await _run(link) == [2]

    rest = (1, "key", b"argument", 3)
    assert client.asked == [
        ("EVALSHA", _SCRIPT.sha, *rest),
        ("EVALSHA", _SCRIPT.sha, *rest),
        ("EVAL", _SCRIPT.text, *rest),
    ]


@pytest.mark.parametrize(
    "answer",
    [
        ResponseError("READONLY"),
        ConnectionResetError(),
        EOFError(),
        TimeoutError(),
        None,
        b"PONG",
        {},
    ],
    ids=repr,
)
async def test_any_failure_is_none(answer: object) -> None:
    """An error, a broken connection and an answer without sense are the same."""
    link = _link(_Client(answer), FakeClock())

    assert await _run(link) is None
    assert (link.is_away, link.failures, link.last_success) == (True, 1, -math.inf)
    assert link.pause > 0


async def test_an_answer_that_does_not_come() -> None:
    """It is waited for as long as was said."""

    class _Silent:
        async def execute_command(self, *_: bytes | str | float) -> object:
            return await asyncio.Event().wait()

    link = Link(_Silent(), timeout=0.01, name="a")

    assert await _run(link) is None
    assert link.is_away


class _Stubborn:
    """Does not end when it is cancelled, as happens to clients in Python 3.11; then it fails."""

    def __init__(self) -> None:
        self.asked = 0
        self.end = asyncio.Event()

    async def execute_command(self, *_: bytes | str | float) -> object:
        self.asked += 1
        while not self.end.is_set():
            with suppress(asyncio.CancelledError):
                await self.end.wait()
        raise ConnectionResetError


async def test_a_client_that_does_not_end_holds_nobody_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The deadline holds, the task that asks can be cancelled, and it is not asked again."""
    client, clock = _Stubborn(), FakeClock()
    link = Link(client, timeout=0.01, name="a", clock=clock)

    assert await _run(link) is None
    clock.advance(link.pause)
    assert await _run(link) is None
    await link.settle()
    assert (client.asked, link.failures) == (1, 2)
    client.end.set()
    await link.settle()

    client.end.clear()
    link.timeout = 30.0
    clock.advance(link.pause)
    asking = asyncio.create_task(_run(link))
    await eventually(lambda: client.asked == 2)
    asking.cancel()
    await asyncio.wait([asking], timeout=10)
    assert asking.cancelled()
    client.end.set()
    await link.settle()
    assert (client.asked, link.failures) == (2, 2)
    assert [record for record in caplog.records if record.levelno > logging.WARNING] == []


async def test_a_client_that_is_cancelled_by_others_is_a_failure() -> None:
    """It does not look as if whoever asks was cancelled."""

    class _Closing:
        async def execute_command(self, *_: bytes | str | float) -> object:
            raise asyncio.CancelledError

    link = Link(_Closing(), timeout=5.0, name="a")

    assert await _run(link) is None
    assert link.is_away
    await link.settle()


async def test_redis_is_left_alone_while_it_is_away(caplog: pytest.LogCaptureFixture) -> None:
    """For a pause that grows with every failure, up to a bound; one line when it goes and comes."""
    clock = FakeClock()
    client = _Client(*[ConnectionRefusedError()] * 12, [1])
    link = _link(client, clock)
    pauses = []
    with caplog.at_level(logging.INFO, "pingora_limits"):
        for number in range(12):
            assert await _run(link) is None
            assert await _run(link) is None
            assert len(client.asked) == number + 1
            pauses.append(link.pause)
            clock.advance(link.pause)
        assert await _run(link) == [1]

    assert 0.05 <= pauses[0] <= 0.1
    assert 2.5 <= pauses[-1] == max(pauses[-1], 2.5) <= 5
    assert (link.is_away, link.pause, link.failures) == (False, 0, 12)
    assert link.last_success == clock.now
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_numbers() -> None:
    """Decoded or not, whole numbers are; everything else is an error."""
    assert as_numbers(3, [1, b"2", "3"]) == [1, 2, 3]
    for bad in ([1], [1, 2, 3, 4], [1, 2, b"x"]):
        with pytest.raises(ValueError, match=r"numbers|invalid literal"):
            as_numbers(3, bad)
    for item in (None, 1.5, [1]):
        with pytest.raises(TypeError, match="a number was expected"):
            as_number(item)


@pytest.mark.parametrize("name", ["", "a{b", "a}b"])
def test_a_bad_name_is_misuse(name: str) -> None:
    """A name with braces would put keys of one limit into several slots of a cluster."""
    client = _Client()
    for make in (
        partial(RedisRate, client, 1.0),
        partial(RedisSlidingWindow, client, 1, 1.0),
        partial(RedisTokenBucket, client, 1.0, 1),
        partial(RedisInflight, client),
    ):
        with pytest.raises(ValueError, match="no braces"):
            make(name=name)


@pytest.mark.parametrize("timeout", [0.0, -1.0, math.inf, math.nan])
def test_a_bad_timeout_is_misuse(timeout: float) -> None:
    """Nothing is ever waited for without an end."""
    with pytest.raises(ValueError, match="longer than 0 seconds and ends"):
        RedisRate(_Client(), 1.0, name="a", timeout=timeout)


def test_other_bad_numbers_are_misuse() -> None:
    """Each is refused in one line that tells what is allowed."""
    client = _Client()
    bad: list[tuple[_Make, str]] = [
        (partial(RedisRate, client, 0.0), "an interval is longer"),
        (partial(RedisRate, client, 1.0, flush_interval=1.0), "less than an interval"),
        (partial(RedisRate, client, 1.0, expected_keys=0), "at least 1 key"),
        (partial(RedisSlidingWindow, client, 0, 1.0), "between 1 and"),
        (partial(RedisTokenBucket, client, 0.0, 1), "rate above 0"),
        (partial(RedisTokenBucket, client, 1.0, 0), "between 1 and"),
        (partial(RedisTokenBucket, client, 1.0, 1, max_waiting=0), "at least 1 decision"),
        (partial(RedisInflight, client, expected_keys=0), "at least 1 key"),
        (partial(RedisInflight, client, lease=0.2), "a third of a lease"),
    ]
    for make, complaint in bad:
        with pytest.raises(ValueError, match=complaint):
            make(name="a")
