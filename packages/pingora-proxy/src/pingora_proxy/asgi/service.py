"""An ASGI application behind listeners of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_core.apps.http_app import HttpServerApp
from pingora_core.services.listening import Service
from pingora_error import Error
from pingora_proxy.asgi.application import AsgiApplication

if TYPE_CHECKING:
    from pingora_core.apps.http_app import HttpServerOptions
    from pingora_core.protocols.http.server import ServerSession
    from pingora_core.runtime.shutdown import ShutdownWatch
    from pingora_proxy.asgi.types import ASGIApp

__all__ = ["AsgiServer", "asgi_service"]


class AsgiServer(HttpServerApp):
    """Serves an ASGI application.

    Args:
        application: The application.
        server_options: How clients are spoken to.

    Attributes:
        application: As given.
    """

    def __init__(
        self, application: AsgiApplication, *, server_options: HttpServerOptions | None = None
    ) -> None:
        self.application: AsgiApplication = application
        if server_options is not None:
            self.server_options = server_options

    async def startup(self) -> None:
        """Start the application; the service calls this before it listens."""
        await self.application.startup()

    async def cleanup(self) -> None:
        """Stop the application; the service calls this at its end."""
        await self.application.cleanup()

    async def process_new_http(
        self,
        session: ServerSession,
        shutdown: ShutdownWatch,  # noqa: ARG002 - the connection's loop heeds it
    ) -> bool:
        """Serve one request.

        Args:
            session: The client's side, nothing read yet.
            shutdown: Tells when the server stops.

        Returns:
            Whether the connection can carry another request.
        """
        try:
            if not await session.read_request():
                return False
            await self.application.serve_session(session, session)
            return await session.finish()
        except Error:
            if session.response_written is not None:
                session.shutdown()
                return False
            await session.respond_error(500)
            return False


def asgi_service(
    app: ASGIApp,
    *,
    name: str = "ASGI",
    server_options: HttpServerOptions | None = None,
) -> Service[AsgiServer]:
    """Make a service of an ASGI application; add listeners to it and add it to a server.

    Args:
        app: The application.
        name: Name of the service, for logs.
        server_options: How clients are spoken to; None for the defaults.

    Returns:
        The service.
    """
    return Service(name, AsgiServer(AsgiApplication(app), server_options=server_options))
