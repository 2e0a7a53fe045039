"""Which requests ask for a WebSocket, and which do so properly (RFC 6455 section 4.2.1)."""

from __future__ import annotations

import binascii
from base64 import b64decode
from typing import TYPE_CHECKING, Final

from pingora_core.protocols.http.error_page import generate_error

if TYPE_CHECKING:
    from pingora_core.protocols.http.server import ServerSession
    from pingora_http import RequestHeader, ResponseHeader

__all__ = ["asks_for_websocket", "offered_subprotocols", "refusal_of"]

_KEY_SIZE: Final = 16


def asks_for_websocket(session: ServerSession) -> bool:
    """Tell whether a request asks for a WebSocket.

    Args:
        session: The request.

    Returns:
        Whether it does, properly or not.
    """
    if not session.is_upgrade_request or session.request.raw_method != b"GET":
        return False
    offers = b",".join(session.request.get_all_raw(b"upgrade")).lower()
    return b"websocket" in (offer.strip() for offer in offers.split(b","))


def offered_subprotocols(request: RequestHeader) -> list[str]:
    """Read which subprotocols a client has offered.

    Args:
        request: The head.

    Returns:
        Their names, the most wanted first.
    """
    offers = ",".join(request.get_all("sec-websocket-protocol")).split(",")
    return [offer.strip() for offer in offers if offer.strip()]


def refusal_of(request: RequestHeader) -> ResponseHeader | None:
    """Judge a request for a WebSocket.

    Args:
        request: The head.

    Returns:
        None if it is in order, else the response to it.
    """
    if request.get_raw(b"sec-websocket-version") != b"13":
        header = generate_error(426)
        header.insert_header("Sec-WebSocket-Version", "13")
        return header
    try:
        key = b64decode(request.get_raw(b"sec-websocket-key") or b"", validate=True)
    except binascii.Error:
        key = b""
    return None if len(key) == _KEY_SIZE else generate_error(400)
