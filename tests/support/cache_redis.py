"""A client of Redis that stalls, fails or lies at the very question that a test has chosen."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

from pingora_cache.redis import RedisStorage, RedisTuning, _scripts
from pingora_cache.redis._scripts import Script
from pingora_cache.testing.harness import make_body, make_key
from pingora_error import Error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from redis.asyncio import Redis

    from pingora_cache.redis import RedisClient

    Ask: TypeAlias = Callable[[], Awaitable[object]]
    Fault: TypeAlias = Callable[[Ask], Awaitable[object]]

__all__ = [
    "BODY",
    "PATIENCE",
    "SMALL",
    "TUNING",
    "Ask",
    "FaultyRedis",
    "cleared",
    "deaf",
    "failing",
    "lying",
    "mute",
    "only_key",
    "open_redis",
    "recovered",
    "redis_keys",
]

# No test waits for it unless that is what it is about.
PATIENCE = 30.0
TUNING = RedisTuning(chunk_size=1000, inline_size=100)
BODY = make_body("body", 4500)
SMALL = b"a small body"


_NAMES = {
    key: name
    for name, script in vars(_scripts).items()
    if isinstance(script, Script)
    for key in (script.sha, script.text)
}


class FaultyRedis:
    """Passes questions on to a real client, but for those that a test has other plans with.

    Args:
        client: The real one; None if no question gets that far.

    Attributes:
        asked: What was asked, in turn: names of scripts (``LOOKUP``) and commands (``MGET``).
        faults: What happens to a question, by that name; ``*`` for all others. It gets what asks
            the real client.
    """

    def __init__(self, client: RedisClient | None = None) -> None:
        self._client = client
        self.asked: list[str] = []
        self.faults: dict[str, Fault] = {}

    async def execute_command(self, *args: bytes | str | float) -> object:
        """Send a command.

        Args:
            args: The command and its arguments.

        Returns:
            The answer.
        """
        name = command = str(args[0])
        if command in {"EVALSHA", "EVAL"}:
            name = _NAMES[str(args[1])]
        if command != "EVAL":  # then Redis did not know the script: it is asked again
            self.asked.append(name)

        async def ask() -> object:
            assert self._client is not None, name
            return await self._client.execute_command(*args)

        fault = self.faults.get(name) or self.faults.get("*")
        return await (ask() if fault is None else fault(ask))


async def deaf(_: Ask) -> object:
    """Never get the question."""
    return await asyncio.Event().wait()


async def mute(ask: Ask) -> object:
    """Get the question, and never answer."""
    await ask()
    return await asyncio.Event().wait()


def failing(error: Exception) -> Fault:
    """Make what fails.

    Args:
        error: How.

    Returns:
        The fault.
    """

    async def fail(_: Ask) -> object:
        raise error

    return fail


def lying(answer: object) -> Fault:
    """Make what answers anything.

    Args:
        answer: The answer.

    Returns:
        The fault.
    """

    async def lie(_: Ask) -> object:
        return answer

    return lie


@asynccontextmanager
async def open_redis(
    client: RedisClient | str, *, tuning: RedisTuning = TUNING, prefix: str = "cache"
) -> AsyncIterator[RedisStorage]:
    """Open a storage that cuts bodies into small pieces, and closes in the end.

    Args:
        client: The client.
        tuning: Numbers.
        prefix: What keys begin with.

    Yields:
        The storage.
    """
    async with RedisStorage(client, timeout=PATIENCE, tuning=tuning, prefix=prefix) as storage:
        yield storage


async def recovered(storage: RedisStorage) -> None:
    """Wait until a storage has found out that Redis is back.

    Args:
        storage: The storage.

    Raises:
        AssertionError: If it does not.
    """
    for _ in range(250):
        try:
            await storage.lookup(make_key("none"))
        except Error:
            await asyncio.sleep(0.02)
        else:
            return
    msg = "Redis is back, but not for the storage"
    raise AssertionError(msg)


async def redis_keys(client: Redis, kind: str = "") -> list[str]:
    """List what is in Redis.

    Args:
        client: The client.
        kind: A part of the keys.

    Returns:
        The keys, sorted.
    """
    return sorted([key.decode() async for key in client.scan_iter(f"*{kind}*")])


async def only_key(client: Redis, kind: str) -> str:
    """Get the one key of a kind.

    Args:
        client: The client.
        kind: A part of the key.

    Returns:
        The key.
    """
    (key,) = await redis_keys(client, kind)
    return key


async def cleared(client: Redis) -> None:
    """Wait until nothing is in Redis, since what was damaged is removed behind.

    Args:
        client: The client.

    Raises:
        AssertionError: If something stays.
    """
    for _ in range(2000):
        if not await redis_keys(client):
            return
        await asyncio.sleep(0.002)
    msg = "what was damaged is still there"
    raise AssertionError(msg)
