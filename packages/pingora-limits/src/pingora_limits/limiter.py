"""What a limiter is asked, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pingora_limits._hashing import Key

__all__ = ["AsyncLimiter", "Decision", "Limiter"]


@dataclass(slots=True)
class Decision:
    """Whether something may go on, and what the one who asked may want to know.

    Attributes:
        is_allowed: Whether it may.
        limit: The most that can be allowed at once.
        remaining: How much more would be allowed now, after this.
        retry_after: Seconds after which the same would be allowed if nothing else came: 0 if it
            was allowed, infinite if it asks for more than the limit.
        reset_after: Seconds after which, if nothing else came, the whole limit is free again.
    """

    is_allowed: bool
    limit: int
    remaining: int
    retry_after: float
    reset_after: float


class Limiter(Protocol):
    """Decides at once."""

    @property
    def limit(self) -> int:
        """The most that can be allowed at once."""
        ...

    @property
    def window(self) -> float:
        """Seconds in which that much is allowed."""
        ...

    def acquire(self, key: Key, cost: int = 1, /) -> Decision:
        """Ask, and take what is asked for if it is allowed.

        Args:
            key: Who asks.
            cost: For how much, at least 1.

        Returns:
            The answer.
        """
        ...

    def peek(self, key: Key, cost: int = 1, /) -> Decision:
        """Ask without taking.

        Args:
            key: Who asks.
            cost: For how much, at least 1.

        Returns:
            The answer; its ``remaining`` is what remains as long as nothing is taken.
        """
        ...


class AsyncLimiter(Protocol):
    """Decides after having asked somebody else, within a bounded time."""

    @property
    def limit(self) -> int:
        """The most that can be allowed at once."""
        ...

    @property
    def window(self) -> float:
        """Seconds in which that much is allowed."""
        ...

    async def acquire(self, key: Key, cost: int = 1, /) -> Decision:
        """Ask, and take what is asked for if it is allowed.

        Args:
            key: Who asks.
            cost: For how much, at least 1.

        Returns:
            The answer.
        """
        ...
