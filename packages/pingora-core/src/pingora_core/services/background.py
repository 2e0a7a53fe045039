"""Background services: work without a listener, such as health checks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, TypeVar

from pingora_core.services.failure import STOP_SERVER
from pingora_core.services.service import Placement, Service

if TYPE_CHECKING:
    from pingora_core.conf import ServerConf
    from pingora_core.runtime.shutdown import ShutdownWatch
    from pingora_core.services.failure import FailurePolicy
    from pingora_core.services.service import ServiceContext, ServiceReadyNotifier

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

    async def reload(self, conf: ServerConf) -> None:  # noqa: B027 - a hook, not a duty
        """Take over what has changed in the configuration; by default nothing.

        Args:
            conf: The new configuration.
        """


T = TypeVar("T", bound=BackgroundService)


class GenBackgroundService(Service, Generic[T]):
    """Makes a service of a `BackgroundService`.

    Args:
        name: What logs call it; they show it with ``BG`` in front.
        task: The work.
        on_failure: What follows when the work raises.
        placement: Whether every worker does the work or one at a time.

    Attributes:
        task: As given: how its results reach others, such as a proxy that shares the balancer
            whose backends the work keeps healthy.

    Source: pingora-core/src/services/background.rs.
    """

    threads: int | None = 1
    notifies_ready = True

    def __init__(
        self,
        name: str,
        task: T,
        *,
        on_failure: FailurePolicy = STOP_SERVER,
        placement: Placement = Placement.EVERY_WORKER,
    ) -> None:
        super().__init__(f"BG {name}")
        self.task: T = task
        self.on_failure = on_failure
        self.placement = placement

    async def start_service(self, context: ServiceContext) -> None:
        """Run the work.

        Args:
            context: What to run with.
        """
        await self.task.start_with_ready_notifier(context.shutdown, context.ready)

    async def reload(self, conf: ServerConf) -> None:
        """Have the work take over what has changed in the configuration.

        Args:
            conf: The new configuration.
        """
        await self.task.reload(conf)


def background_service(
    name: str,
    task: T,
    *,
    on_failure: FailurePolicy = STOP_SERVER,
    placement: Placement = Placement.EVERY_WORKER,
) -> GenBackgroundService[T]:
    """Make a service of a `BackgroundService`.

    Args:
        name: What logs call it; they show it with ``BG`` in front.
        task: The work.
        on_failure: What follows when the work raises: the server stops, or `Restart`.
        placement: Whether every worker does the work or one at a time.

    Returns:
        A service for ``Server.add_service``.
    """
    return GenBackgroundService(name, task, on_failure=on_failure, placement=placement)
