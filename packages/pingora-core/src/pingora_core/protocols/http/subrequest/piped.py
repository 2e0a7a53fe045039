"""The downstream side of a request that the application itself has sent, and whose response it reads.

Theory of operation: the side that serves the request writes, as it would to a client; the side that
has sent it reads. Between them are at most ``limit`` bytes and one piece. Whoever waits is woken by
the other; each side has one coroutine.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from pingora_core.protocols.http.subrequest.server import SubrequestSession
from pingora_error import Error, ErrorSource, ErrorType

if TYPE_CHECKING:
    from pingora_core.protocols.address import SocketAddress
    from pingora_core.protocols.digest import Digest
    from pingora_http import HeaderMap, RequestHeader, ResponseHeader

__all__ = ["DEFAULT_PIPE_LIMIT", "PipedSubrequest"]

DEFAULT_PIPE_LIMIT = 64 * 1024
"""Bytes of a response's body that wait to be read."""


class PipedSubrequest(SubrequestSession):
    """A request without a client whose response can be read.

    Args:
        request: The head; copied, without what tells of a body or a connection.
        body: The body.
        client_addr: Address of the client on whose behalf it is made.
        server_addr: Local address on which that client's request came in.
        digest: What is known of that client's connection; None for nothing.
        limit: Bytes of the response that may wait to be read before the other side has to wait.

    Source: pingora-proxy/src/subrequest/pipe.rs.
    """

    def __init__(
        self,
        request: RequestHeader,
        body: bytes = b"",
        *,
        client_addr: SocketAddress | None = None,
        server_addr: SocketAddress | None = None,
        digest: Digest | None = None,
        limit: int = DEFAULT_PIPE_LIMIT,
    ) -> None:
        super().__init__(request, client_addr=client_addr, server_addr=server_addr, digest=digest)
        if body:
            self.request.insert_header("Content-Length", str(len(body)))
        self._body = body
        self._body_read = 0
        self._limit = limit
        self._pieces: deque[bytes] = deque()
        self._waiting = 0
        self._trailers: HeaderMap | None = None
        self._is_complete = False
        self._is_over = False
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    # ----------------------------------------------------- who serves: the request

    @property
    def body_bytes_read(self) -> int:
        """Bytes of the body that were read."""
        return self._body_read

    @property
    def is_body_empty(self) -> bool:
        """Whether there is no body."""
        return not self._body

    @property
    def is_body_done(self) -> bool:
        """Whether the body was read."""
        return self._body_read == len(self._body)

    def next_request_body(self) -> bytes | None:
        """Return what was not read yet.

        Returns:
            The body; None when it was read.
        """
        if self.is_body_done:
            return None
        self._body_read = len(self._body)
        return self._body

    async def read_request_body(self) -> bytes | None:
        """Return what was not read yet.

        Returns:
            The body; None when it was read.
        """
        return self.next_request_body()

    @property
    def retry_buffer(self) -> bytes:
        """What was read of the body: it is there as long as the request is."""
        return self._body[: self._body_read]

    # ---------------------------------------------------- who serves: the response

    def send_response_header(self, header: ResponseHeader, *, end: bool = False) -> None:
        """Hand on a final head; informational ones are dropped.

        Args:
            header: Informational or final.
            end: Whether the message ends with it.
        """
        super().send_response_header(header, end=end)
        if self._response is not None:
            self._wake_reader()

    def send_response_body(self, data: bytes | None, *, end: bool = False) -> None:
        """Hand on a piece of the body.

        Args:
            data: Payload bytes.
            end: Of no effect: the end is told by ``finish``.
        """
        super().send_response_body(data, end=end)
        if data:
            self._pieces.append(data)
            self._waiting += len(data)
            self._wake_reader()

    def send_response_trailers(self, trailers: HeaderMap | None) -> None:
        """Keep the trailers.

        Args:
            trailers: The fields.
        """
        self._trailers = trailers

    @property
    def needs_drain(self) -> bool:
        """Whether as much waits to be read as may."""
        return self._waiting > self._limit and not self._is_over

    async def drain(self) -> None:
        """Wait until what is there was read; whoever reads ends this when it does not want more."""
        while self.needs_drain:
            self._writer = asyncio.get_running_loop().create_future()
            try:
                await self._writer
            finally:
                self._writer = None

    async def finish(self) -> bool:
        """Say that the response is complete.

        Returns:
            False: there is no connection to reuse.
        """
        self._is_complete = True
        self._wake_reader()
        return False

    # --------------------------------------------------------------- who has sent it

    @property
    def response_trailers(self) -> HeaderMap | None:
        """The trailers of the response; None if it has none, or not yet."""
        return self._trailers

    def end(self) -> None:
        """Say that nobody serves the request any more; the owner of the task does."""
        self._is_over = True
        self._wake_reader()

    async def read_response_header(self) -> ResponseHeader:
        """Wait for the final head of the response.

        Returns:
            The head.

        Raises:
            Error: ``CONNECTION_CLOSED`` if nobody has answered.
        """
        while self._response is None:
            await self._wait()
        return self._response

    async def read_response_body(self) -> bytes | None:
        """Wait for the next piece of the body of the response.

        Returns:
            The piece; None at the end.

        Raises:
            Error: ``CONNECTION_CLOSED`` if the response broke off.
        """
        while not self._pieces:
            if self._is_complete:
                return None
            await self._wait()
        piece = self._pieces.popleft()
        self._waiting -= len(piece)
        if self._writer is not None and not self._writer.done() and not self.needs_drain:
            self._writer.set_result(None)
        return piece

    async def _wait(self) -> None:
        if self._is_over:
            raise Error(
                ErrorType.CONNECTION_CLOSED,
                f"the subrequest broke off: {self.request_summary()}",
                source=ErrorSource.INTERNAL,
            )
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
