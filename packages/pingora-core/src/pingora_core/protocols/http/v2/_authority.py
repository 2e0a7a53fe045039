"""Whom a request of HTTP/2 is meant for: its scheme, its authority and its Host, which must agree.

Source: RFC 9113 section 8.3.1; RFC 3986 section 6.2.3.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from pingora_core.protocols.http.v1._target import check_host_once
from pingora_error import Error, ErrorType, HTTPStatus

if TYPE_CHECKING:
    from pingora_core.protocols.http.v2._field_rules import Fields

__all__ = ["check_authority", "set_host", "take_host"]

_BAD: Final = ErrorType.INVALID_HTTP_HEADER

_SCHEMES: Final = {b"https": b"443", b"http": b"80"}
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*").fullmatch


def set_host(pseudo: dict[bytes, bytes], items: Fields, values: dict[bytes, bytes]) -> None:
    """Judge scheme and authority, and let Host be the first field.

    Args:
        pseudo: The pseudo-header fields.
        items: The other fields; changed.
        values: The values in them.

    Raises:
        Error: ``INVALID_HTTP_HEADER``; ``HTTPStatus(400)`` when nobody is named, or by a scheme
            that is not of HTTP.

    Source: RFC 9113 section 8.3.1.
    """
    scheme = pseudo[b":scheme"]
    if scheme not in _SCHEMES:
        if _SCHEME(scheme) is None:
            raise Error(_BAD, "malformed :scheme")
        scheme = scheme.lower()
        if scheme not in _SCHEMES:
            raise Error(HTTPStatus(400), "a scheme that is not of HTTP")
    authority = pseudo.get(b":authority")
    host = values.get(b"host")
    if authority is None:
        if host is None:
            # As in HTTP/1 (RFC 9112 section 3.2); it is no error of HTTP/2.
            raise Error(HTTPStatus(400), "neither :authority nor Host")
        check_authority(host)
        take_host(items)
        authority = host
    else:
        check_authority(authority)
        if host is not None:
            take_host(items)
            if host != authority and _normal(host, scheme) != _normal(authority, scheme):
                raise Error(_BAD, "Host and :authority differ")
    items.insert(0, (b"host", authority))


def check_authority(authority: bytes) -> None:
    """Judge a host with or without a port.

    Args:
        authority: The text.

    Raises:
        Error: ``INVALID_HTTP_HEADER``.
    """
    try:
        check_host_once(authority)
    except Error as error:
        # Section 8.3.1 forbids user information too.
        raise Error(_BAD, f"{error.context} in :authority or Host") from None


def take_host(items: Fields) -> None:
    """Take out the Host that is known to be there.

    Args:
        items: The fields; changed.

    Raises:
        Error: ``INVALID_HTTP_HEADER`` if there are several.
    """
    places = [at for at, field in enumerate(items) if field[0] == b"host"]
    if len(places) > 1:
        raise Error(_BAD, "repeated host")
    del items[places[0]]


def _normal(host: bytes, scheme: bytes) -> bytes:
    # Scheme-based normalisation, RFC 3986 section 6.2.3.
    host = host.lower()
    name, colon, port = host.rpartition(b":")
    return name if colon and port in {b"", _SCHEMES.get(scheme)} else host
