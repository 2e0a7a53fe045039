"""A runner at work, for the tests of what it does."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Self

from pingora_core.conf import ServerConf
from pingora_core.listeners.fds import ListenFds
from pingora_core.server.runner import ServiceRunner
from pingora_core.services import ServiceGraph
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pingora_core.services import Service

__all__ = ["Running"]


class Running:
    """An async context manager: a runner that has started, and has been stopped at the end.

    Args:
        services: What it runs.
        depends: Pairs of positions in ``services``: the first depends on the second.
        is_leader: Whether it runs the services that are for one worker.
        uniform: Its random numbers.
        conf: Its configuration; None for one whose deadlines are short.

    Attributes:
        graph: Its graph.
        handles: Of ``services``, in the same order.
        runner: The runner.
        changes: How often it has said that something may have changed.
    """

    def __init__(
        self,
        *services: Service,
        depends: Sequence[tuple[int, int]] = (),
        is_leader: bool = True,
        uniform: Callable[[], float] = random.random,
        conf: ServerConf | None = None,
    ) -> None:
        self.graph = ServiceGraph()
        self.handles = [self.graph.add(service) for service in services]
        for service, dependency in depends:
            self.handles[service].add_dependency(self.handles[dependency])
        self.changes = 0
        self.runner = ServiceRunner(
            self.graph,
            ServerConf(graceful_shutdown_timeout_seconds=0.05) if conf is None else conf,
            ListenFds(),
            self._changed,
            is_leader=is_leader,
            uniform=uniform,
        )

    def _changed(self) -> None:
        self.changes += 1

    async def __aenter__(self) -> Self:
        self.runner.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.runner.begin_shutdown()
        self.runner.cancel()
        await self.ended()

    async def ended(self) -> None:
        """Wait until no service runs."""
        await eventually(lambda: self.runner.has_ended, "the end of all services")
