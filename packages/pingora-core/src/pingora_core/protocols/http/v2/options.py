"""What HTTP/2 connections have in common: their windows, limits and deadlines, and what they count."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

__all__ = ["DEFAULT_FLOOD_LIMITS", "EngineName", "FloodLimit", "Http2Options", "Http2Stats"]

EngineName: TypeAlias = Literal["h2", "jh2"]

_MAX_WINDOW: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class FloodLimit:
    """How much of one kind of frame that costs the peer little is tolerated on a connection.

    A leaky bucket: what is in it beyond ``burst`` ends the connection with ENHANCE_YOUR_CALM.

    Attributes:
        burst: Frames at once.
        rate: Frames per second that are forgotten.
    """

    burst: int
    rate: float


#: Kinds of frames and what is tolerated of each. ``reset``: streams that were given up before
#: they were answered, by the client (rapid reset, CVE-2023-44487) or because of what it did to
#: them (MadeYouReset, CVE-2025-8671). ``empty``: DATA without payload that ends nothing.
#: ``closed``: DATA below 1 KiB on streams that have ended.
#: ``window``: WINDOW_UPDATE beyond three for each DATA frame that was sent.
DEFAULT_FLOOD_LIMITS: Final[dict[str, FloodLimit]] = {
    "reset": FloodLimit(200, 40.0),
    "settings": FloodLimit(50, 2.0),
    "ping": FloodLimit(200, 20.0),
    "empty": FloodLimit(200, 20.0),
    "closed": FloodLimit(1000, 100.0),
    "priority": FloodLimit(1000, 100.0),
    "window": FloodLimit(1000, 100.0),
    "unknown": FloodLimit(200, 20.0),
}


@dataclass(slots=True)
class Http2Stats:
    """What the connections of one listener or connector have seen, since its start.

    Attributes:
        connections: Connections opened.
        open: Connections open now.
        streams: Streams opened.
        refused: Streams refused because there were too many, or the connection was ending.
        malformed: Streams reset because what arrived on them was no HTTP.
        floods: Connections ended because of a flood, by the kind of frame.
    """

    connections: int = 0
    open: int = 0
    streams: int = 0
    refused: int = 0
    malformed: int = 0
    floods: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Http2Options:
    """How HTTP/2 is spoken.

    Attributes:
        engine: The library that drives the frames: ``h2``, or ``jh2`` with the extra of that
            name installed.
        max_concurrent_streams: Streams that the peer may have open; more are refused.
        stream_window: Bytes that may lie unread on one stream.
        connection_window: Bytes that may lie unread on the connection; None for as many as all
            its streams together, so that a stalled reader stalls only its own stream.
        max_frame_size: Largest frame that is accepted, 16384 to 16777215 bytes.
        max_header_list_size: Largest header section, bytes as RFC 9113 section 6.5.2 counts
            them.
        extended_connect: Whether WebSockets over HTTP/2 are announced (RFC 8441).
        preface_timeout: Seconds that the peer may take to send its first SETTINGS.
        idle_timeout: Seconds that a connection may be without streams; None for no limit.
        ping_interval: Seconds between keep-alive PINGs on a connection with streams; None sends
            none.
        ping_timeout: Seconds that the answer to a PING may take.
        write_timeout: Seconds that the connection may take nothing of what is to be sent.
        drain_timeout: Seconds that streams may go on after the connection was told to end; None
            for no limit but their own, and the grace period of a server that stops.
        max_header_block: Largest header block on the wire, CONTINUATION included, bytes.
        flood_limits: What is tolerated of cheap frames.
        stats: Where events are counted.
    """

    engine: EngineName = "h2"
    max_concurrent_streams: int = 128
    stream_window: int = 65535
    connection_window: int | None = None
    max_frame_size: int = 16384
    max_header_list_size: int = 65536
    extended_connect: bool = True
    preface_timeout: float = 10.0
    idle_timeout: float | None = 60.0
    ping_interval: float | None = None
    ping_timeout: float = 5.0
    write_timeout: float = 60.0
    drain_timeout: float | None = None
    max_header_block: int = 65536
    flood_limits: dict[str, FloodLimit] = field(default_factory=lambda: DEFAULT_FLOOD_LIMITS)
    stats: Http2Stats = field(default_factory=Http2Stats, compare=False)

    def __post_init__(self) -> None:
        self._check("max_concurrent_streams", self.max_concurrent_streams, 1, _MAX_WINDOW)
        self._check("stream_window", self.stream_window, 1, _MAX_WINDOW)
        if self.connection_window is not None:
            self._check("connection_window", self.connection_window, 65535, _MAX_WINDOW)
        self._check("max_frame_size", self.max_frame_size, 16384, 2**24 - 1)
        self._check("max_header_list_size", self.max_header_list_size, 1024, 2**24)

    @staticmethod
    def _check(name: str, value: int, low: int, high: int) -> None:
        if not low <= value <= high:
            raise ValueError(f"{name} must be in {low}..{high}, not {value}")

    @property
    def total_window(self) -> int:
        """Bytes that may lie unread on the connection."""
        if self.connection_window is not None:
            return self.connection_window
        return max(65535, min(_MAX_WINDOW, self.max_concurrent_streams * self.stream_window))
