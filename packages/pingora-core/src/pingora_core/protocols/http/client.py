"""One face of an upstream exchange over all HTTP versions.

Rules of this file: nothing here knows a version. ``send_*`` only hands bytes to the transport
and never waits; after it, a caller that sees ``needs_drain`` awaits ``drain()``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pingora_core.protocols.digest import Digest
    from pingora_core.protocols.http.task import HttpTask
    from pingora_error import Error
    from pingora_http import HeaderMap, RequestHeader, ResponseHeader, Version

__all__ = ["ClientSession"]


class ClientSession(ABC):
    """One request sent to an upstream and the response to it.

    Attributes:
        read_timeout: Seconds that one wait for response bytes may take; None for no limit.
        write_timeout: Seconds that one wait for room in the send buffer may take; None for no
            limit.
    """

    read_timeout: float | None = 60.0
    write_timeout: float | None = 60.0

    @property
    @abstractmethod
    def version(self) -> Version:
        """Which HTTP version the upstream is spoken to in."""

    @property
    @abstractmethod
    def digest(self) -> Digest:
        """What is known of the connection below."""

    @property
    @abstractmethod
    def id(self) -> int:
        """File descriptor of the connection, -1 when there is none."""

    @property
    @abstractmethod
    def response_header(self) -> ResponseHeader | None:
        """The final response head (or the 101), None while it has not arrived."""

    @property
    @abstractmethod
    def body_bytes_received(self) -> int:
        """Payload bytes of the response so far."""

    @property
    @abstractmethod
    def body_bytes_sent(self) -> int:
        """Payload bytes of the request so far."""

    @property
    @abstractmethod
    def request_sent(self) -> bool:
        """Whether anything of the request may have reached the upstream."""

    @abstractmethod
    def send_request_header(self, header: RequestHeader) -> None:
        """Send the request head.

        Args:
            header: The head; its framing fields decide how the body is delimited.

        Raises:
            Error: ``WRITE_ERROR`` when the connection is gone; ``INVALID_HTTP_HEADER`` when the
                framing fields contradict each other.
        """

    @abstractmethod
    def send_request_body(self, data: bytes) -> None:
        """Send a piece of the request body.

        Args:
            data: Payload bytes.

        Raises:
            Error: ``WRITE_ERROR`` when the connection is gone.
        """

    @abstractmethod
    def finish_request_body(self, trailers: HeaderMap | None = None) -> None:
        """End the request body.

        Args:
            trailers: Fields to send after a chunked body.

        Raises:
            Error: ``PREMATURE_BODY_END`` when less was sent than Content-Length promised.
        """

    @abstractmethod
    def send_upgraded(self, data: bytes) -> None:
        """Send raw bytes after a 101.

        Args:
            data: The bytes.
        """

    @abstractmethod
    def finish_upgraded(self) -> bool:
        """Close the sending direction of an upgraded connection.

        Returns:
            False where one direction cannot be closed alone; nothing has happened then.
        """

    @property
    @abstractmethod
    def needs_drain(self) -> bool:
        """Whether the send buffer is above its high-water mark."""

    @abstractmethod
    async def drain(self) -> None:
        """Wait until the send buffer has room.

        Raises:
            Error: ``WRITE_TIMEDOUT`` or ``WRITE_ERROR``.
        """

    @abstractmethod
    def next_task(self) -> HttpTask | None:
        """Return the next piece of the response if its bytes are here already.

        Returns:
            The piece, or None when more bytes must arrive first.

        Raises:
            Error: ``INVALID_HTTP_HEADER`` and the like when the response is malformed.
        """

    async def read_task(self) -> HttpTask:
        """Return the next piece of the response, waiting for it if need be.

        Returns:
            The piece.

        Raises:
            Error: As :meth:`next_task` and :meth:`wait_task` do.
        """
        task = self.next_task()
        return await self.wait_task() if task is None else task

    @abstractmethod
    async def wait_task(self) -> HttpTask:
        """Wait for the next piece, after :meth:`next_task` has found none.

        Returns:
            The piece.

        Raises:
            Error: ``READ_TIMEDOUT``, ``READ_ERROR``, ``CONNECTION_CLOSED`` or what makes the
                response malformed; or the error given to :meth:`fail`.
        """

    @property
    @abstractmethod
    def response_done(self) -> bool:
        """Whether the whole response has been read."""

    @property
    @abstractmethod
    def can_reuse(self) -> bool:
        """Whether the connection may carry another exchange after this one."""

    @abstractmethod
    def fail(self, error: Error) -> None:
        """Interrupt whoever waits for this session.

        Args:
            error: What the waiting call, and each later one, raises.
        """

    @abstractmethod
    def shutdown(self) -> None:
        """Give the exchange up and close what carries it."""

    def close(self) -> None:
        """End the exchange in order, so that what was sent last arrives; never reused after it."""
        self.shutdown()
