"""Endpoints that accept: from the listening socket to the task that serves a connection."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, runtime_checkable

from pingora_core.listeners.l4 import BACKLOG, NO_OPTIONS, TcpServerAddress
from pingora_core.listeners.proxy_protocol import accept_proxy_header
from pingora_core.protocols.address import InetAddress, socket_address_from_sockname
from pingora_core.protocols.l4.stream import (
    DEFAULT_READ_BUFFER,
    DEFAULT_WRITE_BUFFER,
    L4Stream,
)
from pingora_core.protocols.proxy_protocol import ProxyCommand
from pingora_core.runtime import timers
from pingora_core.runtime.log_limit import LogLimit
from pingora_error import Error

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from pingora_core.listeners.fds import ListenFds
    from pingora_core.listeners.filter import ConnectionFilter
    from pingora_core.listeners.l4 import ServerAddress
    from pingora_core.listeners.proxy_protocol import ProxyProtocolSettings
    from pingora_core.protocols.address import SocketAddress
    from pingora_core.protocols.interfaces import Stream

    OnStream: TypeAlias = Callable[[Stream], Awaitable[None]]

__all__ = [
    "AcceptPolicy",
    "Acceptor",
    "BackgroundAcceptor",
    "Endpoint",
    "L4BufferSettings",
    "ServingListeners",
]

_logger = logging.getLogger(__name__)


class Acceptor(Protocol):
    """What stands between an accepted connection and the application: a TLS handshake."""

    async def accept(self, stream: Stream, /) -> Stream:
        """Do the handshake.

        Args:
            stream: The accepted connection; the acceptor's from now on, but whoever called
                closes it if this raises.

        Returns:
            The stream to serve; closing it closes the accepted one.
        """


@runtime_checkable
class BackgroundAcceptor(Acceptor, Protocol):
    """An acceptor with something to do beside accepting, such as looking for renewed files."""

    async def run(self) -> None:
        """Do it until cancelled, which happens when the listener stops to accept."""


@dataclass(frozen=True, slots=True)
class L4BufferSettings:
    """Buffers of accepted connections.

    Attributes:
        read: Unread bytes at which reading pauses.
        write: Unsent bytes above which the writer is asked to wait.
    """

    read: int = DEFAULT_READ_BUFFER
    write: int = DEFAULT_WRITE_BUFFER

    def __post_init__(self) -> None:
        if self.read < 1 or self.write < 0:
            raise ValueError(f"no such buffer sizes: read {self.read}, write {self.write}")


DEFAULT_BUFFERS: Final = L4BufferSettings()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address and what is special about its connections.

    Attributes:
        address: Where it listens.
        acceptor: Handshake before the application; None for none.
        buffers: Of the connections.
        proxy_protocol: Whose headers of the PROXY protocol it believes, read before the acceptor
            sees the connection; None reads none.
    """

    address: ServerAddress
    acceptor: Acceptor | None = None
    buffers: L4BufferSettings = DEFAULT_BUFFERS
    proxy_protocol: ProxyProtocolSettings | None = None


@dataclass(frozen=True, slots=True)
class AcceptPolicy:
    """What all endpoints have in common.

    Attributes:
        connection_filter: Who may connect; None for everybody.
        filter_timeout: How long the filter may take; then the answer is no. Seconds.
        handshake_timeout: How long an acceptor may take, seconds; listeners/mod.rs.
    """

    connection_filter: ConnectionFilter | None = None
    filter_timeout: float = 5.0
    handshake_timeout: float = 60.0


