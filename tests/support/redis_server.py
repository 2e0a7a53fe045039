"""A real Redis, run for one test or a module of them on a free port, ended by its process id."""

from __future__ import annotations

import asyncio
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from tests.support.nginx import require_program
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["RedisServer", "shared_redis"]


class RedisServer:
    """One redis-server process; use it as an async context manager.

    Args:
        directory: A directory of its own.
        options: Further arguments, such as ``--maxmemory 8mb``, each a word.

    Attributes:
        port: Where it listens; the same after a restart.
    """

    def __init__(self, directory: Path, *options: str) -> None:
        self._directory = directory
        self._options = options
        self._process: asyncio.subprocess.Process | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Its address for clients."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def __aenter__(self) -> Self:
        require_program("redis-server")
        for _ in range(3):
            self.port = free_port()
            if await self.start():
                return self
        msg = "redis-server did not start"
        raise RuntimeError(msg)

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    async def start(self) -> bool:
        """Start it, with nothing in its memory.

        Returns:
            Whether it answers.
        """
        self._process = await asyncio.create_subprocess_exec(
            require_program("redis-server"),
            *("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"),
            *("--dir", str(self._directory)),
            *self._options,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
        )
        deadline = asyncio.get_running_loop().time() + 60
        while asyncio.get_running_loop().time() < deadline and self._process.returncode is None:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            writer.write(b"PING\r\n")
            answer = await reader.readline()
            writer.close()
            await writer.wait_closed()
            if answer == b"+PONG\r\n":
                return True
        await self.kill()
        return False

    def stall(self) -> None:
        """Let it accept connections and answer nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after a stall."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """End it as hard as can be, and wait until it is gone."""
        process, self._process = self._process, None
        if process is not None:
            if process.returncode is None:
                process.kill()
            await process.wait()


@contextmanager
def shared_redis(directory: Path) -> Iterator[RedisServer]:
    """Run a Redis for tests on different loops, which leave it as they find it.

    Args:
        directory: A directory of its own.

    Yields:
        The server.
    """
    with asyncio.Runner() as runner:
        server = RedisServer(directory)
        runner.run(server.__aenter__())
        try:
            yield server
        finally:
            runner.run(server.kill())
