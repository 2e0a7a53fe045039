"""`RequestHeader`: the head of a request, in any HTTP version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_error import Error, ErrorType
from pingora_http._fields import HeaderMap
from pingora_http.grammar import is_target, is_token
from pingora_http.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pingora_http._fields import HeaderName, HeaderValue

__all__ = ["RequestHeader"]


class RequestHeader(HeaderMap):
    r"""Method, target, version and fields of a request.

    The target is kept as it came (RFC 9112 section 3.2): origin form ``/path?query``, absolute
    form ``http://host/path``, authority form ``host:port`` (CONNECT) or ``*`` (OPTIONS).

    Args:
        method: A token; case matters.
        target: The request target.
        version: The version of the message.
        headers: Names and values.

    Raises:
        Error: ``INVALID_HTTP_HEADER`` for a method, target, name or value that must not go on
            the wire.

    Attributes:
        raw_method: The method's bytes.
        raw_target: The target's bytes.
        version: The version of the message.

    Examples:
        >>> request = RequestHeader("GET", "/a?b=c", headers=[("Host", "example.com")])
        >>> request.path, request.query, request.get("host")
        ('/a', 'b=c', 'example.com')
        >>> request.to_wire()
        b'GET /a?b=c HTTP/1.1\r\nHost: example.com\r\n\r\n'

    Source: pingora-http/src/lib.rs.
    """

    __slots__ = ("_send_end_stream", "raw_method", "raw_target", "version")

    raw_method: bytes
    raw_target: bytes
    version: Version

    def __init__(
        self,
        method: str | bytes,
        target: str | bytes,
        *,
        version: Version = Version.HTTP_11,
        headers: Iterable[tuple[HeaderName, HeaderValue]] = (),
    ) -> None:
        super().__init__(headers)
        self._send_end_stream = True
        self.version = version
        self.set_method(method)
        self.set_target(target)

    @classmethod
    def from_wire(
        cls,
        raw_method: bytes,
        raw_target: bytes,
        version: Version,
        items: list[tuple[bytes, bytes]],
        *,
        index: dict[bytes, int] | None = None,
    ) -> RequestHeader:
        """Take over what a parser has read and checked.

        Args:
            raw_method: The method.
            raw_target: The target.
            version: The version.
            items: The fields; owned by the head afterwards.
            index: Position of the first field of each lower-case name, if known; copied.

        Returns:
            The head.
        """
        self = RequestHeader.__new__(RequestHeader)
        self._items = items
        self._index = None if index is None else index.copy()
        self._send_end_stream = True
        self.raw_method = raw_method
        self.raw_target = raw_target
        self.version = version
        return self

    def copy(self) -> RequestHeader:
        """Copy the head.

        Returns:
            A head that changes on its own.
        """
        header = RequestHeader.from_wire(
            self.raw_method, self.raw_target, self.version, self._items[:], index=self._index
        )
        header.set_send_end_stream(send=self._send_end_stream)
        return header

    # ----------------------------------------------------------------- method

    @property
    def method(self) -> str:
        """The method."""
        return self.raw_method.decode("latin-1")

    def set_method(self, method: str | bytes) -> None:
        """Change the method.

        Args:
            method: A token; case matters.

        Raises:
            Error: ``INVALID_HTTP_HEADER`` if it is no token.
        """
        raw = method.encode("latin-1", "replace") if isinstance(method, str) else method
        if not is_token(raw):
            raise Error(ErrorType.INVALID_HTTP_HEADER, f"not a method: {raw[:80]!r}")
        self.raw_method = raw

    # ----------------------------------------------------------------- target

    def set_target(self, target: str | bytes) -> None:
        """Change the request target.

        Args:
            target: In one of the four forms; not empty, without spaces and control characters.

        Raises:
            Error: ``INVALID_HTTP_HEADER`` if it must not go on the wire.
        """
        raw = target.encode("utf-8") if isinstance(target, str) else target
        if not is_target(raw):
            raise Error(ErrorType.INVALID_HTTP_HEADER, f"not a request target: {raw[:200]!r}")
        self.raw_target = raw

    @property
    def raw_path(self) -> bytes:
        """Path and query: what an origin server is asked for.

        ``*`` and the authority form have neither: it is ``*`` or empty then. The absolute form
        without a path has ``/``.
        """
        target = self.raw_target
        if target[:1] == b"/" or target == b"*":
            return target
        scheme = target.find(b"://")
        if scheme < 0:
            return b""
        for at in range(scheme + 3, len(target)):
            if target[at] in b"/?":
                return target[at:] if target[at] == 0x2F else b"/" + target[at:]
        return b"/"

    @property
    def path(self) -> str:
        """The path without the query, decoded as latin-1 and not unescaped."""
        return self.raw_path.partition(b"?")[0].decode("latin-1")

    @property
    def query(self) -> str | None:
        """The query without its question mark; None when there is none."""
        _, mark, query = self.raw_path.partition(b"?")
        return query.decode("latin-1") if mark else None

    @property
    def raw_authority(self) -> bytes | None:
        """Host and port that the target itself names: in absolute and authority form.

        User information before an ``@`` belongs to it; None in the other forms.
        """
        target = self.raw_target
        if target[:1] == b"/" or target == b"*":
            return None
        scheme = target.find(b"://")
        if scheme < 0:
            return target
        start = scheme + 3
        for at in range(start, len(target)):
            if target[at] in b"/?":
                return target[start:at]
        return target[start:]

    @property
    def authority(self) -> str | None:
        """:attr:`raw_authority` as text."""
        raw = self.raw_authority
        return None if raw is None else raw.decode("latin-1")

    @property
    def uri_file_extension(self) -> str | None:
        """The part of the path's last segment behind its last dot; None when there is none."""
        segment = self.path.rpartition("/")[2]
        stem, dot, extension = segment.rpartition(".")
        return extension if dot and stem and extension else None

    # ----------------------------------------------------------------- HTTP/2

    @property
    def send_end_stream(self) -> bool | None:
        """Whether an HTTP/2 head without a body ends the stream; None for other versions."""
        return self._send_end_stream if self.version is Version.HTTP_2 else None

    def set_send_end_stream(self, *, send: bool) -> None:
        """Decide whether an HTTP/2 head without a body ends the stream.

        Args:
            send: False leaves the stream open, as gRPC calls want it.
        """
        self._send_end_stream = send

    # ----------------------------------------------------------------- output

    def to_wire(self) -> bytes:
        """Write the head as HTTP/1 does.

        Returns:
            Request line, fields and the empty line. Every version but 1.0 is written as 1.1.
        """
        line = b"%b %b HTTP/1.0\r\n" if self.version is Version.HTTP_10 else b"%b %b HTTP/1.1\r\n"
        return b"%b%b\r\n" % (
            line % (self.raw_method, self.raw_target),
            b"".join([b"%b: %b\r\n" % item for item in self._items]),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RequestHeader):
            return NotImplemented
        return (
            self.raw_method == other.raw_method
            and self.raw_target == other.raw_target
            and self.version is other.version
            and self._items == other._items
        )

    __hash__ = None  # mutable, as list says it too

    def __repr__(self) -> str:
        return f"<RequestHeader {self.method} {self.path}, {len(self)} fields>"
