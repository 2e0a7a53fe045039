"""What all connections of one connector have in common."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pingora_core.protocols.address import InetAddress
from pingora_core.protocols.l4.sockopt import BindTo

if TYPE_CHECKING:
    from pingora_core.conf import ServerConf

__all__ = ["ConnectorOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectorOptions:
    """How a connector makes and keeps connections; a peer's own options come first.

    Attributes:
        ca_file: PEM file with the authorities to trust; None for the system's.
        cert_key_file: PEM files with the certificate (and its chain) and the key to present to
            peers that ask for one; None for none.
        debug_ssl_keylog: Whether to append TLS secrets to the file that the environment variable
            ``SSLKEYLOGFILE`` names. Whoever reads that file can read the traffic.
        keepalive_pool_size: Most idle connections kept, at least 1.
        tls_session_cache_size: Most peers whose TLS sessions are kept, so that the next handshake
            with them is shorter; 0 for full handshakes always.
        bind_to_v4: Local IPv4 addresses; each connection leaves from a random one.
        bind_to_v6: Local IPv6 addresses, likewise.

    Raises:
        ValueError: If an address is malformed or of the wrong family, or a size is negative.

    Source: pingora-core/src/connectors/mod.rs.
    """

    ca_file: str | None = None
    cert_key_file: tuple[str, str] | None = None
    debug_ssl_keylog: bool = False
    keepalive_pool_size: int = 128
    tls_session_cache_size: int = 256
    bind_to_v4: tuple[InetAddress, ...] = ()
    bind_to_v6: tuple[InetAddress, ...] = ()

    def __post_init__(self) -> None:
        if self.tls_session_cache_size < 0:
            msg = f"tls_session_cache_size must not be negative: {self.tls_session_cache_size}"
            raise ValueError(msg)
        for address in (*self.bind_to_v4, *self.bind_to_v6):
            if address.is_ipv6 != (address in self.bind_to_v6):
                msg = f"{address} is in the list of the other family"
                raise ValueError(msg)

    @classmethod
    def from_server_conf(cls, conf: ServerConf) -> ConnectorOptions:
        """Take over what a server's configuration says.

        Args:
            conf: The configuration.

        Returns:
            The options.
        """
        return cls(
            ca_file=conf.ca_file,
            debug_ssl_keylog=conf.upstream_debug_ssl_keylog,
            keepalive_pool_size=conf.upstream_keepalive_pool_size,
            bind_to_v4=tuple(InetAddress(host, 0) for host in conf.client_bind_to_ipv4),
            bind_to_v6=tuple(InetAddress(host, 0) for host in conf.client_bind_to_ipv6),
        )

    def choose_bind(self, address: InetAddress) -> BindTo | None:
        """Choose where a connection leaves from.

        Args:
            address: Where it goes.

        Returns:
            A random local address of its family; None if there is none to choose from.
        """
        choices = self.bind_to_v6 if address.is_ipv6 else self.bind_to_v4
        return BindTo(addr=random.choice(choices)) if choices else None  # noqa: S311
