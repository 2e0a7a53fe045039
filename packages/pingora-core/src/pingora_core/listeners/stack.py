"""The endpoints of a service: collected first, then served together.

Source: pingora-core/src/listeners/mod.rs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from pingora_core.listeners.endpoint import DEFAULT_BUFFERS, AcceptPolicy, Endpoint
from pingora_core.listeners.fds import ListenFds
from pingora_core.listeners.l4 import TcpServerAddress, UdsServerAddress
from pingora_core.listeners.serving import ServingListeners
from pingora_core.listeners.tls import TlsAcceptor, TlsSettings

if TYPE_CHECKING:
    import os
    from typing import Self

    from pingora_core.listeners.admission import ConnectionLimits
    from pingora_core.listeners.endpoint import Acceptor, L4BufferSettings
    from pingora_core.listeners.filter import ConnectionFilter
    from pingora_core.listeners.l4 import ServerAddress
    from pingora_core.listeners.proxy_protocol import ProxyProtocolSettings
    from pingora_core.listeners.serving import OnStream
    from pingora_core.protocols.l4.sockopt import TcpSocketOptions

__all__ = ["Listeners"]


@final
class Listeners:
    """Where a service listens, and who may connect.

    Args:
        filter_timeout: How long a connection filter may take, after which its answer is no;
            seconds.
        handshake_timeout: How long a handshake may take, seconds.

    Examples:
        >>> listeners = Listeners.tcp("127.0.0.1:6188")
        >>> listeners.add_uds("/run/proxy.sock", permissions=0o660)
        >>> [endpoint.address.key for endpoint in listeners.endpoints]
        ['127.0.0.1:6188', 'unix:/run/proxy.sock']
    """

    def __init__(self, *, filter_timeout: float = 5.0, handshake_timeout: float = 60.0) -> None:
        self._filter_timeout = filter_timeout
        self._handshake_timeout = handshake_timeout
        self._endpoints: list[Endpoint] = []
        self._filter: ConnectionFilter | None = None
        self._limits: ConnectionLimits | None = None

    @classmethod
    def tcp(cls, address: str) -> Self:
        """Make a collection with one TCP endpoint.

        Args:
            address: As for `add_tcp`.

        Returns:
            The collection.
        """
        listeners = cls()
        listeners.add_tcp(address)
        return listeners

    @classmethod
    def uds(cls, path: str, permissions: int | None = None) -> Self:
        """Make a collection with one Unix socket.

        Args:
            path: As for `add_uds`.
            permissions: As for `add_uds`.

        Returns:
            The collection.
        """
        listeners = cls()
        listeners.add_uds(path, permissions)
        return listeners

    @classmethod
    def tls(
        cls, address: str, cert_path: str | os.PathLike[str], key_path: str | os.PathLike[str]
    ) -> Self:
        """Make a collection with one TLS endpoint.

        Args:
            address: As for `add_tls`.
            cert_path: As for `add_tls`.
            key_path: As for `add_tls`.

        Returns:
            The collection.
        """
        listeners = cls()
        listeners.add_tls(address, cert_path, key_path)
        return listeners

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """What was added, in that order."""
        return tuple(self._endpoints)

    @property
    def policy(self) -> AcceptPolicy:
        """What all endpoints have in common."""
        return AcceptPolicy(
            self._filter, self._filter_timeout, self._handshake_timeout, self._limits
        )

    def add_tcp(self, address: str, *, proxy_protocol: ProxyProtocolSettings | None = None) -> None:
        """Add a TCP endpoint.

        Args:
            address: ``1.2.3.4:80``, ``[::1]:80`` or ``name:80``.
            proxy_protocol: Whose headers of the PROXY protocol it believes; None reads none.
        """
        self.add_endpoint(TcpServerAddress(address), proxy_protocol=proxy_protocol)

    def add_tcp_with_settings(
        self,
        address: str,
        options: TcpSocketOptions,
        *,
        proxy_protocol: ProxyProtocolSettings | None = None,
    ) -> None:
        """Add a TCP endpoint with socket options.

        Args:
            address: As for `add_tcp`.
            options: Of the listening socket and the accepted ones.
            proxy_protocol: Whose headers of the PROXY protocol it believes; None reads none.
        """
        self.add_endpoint(TcpServerAddress(address, options), proxy_protocol=proxy_protocol)

    def add_uds(
        self,
        path: str,
        permissions: int | None = None,
        *,
        proxy_protocol: ProxyProtocolSettings | None = None,
    ) -> None:
        """Add a Unix socket.

        Args:
            path: File system path; what a crashed predecessor left there is removed.
            permissions: Mode of the file; None for 0o666.
            proxy_protocol: Whose headers of the PROXY protocol it believes; None reads none.
        """
        self.add_endpoint(UdsServerAddress(path, permissions), proxy_protocol=proxy_protocol)

    def add_tls(
        self,
        address: str,
        cert_path: str | os.PathLike[str],
        key_path: str | os.PathLike[str],
        *,
        proxy_protocol: ProxyProtocolSettings | None = None,
    ) -> None:
        """Add a TLS endpoint with the settings of Mozilla's intermediate profile. It blocks.

        Args:
            address: As for `add_tcp`.
            cert_path: PEM file with the certificate, then each its issuer.
            key_path: PEM file with its private key.
            proxy_protocol: Whose headers of the PROXY protocol it believes; None reads none.

        Raises:
            Error: ``TLS_CONFIG_ERROR`` naming the file and the reason.
        """
        settings = TlsSettings.intermediate(cert_path, key_path)
        self.add_tls_with_settings(address, None, settings, proxy_protocol=proxy_protocol)

    def add_tls_with_settings(
        self,
        address: str,
        options: TcpSocketOptions | None,
        settings: TlsSettings,
        *,
        proxy_protocol: ProxyProtocolSettings | None = None,
    ) -> None:
        """Add a TLS endpoint. It blocks.

        Args:
            address: As for `add_tcp`.
            options: Of the listening socket and the accepted ones; None for the system's.
            settings: Of TLS.
            proxy_protocol: Whose headers of the PROXY protocol it believes; None reads none.

        Raises:
            Error: ``TLS_CONFIG_ERROR`` naming everything that is wrong with the settings.
        """
        where = TcpServerAddress(address) if options is None else TcpServerAddress(address, options)
        self.add_endpoint(where, acceptor=TlsAcceptor(settings), proxy_protocol=proxy_protocol)

    def add_endpoint(
        self,
        address: ServerAddress,
        *,
        acceptor: Acceptor | None = None,
        buffers: L4BufferSettings | None = None,
        proxy_protocol: ProxyProtocolSettings | None = None,
    ) -> None:
        """Add an endpoint.

        Args:
            address: Where it listens.
            acceptor: Handshake before the application, such as TLS; None for none.
            buffers: Of its connections; None for the defaults.
            proxy_protocol: Whose headers of the PROXY protocol it believes; None reads none.
        """
        self._endpoints.append(
            Endpoint(address, acceptor, buffers or DEFAULT_BUFFERS, proxy_protocol)
        )

    def set_connection_filter(self, connection_filter: ConnectionFilter | None) -> None:
        """Decide who may connect, to all endpoints, those added later included.

        Args:
            connection_filter: Asked for every connection; None lets everybody in.
        """
        self._filter = connection_filter

    def set_connection_limits(self, limits: ConnectionLimits | None) -> None:
        """Limit how many connections all endpoints have together, and how many each client.

        Args:
            limits: The limits, with the counts; None for as many as come.
        """
        self._limits = limits

    async def serve(self, on_stream: OnStream, fds: ListenFds | None = None) -> ServingListeners:
        """Begin to accept on all endpoints.

        Additions after this have no effect on what it returns.

        Args:
            on_stream: Serves one connection; the stream is closed when it returns.
            fds: Where the sockets come from; None to make them all.

        Returns:
            What runs, to be closed, drained and cancelled by the caller.

        Raises:
            Error: ``BIND_ERROR`` naming the address that cannot be listened on; then nothing
                is left running.
            ValueError: If an address is there twice.
        """
        serving = ServingListeners(on_stream, ListenFds() if fds is None else fds, self.policy)
        await serving.update(self._endpoints, self.policy)
        return serving
