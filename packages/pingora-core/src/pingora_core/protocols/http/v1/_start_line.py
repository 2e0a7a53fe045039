"""Taking the first line of a head apart, for engines that do not do it or do it too freely."""

from __future__ import annotations

import re
from typing import Final

from pingora_error import Error, ErrorType, HTTPStatus
from pingora_http import Version

__all__ = [
    "known_status_line",
    "split_request_line",
    "split_status_line",
    "split_usual_request_line",
    "substitute_request_line",
]

# Bound here: looking a member up in its enum costs 60 ns (2026-11).
_HTTP_10: Final = Version.HTTP_10
_HTTP_11: Final = Version.HTTP_11
_VERSIONS: Final = {b"HTTP/1.1": _HTTP_11, b"HTTP/1.0": _HTTP_10}
_VERSION = re.compile(rb"HTTP/([0-9])\.[0-9]").fullmatch
_REQUEST_LINE = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([\x21-\x7e]+) (HTTP/[0-9]\.[0-9])\r\n"
).match
_STATUS_LINE = re.compile(
    rb"(HTTP/[0-9]\.[0-9]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?"
).fullmatch

# What every client sends, in origin-form without a fragment.
_USUAL_METHODS: Final = frozenset(
    {b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"}
)
# Changes what may not be in a target: quicker than deleting what may (2026-11).
_BAD_CHANGED: Final = bytes(
    byte if 0x21 <= byte <= 0x7E and byte != 0x23 else byte ^ 1 for byte in range(256)
)

# An upstream has few status lines, and looking one up is quicker than taking it apart.
_status_lines: dict[bytes, tuple[int, bytes, Version]] = {}
_usual_status_lines: dict[bytes, tuple[int, bytes, Version]] = {}
_MAX_STATUS_LINES: Final = 256
_MAX_CACHED_SIZE: Final = 64


def _version(text: bytes) -> Version:
    """Read a version.

    Args:
        text: As in ``HTTP/1.1``.

    Returns:
        The version; a higher minor one than ours counts as ours (RFC 9110 section 2.5).

    Raises:
        Error: ``HTTPStatus(505)`` for another major version.
    """
    version = _VERSIONS.get(text)
    if version is not None:
        return version
    match = _VERSION(text)
    if match is None:
        raise Error(ErrorType.INVALID_HTTP_HEADER, "malformed HTTP version")
    if match[1] != b"1":
        raise Error(HTTPStatus(505), f"{text.decode('ascii')} is not spoken here")
    return _HTTP_11


def split_request_line(head: bytes) -> tuple[bytes, bytes, Version]:
    """Take a request line apart at its two spaces; neither method nor target is judged.

    Args:
        head: The head that it begins.

    Returns:
        Method, target and version.

    Raises:
        Error: ``INVALID_HTTP_HEADER`` unless there are exactly three parts; ``HTTPStatus(505)``
            for another major version.
    """
    parts = head[: head.find(b"\r\n")].split(b" ")
    if len(parts) != 3:
        raise Error(ErrorType.INVALID_HTTP_HEADER, "malformed request line")
    method, target, version = parts
    return method, target, _VERSIONS.get(version) or _version(version)


def split_usual_request_line(line: bytes) -> tuple[bytes, bytes, Version] | None:
    """Take a request line apart and judge it, if it is as nearly all are.

    Args:
        line: The line without its end.

    Returns:
        Method, target and version; None for another method, form of target or version than the
        usual, which may be right or wrong.
    """
    parts = line.split(b" ")
    if len(parts) != 3:
        return None
    method, target, text = parts
    version = _VERSIONS.get(text)
    if (
        version is None
        or method not in _USUAL_METHODS
        or target[:1] != b"/"
        or target.translate(_BAD_CHANGED) != target
    ):
        return None
    return method, target, version


def known_status_line(line: bytes) -> tuple[int, bytes, Version] | None:
    """Look a status line up.

    Args:
        line: The line without its end.

    Returns:
        What `split_status_line` has made of it before, if it is of HTTP/1.1 and its status below
        600; else None.
    """
    return _usual_status_lines.get(line)


def substitute_request_line(head: bytes) -> tuple[bytes, bytes, Version] | None:
    """Replace what an engine may refuse though it is allowed: the method, the minor version.

    Args:
        head: The head that an engine refused.

    Returns:
        The head with a method and a version that every engine knows, the real method and the
        real version; None if there is nothing to replace.

    Raises:
        Error: ``INVALID_HTTP_HEADER`` if the line is malformed; ``HTTPStatus(505)`` for another
            major version.
    """
    match = _REQUEST_LINE(head)
    if match is None:
        raise Error(ErrorType.INVALID_HTTP_HEADER, "malformed request line")
    method, target, text = match.groups()
    version = _version(text)
    # CONNECT stays, for its target is read otherwise.
    plain = method if method == b"CONNECT" else b"GET"
    if plain == method and text in _VERSIONS:
        return None
    minor = b"0" if version is _HTTP_10 else b"1"
    line = b"%b %b HTTP/1.%b\r\n" % (plain, target, minor)
    return line + head[match.end() :], method, version


def split_status_line(head: bytes) -> tuple[int, bytes, Version]:
    """Take a status line apart.

    Args:
        head: The head that it begins.

    Returns:
        Status, reason phrase and version. The phrase, and the space before it, may be missing,
        as many servers leave it out.

    Raises:
        Error: ``INVALID_HTTP_HEADER`` if the line is malformed; ``HTTPStatus(505)`` for another
            major version.
    """
    line = head[: head.find(b"\r\n")]
    known = _status_lines.get(line)
    if known is not None:
        return known
    match = _STATUS_LINE(line)
    if match is None:
        raise Error(ErrorType.INVALID_HTTP_HEADER, "malformed status line")
    parts = (int(match[2]), match[3] or b"", _version(match[1]))
    if len(line) <= _MAX_CACHED_SIZE:
        if len(_status_lines) >= _MAX_STATUS_LINES:
            _status_lines.clear()
            _usual_status_lines.clear()
        _status_lines[line] = parts
        if match[1] == b"HTTP/1.1" and parts[0] < 600:
            _usual_status_lines[line] = parts
    return parts
