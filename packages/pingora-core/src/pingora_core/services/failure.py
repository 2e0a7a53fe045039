"""What follows when a service fails: the server stops, or the service is started again."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias, final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["STOP_SERVER", "FailurePolicy", "Restart", "RestartHistory", "StopServer"]


@final
@dataclass(frozen=True, slots=True)
class StopServer:
    """A service that fails stops the whole server, in the graceful way, with exit code 1."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """A service that fails is started again after a pause that doubles from time to time.

    A failure before the service was ready stops the server all the same: what never came up is
    a mistake to be seen, not a fault to be ridden out.

    Attributes:
        initial_delay: Pause after the first failure, seconds, more than 0.
        max_delay: Longest pause, seconds.
        reset_after: A service that ran for this long before it failed starts over with
            ``initial_delay``, seconds.
        jitter: Share of a pause, 0 to 1, by which it is shortened at random, so that many
            processes that failed together do not come back together.
        max_restarts: How many restarts within ``restart_window`` are tried; the failure after
            them stops the server. None for any number.
        restart_window: What ``max_restarts`` is counted over, seconds, more than 0.

    Raises:
        ValueError: If a number makes no sense.
    """

    initial_delay: float = 0.1
    max_delay: float = 30.0
    reset_after: float = 60.0
    jitter: float = 0.2
    max_restarts: int | None = None
    restart_window: float = 600.0

    def __post_init__(self) -> None:
        wanted = ""
        if not 0 < self.initial_delay <= self.max_delay or not self.reset_after >= 0:
            wanted = "0 < initial_delay <= max_delay and reset_after >= 0"
        elif not 0 <= self.jitter <= 1:
            wanted = "0 <= jitter <= 1"
        elif self.max_restarts is not None and self.max_restarts < 0:
            wanted = "max_restarts >= 0 or None"
        elif not self.restart_window > 0:
            wanted = "restart_window > 0"
        if wanted:
            msg = f"{self!r}: wanted {wanted}"
            raise ValueError(msg)

    def next_delay(self, previous: float, ran_for: float) -> float:
        """Decide how long to pause after a failure.

        Args:
            previous: The pause before the run that failed, seconds; 0 if there was none.
            ran_for: How long that run was, seconds.

        Returns:
            The pause before the next one, seconds, without jitter.
        """
        if previous == 0 or ran_for >= self.reset_after:
            return self.initial_delay
        return min(previous * 2, self.max_delay)


FailurePolicy: TypeAlias = StopServer | Restart
STOP_SERVER: Final = StopServer()


@final
class RestartHistory:
    """The failures of one service so far, and what its policy makes of them.

    Args:
        uniform: Gives a random number, 0 to 1, for the jitter.
    """

    __slots__ = ("_delay", "_failures", "_uniform")

    def __init__(
        self,
        uniform: Callable[[], float] = random.random,  # noqa: S311 - spreads load
    ) -> None:
        self._uniform = uniform
        self._delay = 0.0
        # Only those that a limit may still count: without one, none.
        self._failures: deque[float] = deque()

    def next_pause(self, policy: Restart, *, started: float, failed: float) -> float | None:
        """Note a failure and decide when to try again.

        Args:
            policy: What the service declares.
            started: When the run that failed began, seconds on a monotonic clock.
            failed: When it failed, on the same clock.

        Returns:
            How long to pause, seconds; None if it has failed too often and the server is to stop.
        """
        if policy.max_restarts is not None:
            failures = self._failures
            failures.append(failed)
            while failures[0] <= failed - policy.restart_window:
                failures.popleft()
            if len(failures) > policy.max_restarts:
                return None
        self._delay = policy.next_delay(self._delay, failed - started)
        return self._delay * (1 - policy.jitter * self._uniform())
