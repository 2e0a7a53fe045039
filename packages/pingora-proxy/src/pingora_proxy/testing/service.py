"""Running a service inside a test: on a free port, until the test is over."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from pingora_core.apps.app import ServerApp
from pingora_core.conf import ServerConf
from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.services.service import ServiceContext, ServiceReadyNotifier

if TYPE_CHECKING:
    from types import TracebackType

    from pingora_core.services.listening import Service

__all__ = ["RunningService"]

APP = TypeVar("APP", bound=ServerApp)


class RunningService(Generic[APP]):
    """A service that runs in the event loop of the test, as an async context manager.

    Leaving it is a graceful shutdown. It must come to its end by itself: a request that never
    ends is an error of the test.

    Args:
        service: The service; if it listens nowhere, it gets a free port of 127.0.0.1.
        conf: The server's configuration.
        grace_period: Seconds that the shutdown may take.

    Attributes:
        service: As given.
    """

    def __init__(
        self, service: Service[APP], *, conf: ServerConf | None = None, grace_period: float = 5.0
    ) -> None:
        self.service: Service[APP] = service
        if not service.listen_addresses:
            service.add_tcp("127.0.0.1:0")
        self._conf = conf or ServerConf()
        self._grace_period = grace_period
        self._switch = ShutdownSwitch()
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Where it listens, first of all: ``127.0.0.1:port``."""
        return str(self.service.addresses[0])

    @property
    def url(self) -> str:
        """The same as a URL without a path."""
        return f"http://{self.address}"

    async def __aenter__(self) -> Self:
        ready = ServiceReadyNotifier()
        context = ServiceContext(shutdown=self._switch.watch, ready=ready, conf=self._conf)
        self._task = asyncio.create_task(self.service.start_service(context), name="service")
        waiter = asyncio.create_task(ready.wait(), name="service is ready")
        try:
            await asyncio.wait((self._task, waiter), return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            # Nobody leaves a context that was not entered.
            self._task.cancel()
            await asyncio.wait((self._task,))
            raise
        finally:
            waiter.cancel()
            await asyncio.wait((waiter,))
        if self._task.done():
            self._task.result()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task = self._task
        if task is None:
            return
        self.begin_shutdown()
        self.end_streams()
        done, _ = await asyncio.wait((task,), timeout=self._grace_period)
        if not done:
            task.cancel()
            await asyncio.wait((task,))
            if kind is None:
                msg = (
                    f"{self.service.name} was still busy {self._grace_period} s after its shutdown"
                )
                raise TimeoutError(msg)
        elif not task.cancelled():
            task.result()

    def begin_shutdown(self) -> None:
        """Tell the service to stop; leaving the context waits for its end."""
        self._switch.start()

    def end_streams(self) -> None:
        """Tell the service to stop, and to end what has no end of its own, such as WebSockets.

        Leaving the context does this, as a server does when the time for it has come.
        """
        self._switch.end_streams()
