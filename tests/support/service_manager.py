"""A stand-in for a service manager: listens to what services tell it."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ServiceManager"]

_LIMIT = 60.0


class ServiceManager:
    """The receiving end of sd_notify(3), as a context manager.

    Args:
        path: Where its socket is to be; for ``NOTIFY_SOCKET``.

    Attributes:
        path: As given.
        heard: What was said so far, line by line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def __enter__(self) -> Self:
        self._socket.settimeout(0)
        self._socket.bind(str(self.path))
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    async def hears(self, key: str) -> str:
        """Wait until something is said.

        Args:
            key: Of the line that is waited for.

        Returns:
            Its value.

        Raises:
            TimeoutError: If it is not said in time; what was said instead is in ``heard``.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_LIMIT):
            while True:
                said = await loop.sock_recv(self._socket, 4096)
                lines = said.decode().split("\n")
                self.heard += lines
                for line in lines:
                    name, _, value = line.partition("=")
                    if name == key:
                        return value
