"""A connection that has left HTTP: raw bytes both ways, until somebody closes or the server stops.

Theory of operation. The client's direction has a task here; the upstream's is relayed by the
exchange. Nothing is known of the protocol that is spoken. When the server stops and it is time, the
upstream is told that the client's direction has ended, and may for a bounded time still say what it
has to say; then both connections are closed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from pingora_core.runtime.timers import Deadline, get_timers
from pingora_error import Error, ErrorType
from pingora_proxy._open_ended import STOP_WAIT, STOPPING

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
    """Both directions after the switch.

    Args:
        downstream: The client's side.
        upstream: The upstream's side.

    Attributes:
        is_ending: Whether the server has begun to end it.
        note: What the server has done when it has ended it, for logs.
    """

    note = "the server stops: tunnel closed"

    def __init__(self, downstream: ServerSession, upstream: ClientSession) -> None:
        self._down = downstream
        self._up = upstream
        self._active = False
        self.is_ending = False
        self._is_flowing = False
        self._is_cut = False
        self._deadline: Deadline | None = None
        self._ended = Error.internal(ErrorType.CONNECTION_CLOSED, f"{STOPPING}: data was cut off")

    def was_active(self) -> bool:
        """Tell whether the client sent anything, and begin to count anew.

        Returns:
            True if it did since the last call.
        """
        active = self._active
        self._active = False
        return active

    # ------------------------------------------------------------- forwarding

    def send_to_client(self, data: bytes) -> None:
        """Send on what the upstream has sent.

        Args:
            data: At least one byte.
        """
        self._is_flowing = True
        self._down.send_upgraded(data)

    def send_to_upstream(self, data: bytes) -> None:
        """Send on what the client has sent.

        Args:
            data: At least one byte.
        """
        if not self.is_ending:
            self._up.send_upgraded(data)

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
            while not self.has_client_left and (data := await down.read_upgraded()):
                self._active = True
                self.send_to_upstream(data)
                if up.needs_drain:
                    await up.drain()
            if self.is_ending:
                return
            if up.finish_upgraded():
                await asyncio.sleep(_LINGER)
            up.fail(Error.down(ErrorType.CONNECTION_CLOSED, "the client closed its direction"))
        except Error as error:
            up.fail(error)

    # ----------------------------------------------------------------- ending

    @property
    def has_client_left(self) -> bool:
        """Whether the client has agreed to the end that the server wants."""
        return False

    def end(self) -> None:
        """Bring it to its end; called when exchanges of this kind should end."""
        self.is_ending = True
        self._is_flowing = False
        self._deadline = Deadline(get_timers(), self._expired)
        self._deadline.set(STOP_WAIT)
        self._begin_end()

    def _begin_end(self) -> None:
        if not self._finish_upstream():
            # Of TLS no direction ends alone.
            self._up.fail(self._ended)

    def _finish_upstream(self) -> bool:
        try:
            return self._up.finish_upgraded()
        except Error:
            return False

    def _expired(self) -> None:
        self._is_cut = self._is_within_data()
        self._up.fail(self._ended)
        if self._down.needs_drain:
            # The relay waits for a client that takes nothing: there is nobody to end it with.
            self._is_cut = True
            self._down.shutdown()

    def _is_within_data(self) -> bool:
        return self._is_flowing

    def ends_with(self, error: Error) -> bool:
        """Tell whether an error of the upstream's is the end that the server wants.

        Args:
            error: With which the wait for the upstream has ended.

        Returns:
            False if it is an error like any other, or data was cut off.
        """
        return error is self._ended and not self._is_cut

    async def settle(self, forwarding: asyncio.Task[None]) -> None:
        """Give the client its time too, when the upstream has come to its end.

        Args:
            forwarding: Runs `forward`.
        """

    def release(self) -> None:
        """Stop the clock; for the end of the exchange."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
