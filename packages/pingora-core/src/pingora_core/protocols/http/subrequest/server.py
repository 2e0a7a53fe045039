"""The downstream side of a request that no client has sent: its response goes nowhere.

It is how an application has a request go through all its phases once more, for instance to
refresh something in the background.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_core.protocols.digest import Digest
from pingora_core.protocols.http.server import ServerSession

if TYPE_CHECKING:
    from collections.abc import Callable

    from pingora_core.protocols.address import SocketAddress
    from pingora_http import HeaderMap, RequestHeader, ResponseHeader

__all__ = ["SubrequestSession"]

_BODY_FIELDS = frozenset({b"content-length", b"transfer-encoding", b"expect", b"trailer"})
_CONNECTION_FIELDS = frozenset({b"connection", b"keep-alive", b"upgrade", b"te"})


class SubrequestSession(ServerSession):
    """A request without a client and without a body; the response is counted and dropped.

    Args:
        request: The head to send again; copied, without what tells of a body or a connection.
        client_addr: Address of the client on whose behalf it is made.
        server_addr: Local address on which that client's request came in.
        digest: What is known of that client's connection; None for nothing.

    Source: pingora-core/src/protocols/http/subrequest/server.rs.
    """

    def __init__(
        self,
        request: RequestHeader,
        *,
        client_addr: SocketAddress | None = None,
        server_addr: SocketAddress | None = None,
        digest: Digest | None = None,
    ) -> None:
        self.request: RequestHeader = request.copy()
        self.request.remove_headers(_BODY_FIELDS | _CONNECTION_FIELDS)
        self._client_addr = client_addr
        self._server_addr = server_addr
        self._digest = Digest() if digest is None else digest
        self._response: ResponseHeader | None = None
        self._sent = 0

    @property
    def digest(self) -> Digest:
        """What is known of the connection of the client on whose behalf it is made."""
        return self._digest

    @property
    def client_addr(self) -> SocketAddress | None:
        """Address of the client on whose behalf it is made."""
        return self._client_addr

    @property
    def server_addr(self) -> SocketAddress | None:
        """Local address on which that client's request came in."""
        return self._server_addr

    @property
    def response_written(self) -> ResponseHeader | None:
        """The final response head."""
        return self._response

    @property
    def body_bytes_read(self) -> int:
        """0: there is no body."""
        return 0

    @property
    def body_bytes_sent(self) -> int:
        """Payload bytes of the response that were dropped."""
        return self._sent

    # ---------------------------------------------------------------- reading

    async def read_request(self) -> bool:
        """The head is there already.

        Returns:
            True.
        """
        return True

    @property
    def is_body_empty(self) -> bool:
        """True: there is no body."""
        return True

    @property
    def is_body_done(self) -> bool:
        """True: there is no body."""
        return True

    @property
    def is_upgrade_request(self) -> bool:
        """False: there is nobody to speak another protocol with."""
        return False

    def next_request_body(self) -> bytes | None:
        """There is no body.

        Returns:
            None.
        """
        return None

    async def read_request_body(self) -> bytes | None:
        """There is no body.

        Returns:
            None.
        """
        return None

    @property
    def request_trailers(self) -> HeaderMap | None:
        """None: there is no body."""
        return None

    async def read_upgraded(self) -> bytes:
        """There is no other protocol.

        Returns:
            Nothing.
        """
        return b""

    def enable_retry_buffering(self, limit: int = 65536) -> None:
        """Nothing to keep.

        Args:
            limit: Of no effect.
        """

    @property
    def retry_buffer(self) -> bytes:
        """Empty: there is no body."""
        return b""

    @property
    def retry_buffer_truncated(self) -> bool:
        """False: there is no body."""
        return False

    def watch_disconnect(self, callback: Callable[[], None] | None) -> None:
        """Nobody goes away.

        Args:
            callback: Never called.
        """

    # ---------------------------------------------------------------- writing

    def send_response_header(
        self,
        header: ResponseHeader,
        *,
        end: bool = False,  # noqa: ARG002 - the interface's
    ) -> None:
        """Take note of a response head.

        Args:
            header: Informational or final.
            end: Of no effect.
        """
        if header.status >= 200 and self._response is None:
            self._response = header

    def send_response_body(
        self,
        data: bytes | None,
        *,
        end: bool = False,  # noqa: ARG002 - the interface's
    ) -> None:
        """Count and drop a piece of the response body.

        Args:
            data: Payload bytes.
            end: Of no effect.
        """
        if data:
            self._sent += len(data)

    def send_response_trailers(self, trailers: HeaderMap | None) -> None:
        """Drop the trailers.

        Args:
            trailers: The fields.
        """

    def send_upgraded(self, data: bytes) -> None:
        """Drop raw bytes.

        Args:
            data: The bytes.
        """

    @property
    def needs_drain(self) -> bool:
        """False: nothing is buffered."""
        return False

    async def drain(self) -> None:
        """Nothing is buffered."""

    # ----------------------------------------------------------------- ending

    def set_keepalive(self, timeout: float | None) -> None:
        """There is no connection.

        Args:
            timeout: Of no effect.
        """

    async def finish(self) -> bool:
        """The exchange is over.

        Returns:
            False: there is no connection to reuse.
        """
        return False

    def shutdown(self) -> None:
        """There is nobody to tell."""
