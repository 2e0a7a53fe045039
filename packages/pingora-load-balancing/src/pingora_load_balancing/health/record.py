"""What the health checks of one backend have found so far; no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from pingora_core.upstreams.peer import PeerAddress
    from pingora_error import Error
    from pingora_load_balancing.backend import Backend
    from pingora_load_balancing.state import BackendState

__all__ = ["HealthRecord"]


@final
class HealthRecord:
    """The results for one backend. Read it; `HealthChecker` changes it.

    It lives as long as the address is in the pool, whatever becomes of the weight. Times are on
    the clock of the checker.

    Args:
        state: The state of the backend in its pool.

    Attributes:
        state: As given.
        successes: Checks that found the backend well.
        failures: Checks that found it not well.
        inconclusive: Checks that this process could not do, which count for nothing.
        streak: Results in a row that contradict what the backend counts as now.
        flips: How often the checks have changed what it counts as.
        is_checking: Whether a check is under way.
        last_check: When the last check ended, seconds; None before the first.
        last_duration: How long it took, seconds.
        last_error: Why the last check that was no success was none; None if there was none yet.
        last_error_at: When that was, seconds.
        last_flip: When a check last changed what the backend counts as, seconds.
    """

    __slots__ = (
        "failures",
        "flips",
        "inconclusive",
        "is_checking",
        "last_check",
        "last_duration",
        "last_error",
        "last_error_at",
        "last_flip",
        "state",
        "streak",
        "successes",
        "ticket",
    )

    def __init__(self, state: BackendState) -> None:
        self.state: BackendState = state
        self.successes: int = 0
        self.failures: int = 0
        self.inconclusive: int = 0
        self.streak: int = 0
        self.flips: int = 0
        self.is_checking: bool = False
        self.last_check: float | None = None
        self.last_duration: float = 0.0
        self.last_error: Error | None = None
        self.last_error_at: float | None = None
        self.last_flip: float | None = None
        # Its place in the schedule; 0 for none.
        self.ticket: int = 0

    @property
    def backend(self) -> Backend:
        """The backend, with its current weight and metadata."""
        return self.state.backend

    @property
    def address(self) -> PeerAddress:
        """The address of the backend."""
        return self.state.backend.addr

    @property
    def is_healthy(self) -> bool:
        """What the backend counts as now."""
        return self.state.is_healthy

    @property
    def is_decided(self) -> bool:
        """Whether any check has had a result yet."""
        return self.successes + self.failures > 0

    def __repr__(self) -> str:
        health = "healthy" if self.is_healthy else "unhealthy"
        return (
            f"<{type(self).__name__} {self.backend} {health},"
            f" {self.successes} successes, {self.failures} failures>"
        )

    def note(self, error: Error | None, *, started: float, ended: float) -> None:
        """Take down how a check went.

        Args:
            error: Why it was no success; None if it was.
            started: When it began, seconds.
            ended: When it ended, seconds.
        """
        self.last_check = ended
        self.last_duration = max(ended - started, 0.0)
        if error is not None:
            self.last_error = error
            self.last_error_at = ended

    def observe(self, *, success: bool, threshold: int) -> bool:
        """Count a result.

        Args:
            success: Whether the backend was found well.
            threshold: How many results in a row it takes to change what the backend counts as.

        Returns:
            Whether that is to change now.
        """
        if success:
            self.successes += 1
        else:
            self.failures += 1
        if success is self.is_healthy:
            self.streak = 0
            return False
        self.streak += 1
        return self.streak >= threshold

    def flipped(self, now: float) -> None:
        """Note that what the backend counts as has changed.

        Args:
            now: The time, seconds.
        """
        self.streak = 0
        self.flips += 1
        self.last_flip = now
