"""How the server tells everything below it that it is going to stop.

The server owns a `ShutdownSwitch` and hands out its `ShutdownWatch`, which can only be looked at,
waited for or subscribed to. Both belong to one event loop and are not thread-safe.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ShutdownSwitch", "ShutdownWatch"]

_logger = logging.getLogger(__name__)


class ShutdownWatch:
    """Tells whether a shutdown has begun; made by `ShutdownSwitch`.

    Attributes:
        is_shutting_down: True once the shutdown has begun; never False again. Read only.
    """

    __slots__ = ("_callbacks", "is_shutting_down")

    def __init__(self) -> None:
        self.is_shutting_down = False
        # An ordered set: connections come and go by the thousand and unsubscribe in O(1).
        self._callbacks: dict[object, Callable[[], None]] = {}

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have a function called once when the shutdown begins.

        Args:
            callback: Called without arguments, in the order of subscription; at once, before
                this returns, if the shutdown has begun already. It must not block; what it
                raises is logged.

        Returns:
            A function that takes the subscription back; calling it late or twice is harmless.
        """
        if self.is_shutting_down:
            _call(callback)
            return _nothing
        token = object()
        self._callbacks[token] = callback
        callbacks = self._callbacks

        def unsubscribe() -> None:
            callbacks.pop(token, None)

        return unsubscribe

    async def wait(self) -> None:
        """Wait until the shutdown begins."""
        if self.is_shutting_down:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        unsubscribe = self.subscribe(wake)
        try:
            await waiter
        finally:
            unsubscribe()

    def _begin(self) -> None:
        if self.is_shutting_down:
            return
        self.is_shutting_down = True
        while self._callbacks:
            token = next(iter(self._callbacks))
            _call(self._callbacks.pop(token))


class ShutdownSwitch:
    """The owner's side: begins the shutdown that its watch tells of."""

    __slots__ = ("_watch",)

    def __init__(self) -> None:
        self._watch = ShutdownWatch()

    @property
    def watch(self) -> ShutdownWatch:
        """What to hand out; always the same object."""
        return self._watch

    def start(self) -> None:
        """Begin the shutdown: tell all subscribers. Calling it again does nothing.

        Must be called in the thread of the event loop.
        """
        self._watch._begin()  # noqa: SLF001  # two halves of one object


def _call(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:
        _logger.exception("a shutdown callback failed: %r", callback)


def _nothing() -> None:
    pass
