"""A server in a process of its own, driven by signals and watched through its log."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import signal

__all__ = ["ROOT", "ServerProcess"]

ROOT = Path(__file__).resolve().parents[2]

_LIMIT = 60.0


class ServerProcess:
    """A Python program, as an async context manager; killed if it is still there at the end.

    Args:
        arguments: Of the interpreter: a script with its arguments, or ``-c`` and a program.

    Attributes:
        lines: What it has written to standard error so far.
    """

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._process: asyncio.subprocess.Process | None = None
        self.lines: list[str] = []

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *self._arguments,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.wait()

    @property
    def process(self) -> asyncio.subprocess.Process:
        """The process."""
        assert self._process is not None
        return self._process

    async def line_with(self, text: str) -> str:
        """Wait for a line of the log.

        Args:
            text: Part of it.

        Returns:
            The line.

        Raises:
            AssertionError: If the log ends without it.
        """
        assert self.process.stderr is not None
        async with asyncio.timeout(_LIMIT):
            async for line in self.process.stderr:
                self.lines.append(line.decode().rstrip("\n"))
                if text in self.lines[-1]:
                    return self.lines[-1]
        msg = f"{text!r} is not in the log: {self.lines}"
        raise AssertionError(msg)

    async def running(self) -> tuple[str, int]:
        """Wait until it runs.

        Returns:
            The host and port that it listens on first.
        """
        listens = await self.line_with("listens on ")
        await self.line_with("phase Running")
        host, _, port = listens.rpartition(" ")[2].rpartition(":")
        return host, int(port)

    def send(self, number: signal.Signals) -> None:
        """Send a signal.

        Args:
            number: Which one.
        """
        self.process.send_signal(number)

    async def wait(self) -> int:
        """Wait for the end.

        Returns:
            The exit code; minus the signal if one killed it.
        """
        assert self.process.stderr is not None
        async with asyncio.timeout(_LIMIT):
            rest = await self.process.stderr.read()
            self.lines += rest.decode().splitlines()
            return await self.process.wait()
