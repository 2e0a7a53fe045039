"""Forwarding of whole connections: bytes both ways, whatever they mean.

Theory of operation. Two loops, one per direction, move what has arrived on one stream to the
other; one runs in the connection's own task, the other in a second one. A loop that has to wait for
its receiver stops to read, so no more than the buffers of the two streams is ever held. An end of
one direction is passed on alone where the receiver's stream can do that, and the other direction
goes on.

Who fails tells what the other side is told. A stream that could not be read any more has left
something incomplete, and the other stream is reset, so that nothing incomplete looks complete. A
stream that could not be written to has gone away; what it had sent before is still forwarded.

One deadline watches both directions together: it fires when neither has moved a byte.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pingora_core.apps.app import ServerApp
from pingora_core.connectors.transport import TransportConnector
from pingora_core.protocols.tls.client_hello import MAX_CLIENT_HELLO
from pingora_core.protocols.tls.hello_reader import read_client_hello
from pingora_core.runtime import timers
from pingora_core.runtime.log_limit import LogLimit
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.protocols.tls.client_hello import ClientHello
    from pingora_core.runtime.shutdown import ShutdownWatch
    from pingora_core.upstreams.peer import Peer

__all__ = ["TcpProxy", "TcpProxyOptions", "TunnelRecord"]

_logger = logging.getLogger(__name__)

# Silence after which a connection is given up whose one side has gone away or cannot be told that
# the other one has ended. Seconds.
_LINGER: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpProxyOptions:
    """How connections are forwarded.

    Attributes:
        read_client_hello: Whether to wait for a TLS ClientHello before the upstream is chosen.
            The handshake itself stays between the client and the upstream.
        hello_timeout: Longest time for the ClientHello, seconds.
        max_hello_size: Most bytes of it, record headers included.
        connect_timeout: Longest time to connect to the upstream, seconds; the peer's own options
            may ask for less.
        idle_timeout: How long both directions together may be silent, seconds.
        half_closed_timeout: The same once one direction has ended, seconds.
    """

    read_client_hello: bool = False
    hello_timeout: float = 10.0
    max_hello_size: int = MAX_CLIENT_HELLO
    connect_timeout: float = 10.0
    idle_timeout: float = 3600.0
    half_closed_timeout: float = 300.0


@dataclass(slots=True, eq=False)
class TunnelRecord:
    """What became of a connection.

    Attributes:
        stream: The client's connection, for its addresses; it may be closed.
        hello: The client's ClientHello, if it was to be read and was.
        peer: The upstream that was chosen; None if none was.
        error: Why it ended, if not by both sides ending their directions; None also if
            `TcpProxy.upstream_peer` chose no upstream.
        from_client: Bytes written to the upstream.
        from_upstream: Bytes written to the client.
    """

    stream: Stream
    hello: ClientHello | None = None
    peer: Peer | None = None
    error: Error | None = None
    from_client: int = 0
    from_upstream: int = 0


class TcpProxy(ServerApp):
    """Forwards each connection to an upstream.

    At a shutdown the connections go on until they end or the server's grace period does.

    Args:
        connector: Makes the connections to upstreams, and is closed with this application; None
            for one with the defaults.
        options: How connections are forwarded; None for the defaults.

    Raises:
        Error: As `TransportConnector` does.

    Attributes:
        connector: Makes the connections to upstreams.
        options: How connections are forwarded.
    """

    def __init__(
        self,
        *,
        connector: TransportConnector | None = None,
        options: TcpProxyOptions | None = None,
    ) -> None:
        self.connector = TransportConnector() if connector is None else connector
        self.options = TcpProxyOptions() if options is None else options
        self._log_limit = LogLimit()

    # ---------------------------------------------------------------- to be overridden

    @abstractmethod
    async def upstream_peer(self, stream: Stream, hello: ClientHello | None) -> Peer | None:
        """Choose where a connection goes.

        Args:
            stream: The client's connection. Something may be written to it, such as an alert
                before it is refused; what was read from it goes to the upstream only if it is
                put back with ``unread``.
            hello: The client's ClientHello, if the options ask for it; else None.

        Returns:
            The upstream, such as a `BasicPeer`; None closes the connection once what was written
            to it is sent.
        """

    def on_end(self, record: TunnelRecord) -> None:
        """Be told that a connection has ended; logs failures unless overridden.

        Called exactly once for each connection, whatever happened to it. What clients do wrong
        is logged at a limited rate.

        Args:
            record: What became of it.
        """
        error = record.error
        if error is None:
            return
        suppressed: int | None = 0
        if error.esource is ErrorSource.DOWNSTREAM:
            suppressed = self._log_limit.admit(time.monotonic())
            if suppressed is None:
                return
        is_fault = error.root_etype is ErrorType.INTERNAL_ERROR
        _logger.warning(
            "connection from %s to %s ended after %d bytes from and %d bytes to the client: %s%s",
            _client(record.stream),
            "nowhere" if record.peer is None else record.peer,
            record.from_client,
            record.from_upstream,
            error,
            f" (and {suppressed} more that were not logged)" if suppressed else "",
            exc_info=error.root_cause if is_fault else None,
        )

    # ------------------------------------------------------------------------- serving

    async def process_new(
        self,
        stream: Stream,
        shutdown: ShutdownWatch,  # noqa: ARG002 - connections go on during the grace period
    ) -> Stream | None:
        """Forward a connection until it ends.

        Args:
            stream: The client's connection.
            shutdown: Not heeded: only its ends know when a connection can be let go of.

        Returns:
            None: the stream was closed.

        Raises:
            CancelledError: If the caller was cancelled.
        """
        record = TunnelRecord(stream)
        try:
            await self._serve(record)
        except Error as error:
            record.error = error
            stream.abort()
        except asyncio.CancelledError:
            msg = "the server gave the connection up"
            record.error = record.error or Error.internal(ErrorType.CONNECTION_CLOSED, msg)
            raise
        except Exception as error:  # noqa: BLE001 - an application may raise anything
            record.error = Error.internal(ErrorType.INTERNAL_ERROR, cause=error)
            stream.abort()
        finally:
            self._report(record)
        return None

    async def cleanup(self) -> None:
        """Close the connector."""
        await self.connector.close()

    async def _serve(self, record: TunnelRecord) -> None:
        options = self.options
        stream = record.stream
        if options.read_client_hello:
            record.hello = await read_client_hello(
                stream, timeout=options.hello_timeout, max_size=options.max_hello_size
            )
        peer = record.peer = await self.upstream_peer(stream, record.hello)
        if peer is None:
            # An alert must not be destroyed by the reset that unread bytes would cause.
            stream.close(discard_input=True)
            return
        upstream = await self._connect(peer)
        try:
            tunnel = _Tunnel(record, upstream, options)
            await tunnel.run()
            await upstream.wait_closed()
        finally:
            # Nothing happens if it is gone already.
            upstream.abort()

    async def _connect(self, peer: Peer) -> Stream:
        limit = self.options.connect_timeout
        try:
            return await timers.timeout(limit, self.connector.new_stream(peer))
        except TimeoutError as error:
            msg = f"{peer!r} not reached within {limit} s"
            raise Error.up(ErrorType.CONNECT_TIMEDOUT, msg, cause=error) from error

    def _report(self, record: TunnelRecord) -> None:
        try:
            self.on_end(record)
        except Exception:
            _logger.exception("on_end failed for a connection from %s", _client(record.stream))


class _Tunnel:
    """One connection that is being forwarded."""

    __slots__ = ("_deadline", "_is_told", "_options", "_patience", "_record", "_upstream")

    def __init__(self, record: TunnelRecord, upstream: Stream, options: TcpProxyOptions) -> None:
        self._record = record
        self._upstream = upstream
        self._options = options
        self._deadline = timers.Deadline(timers.get_timers(), self._expired)
        # Seconds of silence that are borne from now on.
        self._patience = options.idle_timeout
        # The streams that got everything the other one had to send.
        self._is_told: set[Stream] = set()

    async def run(self) -> None:
        """Forward until it is over, then close both streams without waiting for them to be gone.

        Failures of the connection go to the record.
        """
        client, upstream = self._record.stream, self._upstream
        self._deadline.set(self._patience)
        upload = asyncio.create_task(self._forward(client, upstream))
        try:
            await self._forward(upstream, client)
            if client in self._is_told and not client.can_write_eof:
                # A client that waits for this end could not be told of it in any other way.
                upload.cancel()
            await asyncio.wait((upload,))
            if not upload.cancelled():
                upload.result()
        finally:
            self._deadline.cancel()
            if not upload.done():
                upload.cancel()
                await asyncio.wait((upload,))
            for stream in (client, upstream):
                if stream in self._is_told:
                    stream.close(discard_input=True)
                else:
                    stream.abort()

    async def _forward(self, source: Stream, sink: Stream) -> None:
        record = self._record
        is_upload = source is record.stream
        deadline = self._deadline
        try:
            while source.buffered or await source.fill():
                data = source.take()
                deadline.set(self._patience)
                if not await self._send(data, sink):
                    return
                if is_upload:
                    record.from_client += len(data)
                else:
                    record.from_upstream += len(data)
        except Error as error:
            self._note(error, source)
            # Whatever the other direction waits for, it need not.
            source.fail(error)
            sink.fail(error)
            return
        self._end(sink)

    async def _send(self, data: bytes, sink: Stream) -> bool:
        # False if it cannot be written to. Whoever reads from it will find out how that came.
        try:
            sink.write(data)
            if sink.needs_drain:
                await sink.drain()
                self._deadline.set(self._patience)
        except Error as error:
            self._note(error, sink)
            self._patience = min(self._patience, _LINGER)
            self._deadline.set(self._patience)
            return False
        return True

    def _end(self, sink: Stream) -> None:
        self._is_told.add(sink)
        self._patience = min(self._patience, self._options.half_closed_timeout)
        if sink.can_write_eof:
            try:
                sink.write_eof()
            except Error as error:
                self._note(error, sink)
                self._patience = min(self._patience, _LINGER)
        else:
            self._patience = min(self._patience, _LINGER)
        self._deadline.set(self._patience)

    def _note(self, error: Error, where: Stream) -> None:
        # The first failure is the reason, the others follow from it.
        record = self._record
        if record.error is not None:
            return
        if error.esource is ErrorSource.UNSET:
            error = error.as_down() if where is record.stream else error.as_up()
        record.error = error

    def _expired(self) -> None:
        msg = f"nothing was forwarded for {self._patience} s"
        error = Error.internal(ErrorType.READ_TIMEDOUT, msg)
        # Neither side is waited for any more, whatever it was told.
        self._is_told.clear()
        self._record.stream.fail(error)
        self._upstream.fail(error)


def _client(stream: Stream) -> str:
    digest = stream.digest.socket_digest
    address = None if digest is None else digest.peer_addr
    return "an unknown client" if address is None else str(address)
