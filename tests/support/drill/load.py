"""A steady load: so many requests a second, whatever becomes of those before."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Connection", "Load"]

_LIMIT = 60.0


class Connection:
    """One HTTP/1 connection, for one request after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.is_open = True

    @classmethod
    async def open(cls, port: int, host: str = "127.0.0.1") -> Self:
        return cls(*await asyncio.open_connection(host, port))

    async def get(self, target: str) -> tuple[int, dict[str, str], bytes]:
        self.is_open = False
        self._writer.write(f"GET {target} HTTP/1.1\r\nHost: drill.test\r\n\r\n".encode())
        async with asyncio.timeout(_LIMIT):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            lines = head.lower().split("\r\n")
            fields = dict(line.split(": ", 1) for line in lines[1:] if line)
            body = await self._reader.readexactly(int(fields["content-length"]))
        self.is_open = fields.get("connection") != "close"
        return int(lines[0].split(" ")[1]), fields, body

    def close(self) -> None:
        self._writer.close()


class Load:
    """Clients of a server, as an async context manager.

    Attributes:
        requests: How many were sent and have ended.
        failures: What was not answered with 200, and how often.
        answers: How often each backend has answered with 200.
        lag: Seconds that the event loop was late, in all: how overloaded the machine is.
    """

    def __init__(self, port: int, rate: float) -> None:
        self._port = port
        self._pause = 1.0 / rate
        self._idle: list[Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._pacing: asyncio.Task[None] | None = None
        self.requests = 0
        self.failures: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.lag = 0.0

    async def __aenter__(self) -> Self:
        self._pacing = asyncio.create_task(self._pace())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._pacing is not None
        self._pacing.cancel()
        await asyncio.wait([self._pacing])
        while self._tasks:
            await asyncio.wait(self._tasks)
        for connection in self._idle:
            connection.close()

    async def _pace(self) -> None:
        due = time.monotonic()
        while True:
            due += self._pause
            now = time.monotonic()
            if due > now:
                await asyncio.sleep(due - now)
            else:
                self.lag += now - due
                due = now
                await asyncio.sleep(0)
            task = asyncio.create_task(self._ask())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _ask(self) -> None:
        connection: Connection | None = None
        try:
            connection = self._idle.pop() if self._idle else await Connection.open(self._port)
            status, fields, _ = await connection.get("/")
            if status == 200:
                self.answers[fields["x-backend"]] += 1
            else:
                self.failures[str(status)] += 1
        except (OSError, EOFError) as error:
            self.failures[type(error).__name__] += 1
        self.requests += 1
        if connection is not None:
            if connection.is_open:
                self._idle.append(connection)
            else:
                with suppress(OSError):
                    connection.close()
