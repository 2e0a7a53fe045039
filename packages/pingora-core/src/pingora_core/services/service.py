"""Services: what a server runs, how they say they are ready and what happens when they fail."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, final

from pingora_core.conf import ServerConf
from pingora_core.listeners.fds import ListenFds
from pingora_core.services.failure import STOP_SERVER

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.listeners.l4 import ServerAddress
    from pingora_core.runtime.shutdown import ShutdownWatch
    from pingora_core.services.failure import FailurePolicy

__all__ = ["Placement", "Service", "ServiceContext", "ServiceReadyNotifier", "ServiceState"]


@final
class Placement(Enum):
    """In which processes of a server with several workers a service runs."""

    EVERY_WORKER = "every worker"
    ONE_WORKER = "one worker"


@final
class ServiceState(Enum):
    """Where a service is in its life.

    ``WAITING``: for its dependencies, or for this process to be the one that runs it.
    ``STARTING``: it runs but is not ready. ``READY``: it runs. ``RESTARTING``: it failed and
    pauses before the next try. ``STOPPING``: it was told to end. ``ENDED``: it has nothing left
    to do. ``FAILED``: it raised and is not started again.
    """

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    ENDED = "ended"
    FAILED = "failed"


class ServiceReadyNotifier:
    """How a service tells those that depend on it that it is ready.

    A service that ends counts as ready: it must not keep its dependents waiting for ever.

    Args:
        on_ready: Called once, when the service says that it is ready.

    Source: pingora-core/src/services/mod.rs.
    """

    __slots__ = ("_on_ready", "_ready")

    def __init__(self, on_ready: Callable[[], None] | None = None) -> None:
        self._ready = asyncio.Event()
        self._on_ready = on_ready

    @property
    def is_ready(self) -> bool:
        """Whether the service has said that it is ready."""
        return self._ready.is_set()

    def notify_ready(self) -> None:
        """Say that the service is ready; again does nothing."""
        self._ready.set()
        on_ready, self._on_ready = self._on_ready, None
        if on_ready is not None:
            on_ready()

    async def wait(self) -> None:
        """Wait until the service is ready."""
        await self._ready.wait()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceContext:
    """What the server gives a service to run with.

    Attributes:
        shutdown: Tells whether, and when, the service is to end: when the server stops, or when
            the service is removed.
        ready: To be told when the service is ready, if it declares ``notifies_ready``.
        conf: The configuration of the server.
        fds: The listening sockets of the process, by address.
    """

    shutdown: ShutdownWatch
    ready: ServiceReadyNotifier = field(default_factory=ServiceReadyNotifier)
    conf: ServerConf = field(default_factory=ServerConf)
    fds: ListenFds = field(default_factory=ListenFds)


class Service(ABC):
    """Something that a server runs from its start to its end.

    Args:
        name: What logs and messages call it.

    Attributes:
        name: As given.
        threads: Worker threads of its own; None for the server's setting. Kept for Pingora's
            users, without effect: all services share the event loop of their process.
        on_failure: What follows when ``start_service`` raises.
        notifies_ready: Whether the service calls ``context.ready.notify_ready()`` itself;
            otherwise it counts as ready as soon as it is started.
        placement: Whether every worker runs it or one at a time. What an every-worker service
            depends on must run in every worker too.

    Source: pingora-core/src/services/mod.rs.
    """

    threads: int | None = None
    on_failure: FailurePolicy = STOP_SERVER
    notifies_ready: bool = False
    placement: Placement = Placement.EVERY_WORKER

    def __init__(self, name: str) -> None:
        self.name: str = name

    @property
    def listen_addresses(self) -> tuple[ServerAddress, ...]:
        """Where the service will listen, known before it starts; nowhere by default.

        A server with several workers binds these addresses before it forks.
        """
        return ()

    @abstractmethod
    async def start_service(self, context: ServiceContext) -> None:
        """Run the service until it has nothing left to do.

        When ``context.shutdown`` begins, finish what is in flight and return. The server waits
        for that up to its grace period; then it cancels this coroutine, which must let go of
        everything it holds within ``graceful_shutdown_timeout_seconds``. Returning earlier
        is no failure, raising is. It is called again, with a new context, after a failure that
        `on_failure` rides out.

        Args:
            context: What to run with.
        """

    def check(self) -> None:  # noqa: B027 - a hook, not a duty
        """Look for mistakes in how the service is set up, without starting anything.

        Called before the first service is started, and by ``-t``.

        Raises:
            Error: ``CONFIG_ERROR`` with one line that says what is wrong and what is allowed.
        """

    def on_startup_delay(self, delay: float) -> None:  # noqa: B027 - a hook, not a duty
        """Be told that the service had to wait for its dependencies; by default nothing.

        Args:
            delay: How long, seconds.
        """

    async def reload(self, conf: ServerConf) -> None:  # noqa: B027 - a hook, not a duty
        """Take over what has changed in the configuration; by default nothing.

        Called for every service that runs or is yet to run when the server was told to reload
        (SIGHUP) and the new configuration was found to be right: while ``start_service`` runs, and
        also while the service waits for its dependencies, for the next try after a failure, or
        for this process to be the one that runs it. Connections go on meanwhile. What it raises
        is logged, and the server goes on with what it has.

        Args:
            conf: The new configuration, which also is in the context of every later start.
        """
