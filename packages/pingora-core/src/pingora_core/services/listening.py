"""The service with listeners: accepts connections and has an application serve them.

Theory of operation. What was added before the start is a set of listeners; while the service runs
it can be replaced by another one as a whole, and whoever reads a configuration makes such a set of
it every time. A change that is not possible is refused as a whole.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, TypeVar, final

from pingora_core.apps.app import ServerApp
from pingora_core.conf import CONFIG_ERROR
from pingora_core.listeners.endpoint import ReloadableAcceptor
from pingora_core.listeners.stack import Listeners
from pingora_core.services import service as base
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    from pingora_core.conf import ServerConf
    from pingora_core.listeners.admission import ConnectionLimits
    from pingora_core.listeners.endpoint import Acceptor, Endpoint, L4BufferSettings
    from pingora_core.listeners.filter import ConnectionFilter
    from pingora_core.listeners.l4 import ServerAddress
    from pingora_core.listeners.proxy_protocol import ProxyProtocolSettings
    from pingora_core.listeners.serving import ServingListeners
    from pingora_core.listeners.tls import TlsSettings
    from pingora_core.protocols.address import SocketAddress
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.protocols.l4.sockopt import TcpSocketOptions
    from pingora_core.runtime.shutdown import ShutdownWatch

__all__ = ["Service"]

_logger = logging.getLogger(__name__)

A = TypeVar("A", bound=ServerApp)

_TCP_ADDRESSES: Final = "IP:PORT, [IPv6]:PORT or NAME:PORT"


@final
class Service(base.Service, Generic[A]):
    """Runs a `ServerApp` on every connection that its listeners accept.

    It is ready when all of them accept. At a shutdown they close at once, the connections are
    waited for, and at last ``app.cleanup()`` is called.

    An address or a certificate that makes no sense is told by `check`, not where it is added: it
    comes from an operator as often as from a programmer, and is one of several things to be told
    at once.

    Args:
        name: What logs call it.
        app: What serves the connections.
        listeners: Where they come from. More can be added until the service starts; from then on
            there is `update_listeners`.

    Source: pingora-core/src/services/listening.rs.
    """

    notifies_ready = True

    def __init__(self, name: str, app: A, listeners: Listeners | None = None) -> None:
        super().__init__(name)
        self._app = app
        self._listeners = Listeners() if listeners is None else listeners
        self._refused: list[str] = []
        self._serving: ServingListeners | None = None
        # Held while the listeners begin to accept, or change.
        self._changing = asyncio.Lock()

    # ------------------------------------------------------------------------- setup

    @property
    def app_logic(self) -> A:
        """The application."""
        return self._app

    @property
    def listeners(self) -> Listeners:
        """Where the connections come from, for what has no method here."""
        return self._listeners

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """What was added, in that order."""
        return self._listeners.endpoints

    @property
    def listen_addresses(self) -> tuple[ServerAddress, ...]:
        """Where the service is to listen."""
        return tuple(endpoint.address for endpoint in self.endpoints)

    @property
    def addresses(self) -> tuple[SocketAddress, ...]:
        """Where the service listens, with the ports that the kernel chose; empty before it does."""
        return () if self._serving is None else tuple(self._serving.addresses)

    @property
    def connections(self) -> int:
        """How many connections are open now, those that shake hands included."""
        return 0 if self._serving is None else self._serving.connections

    @property
    def preparing(self) -> int:
        """How many of these are announced by a proxy or shake hands just now."""
        return 0 if self._serving is None else self._serving.preparing

    def add_tcp(
        self,
        address: str,
        options: TcpSocketOptions | None = None,
        *,
        proxy_protocol: ProxyProtocolSettings | None = None,
    ) -> None:
        """Listen on a TCP address; without effect once the service has started.

        See `update_listeners` for later.

        Args:
            address: ``1.2.3.4:80``, ``[::1]:80`` or ``name:80``; port 0 lets the kernel choose.
            options: Of the listening socket and the accepted ones; None for the system's.
            proxy_protocol: Whose headers of the PROXY protocol it believes; None reads none.
        """
        with self._noting_refusal(address, _TCP_ADDRESSES):
            if options is None:
                self._listeners.add_tcp(address, proxy_protocol=proxy_protocol)
            else:
                self._listeners.add_tcp_with_settings(
                    address, options, proxy_protocol=proxy_protocol
                )

    def add_uds(
        self,
        path: str,
        permissions: int | None = None,
        *,
        proxy_protocol: ProxyProtocolSettings | None = None,
    ) -> None:
        """Listen on a Unix socket; without effect once the service has started.

        See `update_listeners` for later.

        Args:
            path: Where its file is made.
            permissions: Mode of the file; None for 0o666.
            proxy_protocol: Whose headers of the PROXY protocol it believes; None reads none.
        """
        with self._noting_refusal(path, "a path of up to 107 bytes, a mode up to 0o777"):
            self._listeners.add_uds(path, permissions, proxy_protocol=proxy_protocol)

    def add_tls(
        self,
        address: str,
        cert_path: str | os.PathLike[str],
        key_path: str | os.PathLike[str],
        *,
        proxy_protocol: ProxyProtocolSettings | None = None,
    ) -> None:
        """Listen with TLS as most clients want it; without effect once the service has started.

        See `update_listeners` for later.

        Args:
            address: As for `add_tcp`.
            cert_path: PEM file with the certificate, then each its issuer; watched for changes.
            key_path: PEM file with its private key; watched for changes.
            proxy_protocol: Whose headers of the PROXY protocol it believes; None reads none.
        """
        with self._noting_refusal(address, _TCP_ADDRESSES):
            self._listeners.add_tls(address, cert_path, key_path, proxy_protocol=proxy_protocol)

    def add_tls_with_settings(
        self,
        address: str,
        options: TcpSocketOptions | None,
        settings: TlsSettings,
        *,
        proxy_protocol: ProxyProtocolSettings | None = None,
    ) -> None:
        """Listen with TLS; without effect once the service has started.

        See `update_listeners` for later.

        Args:
            address: As for `add_tcp`.
            options: Of the listening socket and the accepted ones; None for the system's.
            settings: Of TLS; not to be changed afterwards, but for the certificates in its store.
            proxy_protocol: Whose headers of the PROXY protocol it believes; None reads none.
        """
        with self._noting_refusal(address, _TCP_ADDRESSES):
            self._listeners.add_tls_with_settings(
                address, options, settings, proxy_protocol=proxy_protocol
            )

    def add_endpoint(
        self,
        address: ServerAddress,
        *,
        acceptor: Acceptor | None = None,
        buffers: L4BufferSettings | None = None,
        proxy_protocol: ProxyProtocolSettings | None = None,
    ) -> None:
        """Listen on an address with everything that can be said of it.

        Args:
            address: Where, and its socket options.
            acceptor: Handshake before the application, such as TLS; None for none.
            buffers: Of its connections; None for the defaults.
            proxy_protocol: Whose headers of the PROXY protocol it believes; None reads none.
        """
        self._listeners.add_endpoint(
            address, acceptor=acceptor, buffers=buffers, proxy_protocol=proxy_protocol
        )

    def set_connection_filter(self, connection_filter: ConnectionFilter | None) -> None:
        """Decide per connection whether it is served, on all endpoints.

        Args:
            connection_filter: Asked before anything is read; None lets everybody in.
        """
        self._listeners.set_connection_filter(connection_filter)

    def set_connection_limits(self, limits: ConnectionLimits | None) -> None:
        """Limit the connections of the service, on all endpoints together.

        Args:
            limits: The limits, with the counts; None for as many as come. Numbers that change
                while the service runs are changed in the object.
        """
        self._listeners.set_connection_limits(limits)

    @contextmanager
    def _noting_refusal(self, address: str, allowed: str) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            self._refused.append(f"address: got {address!r}, allowed: {allowed} ({error})")
        except Error as error:
            self._refused.append(f"{address}: {error}")

    def check(self) -> None:
        """Refuse a service without an address, or with one that cannot be right.

        Raises:
            Error: ``CONFIG_ERROR`` naming the service, the address and what is allowed.
        """
        self._refuse([*self._refused, *self._problems_of(self.endpoints)])

    def _problems_of(self, endpoints: Sequence[Endpoint]) -> list[str]:
        if not endpoints and not self._refused:
            return ["has no address to listen on, allowed: at least one"]
        counted = Counter(endpoint.address.key for endpoint in endpoints)
        # Their settings would apply to whichever happens to accept.
        return [
            f"address: got {key!r} {count} times, allowed: once in a service"
            for key, count in counted.items()
            if count > 1
        ]

    def _refuse(self, problems: Sequence[str], cause: Exception | None = None) -> None:
        if problems:
            problem = f"service {self.name!r}: {'; '.join(problems)}"
            raise Error(CONFIG_ERROR, problem, source=ErrorSource.INTERNAL, cause=cause)

    # --------------------------------------------------------------------------- run

    async def start_service(self, context: base.ServiceContext) -> None:
        """Accept and serve connections until the shutdown, then until the last one has ended.

        On cancellation the connections that are left are reset.

        Args:
            context: What to run with.

        Raises:
            Error: ``BIND_ERROR`` if an address cannot be listened on; what ``app.startup`` raises.
        """
        self.check()
        shutdown = context.shutdown
        try:
            await self._app.startup()
            async with self._changing:
                serving = self._serving = await self._begin_to_serve(context)
            if serving is None:
                return
            # A subscription: the first thing that a shutdown does is to close the listeners.
            forget = shutdown.subscribe(serving.close)
            try:
                addresses = ", ".join(map(str, serving.addresses))
                _logger.info("service %r listens on %s", self.name, addresses)
                context.ready.notify_ready()
                await shutdown.wait()
                await serving.drain()
            finally:
                forget()
                serving.close()
                await serving.cancel()
        finally:
            await self._app.cleanup()

    async def _begin_to_serve(self, context: base.ServiceContext) -> ServingListeners | None:
        # An address in use is tried for half a minute; who is told to stop meanwhile, stops: None.
        shutdown = context.shutdown
        serve = partial(self._serve, shutdown)
        binding = asyncio.create_task(self._listeners.serve(serve, context.fds))

        def give_up() -> None:
            binding.cancel()

        forget = shutdown.subscribe(give_up)
        try:
            return await binding
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not shutdown.is_shutting_down or (task is not None and task.cancelling()):
                raise
            return None
        finally:
            forget()

    async def update_listeners(self, listeners: Listeners) -> None:
        """Listen on other addresses, or in another way, from now on.

        An address that is there already keeps its socket; what is said of it (certificates, buffers,
        PROXY protocol, filters) holds for new connections, its socket options only where they are
        those of connections. Connections go on as they began, also those of an address that is
        gone. A service that has not started will start with the new set.

        In a server with several workers this is to be called in each of them, as a reload does.

        Args:
            listeners: All there are from now on; the service's, not to be changed any more.

        Raises:
            Error: ``CONFIG_ERROR`` if there is none, or one of them twice; ``BIND_ERROR`` if one
                cannot be listened on, or the service stops. Nothing has changed then.
        """
        if not listeners.endpoints:
            self._refuse(["has no address to listen on, allowed: at least one"])
        self._refuse(self._problems_of(listeners.endpoints))
        async with self._changing:
            serving = self._serving
            if serving is not None and serving.is_accepting:
                await serving.update(listeners.endpoints, listeners.policy)
                addresses = ", ".join(map(str, serving.addresses))
                _logger.info("service %r now listens on %s", self.name, addresses)
            self._listeners = listeners
            self._refused.clear()

    async def reload(self, conf: ServerConf) -> None:
        """Have the application take over what has changed, and read certificates again.

        Args:
            conf: The new configuration.

        Raises:
            Error: ``CONFIG_ERROR`` naming all that was refused; what it would have replaced is
                still in use.
        """
        problems: list[str] = []
        cause: Exception | None = None
        try:
            await self._app.reload(conf)
        except Exception as error:  # noqa: BLE001 - raised below, when certificates are done
            cause = error
            problems.append("the application refuses")
        seen: set[int] = set()
        for endpoint in self.endpoints:
            acceptor = endpoint.acceptor
            if isinstance(acceptor, ReloadableAcceptor) and id(acceptor) not in seen:
                seen.add(id(acceptor))
                refused = await acceptor.reload()
                problems += [f"{endpoint.address.key}: {error}" for error in refused]
        self._refuse(problems, cause)

    async def _serve(self, shutdown: ShutdownWatch, stream: Stream) -> None:
        process = self._app.process_new
        current: Stream | None = stream
        try:
            while current is not None:
                current = await process(current, shutdown)
        except Error as error:
            # What an application meets that has its own stream closed, at a shutdown for
            # instance, while it waits: the end it asked for.
            if error.etype is not ErrorType.CONNECTION_CLOSED or not stream.is_closed:
                raise
