"""Handlers for the test origin, made from small steps.

``sequence(send(b"HTTP/1.1 200 "), reset)`` answers half a status line and resets the connection.
``wait("name")`` holds a handler until the test calls ``origin.open("name")``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.support.origin import Exchange, Handler

__all__ = [
    "close",
    "half_close",
    "hang",
    "read_body",
    "read_piece",
    "reply",
    "reset",
    "send",
    "sequence",
    "wait",
]


def sequence(*steps: Handler) -> Handler:
    """Make one handler of several.

    Args:
        steps: They run in order.

    Returns:
        The handler.
    """

    async def run(exchange: Exchange) -> None:
        for step in steps:
            await step(exchange)

    return run


def send(data: bytes) -> Handler:
    """Make a step that sends raw bytes.

    Args:
        data: The bytes.

    Returns:
        The step.
    """

    async def step(exchange: Exchange) -> None:
        await exchange.send(data)

    return step


def reply(
    status: str = "200 OK", body: bytes = b"", fields: Iterable[tuple[str, str]] = ()
) -> Handler:
    """Make a handler that reads the request body and answers with a whole message.

    Args:
        status: Code and reason.
        body: The body.
        fields: Further fields.

    Returns:
        The handler.
    """
    fixed = tuple(fields)

    async def step(exchange: Exchange) -> None:
        await exchange.read_body()
        await exchange.reply(status, body, fixed)

    return step


def wait(gate: str) -> Handler:
    """Make a step that waits for ``origin.open(gate)``.

    Args:
        gate: Name of the gate.

    Returns:
        The step.
    """

    async def step(exchange: Exchange) -> None:
        await exchange.passed(gate)

    return step


async def read_body(exchange: Exchange) -> None:
    """Step: read the request body to its end."""
    await exchange.read_body()


async def read_piece(exchange: Exchange) -> None:
    """Step: read one piece of the request body."""
    await exchange.read_piece()


async def reset(exchange: Exchange) -> None:
    """Step: reset the connection."""
    exchange.reset()


async def close(exchange: Exchange) -> None:
    """Step: close the connection in order."""
    exchange.close()


async def half_close(exchange: Exchange) -> None:
    """Step: close only the sending direction."""
    exchange.connection.writer.write_eof()


async def hang(exchange: Exchange) -> None:
    """Step: say nothing until the peer has gone."""
    await exchange.peer_closed()
    exchange.close()
