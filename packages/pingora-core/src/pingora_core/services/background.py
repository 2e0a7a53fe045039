"""Background services: work without a listener, such as health checks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, TypeVar

from pingora_core.services.service import STOP_SERVER, Service

if TYPE_CHECKING:
    from pingora_core.runtime.shutdown import ShutdownWatch
    from pingora_core.services.service import (
        FailurePolicy,
        ServiceContext,
        ServiceReadyNotifier,
    )

__all__ = ["BackgroundService", "GenBackgroundService", "background_service"]


class BackgroundService(ABC):
    """Work that runs beside the listening services.

    Source: pingora-core/src/services/background.rs.
    """

    __slots__ = ()

    @abstractmethod
    async def start(self, shutdown: ShutdownWatch) -> None:
        """Do the work until it is done or the server stops.

        Args:
            shutdown: Tells whether, and when, the server stops; return soon after it does.
        """

    async def start_with_ready_notifier(
        self, shutdown: ShutdownWatch, ready: ServiceReadyNotifier
    ) -> None:
        """Do the work, saying when dependents may start.

        By default that is at once. Override this instead of relying on ``start`` when something
        has to be fetched or computed first.

        Args:
            shutdown: Tells whether, and when, the server stops.
            ready: To be told when the service is ready.
        """
        ready.notify_ready()
        await self.start(shutdown)


T = TypeVar("T", bound=BackgroundService)


class GenBackgroundService(Service, Generic[T]):
    """Makes a service of a `BackgroundService`.

    Args:
        name: What logs call it; they show it with ``BG`` in front.
        task: The work.
        on_failure: What follows when the work raises.

    Attributes:
        task: As given: how its results reach others, such as a proxy that shares the balancer
            whose backends the work keeps healthy.

    Source: pingora-core/src/services/background.rs.
    """

    threads: int | None = 1
    notifies_ready = True

    def __init__(self, name: str, task: T, *, on_failure: FailurePolicy = STOP_SERVER) -> None:
        super().__init__(f"BG {name}")
        self.task = task
        self.on_failure = on_failure

    async def start_service(self, context: ServiceContext) -> None:
        """Run the work.

        Args:
            context: What to run with.
        """
        await self.task.start_with_ready_notifier(context.shutdown, context.ready)


def background_service(
    name: str, task: T, *, on_failure: FailurePolicy = STOP_SERVER
) -> GenBackgroundService[T]:
    """Make a service of a `BackgroundService`.

    Args:
        name: What logs call it; they show it with ``BG`` in front.
        task: The work.
        on_failure: What follows when the work raises: the server stops, or `Restart`.

    Returns:
        A service for ``Server.add_service``.
    """
    return GenBackgroundService(name, task, on_failure=on_failure)
