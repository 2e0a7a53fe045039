"""Services: what a server runs, how they say they are ready and what happens when they fail."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias, final

from pingora_core.conf import ServerConf
from pingora_core.listeners.fds import ListenFds

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.runtime.shutdown import ShutdownWatch

__all__ = [
    "STOP_SERVER",
    "FailurePolicy",
    "Restart",
    "Service",
    "ServiceContext",
    "ServiceReadyNotifier",
    "StopServer",
]


@final
@dataclass(frozen=True, slots=True)
class StopServer:
    """A service that fails stops the whole server, in the graceful way, with exit code 1."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """A service that fails is started again after a pause that doubles from time to time.

    A failure before the service was ready stops the server all the same: what never came up is
    a mistake to be seen, not a fault to be ridden out.

    Attributes:
        initial_delay: Pause after the first failure, seconds, more than 0.
        max_delay: Longest pause, seconds.
        reset_after: A service that ran for this long before it failed starts over with
            ``initial_delay``, seconds.

    Raises:
        ValueError: If a number makes no sense.
    """

    initial_delay: float = 0.1
    max_delay: float = 30.0
    reset_after: float = 60.0

    def __post_init__(self) -> None:
        if not 0 < self.initial_delay <= self.max_delay or self.reset_after < 0:
            msg = f"{self!r}: wanted 0 < initial_delay <= max_delay and reset_after >= 0"
            raise ValueError(msg)

    def next_delay(self, previous: float, ran_for: float) -> float:
        """Decide how long to pause after a failure.

        Args:
            previous: The pause before the run that failed, seconds; 0 if there was none.
            ran_for: How long that run was, seconds.

        Returns:
            The pause before the next one, seconds.
        """
        if previous == 0 or ran_for >= self.reset_after:
            return self.initial_delay
        return min(previous * 2, self.max_delay)


FailurePolicy: TypeAlias = StopServer | Restart
STOP_SERVER: Final = StopServer()


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
        shutdown: Tells whether, and when, the server stops.
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

    Source: pingora-core/src/services/mod.rs.
    """

    threads: int | None = None
    on_failure: FailurePolicy = STOP_SERVER
    notifies_ready: bool = False

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    async def start_service(self, context: ServiceContext) -> None:
        """Run the service until it has nothing left to do.

        When ``context.shutdown`` begins, finish what is in flight and return. The server waits
        for that up to its grace period; then it cancels this coroutine, which must let go of
        everything it holds within ``graceful_shutdown_timeout_seconds``. Returning earlier
        is no failure, raising is.

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
