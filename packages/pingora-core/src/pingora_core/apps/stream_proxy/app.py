"""`StreamProxyApp`: runs the phases of a `StreamProxy` for each connection.

Theory of operation: ``process_new`` walks the phases and then always comes to the same end: the
streams are closed or reset, an error is logged, ``logging`` is told. Attempts to connect are made
until one succeeds or none is allowed; the bytes are the business of the tunnel.

At a shutdown connections go on. Once it is time for exchanges without an end of their own to end,
they are ended in order; what is left when the server cancels them is reset.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Generic

from pingora_core.apps.app import ServerApp
from pingora_core.apps.stream_proxy._connection import Connection, Overrides, Setup
from pingora_core.apps.stream_proxy.hooks import CTX
from pingora_core.apps.stream_proxy.options import StreamProxyOptions
from pingora_core.apps.stream_proxy.session import StreamEnding, StreamSession
from pingora_core.connectors.transport import TransportConnector
from pingora_core.runtime.log_limit import LogLimit
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from pingora_core.apps.stream_proxy.hooks import StreamProxy
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.runtime.shutdown import ShutdownWatch

__all__ = ["StreamProxyApp"]

_logger = logging.getLogger(__name__)


class StreamProxyApp(ServerApp, Generic[CTX]):
    """The application behind a stream proxy service.

    Args:
        app: The user's object.
        connector: Makes the connections to upstreams, and is closed with this application; None
            for one with the defaults.
        options: How connections are forwarded; None for the defaults.
        max_retries: Attempts to connect that are made at most for one connection.

    Raises:
        Error: As `TransportConnector` does.

    Attributes:
        app: The user's object.
        connector: Makes the connections to upstreams.
        options: How connections are forwarded.
    """

    def __init__(
        self,
        app: StreamProxy[CTX],
        *,
        connector: TransportConnector | None = None,
        options: StreamProxyOptions | None = None,
        max_retries: int = 16,
    ) -> None:
        self.app: StreamProxy[CTX] = app
        self.connector: TransportConnector = (
            TransportConnector() if connector is None else connector
        )
        self.options: StreamProxyOptions = StreamProxyOptions() if options is None else options
        self._setup = Setup(app, Overrides(app), self.connector, self.options, max_retries)
        self._log_limit = LogLimit()

    async def process_new(self, stream: Stream, shutdown: ShutdownWatch) -> Stream | None:
        """Forward a connection until it ends.

        Args:
            stream: The client's connection.
            shutdown: Tells when the connection should end.

        Returns:
            None: the stream was closed.

        Raises:
            CancelledError: If the caller was cancelled.
        """
        session = StreamSession(stream, shutdown)
        ctx = self.app.new_ctx()
        connection = Connection(self._setup, session, ctx)
        unsubscribe = shutdown.subscribe_end_of_streams(connection.end_in_order)
        try:
            error = await connection.run()
        except Error as failure:
            error = failure
            stream.abort()
        except asyncio.CancelledError:
            stream.abort()
            msg = "the server gave the connection up"
            error = connection.error or Error.internal(ErrorType.CONNECTION_CLOSED, msg)
            session.end(StreamEnding.CANCELLED)
            await self._conclude(session, error, ctx)
            raise
        except Exception as failure:  # noqa: BLE001 - a callback may raise anything
            msg = f"{type(failure).__name__} in {session.phase}"
            error = Error.internal(ErrorType.INTERNAL_ERROR, msg, cause=failure)
            stream.abort()
        finally:
            unsubscribe()
        session.end(StreamEnding.COMPLETED if error is None else StreamEnding.FAILED)
        await self._conclude(session, error, ctx)
        return None

    def use(self, connector: TransportConnector, max_retries: int) -> None:
        """Make connections to upstreams in another way from now on; those that are there go on.

        Args:
            connector: Makes them; the one before is the caller's to close.
            max_retries: Attempts that are made at most for one connection.
        """
        self.connector = connector
        self._setup = replace(self._setup, connector=connector, max_retries=max_retries)

    async def cleanup(self) -> None:
        """Close the connector."""
        await self.connector.close()

    # ------------------------------------------------------------------- the ending

    async def _conclude(self, session: StreamSession, error: Error | None, ctx: CTX) -> None:
        phase, session.phase = session.phase, "logging"
        try:
            if error is not None and not self.app.suppress_error_log(session, ctx, error):
                self._log_error(session, error, phase)
            if self._setup.overrides.logging:
                await self.app.logging(session, error, ctx)
        except Exception:
            _logger.exception("logging failed for a connection from %s", _client(session))

    def _log_error(self, session: StreamSession, error: Error, phase: str) -> None:
        suppressed: int | None = 0
        if error.esource is ErrorSource.DOWNSTREAM or session.ending is StreamEnding.CANCELLED:
            # Strangers decide how often this happens, so it is not they who fill the disk; nor do
            # all connections at once, when the server gives them up.
            suppressed = self._log_limit.admit(time.monotonic())
            if suppressed is None:
                return
        is_fault = error.root_etype is ErrorType.INTERNAL_ERROR
        _logger.warning(
            "connection from %s to %s ended in phase %s"
            " after %d bytes from and %d bytes to the client: %s%s",
            _client(session),
            "nowhere" if session.peer is None else session.peer,
            phase,
            session.bytes_received,
            session.bytes_sent,
            error,
            f" (and {suppressed} more that were not logged)" if suppressed else "",
            exc_info=error.root_cause if is_fault else None,
        )


def _client(session: StreamSession) -> str:
    address = session.client_addr
    return "an unknown client" if address is None else str(address)
