"""The check that is a function of the user's own."""

from __future__ import annotations

import asyncio
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pingora_load_balancing.backend import Backend

__all__ = ["CustomHealthCheck"]


@dataclass(frozen=True, slots=True, eq=False)
class CustomHealthCheck:
    """Calls a function; a class of your own with an ``async check`` will do as well.

    Attributes:
        function: Checks a backend; whatever it raises makes the check a failure.
        timeout: Total deadline of one check, seconds.

    Raises:
        ValueError: If the timeout is not positive.

    Examples:
        >>> async def queue_is_short(backend: Backend) -> None:
        ...     if await ask_length(backend) > 100:
        ...         raise RuntimeError("the queue is long")
        >>> check = CustomHealthCheck(queue_is_short, timeout=1.0)
    """

    function: Callable[[Backend], Awaitable[None]]
    _: KW_ONLY
    timeout: float = 2.0

    def __post_init__(self) -> None:
        if not self.timeout > 0:
            msg = f"timeout must be more than 0 seconds, not {self.timeout}"
            raise ValueError(msg)

    async def check(self, backend: Backend) -> None:
        """Check a backend within the deadline.

        Args:
            backend: The backend.

        Raises:
            Error: What the function raised, as it is or as the cause of an ``UNKNOWN_ERROR``;
                ``READ_TIMEDOUT`` if it took too long.
        """
        deadline = asyncio.timeout(self.timeout)
        try:
            async with deadline:
                await self.function(backend)
        except Error:
            raise
        except Exception as error:
            if isinstance(error, TimeoutError) and deadline.expired():
                raise Error(
                    ErrorType.READ_TIMEDOUT,
                    f"{backend}: no verdict within {self.timeout} s",
                    source=ErrorSource.UPSTREAM,
                ) from error
            raise Error(
                ErrorType.UNKNOWN_ERROR, str(backend), source=ErrorSource.UPSTREAM, cause=error
            ) from error