class ServingListeners:
    """Endpoints that accept connections, and the tasks that serve these.

    Made by `Listeners.serve`. It owns every connection from accept to close: when the
    application's function returns, the stream is closed once all is sent; when it raises or is
    cancelled, it is reset, so that nothing incomplete looks complete.

    Args:
        on_stream: Serves one connection.
        fds: Where the sockets come from.
        policy: What all endpoints have in common.
    """

    def __init__(self, on_stream: OnStream, fds: ListenFds, policy: AcceptPolicy) -> None:
        self._on_stream = on_stream
        self._fds = fds
        self._policy = policy
        self._servers: list[tuple[asyncio.AbstractServer, Endpoint]] = []
        self._addresses: list[SocketAddress] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._background: dict[Acceptor, asyncio.Task[None]] = {}
        self._log_limit = LogLimit()

    # -------------------------------------------------------------- accepting

    async def start(self, endpoint: Endpoint) -> None:
        """Begin to accept on one more endpoint.

        Args:
            endpoint: Where and how.

        Raises:
            Error: ``BIND_ERROR`` if its address cannot be listened on.
        """
        sock = await self._fds.acquire(endpoint.address)
        try:
            server = await self._create_server(endpoint, sock)
        except BaseException:
            sock.close()
            self._fds.release(endpoint.address)
            raise
        self._servers.append((server, endpoint))
        acceptor = endpoint.acceptor
        if isinstance(acceptor, BackgroundAcceptor) and acceptor not in self._background:
            task = asyncio.get_running_loop().create_task(acceptor.run())
            self._background[acceptor] = task

    @property
    def addresses(self) -> list[SocketAddress]:
        """Where it listens, with the ports that the kernel chose, in the order of the endpoints."""
        return list(self._addresses)

    @property
    def connections(self) -> int:
        """How many connections are open: being filtered, shaking hands, served, or closing."""
        return len(self._tasks)

    @property
    def is_accepting(self) -> bool:
        """Whether `close` was not called yet."""
        return bool(self._servers)

    def close(self) -> None:
        """Stop to accept; connections go on. Calling it again does nothing."""
        servers = self._servers
        self._servers = []
        for server, endpoint in servers:
            server.close()
            self._fds.release(endpoint.address)
        for task in self._background.values():
            task.cancel()

    # ------------------------------------------------------------- connections

    async def drain(self, timeout: float | None = None) -> bool:
        """Wait until no connection is left.

        Args:
            timeout: Longest wait, seconds; None for no limit.

        Returns:
            Whether none is left.
        """
        # What the kernel handed over just before close() becomes a task in this turn.
        await asyncio.sleep(0)
        if not self._servers and self._background:
            await asyncio.wait(self._background.values())
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        while self._tasks:
            left = None if deadline is None else max(0.0, deadline - loop.time())
            await asyncio.wait(self._tasks, timeout=left)
            if left == 0.0:
                break
        return not self._tasks

    async def cancel(self, timeout: float | None = None) -> bool:
        """Break off all connections that are left, and wait for their tasks to end.

        Args:
            timeout: Longest wait for tasks that clean up, seconds; None for no limit.

        Returns:
            Whether all have ended.
        """
        for task in self._tasks:
            task.cancel()
        return await self.drain(timeout)

    # ---------------------------------------------------------------- private

    async def _create_server(
        self, endpoint: Endpoint, sock: socket.socket
    ) -> asyncio.AbstractServer:
        loop = asyncio.get_running_loop()
        buffers = endpoint.buffers
        connected = partial(self._connected, endpoint)

        def make() -> L4Stream:
            return L4Stream(
                loop,
                read_buffer=buffers.read,
                write_buffer=buffers.write,
                on_connected=connected,
            )

        address = socket_address_from_sockname(sock.getsockname())
        assert address is not None
        if isinstance(endpoint.address, TcpServerAddress):
            server = await loop.create_server(make, sock=sock, backlog=BACKLOG)
        else:
            server = await loop.create_unix_server(make, sock=sock, backlog=BACKLOG)
        self._addresses.append(address)
        return server

    def _connected(self, endpoint: Endpoint, stream: L4Stream) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(endpoint, stream))
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, stream))

    def _ended(self, accepted: L4Stream, task: asyncio.Task[None]) -> None:
        # Here and not in the task: one that is cancelled before its first step runs no finally.
        self._tasks.discard(task)
        accepted.abort()

    async def _serve(self, endpoint: Endpoint, accepted: L4Stream) -> None:
        stream: Stream = accepted
        try:
            if not await self._is_welcome(endpoint, accepted):
                return
            if endpoint.proxy_protocol is not None and not await self._is_announced(
                endpoint.proxy_protocol, accepted
            ):
                return
            if endpoint.acceptor is not None:
                handshake = endpoint.acceptor.accept(accepted)
                stream = await timers.timeout(self._policy.handshake_timeout, handshake)
            await self._on_stream(stream)
            stream.close()
            await stream.wait_closed()
        except (Error, TimeoutError) as error:
            self._log_failure(endpoint, accepted, error)
        except Exception:
            _logger.exception("connection from %s failed", _client(endpoint, accepted))
        finally:
            # Nothing happens if it is closed already.
            stream.abort()

    async def _is_welcome(self, endpoint: Endpoint, stream: L4Stream) -> bool:
        connection_filter = self._policy.connection_filter
        if connection_filter is not None and not await self._passes(connection_filter, stream):
            return False
        address = endpoint.address
        if isinstance(address, TcpServerAddress) and address.options is not NO_OPTIONS:
            stream.apply_options(address.options)
        return True

    async def _is_announced(self, settings: ProxyProtocolSettings, stream: L4Stream) -> bool:
        if not await accept_proxy_header(stream, settings):
            return False
        client_filter = settings.client_filter
        header = stream.digest.proxy_protocol
        if client_filter is None or header is None or header.command is ProxyCommand.LOCAL:
            return True
        return await self._passes(client_filter, stream, is_announced=header.source is not None)

    async def _passes(
        self, connection_filter: ConnectionFilter, stream: L4Stream, *, is_announced: bool = True
    ) -> bool:
        peer = _peer(stream) if is_announced else None
        asked = connection_filter.should_accept(peer)
        if await timers.timeout(self._policy.filter_timeout, asked):
            return True
        _logger.debug("connection from %s was filtered out", peer)
        return False

    def _log_failure(
        self, endpoint: Endpoint, stream: L4Stream, error: Error | TimeoutError
    ) -> None:
        # Strangers decide how often this happens, so it is not they who fill the disk.
        suppressed = self._log_limit.admit(time.monotonic())
        if suppressed is None:
            return
        more = f" (and {suppressed} more that were not logged)" if suppressed else ""
        _logger.warning("connection from %s: %s%s", _client(endpoint, stream), error, more)


def _client(endpoint: Endpoint, stream: L4Stream) -> str:
    client = str(_peer(stream) or f"a client of {endpoint.address.key}")
    digest = stream.digest.socket_digest
    if digest is None or digest.peer_addr is digest.transport_peer_addr:
        return client
    return f"{client}, announced by {digest.transport_peer_addr}"


def _peer(stream: L4Stream) -> InetAddress | None:
    # A client of a Unix socket has no address worth the name.
    digest = stream.digest.socket_digest
    address = None if digest is None else digest.peer_addr
    return address if isinstance(address, InetAddress) else None
