"""An origin's handler that does nothing by itself: the test holds the strings."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.origin import Exchange

__all__ = ["Puppet"]

_LIMIT = 60.0


class Puppet:
    """One exchange at the origin; set it as the handler of an `Origin`."""

    def __init__(self) -> None:
        self._exchange: Exchange | None = None
        self._has_begun = asyncio.Event()
        self._is_over = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        """Be the handler: hold the exchange until the test closes or resets it."""
        self._exchange = exchange
        self._has_begun.set()
        await self._is_over.wait()

    async def begun(self) -> Exchange:
        """Wait until the request has come.

        Returns:
            The exchange.
        """
        async with asyncio.timeout(_LIMIT):
            await self._has_begun.wait()
        assert self._exchange is not None
        return self._exchange

    async def send(self, data: bytes) -> None:
        """Send raw bytes, once there is a request.

        Args:
            data: The bytes.
        """
        await (await self.begun()).send(data)

    async def stalled(self) -> None:
        """Wait until nothing more leaves of what `send` was given, because nobody takes it."""
        transport = (await self.begun()).connection.writer.transport
        unchanged = 0
        before = 0
        async with asyncio.timeout(_LIMIT):
            while unchanged < 4:
                await asyncio.sleep(0.02)
                now = transport.get_write_buffer_size()
                unchanged = unchanged + 1 if 0 < now == before else 0
                before = now

    async def receive_exactly(self, size: int) -> bytes:
        """Read so many raw bytes that follow the request's head.

        Args:
            size: How many.

        Returns:
            The bytes.
        """
        reader = (await self.begun()).connection.reader
        async with asyncio.timeout(_LIMIT):
            return await reader.readexactly(size)

    async def receive(self) -> bytes:
        """Read raw bytes.

        Returns:
            At least one; empty when the peer has ended its direction. A reset raises OSError.
        """
        reader = (await self.begun()).connection.reader
        async with asyncio.timeout(_LIMIT):
            return await reader.read(65536)

    def close(self) -> None:
        """Close the connection in order."""
        assert self._exchange is not None
        self._exchange.close()
        self._is_over.set()

    def reset(self) -> None:
        """Reset the connection."""
        assert self._exchange is not None
        self._exchange.reset()
        self._is_over.set()
