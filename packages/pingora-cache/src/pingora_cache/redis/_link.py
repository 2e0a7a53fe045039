"""The way to Redis: questions with a deadline, behind a circuit, over few connections.

Theory of operation: a question is a future. The client works for it in a task of its own, and is
left behind when it is late: in Python 3.11 a cancellation that meets the end of an
``asyncio.wait_for`` is lost (gh-86296), and clients use that, so neither a deadline nor the end of
our own tasks may depend on theirs. A question that is left behind keeps its place among the few
that the client may have at a time until the client has really ended, so that there are never more
connections than that; others wait for a place, within their own deadlines.

Redis that does not answer opens the circuit: for a pause that grows, nobody waits for it. An answer
that says no (out of memory, read-only, a value of the wrong type) is an answer.
"""

from __future__ import annotations

import asyncio
import logging
import math
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, final

from redis.exceptions import ClusterError, NoScriptError, ResponseError

from pingora_cache.redis._circuit import Circuit
from pingora_cache.storage import STORAGE_CLOSED
from pingora_error import Custom, Error, ErrorSource

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from pingora_cache.redis._scripts import Script

__all__ = ["REDIS_AWAY", "REDIS_REFUSED", "Answer", "Link", "RedisClient"]

_logger = logging.getLogger(__name__)

REDIS_AWAY: Final = Custom("RedisAway")
"""Redis does not answer, or did not shortly before."""

REDIS_REFUSED: Final = Custom("RedisRefused")
"""Redis has answered that it will not: out of memory, read-only, a value of the wrong type."""

# A timer that fires later than this after its time says that this process was held up, and that
# the answer may be waiting to be read.
_HELD_UP: Final = 0.02

Answer: TypeAlias = "asyncio.Future[object]"
_Argument: TypeAlias = bytes | str | int | float


class RedisClient(Protocol):
    """What is needed of a client: ``redis.asyncio.Redis`` has it, and so has its cluster client.

    It must not decode answers.
    """

    async def execute_command(self, *args: _Argument) -> object:
        """Send a command.

        Args:
            args: The command and its arguments.

        Returns:
            The answer.
        """
        ...


@final
class _Question:
    """A command on its way: the answer that somebody waits for, and the task of the client."""

    __slots__ = ("answer", "is_extended", "number", "task", "timer", "work")

    def __init__(
        self, number: int, answer: Answer, work: Callable[[], Coroutine[None, None, object]]
    ) -> None:
        self.number = number
        self.answer = answer
        self.work = work
        self.is_extended = False
        self.task: asyncio.Task[object] | None = None
        self.timer: asyncio.TimerHandle | None = None


