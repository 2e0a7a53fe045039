"""The head of a response."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pingora_error import Error, ErrorType
from pingora_http._fields import HeaderMap
from pingora_http._text import explain, to_bytes
from pingora_http.grammar import is_field_value
from pingora_http.status import REASON_PHRASES
from pingora_http.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

__all__ = ["ResponseHeader"]

# Bound here: looking them up takes half as long as calling them (2026-11).
_new = object.__new__
_reason_of = REASON_PHRASES.get


class ResponseHeader(HeaderMap):
    r"""The head of a response: status, reason phrase, version and fields.

    Args:
        status: The status code, 100 to 999.
        version: The version of HTTP.
        headers: Fields to begin with.
        reason: The reason phrase; None for the one that goes with the status.

    Raises:
        ValueError: If the status has not three digits.
        Error: ``INVALID_HTTP_HEADER`` if a part cannot be sent.

    Attributes:
        status: The status code. Assigning is unchecked and leaves a reason phrase of one's own
            alone; see :meth:`set_status`.
        version: The version of HTTP.

    Examples:
        >>> response = ResponseHeader(404, headers=[("Content-Length", "0")])
        >>> response.reason
        'Not Found'
        >>> response.to_wire()
        b'HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n'

    Source: pingora-http/src/lib.rs.
    """

    __slots__ = ("_reason", "status", "version")

    status: int
    version: Version
    _reason: bytes | None

    def __init__(
        self,
        status: int,
        version: Version = Version.HTTP_11,
        headers: Iterable[tuple[str | bytes, str | bytes]] = (),
        reason: str | bytes | None = None,
    ) -> None:
        super().__init__(headers)
        self.set_status(status)
        self.set_reason_phrase(reason)
        self.version = version

    @classmethod
    def from_wire(  # noqa: PLR0917 - hot, and by keyword it costs more
        cls,
        status: int,
        raw_reason: bytes,
        version: Version,
        items: list[tuple[bytes, bytes]],
        index: dict[bytes, bytes] | None = None,
    ) -> Self:
        """Wrap what a parser has checked.

        Args:
            status: The status code.
            raw_reason: The reason phrase, maybe empty.
            version: The version of HTTP.
            items: Names and values; the list is taken, not copied.
            index: The first value of every field by its name in lower case, if the parser knows
                it; taken as well.

        Returns:
            The head.
        """
        self = _new(cls)
        self.raw_items = items
        self.raw_index = index
        self.status = status
        self._reason = None if raw_reason == _reason_of(status) else raw_reason
        self.version = version
        return self

    # ----------------------------------------------------------------- status

    def set_status(self, status: int) -> None:
        """Change the status code; the reason phrase becomes the one that goes with it.

        Args:
            status: The new code, 100 to 999.

        Raises:
            ValueError: If it has not three digits.
        """
        if not 100 <= status <= 999:
            msg = f"a status code has three digits (100 to 999), not {status}"
            raise ValueError(msg)
        self.status = status
        self._reason = None

    @property
    def raw_reason(self) -> bytes:
        """The reason phrase; empty if the status has none."""
        reason = self._reason
        return _reason_of(self.status, b"") if reason is None else reason

    @property
    def reason(self) -> str:
        """The reason phrase as latin-1 text."""
        return self.raw_reason.decode("latin-1")

    def set_reason_phrase(self, reason: str | bytes | None) -> None:
        """Change the reason phrase.

        Args:
            reason: The new one; None for the one that goes with the status.

        Raises:
            Error: ``INVALID_HTTP_HEADER`` if it cannot be sent.
        """
        if reason is None:
            self._reason = None
            return
        raw = to_bytes("reason phrase", reason)
        if not is_field_value(raw):
            raise Error(ErrorType.INVALID_HTTP_HEADER, explain("reason phrase", reason))
        self._reason = None if raw == _reason_of(self.status) else raw

    def set_version(self, version: Version) -> None:
        """Change the version of HTTP.

        Args:
            version: The new one.
        """
        self.version = version

    def set_content_length(self, length: int) -> None:
        """Set ``Content-Length``.

        Args:
            length: Size of the body in bytes.

        Raises:
            ValueError: If it is negative.
        """
        if length < 0:
            msg = f"a body has no negative length ({length})"
            raise ValueError(msg)
        self.insert_header(b"Content-Length", b"%d" % length)

    # ------------------------------------------------------------ whole heads

    def copy(self) -> Self:
        """Copy the head: what is changed in one does not show in the other.

        Returns:
            The copy.
        """
        new = object.__new__(type(self))
        new.raw_items = self.raw_items.copy()
        index = self.raw_index
        new.raw_index = None if index is None else index.copy()
        new.status = self.status
        new._reason = self._reason
        new.version = self.version
        return new

    def to_wire(self) -> bytes:
        """Write the head as HTTP/1 does.

        Returns:
            Status line, fields and the empty line. Any version above 1.0 is written as 1.1.
        """
        reason, items = self._reason, self.raw_items
        if reason is None:
            reason = _reason_of(self.status, b"")
        if items and self.version > 10:
            # As in RequestHeader.
            fields = b"\r\n".join(map(b": ".join, items))
            return b"HTTP/1.1 %d %b\r\n%b\r\n\r\n" % (self.status, reason, fields)
        minor = b"1" if self.version > 10 else b"0"
        return b"HTTP/1.%b %d %b\r\n%b\r\n" % (minor, self.status, reason, self.to_h1_wire())

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return (
            self.status == other.status
            and self.version is other.version
            and self.raw_reason == other.raw_reason
            and super().__eq__(other)
        )

    __hash__: ClassVar[None] = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.status} with {len(self.raw_items)} fields>"
