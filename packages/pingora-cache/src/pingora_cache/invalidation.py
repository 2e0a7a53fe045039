"""What a successful unsafe request makes obsolete.

A POST, PUT or DELETE that went well may have changed what it was sent to, and what its response
points to. Stored responses of these must be asked for anew. What the response points to counts
only within the same origin: nobody shall empty the cache of others.

Source: RFC 9111 section 4.4; RFC 9110 section 9.2.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urljoin, urlsplit

from pingora_http import names

if TYPE_CHECKING:
    from pingora_http import RequestHeader, ResponseHeader

__all__ = ["SAFE_METHODS", "Invalidated", "invalidated"]

SAFE_METHODS: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE"})
"""Methods that change nothing. One that is not known may change something."""

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Invalidated(NamedTuple):
    """One target whose stored responses are obsolete, as ``CacheKey.for_uri`` takes it.

    Attributes:
        scheme: The scheme, in lower case.
        authority: Host and port, in lower case, without the default port.
        target: Path and query.
    """

    scheme: str
    authority: bytes
    target: bytes


def invalidated(
    request: RequestHeader, response: ResponseHeader, *, scheme: str
) -> list[Invalidated]:
    """Tell what a request has made obsolete.

    Args:
        request: The head of the request, as the client sent it.
        response: The head of its response.
        scheme: The scheme of the request: ``http`` or ``https``.

    Returns:
        The targets, the request's own first; empty for a safe method or a response that tells of
        failure (anything but 2xx and 3xx).
    """
    if request.raw_method in SAFE_METHODS or not 200 <= response.status < 400:
        return []
    if request.raw_method == b"CONNECT":
        return []
    raw_authority = request.raw_authority or request.get_raw(names.HOST) or b""
    origin = _split(f"{scheme}://{_text(raw_authority)}")
    if origin is None:
        return []
    # As it came, not as urlsplit would write it: stored under these bytes.
    own = origin._replace(target=request.raw_path.partition(b"#")[0])
    found = [own]
    base = f"{own.scheme}://{_text(own.authority)}{_text(own.target)}"
    for name in (names.LOCATION, b"content-location"):
        reference = response.get(name)
        if reference is None:
            continue
        other = _resolve(base, reference)
        if other is not None and other[:2] == own[:2] and other not in found:
            found.append(other)
    return found


def _text(raw: bytes) -> str:
    return raw.decode("latin-1")


def _resolve(base: str, reference: str) -> Invalidated | None:
    try:
        return _split(urljoin(base, reference))
    except ValueError:
        return None


def _split(uri: str) -> Invalidated | None:
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        return None
    host = parts.netloc.rpartition("@")[2].lower()
    if not host:
        return None
    scheme = parts.scheme.lower()
    if port is None or port == _DEFAULT_PORTS.get(scheme):
        host = host.removesuffix(f":{port}").removesuffix(":")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Invalidated(scheme, host.encode("latin-1"), target.encode("latin-1"))
