"""Running a proxy inside a test, together with a client for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Self

from pingora_core.conf import ServerConf
from pingora_proxy.hooks import CTX
from pingora_proxy.service import http_proxy_service
from pingora_proxy.testing.client import Client
from pingora_proxy.testing.service import RunningService

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType

    from pingora_cache.cache import HttpCache
    from pingora_core.apps.http_app import HttpServerOptions
    from pingora_proxy.hooks import ProxyHttp
    from pingora_proxy.observe import ProxyObserver
    from pingora_proxy.testing.client import ClientResponse

__all__ = ["RunningProxy"]


class RunningProxy(Generic[CTX]):
    """A proxy with the callbacks to be tested, on a free port, as an async context manager.

    Args:
        app: The callbacks.
        conf: The server's configuration.
        server_options: How clients are spoken to; None for the defaults.
        new_cache: Makes the cache of a request, for a `FakeClock`; None for the usual one.
        observers: Are told what happens to requests.

    Attributes:
        app: As given.
    """

    def __init__(
        self,
        app: ProxyHttp[CTX],
        *,
        conf: ServerConf | None = None,
        server_options: HttpServerOptions | None = None,
        new_cache: Callable[[], HttpCache] | None = None,
        observers: Sequence[ProxyObserver] = (),
    ) -> None:
        self.app: ProxyHttp[CTX] = app
        conf = conf or ServerConf()
        service = http_proxy_service(
            conf,
            app,
            server_options=server_options,
            new_cache=new_cache,
            observers=observers,
        )
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

    def begin_shutdown(self) -> None:
        """Tell the proxy to stop; leaving the context waits for its end."""
        self._running.begin_shutdown()

    def end_streams(self) -> None:
        """Tell the proxy to stop, and to end what has no end of its own, such as WebSockets."""
        self._running.end_streams()

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
        try:
            if client is not None:
                await client.__aexit__(None, None, None)
        finally:
            await self._running.__aexit__(kind, error, traceback)
