"""What hypercorn serves in the benchmark: the origin's answers, with no proxy in between."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeAlias

    _Message: TypeAlias = dict[str, object]

_BODIES = {"/small": b"Hello from the origin: 44 bytes, no more. :)", "/large": b"x" * 1048576}


async def app(
    scope: _Message,
    receive: Callable[[], Awaitable[_Message]],
    send: Callable[[_Message], Awaitable[None]],
) -> None:
    """Answer a request.

    Args:
        scope: What it is about.
        receive: Gives its body.
        send: Takes the answer.
    """
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    body = _BODIES[str(scope["path"])]
    length = str(len(body)).encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
