"""Making the request head for the upstream out of the client's, and cleaning response heads.

Fields that concern one connection only are removed in both directions, and so are those that
``Connection`` names (RFC 9110 section 7.6.1), unless the exchange is an upgrade.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_core.protocols.http.v1.framing import connection_tokens
from pingora_http import Version

if TYPE_CHECKING:
    from pingora_core.upstreams.peer import HttpPeer
    from pingora_http import RequestHeader, ResponseHeader

__all__ = ["clean_response", "complete_framing", "make_upstream_request"]

# Transfer-Encoding is not in the request's list: it has been checked to be exactly ``chunked``,
# and the body is sent on in that framing.
_REQUEST_HOP = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade"})
_UPGRADE_HOP = frozenset({b"keep-alive", b"proxy-connection", b"te"})
_RESPONSE_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"transfer-encoding",
        b"upgrade",
    }
)
# Looking an enum's member up costs as much as the rest of a comparison.
_HTTP_11 = Version.HTTP_11
_HTTP_20 = Version.HTTP_20
# What Connection says in nearly all responses; it names nothing to be removed besides itself.
_USUAL_CONNECTION = frozenset({b"keep-alive", b"Keep-Alive", b"close", b"Close"})
# What Connection may name without taking effect: these decide framing, routing and identity, and
# what a cache does with the message (RFC 9110 section 7.6.1: "Cache-Control is never appropriate
# as a connection option").
_PROTECTED = frozenset(
    {
        b"age",
        b"authorization",
        b"cache-control",
        b"cdn-cache-control",
        b"content-encoding",
        b"content-length",
        b"content-range",
        b"content-type",
        b"transfer-encoding",
        b"date",
        b"expires",
        b"host",
        b"close",
        b"keep-alive",
        b"location",
        b"pragma",
        b"set-cookie",
        b"surrogate-control",
        b"upgrade",
        b"vary",
    }
)


def make_upstream_request(
    request: RequestHeader, *, upgrade: bool, version: Version = _HTTP_11
) -> RequestHeader:
    """Copy a request head for one attempt, without what concerns the client's connection.

    Args:
        request: The client's head; not changed.
        upgrade: Whether the client asks for another protocol: ``Connection`` and ``Upgrade``
            stay then.
        version: In which the upstream is spoken to. In HTTP/2 it is told that trailers are
            welcome, if the client says so: gRPC insists on it. In HTTP/1 that would need
            ``Connection: TE``.

    Returns:
        The copy, with that version and an origin-form target.
    """
    header = request.copy()
    header.version = version
    target = header.raw_target
    if target[:1] != b"/" and target != b"*" and request.raw_method != b"CONNECT":
        header.raw_target = header.raw_path  # RFC 9112 section 3.2.1
    if not _REQUEST_HOP.isdisjoint(header.raw_index or header.first_values()):
        trailers = version is _HTTP_20 and _accepts_trailers(header)
        _remove_named(header)
        header.remove_headers(_UPGRADE_HOP if upgrade else _REQUEST_HOP)
        if trailers:
            header.insert_header(b"TE", b"trailers")
    if upgrade and request.raw_method != b"CONNECT":
        header.insert_header(b"Connection", b"Upgrade")
    return header


def complete_framing(header: RequestHeader, peer: HttpPeer, *, has_body: bool) -> None:
    """Make sure that a filtered request head can be sent: its Host and its framing.

    Args:
        header: The head after the user's filter; changed.
        peer: Where it goes.
        has_body: Whether a body follows.
    """
    values = header.raw_index or header.first_values()
    if b"host" not in values:
        header.insert_header(b"Host", peer.sni or str(peer.address))
        values = header.raw_index or header.first_values()
    if b"transfer-encoding" in values:
        if b"content-length" in values:
            header.remove_headers((b"content-length",))
    elif has_body and b"content-length" not in values:
        header.insert_header(b"Transfer-Encoding", b"chunked")


def clean_response(response: ResponseHeader) -> bool:
    """Remove from a response head what concerns the upstream's connection.

    Args:
        response: The head; changed.

    Returns:
        Whether the head tells the length of the body.
    """
    values = response.raw_index or response.first_values()
    if not _RESPONSE_HOP.isdisjoint(values):
        named = values.get(b"connection")
        if named is not None and (
            named not in _USUAL_CONNECTION or len(values) != len(response.raw_items)
        ):
            _remove_named(response)
        response.remove_headers(_RESPONSE_HOP)
    return b"content-length" in values


def _accepts_trailers(request: RequestHeader) -> bool:
    return any(
        coding.strip().lower() == b"trailers"
        for value in request.get_all_raw(b"te")
        for coding in value.split(b",")
    )


def _remove_named(header: RequestHeader | ResponseHeader) -> None:
    """Remove the fields that Connection names."""
    named = connection_tokens(header)
    if not named <= _PROTECTED:
        header.remove_headers(named - _PROTECTED)
