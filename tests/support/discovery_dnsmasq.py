"""A real dnsmasq, run for one test on a free port and ended by its process id."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from tests.support.nginx import require_program
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["DnsMasq"]

_LIMIT = 60.0


class DnsMasq:
    """One dnsmasq without upstream servers; use it as an async context manager.

    Args:
        directory: A directory of its own.
        lines: Its configuration, such as ``host-record=a.test,192.0.2.1,60``.
        port: Where to listen; 0 for a free one.

    Attributes:
        port: Where it listens, on 127.0.0.1.
    """

    def __init__(self, directory: Path, lines: Sequence[str], *, port: int = 0) -> None:
        self._directory = directory
        self._lines = lines
        self.port = port
        self._process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        program = require_program("dnsmasq")
        self._directory.mkdir(parents=True, exist_ok=True)
        for _ in range(3):
            if self.port == 0:
                self.port = free_port()
            if await self._start(program):
                return self
            await self._stop()
            self.port = 0
        log = (self._directory / "log").read_text(encoding="utf-8")
        msg = f"dnsmasq did not start: {log}"
        raise RuntimeError(msg)

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def _start(self, program: str) -> bool:
        configuration = self._directory / "dnsmasq.conf"
        configuration.write_text("\n".join([*self._lines, ""]), encoding="utf-8")
        with (self._directory / "log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                program,
                "--keep-in-foreground",
                f"--conf-file={configuration}",
                f"--port={self.port}",
                "--listen-address=127.0.0.1",
                "--bind-interfaces",
                "--no-resolv",
                "--no-hosts",
                "--pid-file=",
                "--user=",
                "--log-facility=-",
                stdout=log,
                stderr=log,
            )
        async with asyncio.timeout(_LIMIT):
            while self._process.returncode is None:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.01)
                    continue
                writer.close()
                await writer.wait_closed()
                return True
        return False

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.kill()
        await process.wait()
