"""Encoding message bodies: sans-I/O, one object for each body."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_core.protocols.http.v1.body_reader import FORBIDDEN_TRAILERS
from pingora_core.protocols.http.v1.framing import CHUNKED, UNTIL_CLOSE
from pingora_error import PREMATURE_BODY_END, Error

if TYPE_CHECKING:
    from pingora_http import HeaderMap

__all__ = ["BodyWriter"]


class BodyWriter:
    r"""Encodes one body.

    Args:
        length: Number of bytes, ``CHUNKED`` or ``UNTIL_CLOSE``.

    Attributes:
        bytes_written: Payload bytes so far.
        is_done: Whether :meth:`finish` was called.
        has_overflowed: Whether payload beyond the announced length was dropped.

    Examples:
        >>> writer = BodyWriter(CHUNKED)
        >>> writer.encode(b"hello"), writer.finish()
        (b'5\r\nhello\r\n', b'0\r\n\r\n')

    Source: pingora-core/src/protocols/http/v1/body.rs; RFC 9112 sections 6 and 7.1.
    """

    __slots__ = ("_length", "bytes_written", "has_overflowed", "is_done")

    def __init__(self, length: int) -> None:
        self._length = length
        self.bytes_written: int = 0
        self.is_done: bool = False
        self.has_overflowed: bool = False

    def encode(self, data: bytes) -> bytes:
        """Encode a piece of payload.

        Args:
            data: The piece. Nothing is made of an empty one: an empty chunk would end the body.

        Returns:
            What goes on the wire: ``data`` itself unless the body is chunked. Bytes beyond the
            announced length are dropped.

        Raises:
            RuntimeError: After :meth:`finish`.
        """
        if self.is_done:
            msg = "the body is finished"
            raise RuntimeError(msg)
        length = self._length
        size = len(data)
        if length == CHUNKED:
            self.bytes_written += size
            return b"%x\r\n%b\r\n" % (size, data) if data else b""
        if length != UNTIL_CLOSE:
            room = length - self.bytes_written
            if size > room:
                self.has_overflowed = True
                data = data[:room]
                size = room
        self.bytes_written += size
        return data

    def finish(self, trailers: HeaderMap | None = None) -> bytes:
        """End the body. Ending it again does nothing.

        Args:
            trailers: Fields for the trailer section of a chunked body; dropped otherwise, and
                so are those that may not be in one.

        Returns:
            What goes on the wire.

        Raises:
            Error: ``PREMATURE_BODY_END`` when less was written than was announced.
        """
        if self.is_done:
            return b""
        if self._length > self.bytes_written:
            raise Error(
                PREMATURE_BODY_END, f"{self.bytes_written} of {self._length} bytes were written"
            )
        self.is_done = True
        if self._length != CHUNKED:
            return b""
        if trailers is None:
            return b"0\r\n\r\n"
        if not trailers.keys_lower().isdisjoint(FORBIDDEN_TRAILERS):
            trailers = trailers.copy()
            trailers.remove_headers(FORBIDDEN_TRAILERS)
        return b"0\r\n%b\r\n" % trailers.to_h1_wire()
