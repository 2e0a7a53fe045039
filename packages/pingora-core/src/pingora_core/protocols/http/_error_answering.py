"""Answering with an error page; part of ``ServerSession``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from pingora_core.protocols.http.error_page import generate_error

if TYPE_CHECKING:
    from pingora_http import ResponseHeader

__all__ = ["ErrorAnswering"]


class ErrorAnswering(ABC):
    """The answers of a session to requests that fail."""

    @property
    @abstractmethod
    def response_written(self) -> ResponseHeader | None:
        """The final response head (or the 101) that was sent, None before that."""

    @abstractmethod
    def set_keepalive(self, timeout: float | None) -> None:
        """Decide whether the connection is kept after this exchange.

        Args:
            timeout: None closes it; for other values see ``ServerSession``.
        """

    @abstractmethod
    async def write_response_header(self, header: ResponseHeader, *, end: bool = False) -> None:
        """Send a response head and wait for room.

        Args:
            header: Informational or final.
            end: Whether the message ends here.
        """

    @abstractmethod
    async def write_response_body(self, data: bytes | None, *, end: bool = False) -> None:
        """Send a piece of the response body and wait for room.

        Args:
            data: Payload bytes.
            end: Whether the message ends here.
        """

    async def respond_error(self, code: int, body: bytes = b"") -> None:
        """Answer with an error page and give the connection up afterwards.

        Nothing is sent when a final head was sent already.

        Args:
            code: The status.
            body: The page; empty as in Pingora.
        """
        header = generate_error(code)
        if body:
            header.set_content_length(len(body))
        await self.write_error_response(header, body)

    async def write_error_response(self, header: ResponseHeader, body: bytes = b"") -> None:
        """Answer with an error page of the caller's and give the connection up afterwards.

        Nothing is sent when a final head was sent already.

        Args:
            header: The head, with the right Content-Length.
            body: The page.
        """
        self.set_keepalive(None)
        if self.response_written is not None:
            return
        await self.write_response_header(header, end=not body)
        if body:
            await self.write_response_body(body, end=True)
