"""A real HAProxy, run for one test on free ports and ended by its process id."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from tests.support.nginx import require_program
from tests.support.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["HAProxy"]

_MAIN = """\
global
    maxconn 64
defaults
    mode http
    timeout connect 5s
    timeout client 10s
    timeout server 10s
"""


class HAProxy:
    """One HAProxy process; use it as an async context manager.

    Args:
        directory: A directory of its own.
        sections: Frontends and backends; ``$name$`` becomes the port of that name.
        ports: Names of the ports it needs.

    Attributes:
        ports: The ports it was given, by their names.
    """

    def __init__(self, directory: Path, sections: str, *, ports: tuple[str, ...]) -> None:
        self._directory = directory
        self._sections = sections
        self._names = ports
        self.ports: dict[str, int] = {}
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        program = require_program("haproxy")
        self._directory.mkdir(parents=True, exist_ok=True)
        for _ in range(3):
            self.ports = {name: free_port() for name in self._names}
            await self._start(program)
            if await self._is_up():
                return self
            await self._stop()
        log = (self._directory / "log").read_text(encoding="utf-8")
        msg = f"haproxy did not start: {log}"
        raise RuntimeError(msg)

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    def address(self, name: str) -> str:
        """Say where it listens.

        Args:
            name: Of the port.

        Returns:
            ``host:port``.
        """
        return f"127.0.0.1:{self.ports[name]}"

    async def _start(self, program: str) -> None:
        sections = self._sections
        for name, port in self.ports.items():
            sections = sections.replace(f"${name}$", str(port))
        configuration = self._directory / "haproxy.cfg"
        configuration.write_text(_MAIN + sections, encoding="utf-8")
        with (self._directory / "log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                program,
                "-db",
                "-f",
                str(configuration),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def _is_up(self) -> bool:
        assert self._process is not None
        deadline = asyncio.get_running_loop().time() + 60
        waiting = set(self.ports.values())
        while waiting:
            if self._process.returncode is not None:
                return False
            if asyncio.get_running_loop().time() > deadline:
                return False
            port = next(iter(waiting))
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            writer.close()
            await writer.wait_closed()
            waiting.discard(port)
        return True

    async def _stop(self) -> None:
        process = self._process
        if process is None:
            return
        self._process = None
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(20):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
