"""The crew and the origin in processes of their own, so that they do not slow each other."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING, Self

from tests.support.load.counts import Counts
from tests.support.process import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.load.target import Target

__all__ = ["CrewProcess", "OriginProcess"]

_PATIENCE = 60.0


class _Child:
    # Talks over its input and output, and ends when its input does.
    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *self._arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
            limit=1 << 20,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        process = self.process
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_PATIENCE):
                await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    async def read_line(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(_PATIENCE):
            line = await self.process.stdout.readline()
        assert line, "it has ended"
        return line.decode()


class OriginProcess(_Child):
    """An origin, as an async context manager.

    Attributes:
        port: Of 127.0.0.1, for HTTP.
        websocket_port: Of 127.0.0.1, for WebSockets.
    """

    def __init__(self) -> None:
        super().__init__("-m", "tests.support.load.origin")
        self.port = 0
        self.websocket_port = 0

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.port, self.websocket_port = map(int, (await self.read_line()).split())
        return self


class CrewProcess(_Child):
    """A crew, as an async context manager.

    Args:
        target: The server.
        sizes: How many clients of each sort; None for one of each.
        limit: Seconds after which it ends anyway.
    """

    def __init__(self, target: Target, sizes: Mapping[str, int] | None, limit: float) -> None:
        sizes_text = json.dumps(None if sizes is None else dict(sizes))
        super().__init__("-m", "tests.support.load", target.to_json(), sizes_text, str(limit))

    async def requests(self) -> dict[str, int]:
        """Tell how many requests each sort has had answered so far."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        requests: dict[str, int] = json.loads(await self.read_line())
        return requests

    async def finish(self) -> list[Counts]:
        """Stop all clients.

        Returns:
            What has happened to them.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        async with asyncio.timeout(_PATIENCE):
            text = (await self.process.stdout.read()).decode()
        return [Counts.from_json(line) for line in text.splitlines()]
