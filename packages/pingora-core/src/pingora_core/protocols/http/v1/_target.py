"""Judging request lines and hosts: the four forms of a target, and who is meant.

Source: RFC 9112 section 3; RFC 3986 section 3.2.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv6Address
from typing import TYPE_CHECKING, Final

from pingora_error import Error, ErrorType, HTTPStatus
from pingora_http import Version
from pingora_http.grammar import is_token

if TYPE_CHECKING:
    from pingora_core.protocols.http.v1.limits import HeadLimits
    from pingora_http import RequestHeader

__all__ = [
    "GOOD_HOSTS",
    "check_host",
    "check_host_once",
    "check_request_line",
    "check_special_target",
]

_BAD: Final = ErrorType.INVALID_HTTP_HEADER
# Bound here: looking a member up in its enum costs 60 ns (2026-11).
_HTTP_10: Final = Version.HTTP_10
# What every client sends; whatever else is a token is a method too.
_METHODS: Final = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"})
_TARGET_BYTES: Final = bytes(range(0x21, 0x7F))

_REQUEST_LINE_END = re.compile(rb" HTTP/1\.[1-9]\r\n").match
_ABSOLUTE_FORM = re.compile(rb"https?://([^/?#]+)(?:[/?][^#]*)?", re.IGNORECASE).fullmatch
_AUTHORITY = re.compile(
    rb"(?:\[([0-9A-Fa-f:.]+)\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+)(?::([0-9]{0,5}))?"
).fullmatch

GOOD_HOSTS: set[bytes] = set()
"""Hosts that were found good: a proxy sees few, and each of them with every request."""

_MAX_GOOD_HOSTS: Final = 1024
_MAX_CACHED_HOST_SIZE: Final = 256


def check_request_line(raw: bytes, request: RequestHeader, limits: HeadLimits) -> None:
    """Judge the request line: that it was read as it stands, and what it consists of.

    Args:
        raw: The head's bytes.
        request: What an engine made of them.
        limits: How large it may be.

    Raises:
        Error: ``INVALID_HTTP_HEADER`` or ``HTTPStatus(414)``.
    """
    method, target = request.raw_method, request.raw_target
    if len(target) > limits.max_target_size:
        raise Error(HTTPStatus(414), "the request target is too long")
    minor = b"0" if request.version is _HTTP_10 else b"1"
    if not raw.startswith(b"%b %b HTTP/1.%b\r\n" % (method, target, minor)):
        # A minor version above ours counts as ours; anything else was read wrongly.
        at = len(method) + len(target) + 1
        if (
            minor == b"0"
            or not raw.startswith(b"%b %b " % (method, target))
            or _REQUEST_LINE_END(raw, at) is None
        ):
            raise Error(_BAD, "malformed request line")
    if method not in _METHODS and not is_token(method):
        raise Error(_BAD, "malformed method")
    if not target or target.translate(None, _TARGET_BYTES):
        # Bytes above ASCII are no part of a URI; both engines refuse them too.
        raise Error(_BAD, "malformed request target")


def check_special_target(request: RequestHeader) -> None:
    """Judge a target that is not in origin-form.

    Where it names a host, Host is set to that: a proxy must ignore the one that came with it
    (RFC 9112 section 3.2.2).

    Args:
        request: The head; its Host may be changed.

    Raises:
        Error: ``INVALID_HTTP_HEADER`` if the form does not go with the method, the scheme is
            not of HTTP, or there is user information (RFC 9110 section 4.2.4) or a fragment.
    """
    target = request.raw_target
    if request.raw_method == b"CONNECT":
        # RFC 9110 section 9.3.6: without a port there is nowhere to connect to.
        if check_host(target) == 0:
            raise Error(_BAD, "CONNECT needs host and port")
        _set_host(request, target)
        return
    if target == b"*":
        if request.raw_method != b"OPTIONS":
            raise Error(_BAD, "the target * is for OPTIONS only")
        return
    match = _ABSOLUTE_FORM(target)
    if match is None:
        raise Error(_BAD, "malformed request target")
    check_host(match[1])
    _set_host(request, match[1])


def _set_host(request: RequestHeader, host: bytes) -> None:
    if request.get_raw(b"host") != host:
        request.insert_header(b"Host", host)


def check_host(host: bytes) -> int:
    """Judge a host with or without a port: what Host and authorities consist of.

    Args:
        host: The text; user information is not allowed, nor is nothing at all.

    Returns:
        The port, 0 if there is none.

    Raises:
        Error: ``INVALID_HTTP_HEADER``.
    """
    match = _AUTHORITY(host)
    if match is None:
        raise Error(_BAD, "malformed host")
    address, port = match.groups()
    if address is not None:
        try:
            IPv6Address(address.decode("ascii"))
        except AddressValueError:
            raise Error(_BAD, "malformed host") from None
    number = int(port) if port else 0
    if number > 65535:
        raise Error(_BAD, "malformed port")
    return number


def check_host_once(host: bytes) -> None:
    """Judge a Host field's value, remembering good ones.

    Args:
        host: The value.

    Raises:
        Error: ``INVALID_HTTP_HEADER``.
    """
    if host in GOOD_HOSTS:
        return
    check_host(host)
    if len(host) <= _MAX_CACHED_HOST_SIZE:
        if len(GOOD_HOSTS) >= _MAX_GOOD_HOSTS:
            GOOD_HOSTS.clear()
        GOOD_HOSTS.add(host)
