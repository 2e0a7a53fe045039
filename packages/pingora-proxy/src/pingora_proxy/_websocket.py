"""A WebSocket that passes the proxy, and how a server that stops ends it in its own language.

Theory of operation. The frames of both directions are followed, not parsed. When it is time, a Close
frame with "going away" is put in each way, at once where no frame is half through, else behind that
frame. From then on nothing passes, and for a bounded time the Close of either peer is waited for;
the server of the two then ends its connection (RFC 6455 section 7.1.1), and so does the proxy.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from pingora_core.protocols.http.websocket_frames import GOING_AWAY, FrameTracker, close_frame
from pingora_error import Error
from pingora_proxy._open_ended import STOP_WAIT, STOPPING
from pingora_proxy._tunnel import Tunnel

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.protocols.http.client import ClientSession
    from pingora_core.protocols.http.server import ServerSession

__all__ = ["WebSocketTunnel"]


class _Direction:
    """What goes to one of the peers.

    Args:
        send: Sends to it.
        is_masked: Whether it expects masked frames, as servers do.

    Attributes:
        frames: Follows what the other peer sends.
        is_over: Whether this peer has been told the end, so that nothing passes any more.
    """

    __slots__ = ("_is_ending", "_is_masked", "_send", "frames", "is_over")

    def __init__(self, send: Callable[[bytes], None], *, is_masked: bool) -> None:
        self.frames = FrameTracker()
        self.is_over = False
        self._send = send
        self._is_masked = is_masked
        self._is_ending = False

    def take(self, data: bytes) -> None:
        """Follow a piece and send on what may pass of it. HOT.

        Args:
            data: At least one byte.
        """
        if self._is_ending and not self.is_over:
            cut = self.frames.next_boundary(data)
            if cut >= 0:
                last = data[:cut]
                data = data[cut:]
                if last:
                    self.frames.feed(last)
                    self._send(last)
                self._finish()
                if not data:
                    return
        self.frames.feed(data)
        if not self.is_over:
            self._send(data)

    def end(self) -> None:
        """Tell the peer the end, now or behind the frame that is half through."""
        self._is_ending = True
        if self.frames.at_boundary:
            self._finish()

    def _finish(self) -> None:
        self.is_over = True
        # Nothing may follow a Close that has passed already; and a peer that is gone needs none.
        if not self.frames.has_close:
            mask = os.urandom(4) if self._is_masked else b""
            with suppress(Error):
                self._send(close_frame(GOING_AWAY, STOPPING.encode(), mask=mask))


class WebSocketTunnel(Tunnel):
    """Both directions of a WebSocket; see `Tunnel`.

    Args:
        downstream: The client's side.
        upstream: The upstream's side.
    """

    note = f"the server stops: WebSocket closed with {GOING_AWAY}"

    def __init__(self, downstream: ServerSession, upstream: ClientSession) -> None:
        super().__init__(downstream, upstream)
        self._to_client = _Direction(downstream.send_upgraded, is_masked=False)
        self._to_upstream = _Direction(upstream.send_upgraded, is_masked=True)
        self._are_both_told = False
        self._answers_due = 0.0

    def send_to_client(self, data: bytes) -> None:
        """Send on what the upstream has sent. HOT.

        Args:
            data: At least one byte.
        """
        self._to_client.take(data)
        if self.is_ending:
            self._progress()

    def send_to_upstream(self, data: bytes) -> None:
        """Send on what the client has sent. HOT.

        Args:
            data: At least one byte.
        """
        self._to_upstream.take(data)
        if self.is_ending:
            self._progress()

    @property
    def has_client_left(self) -> bool:
        """Whether the client has sent its Close after it was told the end."""
        return self._are_both_told and self._to_upstream.frames.has_close

    def _begin_end(self) -> None:
        self._to_client.end()
        self._to_upstream.end()
        self._progress()

    def _progress(self) -> None:
        if not (self._to_client.is_over and self._to_upstream.is_over):
            if self._deadline is not None:
                # A long frame may take its time as long as it moves; the grace period ends that.
                self._deadline.set(STOP_WAIT)
            return
        if not self._are_both_told:
            self._are_both_told = True
            self._answers_due = asyncio.get_running_loop().time() + STOP_WAIT
            if self._deadline is not None:
                self._deadline.set(STOP_WAIT)
        if self._to_client.frames.has_close and self._to_upstream.frames.has_close:
            self._finish_upstream()

    def _is_within_data(self) -> bool:
        return not self._are_both_told

    def ends_with(self, error: Error) -> bool:  # noqa: ARG002 - one shape
        """Tell whether an error of the upstream's is the end that the server wants.

        Args:
            error: With which the wait for the upstream has ended.

        Returns:
            True once both peers were told: how they leave then harms nobody.
        """
        return self._are_both_told

    async def settle(self, forwarding: asyncio.Task[None]) -> None:
        """Wait for the client's Close.

        Args:
            forwarding: Runs `forward`.
        """
        left = self._answers_due - asyncio.get_running_loop().time()
        if self._are_both_told and not self.has_client_left and left > 0:
            await asyncio.wait((forwarding,), timeout=left)