@final
class Link:
    """Asks Redis.

    Args:
        client: The client.
        timeout: Seconds that an answer may take, a place to ask included.
        max_commands: Questions that the client has at a time.
        name: What the log calls it.
        clock: Seconds that only grow.

    Attributes:
        failures: Questions that Redis has not answered.
        refusals: Questions that were not asked since Redis had not answered shortly before.
        timeout: Seconds that an answer may take.

    Raises:
        ValueError: If a number is out of range.
    """

    __slots__ = (
        "_circuit",
        "_client",
        "_free",
        "_is_closed",
        "_name",
        "_questions",
        "_waiting",
        "failures",
        "refusals",
        "timeout",
    )

    def __init__(
        self,
        client: RedisClient,
        *,
        timeout: float,
        max_commands: int,
        name: str,
        clock: Callable[[], float],
    ) -> None:
        if not 0 < timeout < math.inf:
            msg = f"a timeout is longer than 0 seconds and ends, not {timeout}"
            raise ValueError(msg)
        if max_commands < 1:
            msg = f"there is at least 1 command at a time, not {max_commands}"
            raise ValueError(msg)
        self._circuit = Circuit(clock)
        self._client = client
        self._free = max_commands
        self._is_closed = False
        self._name = name
        self._questions: set[_Question] = set()  # that the client is at, late ones too
        self._waiting: dict[_Question, None] = {}
        self.timeout = timeout
        self.failures = 0
        self.refusals = 0

    @property
    def is_away(self) -> bool:
        """Whether Redis has failed since it last answered."""
        return self._circuit.is_open

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be asked any more."""
        return self._is_closed

    def check_open(self) -> None:
        """Make sure that something can be asked.

        Raises:
            Error: If the store has been closed.
        """
        if self._is_closed:
            raise Error(STORAGE_CLOSED, "the store in Redis", source=ErrorSource.INTERNAL)

    # ------------------------------------------------------------------------- asking

    def run(
        self,
        script: Script,
        keys: Sequence[str | bytes],
        arguments: Sequence[_Argument],
        *,
        timeout: float | None = None,
        is_committed: bool = False,
    ) -> Answer:
        """Run a script.

        Args:
            script: The script.
            keys: Its keys.
            arguments: Its arguments.
            timeout: Seconds that this answer may take; None for the usual.
            is_committed: Whether to ask even if Redis did not answer shortly before.

        Returns:
            The answer; cancelling it gives the question up. It may be left alone.

        Raises:
            Error: If Redis is not asked.
        """
        work = partial(self._evaluate, script, (len(keys), *keys, *arguments))
        return self._ask(work, timeout, is_committed=is_committed)

    def execute(self, *args: _Argument, timeout: float | None = None) -> Answer:
        """Send a command.

        Args:
            args: The command and its arguments.
            timeout: Seconds that this answer may take; None for the usual.

        Returns:
            The answer, as of ``run``.

        Raises:
            Error: If Redis is not asked.
        """
        return self._ask(partial(self._client.execute_command, *args), timeout)

    def _ask(
        self,
        work: Callable[[], Coroutine[None, None, object]],
        timeout: float | None,
        *,
        is_committed: bool = False,
    ) -> Answer:
        self.check_open()
        number = self._circuit.admit(committed=is_committed)
        if number is None:
            self.refusals += 1
            raise Error.internal(REDIS_AWAY, "it did not answer shortly before")
        loop = asyncio.get_running_loop()
        question = _Question(number, loop.create_future(), work)
        due = loop.time() + (self.timeout if timeout is None else timeout)
        question.timer = loop.call_at(due, self._is_late, question, due)
        question.answer.add_done_callback(partial(self._is_over, question))
        if self._free:
            self._start(question)
        else:
            self._waiting[question] = None
        return question.answer

    async def _evaluate(self, script: Script, rest: tuple[_Argument, ...]) -> object:
        try:
            return await self._client.execute_command("EVALSHA", script.sha, *rest)
        except NoScriptError:
            return await self._client.execute_command("EVAL", script.text, *rest)

    def _start(self, question: _Question) -> None:
        self._free -= 1
        self._questions.add(question)
        question.task = asyncio.create_task(question.work())
        question.task.add_done_callback(partial(self._has_ended, question))

    # ------------------------------------------------------------------------- endings

    def _has_ended(self, question: _Question, task: asyncio.Task[object]) -> None:
        """Take what the client has come to, if somebody still wants it; then the next."""
        self._free += 1
        self._questions.discard(question)
        if question.timer is not None:
            question.timer.cancel()
        if task.cancelled():
            error: BaseException | None = ConnectionAbortedError("the client was cancelled")
        else:
            error = task.exception()
        if not question.answer.done():
            self._settle(question, task, error)
        while self._waiting and self._free:
            following = next(iter(self._waiting))
            del self._waiting[following]
            if not following.answer.done():
                self._start(following)

    def _settle(
        self, question: _Question, task: asyncio.Task[object], error: BaseException | None
    ) -> None:
        if error is None:
            self._has_answered(question)
            question.answer.set_result(task.result())
        elif isinstance(error, ResponseError) and not isinstance(error, ClusterError):
            self._has_answered(question)
            question.answer.set_exception(Error.internal(REDIS_REFUSED, cause=error))
        else:
            self._has_failed(question, error)

    def _is_late(self, question: _Question, due: float) -> None:
        loop = asyncio.get_running_loop()
        lateness = loop.time() - due
        if question.answer.done():
            self._leave_behind(question)
        elif lateness > _HELD_UP and not question.is_extended:
            question.is_extended = True
            due = loop.time() + min(lateness, self.timeout)
            question.timer = loop.call_at(due, self._is_late, question, due)
        elif question.task is None:
            # Our own crowd is to blame, as far as we know.
            self._circuit.abandoned(question.number)
            error = TimeoutError("too many others were asking")
            question.answer.set_exception(Error.internal(REDIS_AWAY, cause=error))
        else:
            self._has_failed(question, TimeoutError("no answer in time"))

    def _is_over(self, question: _Question, answer: Answer) -> None:
        """Let go of what nobody waits for any more."""
        self._waiting.pop(question, None)
        if answer.cancelled():
            self._circuit.abandoned(question.number)
        else:
            answer.exception()  # of a question whose answer nobody waits for nobody else would
        assert question.timer is not None
        question.timer.cancel()
        self._leave_behind(question)

    def _leave_behind(self, question: _Question) -> None:
        if question.task is not None and not question.task.done():
            question.task.cancel()
            # Cancellations can get lost: look again, as long as anybody is interested.
            if not self._is_closed:
                loop = asyncio.get_running_loop()
                question.timer = loop.call_later(self.timeout, self._is_late, question, math.inf)

    def _has_failed(self, question: _Question, error: BaseException) -> None:
        self.failures += 1
        failure = Error.internal(REDIS_AWAY, cause=error)
        if self._circuit.failed(question.number):
            _logger.warning("%s: nothing is cached in Redis for now: %s", self._name, failure)
        question.answer.set_exception(failure)

    def _has_answered(self, question: _Question) -> None:
        if self._circuit.succeeded(question.number):
            _logger.info("%s: Redis is back", self._name)

    # ------------------------------------------------------------------------- closing

    async def close(self) -> None:
        """End all questions, and wait for the client as long as for an answer."""
        self._is_closed = True
        for question in (*self._waiting, *self._questions):
            if not question.answer.done():
                question.answer.set_exception(_closed())
        tasks = [question.task for question in self._questions if question.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=self.timeout)


def _closed() -> Error:
    return Error.internal(STORAGE_CLOSED, "the store in Redis")
