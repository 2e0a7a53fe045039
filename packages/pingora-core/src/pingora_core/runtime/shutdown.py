"""How the server tells everything below it that it is going to stop.

The server owns a `ShutdownSwitch` and hands out its `ShutdownWatch`, which can only be looked at,
waited for or subscribed to. Both belong to one event loop and are not thread-safe.

A shutdown has two stages. When it begins, nothing new is taken on, and what is in flight goes on to
its end. Exchanges that have no end of their own (WebSockets, event streams, tunnels) would go on
until they are cut; the second stage tells them to come to an end now, properly.
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
        is_ending_streams: True once exchanges without an end of their own should end; never False
            again. Read only.
    """

    __slots__ = ("_callbacks", "_stream_callbacks", "is_ending_streams", "is_shutting_down")

    def __init__(self) -> None:
        self.is_shutting_down: bool = False
        self.is_ending_streams: bool = False
        # Ordered sets: connections come and go by the thousand and unsubscribe in O(1).
        self._callbacks: dict[object, Callable[[], None]] = {}
        self._stream_callbacks: dict[object, Callable[[], None]] = {}

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
        return _subscribe(self._callbacks, callback)

    def subscribe_end_of_streams(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have a function called once when exchanges without an end of their own should end.

        Args:
            callback: Called as `subscribe` calls its own: at once if it is time already.

        Returns:
            A function that takes the subscription back; calling it late or twice is harmless.
        """
        if self.is_ending_streams:
            _call(callback)
            return _nothing
        return _subscribe(self._stream_callbacks, callback)

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
        _call_all(self._callbacks)

    def _end_streams(self) -> None:
        self._begin()
        if self.is_ending_streams:
            return
        self.is_ending_streams = True
        _call_all(self._stream_callbacks)


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

    def end_streams(self) -> None:
        """Begin the second stage: tell exchanges without an end of their own to end now.

        Begins the shutdown if it has not begun. Calling it again does nothing. Must be called in
        the thread of the event loop.
        """
        self._watch._end_streams()  # noqa: SLF001  # two halves of one object


def _subscribe(
    callbacks: dict[object, Callable[[], None]], callback: Callable[[], None]
) -> Callable[[], None]:
    token = object()
    callbacks[token] = callback

    def unsubscribe() -> None:
        callbacks.pop(token, None)

    return unsubscribe


def _call_all(callbacks: dict[object, Callable[[], None]]) -> None:
    # One at a time: any of them may take back others that were not called yet.
    while callbacks:
        token = next(iter(callbacks))
        _call(callbacks.pop(token))


def _call(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:
        _logger.exception("a shutdown callback failed: %r", callback)


def _nothing() -> None:
    pass
