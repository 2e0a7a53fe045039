"""An ASGI application behind listeners of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_core.services.listening import Service
from pingora_error import Error, HTTPStatus
from pingora_proxy.asgi.application import AsgiApplication
from pingora_proxy.hooks import ProxyHttp
from pingora_proxy.proxy import HttpProxy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pingora_core.apps.http_app import HttpServerOptions
    from pingora_core.apps.load_shedding import LoadShedder
    from pingora_core.upstreams.peer import HttpPeer
    from pingora_proxy.asgi.options import AsgiOptions
    from pingora_proxy.asgi.types import ASGIApp
    from pingora_proxy.observe import ProxyObserver
    from pingora_proxy.session import Session

__all__ = ["AsgiServer", "asgi_service"]


class AsgiServer(ProxyHttp[None]):
    """Answers all requests with an ASGI application: a proxy without an upstream.

    Args:
        application: The application.

    Attributes:
        application: As given.
    """

    def __init__(self, application: AsgiApplication) -> None:
        self.application: AsgiApplication = application

    async def startup(self) -> None:
        """Start the application; the service calls this before it listens."""
        await self.application.startup()

    async def cleanup(self) -> None:
        """Stop the application; the service calls this at its end."""
        await self.application.cleanup()

    def new_ctx(self) -> None:
        """Make nothing: requests have no context here."""

    async def request_filter(self, session: Session, ctx: None) -> bool:  # noqa: ARG002 - the phase's
        """Have the application answer.

        Args:
            session: The request.
            ctx: None.

        Returns:
            True: it is answered.
        """
        await self.application.serve(session)
        return True

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:  # noqa: ARG002 - the phase's
        """Never called: the application has answered before.

        Args:
            session: The request.
            ctx: None.

        Raises:
            Error: Always.
        """
        error = Error.internal(HTTPStatus(502), "an ASGI service has no upstream")
        raise error


def asgi_service(
    app: ASGIApp,
    *,
    name: str = "ASGI",
    root_path: str = "",
    options: AsgiOptions | None = None,
    server_options: HttpServerOptions | None = None,
    load_shedder: LoadShedder | None = None,
    observers: Sequence[ProxyObserver] = (),
) -> Service[HttpProxy[None]]:
    """Make a service of an ASGI application; add listeners to it and add it to a server.

    Args:
        app: The application.
        name: Name of the service, for logs.
        root_path: The path under which it is mounted, without the slash at the end.
        options: How it is run; None for the defaults.
        server_options: How clients are spoken to; None for the defaults.
        load_shedder: Refuses requests that are too many; None lets all of them in.
        observers: Are told what happens to requests: metrics, access logs, traces.

    Returns:
        The service.
    """
    server = AsgiServer(AsgiApplication(app, root_path=root_path, options=options))
    proxy = HttpProxy(
        server,
        server_options=server_options,
        load_shedder=load_shedder,
        observers=observers,
    )
    return Service(name, proxy)
