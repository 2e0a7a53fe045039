"""What a service listens with: an address, and what is special about its connections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from pingora_core.protocols.l4.stream import DEFAULT_READ_BUFFER, DEFAULT_WRITE_BUFFER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pingora_core.listeners.admission import ConnectionLimits
    from pingora_core.listeners.filter import ConnectionFilter
    from pingora_core.listeners.l4 import ServerAddress
    from pingora_core.listeners.proxy_protocol import ProxyProtocolSettings
    from pingora_core.protocols.interfaces import Stream
    from pingora_error import Error

__all__ = [
    "DEFAULT_BUFFERS",
    "AcceptPolicy",
    "Acceptor",
    "BackgroundAcceptor",
    "Endpoint",
    "L4BufferSettings",
    "ReloadableAcceptor",
]


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
        """Do it until cancelled, which happens when the listener stops to accept.

        Returning earlier means that there is nothing to do. What it raises is logged, and it is
        started again after a pause.
        """


@runtime_checkable
class ReloadableAcceptor(Acceptor, Protocol):
    """An acceptor that can look at its files when it is told to."""

    async def reload(self) -> Sequence[Error]:
        """Read everything again.

        Returns:
            Why what could not be used was refused; what it would have replaced is still in use.
        """


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
"""64 KiB each way."""


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
        connection_limits: How many connections there may be; None for as many as come.
    """

    connection_filter: ConnectionFilter | None = None
    filter_timeout: float = 5.0
    handshake_timeout: float = 60.0
    connection_limits: ConnectionLimits | None = None
