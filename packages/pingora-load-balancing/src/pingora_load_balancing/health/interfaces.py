"""What a health check is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pingora_load_balancing.backend import Backend

__all__ = ["ClosableHealthCheck", "HealthCheck"]


class HealthCheck(Protocol):
    """Finds out whether a backend is well, once.

    How often, how many times in a row and what follows is the business of `HealthChecker`.

    Source: trait HealthCheck in pingora-load-balancing/src/health_check.rs.
    """

    async def check(self, backend: Backend) -> None:
        """Check a backend; returning means that it is well.

        Several backends are checked at the same time, one backend never twice at a time. The call
        is cancelled when its backend leaves the pool and when the server stops.

        Args:
            backend: The backend.

        Raises:
            Error: What is wrong with it. An error whose source is ``INTERNAL`` says that this
                process could not check, which is held against no backend. Any other exception
                counts as a failure of the backend.
        """
        ...


@runtime_checkable
class ClosableHealthCheck(HealthCheck, Protocol):
    """A health check that keeps something open between its calls."""

    async def close(self) -> None:
        """Let go of what is kept; called when the checks end. It may be used again afterwards."""
        ...
