"""The parser seam: the bytes of a head in, a header object out.

An engine only takes a head apart. Everything that decides framing or security is judged after
it, once for all engines, in ``framing``. So an engine may be more lenient than it should be, but
must never change what it read.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Protocol

from pingora_core.protocols.http.v1.limits import DEFAULT_LIMITS, HeadLimits
from pingora_error import Error, ErrorType, HTTPStatus

if TYPE_CHECKING:
    from pingora_http import RequestHeader, ResponseHeader

__all__ = [
    "DEFAULT_LIMITS",
    "HeadLimits",
    "Http1Parser",
    "check_incomplete_head",
    "find_head_end",
    "get_parser",
    "unfold",
]

_BARE_LINE_END = re.compile(rb"\r[^\n]|(?<!\r)\n")
_FOLD = re.compile(rb"[ \t]*\r\n[ \t]+")


class Http1Parser(Protocol):
    """An engine."""

    def parse_request(self, head: bytes) -> RequestHeader:
        """Take a request head apart.

        Args:
            head: From the request line to the empty line, its CRLF included.

        Returns:
            The head.

        Raises:
            Error: ``INVALID_HTTP_HEADER``, or ``HTTPStatus(505)`` for another major version.
        """

    def parse_response(self, head: bytes) -> ResponseHeader:
        """Take a response head apart.

        Args:
            head: From the status line to the empty line, its CRLF included.

        Returns:
            The head.

        Raises:
            Error: ``INVALID_HTTP_HEADER``.
        """


@cache
def get_parser(name: str = "httptools") -> Http1Parser:
    """Return an engine.

    Args:
        name: ``httptools``, the fast one, or ``h11``, the reference.

    Returns:
        The engine; it keeps no state between heads.

    Raises:
        ValueError: If there is no such engine.
    """
    # Imported when chosen: nobody pays for the engine that is not used.
    if name == "httptools":
        from pingora_core.protocols.http.v1._httptools import HttptoolsParser  # noqa: PLC0415

        return HttptoolsParser()
    if name == "h11":
        from pingora_core.protocols.http.v1._h11 import H11Parser  # noqa: PLC0415

        return H11Parser()
    raise ValueError(f"no HTTP/1 parser {name!r}; there are 'httptools' and 'h11'")


def find_head_end(buffer: bytes, start: int) -> int:
    """Look for the end of a head.

    Args:
        buffer: What has arrived.
        start: Where to begin; three bytes before what was searched already.

    Returns:
        The position behind the empty line; -1 when it has not arrived.
    """
    at = buffer.find(b"\r\n\r\n", start)
    return at + 4 if at >= 0 else -1


def check_incomplete_head(buffer: bytes, limits: HeadLimits) -> None:
    """Refuse a head that cannot become acceptable any more, before its end has arrived.

    Args:
        buffer: What has arrived of it.
        limits: How large it may be.

    Raises:
        Error: ``HTTPStatus(414)`` or ``HTTPStatus(431)`` when it is too large,
            ``INVALID_HTTP_HEADER`` when a line ends in a bare LF or holds a bare CR.
    """
    if len(buffer) > limits.max_target_size and b"\r\n" not in buffer:
        raise Error(HTTPStatus(414), "the first line is too long")
    if len(buffer) > limits.max_head_size:
        raise Error(HTTPStatus(431), "the header is too large")
    if _BARE_LINE_END.search(buffer) is not None:
        raise Error(ErrorType.INVALID_HTTP_HEADER, "bare CR or LF in the header")


def unfold(head: bytes) -> bytes:
    """Join obsolete line folding (RFC 9112 section 5.2).

    Args:
        head: A head.

    Returns:
        The head with every fold replaced by one space.
    """
    return _FOLD.sub(b" ", head) if b"\r\n " in head or b"\r\n\t" in head else head
