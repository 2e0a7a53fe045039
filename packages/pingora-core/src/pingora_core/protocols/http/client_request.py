"""What the requests of clients have in common in all HTTP versions: addresses and the retry buffer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_core.protocols.http.server import ServerSession

if TYPE_CHECKING:
    from pingora_core.protocols.address import SocketAddress

__all__ = ["ClientRequest"]


class ClientRequest(ServerSession):
    """A session whose request has come over a connection; see :class:`ServerSession`.

    Attributes:
        body_bytes_read: Payload bytes of the request read so far.
    """

    body_bytes_read: int = 0
    _retry_limit = -1
    _retry: bytearray | None = None
    _retry_truncated = False

    @property
    def client_addr(self) -> SocketAddress | None:
        """Address of the client."""
        socket_digest = self.digest.socket_digest
        return None if socket_digest is None else socket_digest.peer_addr

    @property
    def server_addr(self) -> SocketAddress | None:
        """Local address on which the request came in."""
        socket_digest = self.digest.socket_digest
        return None if socket_digest is None else socket_digest.local_addr

    # ----------------------------------------------------------- retry buffer

    def enable_retry_buffering(self, limit: int = 65536) -> None:
        """Keep the raw request body so that a failed attempt can be replayed.

        Args:
            limit: Bytes to keep at most; a longer body makes the buffer truncated.
        """
        if self._retry is None:
            self._retry = bytearray()
            self._retry_limit = limit

    def _keep_for_retry(self, piece: bytes) -> None:
        # One flat buffer: a list of the pieces of a client that sends them tiny would be many
        # times the size of what is in it.
        retry = self._retry
        assert retry is not None
        if self._retry_truncated or len(retry) + len(piece) > self._retry_limit:
            self._retry_truncated = True
            retry.clear()
        else:
            retry += piece

    @property
    def retry_buffer(self) -> bytes:
        """What was kept of the request body so far; empty when truncated."""
        return b"" if self._retry is None else bytes(self._retry)

    @property
    def retry_buffer_truncated(self) -> bool:
        """Whether the body was longer than the retry buffer."""
        if self._retry is None:
            return self.body_bytes_read > 0
        return self._retry_truncated
