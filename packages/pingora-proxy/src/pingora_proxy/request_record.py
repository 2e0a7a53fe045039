"""The times of one request, for those who observe it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pingora_core.protocols.digest import Digest
    from pingora_core.protocols.http.client import ClientSession
    from pingora_core.protocols.http.server import ServerSession
    from pingora_core.upstreams.peer import HttpPeer
    from pingora_error import Error
    from pingora_http import ResponseHeader

__all__ = ["AttemptRecord", "RequestRecord"]


class AttemptRecord:
    """One attempt to have an upstream answer; the times are ``time.monotonic()``.

    Args:
        peer: Where it goes.
        started: When it began, before a connection was looked for.

    Attributes:
        peer: As given.
        started: As given.
        connected: When there was a connection, which is at once where one is reused; None if it
            never came to that.
        reused: Whether the connection came from the pool; None without one.
        upstream: The upstream's side of the exchange; None without a connection.
        head: When the final head of the response had arrived; None if it has not.
        status: The status of that head; None without one.
        ended: When the attempt was over; None while it is not.
        error: Why it failed; None if it did not.
    """

    __slots__ = (
        "connected",
        "ended",
        "error",
        "head",
        "peer",
        "reused",
        "started",
        "status",
        "upstream",
    )

    def __init__(self, peer: HttpPeer, started: float) -> None:
        self.peer: HttpPeer = peer
        self.started: float = started
        self.connected: float | None = None
        self.reused: bool | None = None
        self.upstream: ClientSession | None = None
        self.head: float | None = None
        self.status: int | None = None
        self.ended: float | None = None
        self.error: Error | None = None

    @property
    def digest(self) -> Digest | None:
        """What is known of the connection; None without one."""
        return None if self.upstream is None else self.upstream.digest


class RequestRecord:
    """The course of one request.

    Attributes:
        started: When its head had been read, ``time.monotonic()``.
        started_at: The same by the wall clock, seconds since the epoch.
        attempts: The attempts so far.
        ended: When it was over, ``time.monotonic()``; None while it is not.
        failed_in: Name of the callback or step in which it failed; None if it did not.
        response: The head that was answered with, once it is over; None if there was none.
        request_bytes: Payload bytes of the request that were read, once it is over.
        response_bytes: Payload bytes of the response that were sent, once it is over.
    """

    __slots__ = (
        "_state",
        "attempts",
        "ended",
        "failed_in",
        "request_bytes",
        "response",
        "response_bytes",
        "started",
        "started_at",
    )

    request_bytes: int
    response: ResponseHeader | None
    response_bytes: int

    def __init__(self) -> None:
        self.started: float = time.monotonic()
        self.started_at: float = time.time()
        self.attempts: list[AttemptRecord] = []
        self.ended: float | None = None
        self.failed_in: str | None = None
        self._state: dict[object, object] | None = None

    @property
    def state(self) -> dict[object, object]:
        """For observers to keep what they know of the request, each under a key of its own."""
        if self._state is None:
            self._state = {}
        return self._state

    def complete(self, down: ServerSession) -> None:
        """Note what has come of it, once it is over.

        Args:
            down: The client's side.
        """
        self.response = down.response_written
        self.request_bytes = down.body_bytes_read
        self.response_bytes = down.body_bytes_sent
