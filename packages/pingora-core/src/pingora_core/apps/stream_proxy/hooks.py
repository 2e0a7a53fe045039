"""`StreamProxy`: the class a user writes, one callback for each phase of a connection.

Theory of operation: one object serves all connections of a service; what belongs to one connection
lives in the context that ``new_ctx`` makes and that every callback receives last. A callback that
is not overridden is not called at all: which ones are is looked up once, when the service is built.
The callbacks stand here in the order in which they run.

An error raised by a callback ends the connection with a reset, and ``logging`` is told. Anything
that is no :class:`pingora_error.Error` counts as a fault of the program.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from pingora_core.apps.stream_proxy.session import StreamSession
    from pingora_core.protocols.digest import Digest
    from pingora_core.protocols.tls.client_hello import ClientHello
    from pingora_core.upstreams.peer import Peer
    from pingora_error import Error

__all__ = ["CTX", "StreamProxy"]

CTX = TypeVar("CTX")


class StreamProxy(ABC, Generic[CTX]):
    """The callbacks of a proxy for byte streams; subclass it with the type of your context.

    Only :meth:`new_ctx` and :meth:`upstream_peer` must be written. What Pingora has for HTTP as
    ``ProxyHttp`` this is for any protocol over TCP, TLS or Unix sockets.
    """

    # ------------------------------------------------------------- the connection

    @abstractmethod
    def new_ctx(self) -> CTX:
        """Make the context of one connection.

        Returns:
            The context, given to every later callback.
        """

    async def connection_filter(self, session: StreamSession, ctx: CTX) -> bool:
        """Decide whether a connection is served.

        What the client sends first may be looked at with ``session.downstream.peek``; the
        upstream still gets it.

        Args:
            session: The connection.
            ctx: Its context.

        Returns:
            False to close it, once what was written to ``session.downstream`` is sent.
        """
        return True

    async def client_hello_filter(
        self, session: StreamSession, hello: ClientHello, ctx: CTX
    ) -> bool:
        """Judge the ClientHello of a TLS connection that is passed on unopened.

        Overriding this makes the proxy wait for one: who connects and sends anything else is
        refused. The handshake stays between the client and the upstream.

        Args:
            session: The connection.
            hello: What the client has asked for: server name, ALPN, versions, groups.
            ctx: The context.

        Returns:
            False to close the connection, once what was written to ``session.downstream``, such
            as an alert, is sent.
        """
        return True

    # ------------------------------------------------------------ to the upstream

    @abstractmethod
    async def upstream_peer(self, session: StreamSession, ctx: CTX) -> Peer:
        """Choose where the connection goes; called at the start of every attempt.

        Args:
            session: The connection.
            ctx: Its context.

        Returns:
            The peer, such as a ``BasicPeer``, whose options say how it is reached: over TLS (with
            an ``sni``), with a header of the PROXY protocol, from which address. One object may
            serve many connections.
        """

    async def fail_to_connect(
        self, session: StreamSession, peer: Peer, ctx: CTX, error: Error
    ) -> Error:
        """Judge a failed attempt to connect; nothing was sent, so trying again is safe.

        Args:
            session: The connection.
            peer: What could not be reached.
            ctx: The context.
            error: Why.

        Returns:
            The error that counts; after ``error.set_retry(True)`` there is another attempt, up
            to the ``max_retries`` of the configuration.
        """
        return error

    async def connected_to_upstream(
        self, session: StreamSession, peer: Peer, digest: Digest, ctx: CTX
    ) -> None:
        """See the upstream's connection before anything is forwarded.

        Args:
            session: The connection.
            peer: Where it leads.
            digest: What is known of the upstream's connection: addresses, times, TLS.
            ctx: The context.
        """

    # ------------------------------------------------------------------ the bytes

    async def downstream_data_filter(
        self, session: StreamSession, data: bytes | None, end_of_stream: bool, ctx: CTX
    ) -> bytes | None:
        """Change what the client sends.

        Pieces are whatever has arrived, and no units of any protocol. While this waits, nothing
        more is read from the client.

        Args:
            session: The connection.
            data: A piece; None when only the end is told.
            end_of_stream: Whether the client has ended its direction.
            ctx: The context.

        Returns:
            What to send on; None or empty holds it back.
        """
        return data

    async def upstream_data_filter(
        self, session: StreamSession, data: bytes | None, end_of_stream: bool, ctx: CTX
    ) -> bytes | None:
        """Change what the upstream sends.

        Args:
            session: The connection.
            data: A piece; None when only the end is told.
            end_of_stream: Whether the upstream has ended its direction.
            ctx: The context.

        Returns:
            What to send on; None or empty holds it back.
        """
        return data

    # -------------------------------------------------------------------- the end

    def suppress_error_log(self, session: StreamSession, ctx: CTX, error: Error) -> bool:
        """Keep an error out of the error log.

        What clients do wrong is logged at a limited rate anyway.

        Args:
            session: The connection.
            ctx: The context.
            error: What would be logged.

        Returns:
            True to log nothing.
        """
        return False

    async def logging(self, session: StreamSession, error: Error | None, ctx: CTX) -> None:
        """Be told the end of a connection: exactly once, whatever the end, refusals included.

        Args:
            session: The connection: how it ended, how long it took, the bytes each way.
            error: Why it failed; None when it did not.
            ctx: The context.
        """
