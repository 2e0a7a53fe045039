"""Accepting the PROXY protocol: which clients may announce others, and how their header is read.

Theory of operation. Whoever may send a header may claim any address, so only the networks that
the operator names may. The header is read after the connection filter, which sees the proxy's own
address, and before anything else, TLS included. All of it has to arrive within one deadline;
nothing behind it is waited for, and what has arrived of that is left for who comes next.

The specification forbids to guess whether a header is there. The mode ``required`` does not: a
trusted client that sends none, and every client that is not trusted, is dropped. ``optional`` is
for an endpoint that direct clients use as well. There, what an untrusted client sends is not
looked at, so it can claim nothing; a trusted one that begins otherwise is served as it comes.

Source: HAProxy's proxy-protocol.txt, section 2; nginx's ``set_real_ip_from``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias, final

from pingora_core.protocols.networks import TrustedNetworks
from pingora_core.protocols.proxy_protocol import (
    DEFAULT_MAX_SIZE,
    MAX_SIZE,
    PROXY_PROTOCOL_ERROR,
    parse_proxy_header,
    starts_like_proxy_header,
)
from pingora_core.runtime import timers
from pingora_error import Error, ErrorSource

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pingora_core.listeners.filter import ConnectionFilter
    from pingora_core.protocols.address import SocketAddress
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.protocols.proxy_protocol import ProxyHeader

    ProxyProtocolMode: TypeAlias = Literal["required", "optional"]

__all__ = ["ProxyProtocolSettings", "accept_proxy_header"]

# A version 2 header of Unix addresses, without TLVs.
_MIN_SIZE: Final = 16 + 216


@final
class ProxyProtocolSettings:
    """Whose word an endpoint takes for who its clients are.

    Args:
        trusted: Addresses and networks of the proxies that send headers (``10.0.0.0/8``, ``::1``).
        trust_unix: Whether what connects through a Unix socket is such a proxy.
        mode: ``required`` drops connections from elsewhere and those without a header;
            ``optional`` serves both as they come, and reads no header from elsewhere.
        timeout: How long the header may take, seconds. The specification wants at least 3, for
            a segment that has to be sent again.
        max_size: Longest header, bytes.
        client_filter: Asked about each client that a proxy announces (None if it announces no
            address); the endpoint's connection filter sees the proxies only.

    Raises:
        TypeError: If ``trusted`` is one text instead of several.
        ValueError: If nobody is trusted, a network is none, or another value is out of range.

    Attributes:
        mode: As given.
        timeout: As given.
        max_size: As given.
        client_filter: As given.
    """

    __slots__ = ("_networks", "client_filter", "max_size", "mode", "timeout")

    def __init__(
        self,
        trusted: Iterable[str] = (),
        *,
        trust_unix: bool = False,
        mode: ProxyProtocolMode = "required",
        timeout: float = 5.0,
        max_size: int = DEFAULT_MAX_SIZE,
        client_filter: ConnectionFilter | None = None,
    ) -> None:
        if isinstance(trusted, str):
            raise TypeError(f"trusted is a list of networks, such as [{trusted!r}]")
        self._networks = TrustedNetworks(trusted, unix=trust_unix)
        if self._networks.is_empty:
            raise ValueError("nobody is trusted to send the PROXY protocol; name a network")
        if mode not in {"required", "optional"}:
            raise ValueError(f"mode must be 'required' or 'optional', not {mode!r}")
        if not 0 < timeout < float("inf"):
            raise ValueError(f"timeout must be positive and finite, not {timeout}")
        if not _MIN_SIZE <= max_size <= MAX_SIZE:
            raise ValueError(f"max_size must be in {_MIN_SIZE}..{MAX_SIZE}, not {max_size}")
        self.mode: Final = mode
        self.timeout: Final = timeout
        self.max_size: Final = max_size
        self.client_filter: Final = client_filter

    def is_trusted(self, client: SocketAddress | None) -> bool:
        """Tell whether a client's header is believed.

        Args:
            client: The address its socket has; None when unknown, which is never trusted.

        Returns:
            Whether it is.
        """
        return self._networks.contains(client)

    def __repr__(self) -> str:
        return f"<ProxyProtocolSettings {self.mode}, {self.timeout} s>"


async def accept_proxy_header(stream: Stream, settings: ProxyProtocolSettings) -> bool:
    """Read the header of an accepted connection, and note in its digest what it announces.

    Args:
        stream: The connection, nothing of it read; left to the caller to close.
        settings: Of its endpoint.

    Returns:
        Whether to serve it: not if it ended without a byte, as health checks of balancers do.

    Raises:
        Error: ``PROXY_PROTOCOL_ERROR`` from downstream if the client is not trusted, or its
            header is missing, malformed, too long or too slow.
    """
    digest = stream.digest
    addresses = digest.socket_digest
    client = None if addresses is None else addresses.transport_peer_addr
    if not settings.is_trusted(client):
        if settings.mode == "optional":
            return True
        if client is None:
            # Reset before its address could be asked for.
            return False
        msg = "not from a trusted proxy"
        raise Error(PROXY_PROTOCOL_ERROR, msg, source=ErrorSource.DOWNSTREAM)
    try:
        header = await timers.timeout(settings.timeout, _receive(stream, settings))
    except TimeoutError:
        if settings.mode == "optional" and not starts_like_proxy_header(_look(stream)):
            return True
        msg = f"no complete header within {settings.timeout} s"
        raise Error(PROXY_PROTOCOL_ERROR, msg, source=ErrorSource.DOWNSTREAM) from None
    if header is None:
        return settings.mode == "optional"
    digest.proxy_protocol = header
    if addresses is not None and header.source is not None and header.destination is not None:
        addresses.announce(header.source, header.destination)
    return True


async def _receive(stream: Stream, settings: ProxyProtocolSettings) -> ProxyHeader | None:
    """Take the header off the front of a stream.

    Returns:
        The header; None if there is none, and that is in order.

    Raises:
        Error: ``PROXY_PROTOCOL_ERROR`` if what there is will not do.
    """
    while True:
        data = _look(stream)
        if data:
            if settings.mode == "optional" and starts_like_proxy_header(data) is False:
                return None
            parsed = parse_proxy_header(data, max_size=settings.max_size)
            if parsed is not None:
                header, size = parsed
                stream.unread(stream.take()[size:])
                return header
        if not await _is_more(stream):
            if not data or (settings.mode == "optional" and not starts_like_proxy_header(data)):
                return None
            msg = f"the connection ended after {len(data)} bytes of its header"
            raise Error(PROXY_PROTOCOL_ERROR, msg, source=ErrorSource.DOWNSTREAM)


async def _is_more(stream: Stream) -> bool:
    try:
        return await stream.fill()
    except Error:
        # Balancers that only check whether somebody listens reset the connection.
        if stream.buffered:
            raise
        return False


def _look(stream: Stream) -> bytes:
    data = stream.take()
    stream.unread(data)
    return data
