"""What all checks over the network have in common: where to connect, how, and for how long."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pingora_core.connectors.http import Connector
from pingora_core.connectors.options import ConnectorOptions
from pingora_core.protocols.address import HostAddress, InetAddress, UnixAddress, parse_address
from pingora_core.protocols.tls.verify import as_ip_address
from pingora_core.upstreams.options import PeerOptions
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from pingora_core.upstreams.peer import PeerAddress
    from pingora_load_balancing.backend import Backend

__all__ = ["Attempt", "NetworkCheck", "server_name"]

# Idle connections kept by a check that reuses them: as many as a pool is likely to have backends.
_POOL_SIZE: Final = 4096


class Attempt:
    """One check under way.

    Attributes:
        backend: What is checked.
        address: Where it is checked.
        is_connected: Whether the connection stands.
    """

    __slots__ = ("address", "backend", "is_connected")

    def __init__(self, backend: Backend, address: PeerAddress) -> None:
        self.backend = backend
        self.address = address
        self.is_connected = False


@dataclass(kw_only=True, eq=False)
class NetworkCheck(ABC):
    """A check that connects; see its subclasses for the attributes.

    Raises:
        ValueError: If an attribute makes no sense.
    """

    timeout: float = 2.0
    port_override: int | None = None
    host_override: str | None = None
    reuse_connection: bool = False
    options: PeerOptions = field(default_factory=PeerOptions.default)
    connector_options: ConnectorOptions | None = None
    _connector: Connector | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.timeout > 0:
            msg = f"timeout must be more than 0 seconds, not {self.timeout}"
            raise ValueError(msg)
        if self.port_override is not None and not 1 <= self.port_override <= 65535:
            msg = f"port_override must be in 1..65535, not {self.port_override}"
            raise ValueError(msg)
        if self.host_override is not None:
            # Only its form counts here.
            _join(self.host_override, 1)

    async def check(self, backend: Backend) -> None:
        """Check a backend within the total deadline.

        Args:
            backend: The backend.

        Raises:
            Error: From upstream, what is wrong with it; from this process, why it could not be
                checked.
        """
        attempt = Attempt(backend, self._address(backend))
        try:
            async with asyncio.timeout(self.timeout):
                await self._check(attempt)
        except TimeoutError as error:
            connected = attempt.is_connected
            raise Error(
                ErrorType.READ_TIMEDOUT if connected else ErrorType.CONNECT_TIMEDOUT,
                f"{attempt.address} {'gave no answer' if connected else 'was not reached'}"
                f" within {self.timeout} s",
                source=ErrorSource.UPSTREAM,
            ) from error

    @abstractmethod
    async def _check(self, attempt: Attempt) -> None:
        """Do the check; there is a deadline around it."""

    async def close(self) -> None:
        """Close the connections that are kept; the next check makes new ones."""
        connector, self._connector = self._connector, None
        if connector is not None:
            await connector.close()

    # ------------------------------------------------------------------ for subclasses

    def _connections(self) -> Connector:
        """Make the connector with the first check.

        Returns:
            Where connections come from.
        """
        connector = self._connector
        if connector is None:
            options = self.connector_options
            if options is None:
                # Without reuse each check is to see the whole handshake, certificate included.
                options = (
                    ConnectorOptions(keepalive_pool_size=_POOL_SIZE)
                    if self.reuse_connection
                    else ConnectorOptions(tls_session_cache_size=0)
                )
            connector = self._connector = Connector(options)
        return connector

    def _peer_options(self) -> PeerOptions:
        options = self.options.copy()
        if not self.reuse_connection:
            options.idle_timeout = 0
        return options

    def _address(self, backend: Backend) -> PeerAddress:
        address = backend.addr
        host, port = self.host_override, self.port_override
        if isinstance(address, UnixAddress):
            if host is None:
                # There is no port to override.
                return address
            if port is None:
                msg = f"{backend}: host_override needs port_override, a Unix socket has no port"
                raise Error.internal(ErrorType.INTERNAL_ERROR, msg)
            return _join(host, port)
        port = address.port if port is None else port
        if host is not None:
            return _join(host, port)
        if isinstance(address, InetAddress):
            return address.with_port(port)
        return HostAddress(address.host, port)


def _join(host: str, port: int) -> PeerAddress:
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return parse_address(f"{host}:{port}")


def server_name(host: str) -> str:
    """Find the name to ask for in the TLS handshake.

    Args:
        host: As in a Host field, maybe with a port.

    Returns:
        The name; empty for an IP address, which is verified without one.
    """
    name, colon, port = host.rpartition(":")
    if not colon or not port.isdecimal():
        name = host
    return "" if as_ip_address(name.strip("[]")) is not None else name
