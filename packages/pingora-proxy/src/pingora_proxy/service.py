"""Putting a `ProxyHttp` behind listeners."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from pingora_core.apps.http_app import HttpServerOptions
from pingora_core.connectors.configured import Configured
from pingora_core.connectors.http.connector import Connector
from pingora_core.protocols.http.v1.parser import get_parser
from pingora_core.protocols.http.v1.server import Http1Options
from pingora_core.protocols.http.v2.options import Http2Options
from pingora_core.services.listening import Service
from pingora_proxy._misuse import check_callbacks
from pingora_proxy.proxy import HttpProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pingora_cache.cache import HttpCache
    from pingora_core.apps.load_shedding import LoadShedder
    from pingora_core.conf import ServerConf
    from pingora_core.connectors.options import ConnectorOptions
    from pingora_proxy.hooks import ProxyHttp
    from pingora_proxy.observe import ProxyObserver

__all__ = ["http_proxy", "http_proxy_service"]

CTX = TypeVar("CTX")


def http_proxy(
    conf: ServerConf,
    app: ProxyHttp[CTX],
    *,
    server_options: HttpServerOptions | None = None,
    retry_buffer_size: int = 65536,
    load_shedder: LoadShedder | None = None,
    new_cache: Callable[[], HttpCache] | None = None,
    observers: Sequence[ProxyObserver] = (),
) -> HttpProxy[CTX]:
    """Make a proxy application without a service, for listeners of your own.

    Args:
        conf: The server's configuration: pool size, CA file, source addresses, retries, parser.
        app: Your callbacks.
        server_options: How clients are spoken to; None for the defaults.
        retry_buffer_size: Bytes of a request body that are kept for a replay.
        load_shedder: Refuses requests that are too many; None lets all of them in.
        new_cache: Makes the cache of a request, for clocks of your own; None for the usual ones.
        observers: Are told what happens to requests: metrics, access logs, traces.

    Returns:
        The application.

    Raises:
        TypeError: If a callback is one that cannot be called.
    """
    check_callbacks(app)
    if server_options is None:
        server_options = HttpServerOptions(
            http1=Http1Options(parser=get_parser(conf.http1_parser)),
            http2=Http2Options(engine=conf.http2_engine),
        )
    proxy = _ConfiguredProxy(
        app,
        server_options=server_options,
        retry_buffer_size=retry_buffer_size,
        conf=conf,
        new_cache=new_cache,
        observers=observers,
    )
    proxy.load_shedder = load_shedder
    return proxy


class _ConfiguredProxy(HttpProxy[CTX]):
    """Follows the configuration, when it is loaded anew, in what was not said otherwise.

    Args:
        app: The user's object.
        server_options: How clients are spoken to.
        retry_buffer_size: Bytes of a request body that are kept for a replay.
        conf: The configuration.
        new_cache: Makes the cache of a request.
        observers: Are told what happens to requests.
    """

    def __init__(
        self,
        app: ProxyHttp[CTX],
        *,
        server_options: HttpServerOptions,
        retry_buffer_size: int,
        conf: ServerConf,
        new_cache: Callable[[], HttpCache] | None,
        observers: Sequence[ProxyObserver],
    ) -> None:
        def connect(options: ConnectorOptions) -> Connector:
            # Engines do not change while a server runs.
            return Connector(
                options, http1_parser=conf.http1_parser, http2_engine=conf.http2_engine
            )

        self._connectors = Configured(connect, conf)
        super().__init__(
            app,
            connector=self._connectors.connector,
            server_options=server_options,
            retry_buffer_size=retry_buffer_size,
            new_cache=new_cache,
            observers=observers,
        )
        self._given = server_options
        self._apply(conf)

    def _apply(self, conf: ServerConf) -> None:
        self.max_retries = conf.max_retries
        if self._given.keepalive_min is None:
            keepalive_min = conf.keepalive_min_seconds
            self.server_options = replace(self._given, keepalive_min=keepalive_min)

    async def reload(self, conf: ServerConf) -> None:
        """Take over what the configuration says of upstream connections, retries and stops.

        Args:
            conf: The new configuration.
        """
        self._apply(conf)
        await self._connectors.reload(conf)
        self.connector = self._connectors.connector

    async def cleanup(self) -> None:
        """End subrequests and idle upstream connections; the service calls this at its end."""
        await super().cleanup()
        await self._connectors.close()


def http_proxy_service(
    conf: ServerConf,
    app: ProxyHttp[CTX],
    *,
    name: str = "Pingora HTTP Proxy Service",
    server_options: HttpServerOptions | None = None,
    retry_buffer_size: int = 65536,
    load_shedder: LoadShedder | None = None,
    new_cache: Callable[[], HttpCache] | None = None,
    observers: Sequence[ProxyObserver] = (),
) -> Service[HttpProxy[CTX]]:
    """Make a proxy service; add listeners to it and add it to a server.

    Args:
        conf: The server's configuration.
        app: Your callbacks.
        name: Name of the service, for logs.
        server_options: How clients are spoken to; None for the defaults.
        retry_buffer_size: Bytes of a request body that are kept for a replay.
        load_shedder: Refuses requests that are too many; None lets all of them in.
        new_cache: Makes the cache of a request, for clocks of your own; None for the usual ones.
        observers: Are told what happens to requests: metrics, access logs, traces.

    Returns:
        The service.

    Raises:
        TypeError: If a callback is one that cannot be called.
    """
    proxy = http_proxy(
        conf,
        app,
        server_options=server_options,
        retry_buffer_size=retry_buffer_size,
        load_shedder=load_shedder,
        new_cache=new_cache,
        observers=observers,
    )
    return Service(name, proxy)
