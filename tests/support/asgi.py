"""Small ASGI applications for tests, and what serves them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_proxy.asgi import AsgiApplication, AsgiServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pingora_proxy.asgi import ASGIApp, AsgiOptions, Message, Receive, Scope, Send

__all__ = ["START", "body", "make", "sending", "serving", "start"]

START: Message = {"type": "http.response.start", "status": 200, "headers": []}


def body(data: object = b"", *, more: bool = False) -> Message:
    """Make a message with a piece of a body.

    Args:
        data: The piece.
        more: Whether there is more.

    Returns:
        The message.
    """
    return {"type": "http.response.body", "body": data, "more_body": more}


def start(*headers: tuple[bytes, bytes], status: int = 200, **more: object) -> Message:
    """Make the message that begins a response.

    Args:
        headers: Its fields.
        status: Its status.
        more: Further keys.

    Returns:
        The message.
    """
    return {"type": "http.response.start", "status": status, "headers": list(headers), **more}


def make(answer: Callable[[Scope, Receive, Send], Awaitable[None]]) -> ASGIApp:
    """Make an application without a lifespan.

    Args:
        answer: Answers requests.

    Returns:
        The application.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await answer(scope, receive, send)

    return app


def sending(*messages: Message) -> ASGIApp:
    """Make an application that sends the same to everybody.

    Args:
        messages: What.

    Returns:
        The application.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return make(answer)


def serving(app: ASGIApp, options: AsgiOptions | None = None) -> tuple[AsgiApplication, AsgiServer]:
    """Make what serves an application.

    Args:
        app: The application.
        options: How it is run.

    Returns:
        What counts its failures, and what serves it.
    """
    application = AsgiApplication(app, options=options)
    return application, AsgiServer(application)
