"""What can be said about how an ASGI application is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["AsgiOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AsgiOptions:
    """How an application is run.

    Attributes:
        lifespan: ``auto`` for an application that may know no lifespan, ``on`` for one that must
            start properly, ``off`` for one that is not told (uvicorn's words and meanings).
        lifespan_timeout: Seconds that its start-up and its shutdown may take, each; also how long
            what still runs after its responses is waited for.
        response_timeout: Seconds until it begins to answer, or accepts a WebSocket; the time in
            which it waits for a request body does not count. A 504 then. None for no limit.
        disconnect_timeout: Seconds that it may go on with a response, or a WebSocket, whose client
            has gone; it is cancelled then. What has not begun to answer is left to
            ``response_timeout``.
        max_message_size: Bytes of a WebSocket message at most; a longer one ends the connection
            with 1009.
        ping_interval: Seconds of silence after which a WebSocket's client is sent a Ping; None
            for never, and then a client that has vanished may be kept for ever.
        ping_timeout: Seconds that it may take to answer; the connection is ended with 1011 then.
    """

    lifespan: Literal["auto", "on", "off"] = "auto"
    lifespan_timeout: float = 30.0
    response_timeout: float | None = 60.0
    disconnect_timeout: float = 5.0
    max_message_size: int = 16 << 20
    ping_interval: float | None = 20.0
    ping_timeout: float = 20.0
