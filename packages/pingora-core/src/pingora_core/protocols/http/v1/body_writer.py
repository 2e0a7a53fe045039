"""Encoding message bodies: sans-I/O, one object for each body."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    """

    __slots__ = ("_mode", "bytes_written", "has_overflowed", "is_done")

    def __init__(self, length: int) -> None:
        self._mode = length
        self.bytes_written = 0
        self.is_done = False
        self.has_overflowed = False

    def encode(self, data: bytes) -> bytes:
        """Encode a piece of payload.

        Args:
            data: The piece, not empty: an empty chunk would end a chunked body.

        Returns:
            What goes on the wire: ``data`` itself unless the body is chunked. Bytes beyond the
            announced length are dropped.
        """
        mode = self._mode
        if mode == CHUNKED:
            self.bytes_written += len(data)
            return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        if mode != UNTIL_CLOSE:
            room = mode - self.bytes_written
            if len(data) > room:
                data = data[:room]
                self.has_overflowed = True
        self.bytes_written += len(data)
        return data

    def finish(self, trailers: HeaderMap | None = None) -> bytes:
        """End the body.

        Args:
            trailers: Fields for the trailer section of a chunked body; dropped otherwise.

        Returns:
            What goes on the wire.

        Raises:
            Error: ``PREMATURE_BODY_END`` when less was written than was announced.
        """
        if self._mode > self.bytes_written:
            raise Error(
                PREMATURE_BODY_END, f"{self.bytes_written} of {self._mode} bytes were written"
            )
        self.is_done = True
        if self._mode != CHUNKED:
            return b""
        if trailers is None:
            return b"0\r\n\r\n"
        return b"0\r\n%b\r\n" % trailers.to_h1_wire()
