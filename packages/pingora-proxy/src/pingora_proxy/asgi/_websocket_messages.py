"""What an application sends through a WebSocket, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from wsproto.events import BytesMessage, TextMessage

from pingora_proxy.asgi._errors import application_error
from pingora_proxy.asgi.http import checked_bytes

if TYPE_CHECKING:
    from pingora_proxy.asgi.types import Message

__all__ = ["NORMAL", "checked_code", "message_event"]

#: Status code of a WebSocket that has done what it was for (RFC 6455 section 7.4.1).
NORMAL: Final = 1000


def message_event(message: Message) -> TextMessage | BytesMessage:
    """Check a message.

    Args:
        message: ``websocket.send``.

    Returns:
        What is sent.

    Raises:
        Error: If it has not exactly one of text and bytes.
    """
    text = message.get("text")
    data = message.get("bytes")
    if (text is None) == (data is None):
        error = application_error("a WebSocket message has either text or bytes")
        raise error
    if text is None:
        return BytesMessage(data=checked_bytes(data))
    if not isinstance(text, str):
        error = application_error(f"a WebSocket text of type {type(text).__name__}")
        raise error
    return TextMessage(data=text)


def checked_code(code: object) -> int:
    """Check a status code (RFC 6455 section 7.4).

    Args:
        code: What the application has given; None for none.

    Returns:
        The code.

    Raises:
        Error: If it is none that may be sent.
    """
    if code is None:
        return NORMAL
    if isinstance(code, int) and (
        3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in {1004, 1005, 1006})
    ):
        return int(code)
    error = application_error(f"a WebSocket cannot be closed with code {code!r}")
    raise error
