"""Waiting for a client's ClientHello without taking it away from whoever speaks TLS after."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pingora_core.protocols.tls.client_hello import MAX_CLIENT_HELLO, ClientHelloParser
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from pingora_core.protocols.interfaces import Stream
    from pingora_core.protocols.tls.client_hello import ClientHello

__all__ = ["read_client_hello"]


async def read_client_hello(
    stream: Stream, *, timeout: float | None = None, max_size: int = MAX_CLIENT_HELLO
) -> ClientHello:
    """Wait for a ClientHello at the start of a stream.

    However it ends, every byte that has arrived is in the stream's buffer afterwards, also when
    the wait is cancelled.

    Args:
        stream: A connection of which nothing was read yet.
        timeout: Longest time for all of it, seconds; None for no limit.
        max_size: Most bytes until the end of the hello, the record headers included.

    Returns:
        The hello.

    Raises:
        Error: ``HANDSHAKE_ERROR`` if the client sends something else or too much;
            ``TLS_HANDSHAKE_TIMEDOUT`` if it takes too long; ``CONNECTION_CLOSED`` if it ends its
            direction before, with the number of bytes it had sent in the context; ``READ_ERROR``
            after a reset.
    """
    expiry = None if timeout is None else time.monotonic() + timeout
    parser = ClientHelloParser(max_size)
    taken: list[bytes] = []
    try:
        while True:
            if not stream.buffered:
                remaining = None if expiry is None else max(0.0, expiry - time.monotonic())
                await _fill(stream, remaining, sum(map(len, taken)))
            data = stream.take()
            taken.append(data)
            hello = parser.feed(data)
            if hello is not None:
                return hello
    finally:
        stream.unread(b"".join(taken))


async def _fill(stream: Stream, timeout: float | None, received: int) -> None:
    try:
        arrived = await stream.fill(timeout)
    except Error as error:
        if error.etype is not ErrorType.READ_TIMEDOUT:
            raise
        msg = f"waiting for the ClientHello, {received} bytes came"
        raise Error.down(ErrorType.TLS_HANDSHAKE_TIMEDOUT, msg, cause=error) from error
    if not arrived:
        msg = f"the client left after {received} bytes, before its ClientHello was complete"
        raise Error.down(ErrorType.CONNECTION_CLOSED, msg)
