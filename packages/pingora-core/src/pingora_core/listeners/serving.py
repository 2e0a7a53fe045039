"""Endpoints that accept: from the listening socket to the task that serves a connection.

Theory of operation. The endpoints of a service may change while it runs. New ones are bound before
anything else happens, so what cannot be had changes nothing; then, in one step, those that are gone
stop, those that stay serve new connections in the new way, and connections go on as they began.

An endpoint that stops accepts what the kernel has completed for it by then: such a client believes
that it is connected, and would be reset. The table of sockets knows when that is somebody else's
business (`ListenFds.retire`).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

from pingora_core.listeners._accepting import Accepting
from pingora_core.listeners._background import BackgroundTasks
from pingora_core.listeners._clients import announced_client, describe_client, inet_peer
from pingora_core.listeners._holding import Holding
from pingora_core.listeners._sockets import accept_waiting
from pingora_core.listeners.endpoint import BackgroundAcceptor
from pingora_core.listeners.l4 import NO_OPTIONS, TcpServerAddress
from pingora_core.listeners.limits import get_accept_guard
from pingora_core.listeners.proxy_protocol import accept_proxy_header
from pingora_core.protocols.l4.sockopt import set_reset_on_close
from pingora_core.protocols.proxy_protocol import ProxyCommand
from pingora_core.runtime import timers
from pingora_core.runtime.log_limit import LogLimit
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from pingora_core.listeners.admission import ConnectionPermit
    from pingora_core.listeners.endpoint import AcceptPolicy, Endpoint
    from pingora_core.listeners.fds import ListenFds
    from pingora_core.listeners.filter import ConnectionFilter
    from pingora_core.listeners.proxy_protocol import ProxyProtocolSettings
    from pingora_core.protocols.address import SocketAddress
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.protocols.l4.stream import L4Stream

    OnStream: TypeAlias = Callable[[Stream], Awaitable[None]]

__all__ = ["ServingListeners"]

_logger = logging.getLogger(__name__)

# Seconds until a descriptor may be free for a connection that is waiting.
_DESCRIPTOR_PAUSE: Final = 0.05

# Seconds that a handshake may still take when nothing is accepted any more.
_LAST_HANDSHAKES: Final = 5.0


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
        self._guard = get_accept_guard()
        self._accepting: list[Accepting] = []
        self._addresses: list[SocketAddress] = []
        self._is_closed = self._is_cancelled = False
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        # Those that the application has not seen yet.
        self._preparing: set[L4Stream] = set()
        self._late: asyncio.TimerHandle | None = None
        self._background = BackgroundTasks()
        self._holding = Holding(lambda: self._accepting)
        self._log_limit = LogLimit()

    # -------------------------------------------------------------- accepting

    async def update(self, endpoints: Iterable[Endpoint], policy: AcceptPolicy) -> None:
        """Accept on these endpoints from now on, and on no others.

        An endpoint is known by the key of its address. One that stays keeps its socket, and
        everything else that is said of it holds for new connections.

        Args:
            endpoints: All of them.
            policy: What they have in common.

        Raises:
            Error: ``BIND_ERROR`` if one of their addresses cannot be listened on, or if accepting
                has ended; then nothing has changed.
            ValueError: If an address is there twice.
        """
        wanted: dict[str, Endpoint] = {}
        for endpoint in endpoints:
            if wanted.setdefault(endpoint.address.key, endpoint) is not endpoint:
                raise ValueError(f"{endpoint.address.key} is there twice")
        async with self._changing:
            self._refuse_if_closed()
            known = {each.endpoint.address.key: each for each in self._accepting}
            fresh = await self._open([wanted[key] for key in wanted if key not in known])
            self._policy = policy
            current = known | fresh
            for key in known.keys() - wanted.keys():
                self._retire(current[key], everywhere=True)
            for key in known.keys() & wanted.keys():
                self._change(current[key], wanted[key])
            self._accepting = [current[key] for key in wanted]
            self._addresses = [each.address for each in self._accepting]
            self._holding.follow(policy.connection_limits)
            self._background.keep(_background_acceptors(wanted.values()))

    @property
    def addresses(self) -> list[SocketAddress]:
        """Where it listens, with the ports that the kernel chose, in the order of the endpoints."""
        return list(self._addresses)

    @property
    def connections(self) -> int:
        """How many connections are open: being filtered, shaking hands, served, or closing."""
        return len(self._tasks)

    @property
    def preparing(self) -> int:
        """How many of these the application has not seen yet: they shake hands, for instance."""
        return len(self._preparing)

    @property
    def is_accepting(self) -> bool:
        """Whether `close` was not called yet."""
        return not self._is_closed

    def close(self) -> None:
        """Stop to accept; connections go on. Calling it again does nothing."""
        self._is_closed = True
        self._holding.end()
        accepting, self._accepting = self._accepting, []
        for each in accepting:
            self._retire(each)
        self._background.keep(())
        if self._late is None:
            loop = asyncio.get_running_loop()
            self._late = loop.call_later(_LAST_HANDSHAKES, self._break_off_preparing)

    def _break_off_preparing(self) -> None:
        # Silent clients must not hold up the end as long as they may a listener.
        for stream in tuple(self._preparing):
            stream.abort()

    async def _open(self, endpoints: list[Endpoint]) -> dict[str, Accepting]:
        opened: dict[str, Accepting] = {}
        try:
            # All are bound before the first one accepts: what fails, fails before that.
            for endpoint in endpoints:
                sock = await self._fds.acquire(endpoint.address)
                each = Accepting(
                    endpoint,
                    sock,
                    self._connected,
                    self._guard,
                    is_held=self._holding.is_held,
                )
                opened[endpoint.address.key] = each
            for each in opened.values():
                await each.start()
            self._refuse_if_closed()
        except BaseException:
            for each in opened.values():
                each.close()
                self._fds.release(each.endpoint.address)
            raise
        return opened

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            msg = "the service stops: its addresses stay as they are"
            raise Error(ErrorType.BIND_ERROR, msg, source=ErrorSource.INTERNAL)

    def _change(self, accepting: Accepting, endpoint: Endpoint) -> None:
        accepting.endpoint = endpoint
        try:
            self._fds.refresh(endpoint.address)
        except Error as error:
            # Too late to refuse the change as a whole, and the socket works.
            _logger.error("%s", error)

    def _retire(self, accepting: Accepting, *, everywhere: bool = False) -> None:
        endpoint = accepting.endpoint
        accepting.close()
        sock = self._fds.retire(endpoint.address, everywhere=everywhere)
        if sock is None:
            return
        if self._take_waiting(accepting, sock):
            sock.close()
            return
        task = asyncio.get_running_loop().create_task(self._empty(accepting, sock))
        self._tasks.add(task)
        task.add_done_callback(partial(self._emptied, sock))

    def _take_waiting(self, accepting: Accepting, sock: socket.socket) -> bool:
        connections, is_all = accept_waiting(sock)
        loop = asyncio.get_running_loop()
        for connection in connections:
            task = loop.create_task(accepting.connect(connection))
            self._tasks.add(task)
            task.add_done_callback(partial(self._handed_over, connection))
        return is_all

    async def _empty(self, accepting: Accepting, sock: socket.socket) -> None:
        where = accepting.address
        _logger.warning("%s: the last connections wait for file descriptors", where)
        while True:
            await timers.sleep(_DESCRIPTOR_PAUSE)
            if self._take_waiting(accepting, sock):
                return

    def _emptied(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        sock.close()

    def _handed_over(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is not None:
            if connection.family != socket.AF_UNIX and connection.fileno() != -1:
                with suppress(Error):
                    set_reset_on_close(connection)
            connection.close()

    # ------------------------------------------------------------- connections

    async def drain(self, timeout: float | None = None) -> bool:
        """Wait until no connection is left.

        Args:
            timeout: Longest wait, seconds; None for no limit.

        Returns:
            Whether none is left.
        """
        for _ in range(3):  # until what was handed over just before close() is a task
            await asyncio.sleep(0)
        await self._background.wait_ended()
        await self._holding.settle()
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        while self._tasks:
            left = None if deadline is None else max(0.0, deadline - loop.time())
            await asyncio.wait(self._tasks, timeout=left)
            if left == 0.0:
                break
        if self._late is not None and not self._tasks:
            self._late.cancel()
        return not self._tasks

    async def cancel(self, timeout: float | None = None) -> bool:
        """Break off all connections that are left, and wait for their tasks to end.

        Args:
            timeout: Longest wait for tasks that clean up, seconds; None for no limit.

        Returns:
            Whether all have ended.
        """
        self._is_cancelled = self._is_closed
        for task in self._tasks:
            task.cancel()
        return await self.drain(timeout)

    # ---------------------------------------------------------------- private

    def _connected(self, endpoint: Endpoint, stream: L4Stream) -> None:
        if self._is_cancelled:
            # The kernel handed it over just before.
            stream.abort()
            return
        limits = self._policy.connection_limits
        permit: ConnectionPermit | None = None
        if limits is not None:
            # Who is behind a proxy is known later.
            permit = limits.admit(None if endpoint.proxy_protocol else inet_peer(stream))
            if permit is None:
                stream.abort()
                return
        self._guard.accepted()
        task = asyncio.get_running_loop().create_task(self._serve(endpoint, stream, permit))
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, stream, permit))

    def _ended(
        self, accepted: L4Stream, permit: ConnectionPermit | None, task: asyncio.Task[None]
    ) -> None:
        # Here and not in the task: one that is cancelled before its first step runs no finally.
        self._tasks.discard(task)
        accepted.abort()
        self._guard.ended()
        if permit is not None:
            permit.release()

    async def _serve(
        self, endpoint: Endpoint, accepted: L4Stream, permit: ConnectionPermit | None
    ) -> None:
        stream: Stream = accepted
        try:
            if permit is not None and permit.turn is not None:
                await permit.turn
            if not await self._is_welcome(endpoint, accepted):
                return
            if endpoint.proxy_protocol is not None or endpoint.acceptor is not None:
                self._preparing.add(accepted)
                try:
                    prepared = await self._prepare(endpoint, accepted, permit)
                finally:
                    self._preparing.discard(accepted)
                if prepared is None:
                    return
                stream = prepared
            await self._on_stream(stream)
            stream.close()
            await stream.wait_closed()
        except (Error, TimeoutError) as error:
            self._log_failure(endpoint, accepted, error)
        except Exception:
            client = describe_client(accepted, endpoint.address.key)
            _logger.exception("connection from %s failed", client)
        finally:
            # Nothing happens if it is closed already.
            stream.abort()

    async def _prepare(
        self, endpoint: Endpoint, accepted: L4Stream, permit: ConnectionPermit | None
    ) -> Stream | None:
        settings = endpoint.proxy_protocol
        if settings is not None:
            if not await self._is_announced(settings, accepted):
                return None
            if permit is not None and not permit.count_for(announced_client(accepted)):
                return None
        if endpoint.acceptor is None:
            return accepted
        handshake = endpoint.acceptor.accept(accepted)
        return await timers.timeout(self._policy.handshake_timeout, handshake)

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
        peer = inet_peer(stream) if is_announced else None
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
        client = describe_client(stream, endpoint.address.key)
        _logger.warning("connection from %s: %s%s", client, error, more)


def _background_acceptors(endpoints: Iterable[Endpoint]) -> list[BackgroundAcceptor]:
    acceptors = (endpoint.acceptor for endpoint in endpoints)
    return [each for each in acceptors if isinstance(each, BackgroundAcceptor)]
