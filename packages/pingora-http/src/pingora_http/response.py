"""`ResponseHeader`: the head of a response, in any HTTP version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_error import Error, ErrorType
from pingora_http._fields import HeaderMap
from pingora_http.grammar import is_field_value
from pingora_http.status import reason_phrase
from pingora_http.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pingora_http._fields import HeaderName, HeaderValue

__all__ = ["ResponseHeader"]


class ResponseHeader(HeaderMap):
    r"""Status, phrase, version and fields of a response.

    Args:
        status: The code, 100 to 999.
        version: The version of the message.
        headers: Names and values.
        reason: A phrase of your own; the standard one when None.

    Raises:
        Error: ``INVALID_HTTP_HEADER`` for a status, phrase, name or value that must not go on
            the wire.

    Attributes:
        status: The code.
        version: The version of the message.

    Examples:
        >>> response = ResponseHeader(404)
        >>> response.set_content_length(0)
        >>> response.to_wire()
        b'HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n'

    Source: pingora-http/src/lib.rs.
    """

    __slots__ = ("_reason", "status", "version")

    status: int
    version: Version

    def __init__(
        self,
        status: int,
        *,
        version: Version = Version.HTTP_11,
        headers: Iterable[tuple[HeaderName, HeaderValue]] = (),
        reason: str | bytes | None = None,
    ) -> None:
        super().__init__(headers)
        self.version = version
        self._reason: bytes | None = None
        self.set_status(status)
        if reason is not None:
            self.set_reason_phrase(reason)

    @classmethod
    def from_wire(
        cls,
        status: int,
        raw_reason: bytes | None,
        version: Version,
        items: list[tuple[bytes, bytes]],
        *,
        index: dict[bytes, int] | None = None,
    ) -> ResponseHeader:
        """Take over what a parser has read and checked.

        Args:
            status: The code.
            raw_reason: The phrase as it came; None for the standard one.
            version: The version.
            items: The fields; owned by the head afterwards.
            index: Position of the first field of each lower-case name, if known; copied.

        Returns:
            The head.
        """
        self = ResponseHeader.__new__(ResponseHeader)
        self._items = items
        self._index = None if index is None else index.copy()
        self.status = status
        self._reason = raw_reason
        self.version = version
        return self

    def copy(self) -> ResponseHeader:
        """Copy the head.

        Returns:
            A head that changes on its own.
        """
        return ResponseHeader.from_wire(
            self.status, self._reason, self.version, self._items[:], index=self._index
        )

    def set_status(self, status: int) -> None:
        """Change the status; a phrase of your own goes.

        Args:
            status: The code, 100 to 999.

        Raises:
            Error: ``INVALID_HTTP_HEADER`` outside of that range.
        """
        if not 100 <= status <= 999:
            raise Error(ErrorType.INVALID_HTTP_HEADER, f"not a status: {status}")
        self.status = status
        self._reason = None

    @property
    def raw_reason(self) -> bytes:
        """The phrase that is sent: one of your own, else the standard one."""
        return reason_phrase(self.status) if self._reason is None else self._reason

    @property
    def reason(self) -> str:
        """:attr:`raw_reason` as text."""
        return self.raw_reason.decode("latin-1")

    def set_reason_phrase(self, reason: str | bytes | None) -> None:
        """Change the phrase.

        Args:
            reason: The phrase; None for the standard one.

        Raises:
            Error: ``INVALID_HTTP_HEADER`` if it holds control characters.
        """
        if reason is None:
            self._reason = None
            return
        raw = reason.encode("latin-1", "replace") if isinstance(reason, str) else reason
        if not is_field_value(raw):
            raise Error(ErrorType.INVALID_HTTP_HEADER, f"not a reason phrase: {raw[:80]!r}")
        self._reason = raw

    def set_content_length(self, length: int) -> None:
        """Set Content-Length.

        Args:
            length: Bytes, not negative.

        Raises:
            ValueError: If negative.
        """
        if length < 0:
            raise ValueError(f"a length cannot be negative: {length}")
        self.insert_header(b"Content-Length", b"%d" % length)

    def to_wire(self) -> bytes:
        """Write the head as HTTP/1 does.

        Returns:
            Status line, fields and the empty line. Every version but 1.0 is written as 1.1.
        """
        line = b"HTTP/1.0 %d %b\r\n" if self.version is Version.HTTP_10 else b"HTTP/1.1 %d %b\r\n"
        reason = self._reason
        return b"%b%b\r\n" % (
            line % (self.status, reason_phrase(self.status) if reason is None else reason),
            b"".join([b"%b: %b\r\n" % item for item in self._items]),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ResponseHeader):
            return NotImplemented
        return (
            self.status == other.status
            and self.raw_reason == other.raw_reason
            and self.version is other.version
            and self._items == other._items
        )

    __hash__ = None  # mutable, as list says it too

    def __repr__(self) -> str:
        return f"<ResponseHeader {self.status}, {len(self)} fields>"
