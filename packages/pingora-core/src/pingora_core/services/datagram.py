"""The service for datagrams: receives on UDP sockets and has an application answer."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Final, Generic, TypeVar, final

from pingora_core.apps.datagram import DatagramApp
from pingora_core.conf import CONFIG_ERROR
from pingora_core.listeners.l4 import NO_OPTIONS, UdpServerAddress
from pingora_core.protocols.l4.datagram_endpoint import DatagramEndpoint
from pingora_core.services import service as base
from pingora_error import Error, ErrorSource

if TYPE_CHECKING:
    import socket

    from pingora_core.conf import ServerConf
    from pingora_core.listeners.fds import ListenFds
    from pingora_core.protocols.address import InetAddress
    from pingora_core.protocols.l4.datagram import DatagramOptions
    from pingora_core.protocols.l4.sockopt import TcpSocketOptions

__all__ = ["DatagramService"]

_logger = logging.getLogger(__name__)

A = TypeVar("A", bound=DatagramApp)

_ADDRESSES: Final = "IP:PORT, [IPv6]:PORT or NAME:PORT"
# How long the last answers may wait for room in the send buffer of a socket. Seconds.
_FLUSH_TIMEOUT: Final = 1.0
# Datagrams that are read before others have their turn, when the service ends.
_BATCH: Final = 64


@final
class DatagramService(base.Service, Generic[A]):
    """Runs a `DatagramApp` on every datagram that arrives on its addresses.

    It is ready when it receives on all of them. At a shutdown it stops to read at once. What waits
    in a socket that others share, a successor or other workers, is left for them; where nobody
    else has it, what has arrived is answered first.

    With several workers all of them read from the same socket, so that each datagram may be seen
    by another one, whoever has sent it. An application that keeps what it knows of its clients
    in memory should run in one worker (``placement``).

    Args:
        name: What logs call it.
        app: What answers.
        options: How datagrams are received and sent; None for the defaults.
    """

    notifies_ready = True

    def __init__(self, name: str, app: A, *, options: DatagramOptions | None = None) -> None:
        super().__init__(name)
        self._app = app
        self._options = options
        self._refused: list[str] = []
        self._where: list[UdpServerAddress] = []
        self._endpoints: list[DatagramEndpoint] = []
        # Addresses whose sockets are yet to be given back; those of the last endpoints.
        self._held: list[UdpServerAddress] = []

    # ------------------------------------------------------------------------- setup

    @property
    def app_logic(self) -> A:
        """The application."""
        return self._app

    @property
    def listen_addresses(self) -> tuple[UdpServerAddress, ...]:
        """Where the service will receive."""
        return tuple(self._where)

    @property
    def addresses(self) -> tuple[InetAddress, ...]:
        """Where it receives, with the ports that the kernel chose; empty before it does."""
        return tuple(endpoint.address for endpoint in self._endpoints)

    @property
    def endpoints(self) -> tuple[DatagramEndpoint, ...]:
        """What receives, for its counts; empty before it does."""
        return tuple(self._endpoints)

    def add_udp(self, address: str, options: TcpSocketOptions | None = None) -> None:
        """Receive on a UDP address; without effect once the service has started.

        An address that makes no sense is told by `check`, not here.

        Args:
            address: ``1.2.3.4:53``, ``[::1]:53`` or ``name:53``; port 0 lets the kernel choose.
            options: Of the socket, such as the sizes of its buffers; None for the system's.
        """
        try:
            where = UdpServerAddress(address, NO_OPTIONS if options is None else options)
        except ValueError as error:
            self._refused.append(f"address: got {address!r}, allowed: {_ADDRESSES} ({error})")
        else:
            self._where.append(where)

    def check(self) -> None:
        """Refuse a service without an address, or with one that cannot be right.

        Raises:
            Error: ``CONFIG_ERROR`` naming the service, the address and what is allowed.
        """
        problems = list(self._refused)
        if not self._where and not problems:
            problems.append("has no address to receive on, allowed: at least one")
        counted = Counter(where.key for where in self._where)
        problems += [
            f"address: got {key!r} {count} times, allowed: once in a service"
            for key, count in counted.items()
            if count > 1
        ]
        if problems:
            problem = f"service {self.name!r}: {'; '.join(problems)}"
            raise Error(CONFIG_ERROR, problem, source=ErrorSource.INTERNAL)

    # --------------------------------------------------------------------------- run

    async def start_service(self, context: base.ServiceContext) -> None:
        """Receive until the shutdown, then until everything that was taken is answered.

        On cancellation what is not answered yet is given up.

        Args:
            context: What to run with.

        Raises:
            Error: ``BIND_ERROR`` if an address cannot be received on.
        """
        self.check()
        fds = context.fds
        self._endpoints = []
        try:
            for where in self._where:
                self._open(where, await fds.acquire(where), fds)
            # A subscription: the first thing that a shutdown does is to stop the reading.
            forget = context.shutdown.subscribe(self._stop_reading)
            try:
                addresses = ", ".join(f"udp:{address}" for address in self.addresses)
                _logger.info("service %r listens on %s", self.name, addresses)
                context.ready.notify_ready()
                await context.shutdown.wait()
                await self._finish(fds)
            finally:
                forget()
        finally:
            await self._close(fds)

    async def reload(self, conf: ServerConf) -> None:
        """Have the application take over what has changed in the configuration.

        Args:
            conf: The new configuration.
        """
        await self._app.reload(conf)

    def _open(self, where: UdpServerAddress, sock: socket.socket, fds: ListenFds) -> None:
        try:
            endpoint = DatagramEndpoint(sock, self._app.datagram_received, self._options)
            self._app.attach(endpoint)
            endpoint.start_reading()
        except BaseException:
            sock.close()
            fds.release(where)
            raise
        self._endpoints.append(endpoint)
        self._held.append(where)

    def _stop_reading(self) -> None:
        for endpoint in self._endpoints:
            endpoint.stop_reading()

    async def _finish(self, fds: ListenFds) -> None:
        while self._held:
            endpoint = self._endpoints[-len(self._held)]
            sock = fds.retire(self._held.pop(0))
            if sock is not None:
                # Nobody else will answer what waits there.
                sock.close()
                await self._answer_waiting(endpoint)
        await self._app.finish()
        for endpoint in self._endpoints:
            await endpoint.flush(_FLUSH_TIMEOUT)

    async def _answer_waiting(self, endpoint: DatagramEndpoint) -> None:
        # Bounded: clients do not know that they should stop.
        left = endpoint.most_waiting
        while left > 0:
            await self._app.room()
            taken = endpoint.read_waiting(min(left, _BATCH))
            if not taken:
                return
            left -= taken
            await asyncio.sleep(0)

    async def _close(self, fds: ListenFds) -> None:
        self._stop_reading()
        try:
            await self._app.cleanup()
        finally:
            for endpoint in self._endpoints:
                endpoint.close()
            for where in self._held:
                fds.release(where)
            self._held.clear()
