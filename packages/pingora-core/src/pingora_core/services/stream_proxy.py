"""Putting a `StreamProxy` behind listeners."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pingora_core.apps.stream_proxy import StreamProxyApp
from pingora_core.connectors.configured import Configured
from pingora_core.connectors.transport import TransportConnector
from pingora_core.services.listening import Service

if TYPE_CHECKING:
    from pingora_core.apps.stream_proxy import StreamProxy, StreamProxyOptions
    from pingora_core.conf import ServerConf

__all__ = ["stream_proxy", "stream_proxy_service"]

CTX = TypeVar("CTX")


def stream_proxy(
    conf: ServerConf, app: StreamProxy[CTX], *, options: StreamProxyOptions | None = None
) -> StreamProxyApp[CTX]:
    """Make a proxy application without a service, for listeners of your own.

    Args:
        conf: The server's configuration: CA file, source addresses, attempts to connect.
        app: Your callbacks.
        options: How connections are forwarded; None for the defaults.

    Returns:
        The application.
    """
    return _ConfiguredProxy(app, conf, options)


class _ConfiguredProxy(StreamProxyApp[CTX]):
    """Follows the configuration when it is loaded anew.

    Args:
        app: The user's object.
        conf: The configuration.
        options: How connections are forwarded; None for the defaults.
    """

    def __init__(
        self, app: StreamProxy[CTX], conf: ServerConf, options: StreamProxyOptions | None
    ) -> None:
        connectors = self._connectors = Configured(TransportConnector, conf)
        connector = connectors.connector
        super().__init__(app, connector=connector, options=options, max_retries=conf.max_retries)

    async def reload(self, conf: ServerConf) -> None:
        """Take over what the configuration says of upstream connections.

        Args:
            conf: The new configuration.
        """
        await self._connectors.reload(conf)
        self.use(self._connectors.connector, conf.max_retries)

    async def cleanup(self) -> None:
        """Close the connectors."""
        await super().cleanup()
        await self._connectors.close()


def stream_proxy_service(
    conf: ServerConf,
    app: StreamProxy[CTX],
    *,
    name: str = "Pingora Stream Proxy Service",
    options: StreamProxyOptions | None = None,
) -> Service[StreamProxyApp[CTX]]:
    """Make a proxy service; add listeners to it and add it to a server.

    Args:
        conf: The server's configuration.
        app: Your callbacks.
        name: Name of the service, for logs.
        options: How connections are forwarded; None for the defaults.

    Returns:
        The service.
    """
    return Service(name, stream_proxy(conf, app, options=options))
