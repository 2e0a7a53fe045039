"""The parser seam: the bytes of a head in, a header object out.

An engine only takes a head apart. Everything that decides framing or security is judged after
it, once for all engines, in ``framing``. So an engine may be more lenient than it should be, but
must never change what it read.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Final, Protocol

from pingora_core.protocols.http.v1.limits import DEFAULT_LIMITS, HeadLimits
from pingora_error import Error, ErrorType, HTTPStatus
from pingora_http.grammar import VALUE_BYTES

if TYPE_CHECKING:
    from pingora_core.protocols.http.v1.limits import FramingOptions
    from pingora_http import RequestHeader, ResponseHeader

__all__ = [
    "DEFAULT_LIMITS",
    "HeadLimits",
    "Http1Parser",
    "check_incomplete_head",
    "find_head_end",
    "get_parser",
    "loosen_response_head",
]

_FOLD = re.compile(rb"\r\n[ \t]++")
_SPACE_BEFORE_COLON = re.compile(rb"(?<=\r\n)([!#$%&'*+\-.^_`|~0-9A-Za-z]++)[ \t]++:")
_TRANSFER_ENCODING = re.compile(rb"\r\ntransfer-encoding[ \t]*+:", re.IGNORECASE)
_CONTENT_LENGTH = re.compile(rb"(?<=\r\n)content-length[ \t]*+:([^\r\n]*+)\r\n", re.IGNORECASE)
_LENGTH = re.compile(rb"[ \t]*+[0-9]{1,18}[ \t]*").fullmatch

_LINE_BYTES = VALUE_BYTES + b"\r\n"
# What a request line may have besides its target.
_LINE_MARGIN = 64


class Http1Parser(Protocol):
    """An engine. It keeps no state between heads."""

    def parse_request(self, head: bytes) -> RequestHeader:
        """Take a request head apart.

        Args:
            head: From the request line to the empty line, its CRLF included.

        Returns:
            The head: names, values and target exactly as they were sent, white space around
            values removed.

        Raises:
            Error: ``INVALID_HTTP_HEADER``; ``HTTPStatus(505)`` for another major version, and
                maybe ``HTTPStatus(501)`` for a transfer coding.
        """

    def parse_response(self, head: bytes) -> ResponseHeader:
        """Take a response head apart.

        Args:
            head: From the status line to the empty line, its CRLF included.

        Returns:
            The head.

        Raises:
            Error: ``INVALID_HTTP_HEADER``, or ``HTTPStatus(505)`` for another major version.
        """


def get_parser(name: str = "httptools") -> Http1Parser:
    """Return an engine.

    Args:
        name: ``httptools``, the fast one, or ``h11``, the reference.

    Returns:
        The engine; one for the whole process.

    Raises:
        ValueError: If there is no such engine.
    """
    make = _ENGINES.get(name)
    if make is None:
        msg = f"no HTTP/1 parser {name!r}; there are {' and '.join(map(repr, _ENGINES))}"
        raise ValueError(msg)
    return make()


# Imported when chosen: nobody pays for the engine that is not used.
@cache
def _httptools() -> Http1Parser:
    from pingora_core.protocols.http.v1._httptools import HttptoolsParser  # noqa: PLC0415

    return HttptoolsParser()


@cache
def _h11() -> Http1Parser:
    from pingora_core.protocols.http.v1._h11 import H11Parser  # noqa: PLC0415

    return H11Parser()


_ENGINES: Final = {"httptools": _httptools, "h11": _h11}


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


def check_incomplete_head(buffer: bytes, limits: HeadLimits, start: int = 0) -> None:
    """Refuse a head that cannot become acceptable any more, before its end has arrived.

    Args:
        buffer: What has arrived of it.
        limits: How large it may be.
        start: Where to begin, as for :func:`find_head_end`. Without it a head that trickles in
            is looked through again for every piece.

    Raises:
        Error: ``HTTPStatus(414)`` or ``HTTPStatus(431)`` when it is too large;
            ``INVALID_HTTP_HEADER`` for a control character, and for a bare CR or LF: a line
            that ends in LF alone would never be seen as the end.
    """
    size = len(buffer)
    if size > limits.max_target_size + _LINE_MARGIN and b"\r\n" not in buffer:
        raise Error(HTTPStatus(414), "the first line is too long")
    if size > limits.max_head_size:
        raise Error(HTTPStatus(431), "the header is too large")
    if start and buffer[start - 1 : start] == b"\r":
        start -= 1
    pairs = buffer.count(b"\r\n", start)
    returns = buffer.count(b"\r", start) - buffer.endswith(b"\r")
    if buffer.count(b"\n", start) != pairs or returns != pairs:
        raise Error(ErrorType.INVALID_HTTP_HEADER, "bare CR or LF in the header")
    if buffer[start:].translate(None, _LINE_BYTES):
        raise Error(ErrorType.INVALID_HTTP_HEADER, "control character in the header")


def loosen_response_head(head: bytes, options: FramingOptions) -> bytes:
    """Repair what the options allow in a response head, before it is parsed and checked.

    Args:
        head: The whole head.
        options: What is allowed.

    Returns:
        The head, without what an engine or ``framing`` would refuse although it is allowed.
    """
    if options.allow_obs_fold_in_response and (b"\r\n " in head or b"\r\n\t" in head):
        line_end = head.find(b"\r\n") + 2
        # Not at the first field: that would fold it into the status line.
        if head[line_end : line_end + 1] not in {b" ", b"\t"}:
            head = _FOLD.sub(b" ", head)
    if options.allow_space_before_colon_in_response:
        head = _SPACE_BEFORE_COLON.sub(rb"\1:", head)
    if options.allow_invalid_response_content_length:
        lengths = _CONTENT_LENGTH.findall(head)
        repair = len(lengths) > 1 or (lengths and _LENGTH(lengths[0]) is None)
        # Beside a Transfer-Encoding it is an attempt at something, not a mistake.
        if repair and _TRANSFER_ENCODING.search(head) is None:
            head = _CONTENT_LENGTH.sub(b"", head)
    return head
