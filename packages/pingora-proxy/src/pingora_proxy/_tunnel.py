"""The client's direction of a connection that has left HTTP: raw bytes, until somebody closes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from pingora_core.protocols.http.client import ClientSession
    from pingora_core.protocols.http.server import ServerSession

__all__ = ["UPGRADED_IDLE", "Tunnel"]

#: Seconds that an upgraded connection may be silent in both directions: long, because quiet
#: WebSockets are normal, but a peer that vanished without a FIN must not be kept for ever.
UPGRADED_IDLE: Final = 3600.0
# How long an upstream may go on sending after the client closed its direction.
_LINGER = 10.0


class Tunnel:
    """Forwards what the client sends after the switch.

    Args:
        downstream: The client's side.
        upstream: The upstream's side.
    """

    __slots__ = ("_active", "_down", "_up")

    def __init__(self, downstream: ServerSession, upstream: ClientSession) -> None:
        self._down = downstream
        self._up = upstream
        self._active = False

    def was_active(self) -> bool:
        """Tell whether the client sent anything, and begin to count anew.

        Returns:
            True if it did since the last call.
        """
        active = self._active
        self._active = False
        return active

    async def forward(self, *, after: asyncio.Task[None] | None) -> None:
        """Forward bytes until the client closes its direction; runs in a task of its own.

        A failure interrupts whoever waits for the upstream.

        Args:
            after: Sends the request body, which comes first; None if it is sent.
        """
        down = self._down
        up = self._up
        try:
            if after is not None:
                await asyncio.wait((after,))
                down.watch_disconnect(None)
            while data := await down.read_upgraded():
                self._active = True
                up.send_upgraded(data)
                if up.needs_drain:
                    await up.drain()
            if up.finish_upgraded():
                await asyncio.sleep(_LINGER)
            up.fail(Error.down(ErrorType.CONNECTION_CLOSED, "the client closed its direction"))
        except Error as error:
            up.fail(error)
