"""Running a proxy inside a test, together with a client for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Self

from pingora_core.conf import ServerConf
from pingora_proxy.hooks import CTX
from pingora_proxy.service import http_proxy_service
from pingora_proxy.testing.client import Client
from pingora_proxy.testing.service import RunningService

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from pingora_proxy.hooks import ProxyHttp
    from pingora_proxy.observe import ProxyObserver
    from pingora_proxy.testing.client import ClientResponse

__all__ = ["RunningProxy"]


class RunningProxy(Generic[CTX]):
    """A proxy with the callbacks to be tested, on a free port, as an async context manager.

    Args:
        app: The callbacks.
        conf: The server's configuration.
        observers: Are told what happens to requests.

    Attributes:
        app: As given.
    """

    def __init__(
        self,
        app: ProxyHttp[CTX],
        *,
        conf: ServerConf | None = None,
        observers: Sequence[ProxyObserver] = (),
    ) -> None:
        self.app: ProxyHttp[CTX] = app
        conf = conf or ServerConf()
        service = http_proxy_service(conf, app, observers=observers)
        self._running = RunningService(service, conf=conf)
        self._client: Client | None = None

    @property
    def address(self) -> str:
        """Where it listens: ``127.0.0.1:port``."""
        return self._running.address

    @property
    def client(self) -> Client:
        """A client of it.

        Raises:
            RuntimeError: Outside of the context.
        """
        if self._client is None:
            msg = "the proxy does not run: use it with `async with`"
            raise RuntimeError(msg)
        return self._client

    async def get(
        self, target: str = "/", headers: Iterable[tuple[str, str]] = ()
    ) -> ClientResponse:
        """Send a GET through the proxy.

        Args:
            target: Path and query.
            headers: Fields; ``Host`` is added.

        Returns:
            The response.
        """
        return await self.client.get(target, headers)

    async def request(
        self,
        method: str,
        target: str = "/",
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> ClientResponse:
        """Send a request through the proxy.

        Args:
            method: The method.
            target: Path and query.
            headers: Fields; ``Host`` and ``Content-Length`` are added.
            body: The body.

        Returns:
            The response.
        """
        return await self.client.request(method, target, headers, body)

    async def __aenter__(self) -> Self:
        await self._running.__aenter__()
        self._client = Client(self.address)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.__aexit__(None, None, None)
        await self._running.__aexit__(kind, error, traceback)
