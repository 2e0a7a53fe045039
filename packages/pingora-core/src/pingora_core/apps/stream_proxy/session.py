"""What the callbacks of a stream proxy see of one connection."""

from __future__ import annotations

import time
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pingora_core.protocols.address import SocketAddress
    from pingora_core.protocols.digest import Digest
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.protocols.tls.client_hello import ClientHello
    from pingora_core.runtime.shutdown import ShutdownWatch
    from pingora_core.upstreams.peer import Peer

__all__ = ["StreamEnding", "StreamSession", "Traffic"]


class StreamEnding(Enum):
    """How a connection ended.

    Attributes:
        COMPLETED: Both sides have ended their directions.
        REFUSED: A filter has refused it.
        FAILED: Something went wrong; the error says what.
        IDLE: Nothing was forwarded for too long.
        LIFETIME: It had lasted for as long as it may.
        SHUTDOWN: The server has ended it in order, because it stops.
        CANCELLED: The server has cut it off, because it stops.
    """

    COMPLETED = "completed"
    REFUSED = "refused"
    FAILED = "failed"
    IDLE = "idle"
    LIFETIME = "lifetime"
    SHUTDOWN = "shutdown"
    CANCELLED = "cancelled"

    def __str__(self) -> str:
        return self.value


class Traffic:
    """The bytes of one direction.

    Attributes:
        received: Taken from the side that sends.
        sent: Given to the side that receives.
    """

    __slots__ = ("received", "sent")

    def __init__(self) -> None:
        self.received: int = 0
        self.sent: int = 0


class StreamSession:
    """One connection in a stream proxy.

    Args:
        downstream: The client's connection.
        shutdown: Tells when the server stops.

    Attributes:
        downstream: The client's connection. Before the upstream is connected it may be written
            to, and looked into with ``peek``; afterwards it is the proxy's.
        upstream: The upstream's connection; None before there is one.
        client_hello: The client's ClientHello, once it was read; None if none is read.
        peer: The upstream that was chosen last; None before one was.
        attempts: How often an upstream was tried.
        connect_time: How long the attempt took that succeeded, seconds; None before it did.
        ending: How the connection ended; None before it does.
        phase: Name of the callback or step that runs now, for logs.
        shutdown_watch: Tells when the server stops.
        upload: What the client sends.
        download: What the upstream sends.
    """

    __slots__ = (
        "_ended",
        "_started",
        "attempts",
        "client_hello",
        "connect_time",
        "download",
        "downstream",
        "ending",
        "peer",
        "phase",
        "shutdown_watch",
        "upload",
        "upstream",
    )

    def __init__(self, downstream: Stream, shutdown: ShutdownWatch) -> None:
        self.downstream: Stream = downstream
        self.upstream: Stream | None = None
        self.client_hello: ClientHello | None = None
        self.peer: Peer | None = None
        self.attempts: int = 0
        self.connect_time: float | None = None
        self.ending: StreamEnding | None = None
        self.phase: str = "new_ctx"
        self.shutdown_watch: ShutdownWatch = shutdown
        self.upload: Traffic = Traffic()
        self.download: Traffic = Traffic()
        self._started = time.monotonic()
        self._ended: float | None = None

    @property
    def digest(self) -> Digest:
        """What is known of the client's connection; with an announced client, of that one."""
        return self.downstream.digest

    @property
    def upstream_digest(self) -> Digest | None:
        """What is known of the upstream's connection, None before there is one."""
        return None if self.upstream is None else self.upstream.digest

    @property
    def client_addr(self) -> SocketAddress | None:
        """Address of the client; None when unknown (an unnamed Unix socket)."""
        digest = self.downstream.digest.socket_digest
        return None if digest is None else digest.peer_addr

    @property
    def server_addr(self) -> SocketAddress | None:
        """Local address on which the connection came in."""
        digest = self.downstream.digest.socket_digest
        return None if digest is None else digest.local_addr

    @property
    def bytes_received(self) -> int:
        """Bytes that came from the client."""
        return self.upload.received

    @property
    def bytes_sent(self) -> int:
        """Bytes that were given to the client's connection."""
        return self.download.sent

    @property
    def upstream_bytes_received(self) -> int:
        """Bytes that came from the upstream."""
        return self.download.received

    @property
    def upstream_bytes_sent(self) -> int:
        """Bytes that were given to the upstream's connection."""
        return self.upload.sent

    @property
    def duration(self) -> float:
        """How long the connection has lasted, or had lasted at its end; seconds."""
        return (time.monotonic() if self._ended is None else self._ended) - self._started

    @property
    def is_process_shutting_down(self) -> bool:
        """Whether the server has begun to stop."""
        return self.shutdown_watch.is_shutting_down

    # -------------------------------------------------- for the proxy, not for callbacks

    def end(self, ending: StreamEnding) -> None:
        """Note that it is over.

        Args:
            ending: How; what was noted before stays.
        """
        if self.ending is None:
            self.ending = ending
        self._ended = time.monotonic()
