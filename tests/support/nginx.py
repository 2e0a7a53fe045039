"""A real nginx, run for one test on free ports and ended by its process id."""

from __future__ import annotations

import asyncio
import os
import shutil
from typing import TYPE_CHECKING, Self

import pytest

from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Nginx", "require_program"]

_MAIN = """\
daemon off;
master_process off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log info;
events {{ worker_connections 256; }}
http {{
    access_log {directory}/access.log;
    client_body_temp_path {directory}/client_body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    default_type application/octet-stream;
{http}
}}
"""


def require_program(name: str) -> str:
    """Find a program that a test needs.

    On a machine without it the test is skipped, with the way to install it; where the environment
    says ``CI=true`` it fails instead.

    Args:
        name: The program.

    Returns:
        Its path.
    """
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")
    if path is None:
        message = f"{name} is not installed; ./tools/dev deps installs it"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return path


class Nginx:
    """One nginx process; use it as an async context manager.

    Attributes:
        directory: Where its files are; what it writes goes there too.
        ports: The ports it was given, in the order of the names in the configuration.
    """

    def __init__(self, directory: Path, http: str, *, ports: Sequence[str] = ("port",)) -> None:
        """Prepare.

        Args:
            directory: A directory of its own.
            http: What stands in the ``http`` block; ``$name$`` becomes the port of that name and
                ``$directory$`` the directory.
            ports: Names of the ports it needs.
        """
        self.directory = directory
        self._http = http
        self._names = tuple(ports)
        self.ports: dict[str, int] = {}
        self._process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> str:
        """``host:port`` of its first port."""
        return f"127.0.0.1:{self.ports[self._names[0]]}"

    @property
    def error_log(self) -> str:
        """What it has complained about so far."""
        path = self.directory / "error.log"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    @property
    def access_log(self) -> list[str]:
        """One line for each request it has answered so far."""
        path = self.directory / "access.log"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    async def __aenter__(self) -> Self:
        program = require_program("nginx")
        self.directory.mkdir(parents=True, exist_ok=True)
        for attempt in range(3):
            self.ports = {name: free_port() for name in self._names}
            await self._start(program)
            if await self._is_up():
                return self
            await self._stop()
            if attempt == 2:
                break
        msg = f"nginx did not start: {self.error_log}"
        raise RuntimeError(msg)

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def _start(self, program: str) -> None:
        http = self._http.replace("$directory$", str(self.directory))
        for name, port in self.ports.items():
            http = http.replace(f"${name}$", str(port))
        configuration = self.directory / "nginx.conf"
        configuration.write_text(
            _MAIN.format(directory=self.directory, http=http), encoding="utf-8"
        )
        self._process = await asyncio.create_subprocess_exec(
            program,
            "-p",
            str(self.directory),
            "-e",
            str(self.directory / "error.log"),
            "-c",
            str(configuration),
            stdin=asyncio.subprocess.DEVNULL,
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
            async with asyncio.timeout(30):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
