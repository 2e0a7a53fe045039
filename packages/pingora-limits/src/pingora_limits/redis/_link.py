"""The way to Redis: scripts with a deadline, behind a circuit breaker.

Theory of operation: nothing here raises because of Redis. An answer that is late, wrong or none is
None, and the breaker opens: for a pause that doubles with every failure Redis is not asked at all,
then once, to see. Whoever gets None goes on with what it knows.

The client does its work in a task of its own, and is left behind when it is late. In Python 3.11 a
cancellation that meets the end of an ``asyncio.wait_for`` is lost (gh-86296), and clients use that:
neither a deadline nor the end of our own task may depend on theirs.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import random
import time
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, final

from redis.exceptions import NoScriptError, RedisError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Link", "RedisClient", "Script", "as_list", "as_number", "as_numbers", "check_name"]

_logger = logging.getLogger(__name__)

T = TypeVar("T")

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0


class RedisClient(Protocol):
    """What is needed of a client: ``redis.asyncio.Redis`` has it, and so has its cluster client."""

    async def execute_command(self, *args: bytes | str | float) -> object:
        """Send a command.

        Args:
            args: The command and its arguments.

        Returns:
            The answer.
        """
        ...


def check_name(name: str) -> None:
    """Refuse a name that would make a bad key in Redis.

    Args:
        name: What is counted.

    Raises:
        ValueError: If it is empty or has a brace in it.
    """
    if not name or "{" in name or "}" in name:
        msg = f"a name has at least one character and no braces, not {name!r}"
        raise ValueError(msg)


@final
class Script:
    """A Lua script.

    Args:
        text: Its source.

    Attributes:
        sha: What Redis knows it by.
        text: Its source.
    """

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def as_list(answer: object) -> list[object]:
    """Check that an answer is a list.

    Args:
        answer: What Redis has answered.

    Returns:
        The same.

    Raises:
        TypeError: If it is something else.
    """
    if isinstance(answer, list):
        return answer
    msg = f"a list was expected, not {type(answer).__name__}"
    raise TypeError(msg)


def as_numbers(length: int, answer: object) -> list[int]:
    """Check that an answer is a list of whole numbers.

    Args:
        length: How many there are to be.
        answer: What Redis has answered.

    Returns:
        The numbers.

    Raises:
        ValueError: If there are more or fewer, or one is none; also ``TypeError``.
    """
    numbers = [as_number(item) for item in as_list(answer)]
    if len(numbers) != length:
        msg = f"{length} numbers were expected, not {len(numbers)}"
        raise ValueError(msg)
    return numbers


def as_number(answer: object) -> int:
    """Check that an answer is a whole number.

    Args:
        answer: What Redis has answered, decoded or not.

    Returns:
        The number.

    Raises:
        TypeError: If it is something else.
        ValueError: If it is a text that is no number.
    """
    if isinstance(answer, int | str | bytes):
        return int(answer)
    msg = f"a number was expected, not {type(answer).__name__}"
    raise TypeError(msg)


@final
class Link:
    """Runs scripts, or says at once that it cannot.

    Args:
        client: The client.
        timeout: Seconds that a script may take.
        name: What the log calls it.
        clock: Seconds that only grow.

    Attributes:
        failures: How often Redis did not answer as it should.
        last_success: When it last did, on the clock; minus infinity if it never has.
        timeout: Seconds that a script may take.

    Raises:
        ValueError: If the timeout is no positive number.
    """

    __slots__ = (
        "_client",
        "_clock",
        "_is_away",
        "_late",
        "_name",
        "_next_pause",
        "_retry_at",
        "failures",
        "last_success",
        "timeout",
    )

    def __init__(
        self,
        client: RedisClient,
        *,
        timeout: float,
        name: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 < timeout < math.inf:
            msg = f"a timeout is longer than 0 seconds and ends, not {timeout}"
            raise ValueError(msg)
        self._client = client
        self._clock = clock
        self._name = name
        self._is_away = False
        self._late: asyncio.Task[object] | None = None
        self._next_pause = _FIRST_PAUSE
        self._retry_at = -math.inf
        self.timeout = timeout
        self.failures = 0
        self.last_success = -math.inf

    @property
    def pause(self) -> float:
        """Seconds until Redis may be asked; 0 if it may now."""
        return max(0.0, self._retry_at - self._clock())

    @property
    def is_away(self) -> bool:
        """Whether Redis has failed since it last answered."""
        return self._is_away

    async def run(
        self,
        script: Script,
        keys: Sequence[str | bytes],
        arguments: Sequence[str | bytes | float],
        parse: Callable[[object], T],
    ) -> T | None:
        """Run a script.

        Args:
            script: The script.
            keys: Its keys.
            arguments: Its arguments.
            parse: Makes sense of the answer; a ``TypeError``, ``ValueError`` or ``IndexError`` of
                it says that there is none in it.

        Returns:
            What ``parse`` made of the answer; None if Redis was not asked or did not answer well.
        """
        if self.pause:
            return None
        try:
            result = parse(await self._ask(script, keys, arguments))
        except (RedisError, OSError, EOFError, TypeError, ValueError, IndexError) as error:
            self._has_failed(error)
            return None
        self._has_answered()
        return result

    async def settle(self) -> None:
        """Wait for a client that was left behind, as long as for an answer."""
        if self._late is not None and not self._late.done():
            self._late.cancel()
            await asyncio.wait([self._late], timeout=self.timeout)

    async def _ask(
        self,
        script: Script,
        keys: Sequence[str | bytes],
        arguments: Sequence[str | bytes | float],
    ) -> object:
        if self._late is not None and not self._late.done():
            self._late.cancel()
            msg = "the last question is still with the client"
            raise TimeoutError(msg)
        task = asyncio.create_task(self._evaluate(script, keys, arguments))
        task.add_done_callback(_see_error)
        try:
            await asyncio.wait([task], timeout=self.timeout)
        finally:
            self._late = task
            task.cancel()  # does nothing if it is done
        if not task.done():
            msg = f"no answer within {self.timeout:g} s"
            raise TimeoutError(msg)
        if task.cancelled():
            msg = "the client was cancelled"
            raise ConnectionAbortedError(msg)
        return task.result()

    async def _evaluate(
        self,
        script: Script,
        keys: Sequence[str | bytes],
        arguments: Sequence[str | bytes | float],
    ) -> object:
        rest = (len(keys), *keys, *arguments)
        try:
            return await self._client.execute_command("EVALSHA", script.sha, *rest)
        except NoScriptError:
            return await self._client.execute_command("EVAL", script.text, *rest)

    def _has_failed(self, error: Exception) -> None:
        self.failures += 1
        # Spread, lest all machines come back in the same moment.
        self._retry_at = self._clock() + self._next_pause * random.uniform(0.5, 1.0)  # noqa: S311
        self._next_pause = min(2 * self._next_pause, _LONGEST_PAUSE)
        if not self._is_away:
            self._is_away = True
            _logger.warning("%s: Redis is away, limits are local: %r", self._name, error)

    def _has_answered(self) -> None:
        self.last_success = self._clock()
        self._next_pause = _FIRST_PAUSE
        if self._is_away:
            self._is_away = False
            _logger.info("%s: Redis is back", self._name)


def _see_error(task: asyncio.Task[object]) -> None:
    # Of a client that was left behind nobody else would.
    if not task.cancelled():
        task.exception()
