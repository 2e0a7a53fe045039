"""What all sources that ask somebody else have in common.

Theory of operation. A source asks (`_ask`), and what it hears is judged before anybody else hears of
it: too many backends, too few, or far fewer than before make the answer a failure, after which the
last good set stays in use. A set that is far smaller is believed in the end, when the source has
insisted on it for long enough; one that is below the minimum never is.

Failures are raised, so that whoever asked decides; what the last one was can be read here at any
time.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from abc import ABC, abstractmethod
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from pingora_error import Error
from pingora_load_balancing.discovery.following import FailureLog, jittered
from pingora_load_balancing.discovery.interfaces import (
    DISCOVERY_ERROR,
    count_usable,
    refuse,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from typing import Self

    from pingora_load_balancing.discovery.interfaces import (
        Discovered,
    )

__all__ = ["Source", "SourceOptions"]

_logger = logging.getLogger(__name__)

_MAX_BACKENDS: Final = 100_000
_MAX_BYTES: Final = 32 << 20
# Comparing so many takes about a millisecond.
_MANY: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """Which answers of a source are believed, and who hears of failures.

    Only backends that may get requests count here: enabled ones with a weight.

    Attributes:
        min_backends: Refuse answers with fewer; 0 believes an empty one, too.
        max_loss: Refuse answers in which more than this share of the last good set is gone, 0 to
            1; 1 refuses none.
        loss_patience: Seconds after which such an answer is believed if the source still says so.
        max_backends: Refuse answers with more backends than this, of whatever kind.
        max_bytes: Refuse answers that are longer, where the source is a text.
        jitter: By which share the time between questions varies at random, 0 to 1.
        on_error: Called with each failure, quickly; what it raises is logged.
        clock: Monotonic time, seconds.
        sleep: Waits for so many seconds.

    Raises:
        ValueError: If a value is out of its range.
    """

    min_backends: int = 0
    max_loss: float = 1.0
    loss_patience: float = 60.0
    max_backends: int = _MAX_BACKENDS
    max_bytes: int = _MAX_BYTES
    jitter: float = 0.1
    on_error: Callable[[Error], None] | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("min_backends", self.min_backends, 0, self.max_backends),
            ("max_loss", self.max_loss, 0, 1),
            ("loss_patience", self.loss_patience, 0, math.inf),
            ("max_backends", self.max_backends, 1, math.inf),
            ("max_bytes", self.max_bytes, 1, math.inf),
            ("jitter", self.jitter, 0, 1),
        ):
            if not low <= value <= high:
                msg = f"{name} must be in {low}..{high}, not {value}"
                raise ValueError(msg)


_DEFAULTS: Final = SourceOptions()


class Source(ABC):
    """A discovery that asks somebody else; the base of those that come with this package.

    Write a source of your own by overriding `_ask`; it can be asked and watched then.

    Args:
        interval: Seconds from one question to the next while the source is watched.
        options: Which answers are believed, and who hears of failures.

    Attributes:
        options: As given.
        answer: The last good answer; None before the first.
        last_error: Why the last question has failed, or what was wrong with a part of its
            answer; None if nothing was.
        last_success: When the last good answer came, on the clock of the options; None before
            the first.
        failures: Failed questions since the last good answer.

    Raises:
        ValueError: If the interval is not positive.
    """

    def __init__(self, *, interval: float, options: SourceOptions | None = None) -> None:
        if not interval > 0:
            msg = f"interval must be more than 0 seconds, not {interval}"
            raise ValueError(msg)
        self.options: SourceOptions = _DEFAULTS if options is None else options
        self.answer: Discovered | None = None
        self.last_error: Error | None = None
        self.last_success: float | None = None
        self.failures: int = 0
        self._interval = interval
        self._flaw: Error | None = None
        self._loss_since: float | None = None
        self._log = FailureLog(_logger, self.options.clock)

    # ---------------------------------------------------------------------- for subclasses

    @abstractmethod
    async def _ask(self) -> Discovered:
        """Ask once; takes a bounded time.

        Returns:
            What the source says, not judged yet.

        Raises:
            Error: Why it could not be asked, or what is wrong with what it says. Any other
                exception counts as a failure, too.
        """

    def _pause(self) -> float:
        """Tell how long an answer holds when it has just come.

        Returns:
            Seconds.
        """
        return jittered(self._interval, self.options.jitter)

    async def _answers(self) -> AsyncGenerator[Discovered, None]:
        """Tell what there is now and each time that it may have changed; not judged yet.

        Override it for sources that tell of changes themselves.

        Yields:
            What the source says.
        """
        while True:
            yield await self._ask()
            await self.options.sleep(self._pause())

    def _tolerate(self, flaw: Error) -> None:
        """Take note of a failure in a part of the answer, which does not spoil the rest of it.

        Args:
            flaw: What is wrong.
        """
        self._flaw = flaw
        self._log.write(f"discovery {self!r}: a part of the answer was left out", flaw)
        self._tell(flaw)

    # ---------------------------------------------------------------------- for everybody

    async def discover(self) -> Discovered:
        """Ask once.

        Returns:
            What there is.

        Raises:
            Error: Why that is not known, or why the answer is not believed.
        """
        self._flaw = None
        try:
            return self._judge(await self._ask())
        except Exception as error:  # noqa: BLE001  # raised on
            failure = self._failed(error)
            raise failure from failure.__cause__

    async def watch(self) -> AsyncGenerator[Discovered, None]:
        """Tell what there is now, and then each time that it has changed.

        Yields:
            The answers that are believed, each different from the one before.

        Raises:
            Error: Why the source cannot be watched any more; call this again after a while.
        """
        told: Discovered | None = None
        async with aclosing(self._answers()) as answers:
            while True:
                self._flaw = None
                try:
                    found = self._judge(await anext(answers))
                except Exception as error:  # noqa: BLE001  # raised on
                    failure = self._failed(error)
                    raise failure from failure.__cause__
                if told is None or not await _is_same(found, told):
                    told = found
                    yield found

    async def close(self) -> None:  # noqa: B027  # most keep nothing open
        """Close what is kept open between questions. Asking again opens it again."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ---------------------------------------------------------------------- judging

    def _judge(self, found: Discovered) -> Discovered:
        options = self.options
        count = len(found.backends)
        if count > options.max_backends:
            _refuse(f"{count} backends, at most {options.max_backends} are allowed")
        usable = count_usable(found)
        if usable < options.min_backends:
            _refuse(f"{usable} usable backends, at least {options.min_backends} are needed")
        now = options.clock()
        if self.answer is not None and options.max_loss < 1.0:
            before = count_usable(self.answer)
            if usable < before * (1.0 - options.max_loss):
                since = self._loss_since = now if self._loss_since is None else self._loss_since
                left = since + options.loss_patience - now
                if left > 0:
                    _refuse(
                        f"{usable} usable backends, {before} before; believed if it stays so for"
                        f" {left:.0f} s"
                    )
        self._loss_since = None
        self.answer = found
        self.last_error = self._flaw
        self.last_success = now
        self.failures = 0
        return found

    def _failed(self, error: Exception) -> Error:
        """Take note of a failure.

        Returns:
            It, in the form that is raised.
        """
        if isinstance(error, Error):
            failure = error
        else:
            failure = Error.internal(DISCOVERY_ERROR, repr(self), cause=error)
        self.last_error = failure
        self.failures += 1
        self._tell(failure)
        return failure

    def _tell(self, error: Error) -> None:
        on_error = self.options.on_error
        if on_error is None:
            return
        try:
            on_error(error)
        except Exception:
            _logger.exception("the on_error callback of %r failed", self)


async def _is_same(one: Discovered, other: Discovered) -> bool:
    if one is other:
        return True
    if len(one.backends) <= _MANY or len(one.backends) != len(other.backends):
        return one == other
    return await asyncio.to_thread(one.__eq__, other)


def _refuse(why: str) -> NoReturn:
    refuse(f"answer refused: {why}")
