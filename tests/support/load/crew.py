"""Many clients of many sorts at a time."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final, Self, TypeAlias

from tests.support.load import abuse, http1, http2, websocket
from tests.support.load.counts import Counts

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from tests.support.load.target import Target

__all__ = ["ABUSE", "SORTS", "Crew"]

_Client: TypeAlias = "Callable[[Target, Counts, asyncio.Event], Coroutine[object, object, None]]"

SORTS: Final[dict[str, _Client]] = {
    "h1-new": http1.new_connections,
    "h1-busy": http1.keep_alive,
    "h1-5ms": partial(http1.keep_alive, pace=0.005),
    "h1-150ms": partial(http1.keep_alive, pace=0.15),
    "h1-slow": partial(http1.keep_alive, path="/slow"),
    "uds-new": partial(http1.new_connections, front="uds"),
    "uds-kept": partial(http1.keep_alive, front="uds", pace=0.02),
    "tls-new": partial(http1.new_connections, front="tls", pace=0.03),
    "tls-kept": partial(http1.keep_alive, front="tls", pace=0.02),
    "h2": http2.multiplexed,
    "upload": http1.upload,
    "sse": http1.listen_to_events,
    "sse-tls": partial(http1.listen_to_events, front="tls"),
    "ws": websocket.echo,
    "wss": partial(websocket.echo, front="tls"),
}
"""All sorts of clients; each runs until it is told to stop."""

ABUSE: Final[dict[str, _Client]] = {
    "aborts": abuse.abort,
    "faults": abuse.ask_for_faults,
}
"""Those whose own requests fail, as they are meant to."""


class Crew:
    """The clients, as an async context manager.

    Args:
        target: The server.
        sizes: How many clients of each sort; None for one of each that does not misbehave.

    Attributes:
        counts: What has happened so far, by sort.
    """

    def __init__(self, target: Target, sizes: Mapping[str, int] | None = None) -> None:
        sizes = dict.fromkeys(SORTS, 1) if sizes is None else sizes
        self.counts = {name: Counts(name) for name, size in sizes.items() if size}
        self._target = target
        self._sizes = sizes
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        for name, counts in self.counts.items():
            for _ in range(self._sizes[name]):
                client = (SORTS | ABUSE)[name](self._target, counts, self._stop)
                self._tasks.append(asyncio.create_task(client, name=f"load {name}"))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.wait(self._tasks)
        for task in self._tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    @property
    def is_warm(self) -> bool:
        """Whether a client of each sort has been served."""
        return all(counts.requests for counts in self.counts.values())

    def requests(self) -> dict[str, int]:
        """Tell how many requests each sort has had answered so far."""
        return {name: counts.requests for name, counts in self.counts.items()}

    def has_gone_on_since(self, requests: Mapping[str, int]) -> bool:
        """Tell whether clients of each sort have been served again.

        Args:
            requests: What `requests` said at an earlier moment.
        """
        return all(self.counts[name].requests > before for name, before in requests.items())
