"""Following a source: asked or watched, whatever it can do, and again after each failure.

Theory of operation. Sources raise, and whoever follows them decides what becomes of a failure: it is
logged here, a few times and then less often, and the source is left alone for a while that doubles
with each failure in a row. A part of that time is random, so that a thousand proxies do not come
back to a name service at the same moment.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pingora_core.runtime.log_limit import LogLimit
from pingora_error import Error
from pingora_load_balancing.discovery.interfaces import WatchableDiscovery, refuse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from pingora_load_balancing.discovery.interfaces import Discovered, ServiceDiscovery

__all__ = ["Backoff", "FailureLog", "follow", "jittered"]

_logger = logging.getLogger(__name__)

# Ten failures in full, then one line a minute.
_LOG_RATE: Final = 1.0 / 60.0
_LOG_BURST: Final = 10
_MAX_DOUBLINGS: Final = 32
_DEFAULT_JITTER: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long to leave a failing source alone.

    Attributes:
        initial: Seconds after the first failure.
        maximum: Most seconds, however many failures there were in a row.

    Raises:
        ValueError: If the times are not positive, or the maximum is below the initial one.
    """

    initial: float = 1.0
    maximum: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.initial <= self.maximum:
            msg = f"backoff needs 0 < initial <= maximum, not {self.initial} and {self.maximum}"
            raise ValueError(msg)

    def delay(self, failures: int) -> float:
        """Choose how long to wait.

        Args:
            failures: How many there were in a row, at least 1.

        Returns:
            Seconds: a random part, but at least half, of what has doubled with each failure.
        """
        doubled = self.initial * 2.0 ** min(failures - 1, _MAX_DOUBLINGS)
        return min(doubled, self.maximum) * random.uniform(0.5, 1.0)  # noqa: S311  # no secret


_DEFAULT_BACKOFF: Final = Backoff()


class FailureLog:
    """Writes failures to a log, but not thousands of lines of them.

    Args:
        logger: The log.
        clock: Monotonic time, seconds.
        level: The level of the lines.
    """

    __slots__ = ("_clock", "_level", "_limit", "_logger")

    def __init__(
        self,
        logger: logging.Logger,
        clock: Callable[[], float] = time.monotonic,
        *,
        level: int = logging.WARNING,
    ) -> None:
        self._logger = logger
        self._clock = clock
        self._level = level
        self._limit = LogLimit(_LOG_RATE, _LOG_BURST)

    def write(self, what: str, error: Exception) -> None:
        """Write one failure, unless there were many lately.

        Args:
            what: What has failed and what that means.
            error: Why. Of one that no source should raise the traceback is written too.
        """
        left_out = self._limit.admit(self._clock())
        if left_out is None:
            return
        self._logger.log(
            self._level,
            "%s: %s%s",
            what,
            str(error) or type(error).__name__,
            f" ({left_out} failures before it were not logged)" if left_out else "",
            exc_info=None if isinstance(error, Error | TimeoutError) else error,
        )


def jittered(seconds: float, jitter: float = _DEFAULT_JITTER) -> float:
    """Vary a time at random.

    Args:
        seconds: The time.
        jitter: By how much of it, at most, up or down; 0 to 1.

    Returns:
        Seconds.
    """
    return seconds * random.uniform(1.0 - jitter, 1.0 + jitter)  # noqa: S311  # no secret


async def follow(
    discovery: ServiceDiscovery,
    *,
    frequency: float | None = None,
    backoff: Backoff = _DEFAULT_BACKOFF,
    on_failure: Callable[[Exception], None] | None = None,
    timeout: float | None = 60.0,
) -> AsyncGenerator[Discovered, None]:
    """Follow a source for as long as the generator is open.

    Args:
        discovery: The source. One that can be watched is, unless a frequency is given.
        frequency: Seconds from one question to the next, plus or minus a tenth. None to watch the
            source; one that cannot be watched is then asked until it has answered once.
        backoff: How long to leave it alone when it fails.
        on_failure: Called with each failure, quickly; failures are logged if it is None.
        timeout: Seconds after which an unanswered question counts as failed. What watches has its
            own deadlines.

    Yields:
        Each answer; the same one more than once if the source is asked.
    """
    failures = 0
    log = FailureLog(_logger)
    while True:
        answers = None
        if frequency is None and isinstance(discovery, WatchableDiscovery):
            answers = discovery.watch()
        try:
            if answers is None:
                async with asyncio.timeout(timeout):
                    found = await discovery.discover()
                failures = 0
                yield found
            else:
                async with aclosing(answers):
                    async for found in answers:
                        failures = 0
                        yield found
                refuse("the watch has ended")
        except Exception as error:  # noqa: BLE001  # told to whoever wants to know, or logged
            failures += 1
            if on_failure is None:
                log.write(f"discovery {discovery!r} failed, the last answer stays", error)
            else:
                on_failure(error)
            await asyncio.sleep(backoff.delay(failures))
            continue
        if frequency is None:
            return
        await asyncio.sleep(jittered(frequency))
