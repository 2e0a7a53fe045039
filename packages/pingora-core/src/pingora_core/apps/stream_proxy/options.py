"""How a stream proxy forwards: its limits."""

from __future__ import annotations

from dataclasses import dataclass

from pingora_core.protocols.tls.client_hello import MAX_CLIENT_HELLO

__all__ = ["StreamProxyOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamProxyOptions:
    """How connections are forwarded.

    Attributes:
        hello_timeout: Longest time for the ClientHello, where one is waited for, seconds.
        max_hello_size: Most bytes of it, record headers included.
        connect_timeout: Longest time for one attempt to connect to an upstream, seconds; the
            peer's own options may ask for less.
        idle_timeout: How long both directions together may be silent, seconds.
        half_closed_timeout: The same once one direction has ended, seconds.
        max_lifetime: How long a connection may be forwarded, seconds; then it is ended in order.
            None for no limit.
        closing_timeout: How long the two sides may take to end a connection that is ended in
            order, seconds; then it is closed. A server that stops leaves a second for that unless
            its configuration has a ``stream_drain_seconds`` below the grace period.

    Raises:
        ValueError: If a limit is not positive.
    """

    hello_timeout: float = 10.0
    max_hello_size: int = MAX_CLIENT_HELLO
    connect_timeout: float = 10.0
    idle_timeout: float = 3600.0
    half_closed_timeout: float = 300.0
    max_lifetime: float | None = None
    closing_timeout: float = 0.5

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value: float | None = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be more than 0, not {value}")
