"""What runs on a connection: the interface between a listening service and its application."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pingora_core.conf import ServerConf
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.runtime.shutdown import ShutdownWatch

__all__ = ["ServerApp"]


class ServerApp(ABC):
    """An application on byte streams, whatever protocol it speaks on them.

    One object serves all connections of its service, each in a task of its own.

    Source: pingora-core/src/apps/mod.rs.
    """

    __slots__ = ()

    @abstractmethod
    async def process_new(self, stream: Stream, shutdown: ShutdownWatch) -> Stream | None:
        """Serve a connection, or one round of it.

        Called for a new connection, and again for as long as the stream is given back. The
        service closes the stream when None is returned, and aborts it when this raises; a
        failure is logged with the address of the peer and ends this connection only.

        Once a shutdown has begun the server waits for the calls that are running, up to its
        grace period, then cancels them. An application that would wait for a silent client
        should therefore subscribe to ``shutdown`` and let go of a connection that is idle.

        Args:
            stream: The connection; belongs to the application during the call.
            shutdown: Tells whether, and when, the server stops.

        Returns:
            The stream, to be called again with it; None when the connection is done.
        """

    async def startup(self) -> None:  # noqa: B027 - a hook: doing nothing is its default
        """Get what the application needs; called once, before the service listens.

        An error raised here is the service's: it does not start.
        """

    async def cleanup(self) -> None:  # noqa: B027 - a hook: doing nothing is its default
        """Release what the application holds; called once, after its last connection ended."""

    async def reload(self, conf: ServerConf) -> None:  # noqa: B027 - a hook as well
        """Take over what has changed in the configuration; by default nothing.

        Called when the server was told to reload (SIGHUP), while connections are served: those
        that are there go on.

        Args:
            conf: The new configuration.
        """
