"""The endpoints of a service, held while its limits leave no room for a connection."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, final

from pingora_core.runtime import timers
from pingora_error import Error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pingora_core.listeners.admission import ConnectionLimits
    from pingora_core.listeners.limits import Pausable

__all__ = ["Holding"]

_logger = logging.getLogger(__name__)

# Seconds until accepting is tried again where it has failed.
_PAUSE: Final = 0.1


@final
class Holding:
    """What stands between the limits of a service and its endpoints.

    Args:
        endpoints: Tells which endpoints accept, or would.
    """

    __slots__ = ("_endpoints", "_is_due", "_limits", "_task")

    def __init__(self, endpoints: Callable[[], Iterable[Pausable]]) -> None:
        self._endpoints = endpoints
        self._limits: ConnectionLimits | None = None
        self._is_due = False
        self._task: asyncio.Task[None] | None = None

    def is_held(self) -> bool:
        """Tell whether the endpoints must not accept now.

        Returns:
            Whether there is no room.
        """
        return self._limits is not None and self._limits.is_holding

    def follow(self, limits: ConnectionLimits | None) -> None:
        """Be held by these limits from now on, and by no others.

        Args:
            limits: The limits; None for none.
        """
        if limits is self._limits:
            return
        was_held = self.is_held()
        previous = self._limits
        self.end()
        if previous is not None:
            previous.let_go()
        self._limits = limits
        if limits is not None:
            limits.attach(self)
        if was_held and not self.is_held():
            self.go_on()

    def end(self) -> None:
        """Be held by nothing; who was accepted waits for its place as before."""
        limits, self._limits = self._limits, None
        if limits is not None:
            limits.detach(self)

    def hold(self) -> None:
        """Stop accepting; clients wait."""
        for endpoint in self._endpoints():
            endpoint.pause()

    def go_on(self) -> None:
        """Accept again, soon."""
        self._is_due = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._resume())

    async def settle(self) -> None:
        """Wait until what was begun is done."""
        if self._task is not None:
            await asyncio.wait((self._task,))

    async def _resume(self) -> None:
        while self._is_due and not self.is_held():
            self._is_due = False
            try:
                for endpoint in tuple(self._endpoints()):
                    await endpoint.resume()
            except (OSError, Error) as error:
                _logger.warning("accepting again failed: %s", error)
                self._is_due = True
                await timers.sleep(_PAUSE)
