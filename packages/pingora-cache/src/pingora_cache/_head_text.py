"""Heads written as HTTP/1 text, and read back.

Theory of operation: what is read comes from a disk or from another machine, and may be damaged or
made up. So it is checked as strictly as if it came from a peer, in a few passes over the whole
rather than by field: nothing gets in that would end a field or a head when it is sent.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from pingora_error import Error
from pingora_http import ResponseHeader, Version
from pingora_http.grammar import TOKEN_BYTES, VALUE_BYTES

if TYPE_CHECKING:
    from pingora_error import ErrorKind

__all__ = ["MAX_FIELDS", "MAX_HEAD_SIZE", "read_response_head", "write_response_head"]

MAX_FIELDS: Final = 256
"""How many fields a head may have. Source: pingora-header-serde/src/lib.rs."""

MAX_HEAD_SIZE: Final = 128 * 1024
"""How large a head may be, in bytes. Source: pingora-header-serde/src/lib.rs."""

# One line, if it begins as one should; that it holds nothing wrong is looked at separately. Finding
# all at once costs 1.4 us for 10 fields, splitting lines and fields 2.2 (2026-11).
_FIELDS: Final = re.compile(rb"(?m)^([^:]+): (.*)\r\n").findall

_HTTP_10: Final = Version.HTTP_10
_HTTP_11: Final = Version.HTTP_11


def write_response_head(header: ResponseHeader, etype: ErrorKind) -> bytes:
    """Write the head of a response.

    Args:
        header: The head.
        etype: The type of the error.

    Returns:
        Status line, fields and the empty line.

    Raises:
        Error: If it exceeds what can be read back.
    """
    head = header.to_wire()
    if len(head) > MAX_HEAD_SIZE or len(header) > MAX_FIELDS:
        raise Error(etype, f"a head of {len(head)} bytes and {len(header)} fields is too large")
    return head


def read_response_head(head: bytes, etype: ErrorKind) -> ResponseHeader:
    """Read the head of a response that ``write_response_head`` has written.

    Args:
        head: Status line, fields and the empty line; nothing after it.
        etype: The type of the error.

    Returns:
        The head.

    Raises:
        Error: If it is anything else, or exceeds a limit.
    """
    if len(head) > MAX_HEAD_SIZE:
        raise Error(etype, f"a head of {len(head)} bytes is too large")
    if head[-4:] != b"\r\n\r\n":
        raise Error(etype, "a head without an end")
    lines = head.count(b"\n")
    if lines - 2 > MAX_FIELDS:
        raise Error(etype, f"{lines - 2} fields are too many")
    # All that is left are the ends of the lines, none of them half. (Every pair that is found by
    # count() stands together, so that as many as there are line feeds means all.)
    if head.count(b"\r\n") != lines or head.translate(None, VALUE_BYTES) != b"\r\n" * lines:
        raise Error(etype, "a head with control characters")
    end = head.index(b"\r\n")
    status, reason, version = _status_line(head[:end], etype)
    items: list[tuple[bytes, bytes]] = _FIELDS(head, end + 2)
    names = b"".join([name for name, _ in items])
    if len(items) != lines - 2 or names.translate(None, TOKEN_BYTES):
        raise Error(etype, "a malformed field")
    return ResponseHeader.from_wire(status, reason, version, items)


def _status_line(line: bytes, etype: ErrorKind) -> tuple[int, bytes, Version]:
    version, code, reason = line[:9], line[9:12], line[12:]
    if (
        (version != b"HTTP/1.1 " and version != b"HTTP/1.0 ")  # noqa: PLR1714  # quicker
        or len(code) != 3
        or not code.isdigit()
        or code < b"100"
        or reason[:1] not in {b"", b" "}
    ):
        raise Error(etype, "a malformed status line")
    return int(code), reason[1:], _HTTP_11 if version == b"HTTP/1.1 " else _HTTP_10
