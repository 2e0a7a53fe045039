"""The stampede: many clients ask for one object at once, and nobody has it yet.

The origin is in this process, and holds every request back until all clients have sent theirs: a
cache that lets more than one through is seen to.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from bench.process import BenchError
from bench.report import Row
from bench.rig import say
from bench.servers import SMALL

if TYPE_CHECKING:
    from bench.process import Running
    from bench.rig import Rig

__all__ = ["measure"]

_CLIENTS: Final = 2_000
_SPARE_FILES: Final = 500
# How long the origin waits after the last client has sent its request: by then each has arrived.
_HOLD_SECONDS: Final = 1.0
_MOST_SECONDS: Final = 60.0
_ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(SMALL), SMALL)


@dataclass(slots=True)
class _Round:
    asked: int = 0
    seconds: list[float] = field(default_factory=list)
    errors: int = 0
    cpu_us: float = 0.0


class _Origin:
    """Counts requests, and answers them when it is told to.

    Attributes:
        asked: Requests so far.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._is_holding = False
        self._held: list[asyncio.WriteTransport] = []

    def hold(self) -> None:
        """Answer nothing from now on."""
        self._is_holding = True

    def release(self) -> None:
        """Answer what was held back, and what comes."""
        self._is_holding = False
        for transport in self._held:
            transport.write(_ANSWER)
        self._held.clear()

    def ask(self, transport: asyncio.WriteTransport) -> None:
        """Take a request.

        Args:
            transport: Where the answer goes.
        """
        self.asked += 1
        self._held.append(transport)
        if not self._is_holding:
            self.release()


class _Connection(asyncio.Protocol):
    """A connection to the origin."""

    def __init__(self, origin: _Origin) -> None:
        self._origin = origin
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport.

        Args:
            transport: Of this connection.
        """
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take what has come.

        Args:
            data: Some of the heads of requests.
        """
        *heads, self._received = (self._received + data).split(b"\r\n\r\n")
        if isinstance(self._transport, asyncio.WriteTransport):
            for _ in heads:
                self._origin.ask(self._transport)


def measure(rig: Rig, rounds: int, name: str) -> list[Row]:
    """Have every cache asked by many clients at once.

    Args:
        rig: The run.
        rounds: How often; each time for another object.
        name: The scenario's name.

    Returns:
        A row for each.
    """
    _allow_files()
    return asyncio.run(_measure(rig, rounds, name))


async def _measure(rig: Rig, rounds: int, name: str) -> list[Row]:
    rows = []
    origin = _Origin()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(origin), "127.0.0.1", 0, backlog=4096)
    async with server:
        port: int = server.sockets[0].getsockname()[1]
        with rig.proxies("cache", origin=port) as running:
            for peer, proxy in running.items():
                try:
                    taken = [await _attack(origin, proxy, number) for number in range(rounds)]
                except (BenchError, TimeoutError) as error:
                    rig.give_up(peer, BenchError(f"stampede: {str(error) or 'too slow'}"))
                else:
                    rows.append(_row(name, proxy, taken))
    return rows


async def _attack(origin: _Origin, proxy: Running, number: int) -> _Round:
    taken = _Round()
    origin.hold()
    before, cpu_seconds = origin.asked, proxy.cpu_seconds()
    async with asyncio.timeout(_MOST_SECONDS), contextlib.AsyncExitStack() as stack:
        connections = [
            await asyncio.open_connection("127.0.0.1", proxy.port) for _ in range(_CLIENTS)
        ]
        for _, writer in connections:
            stack.callback(writer.close)
            writer.write(b"GET /cold/%d HTTP/1.1\r\nHost: cold.test\r\n\r\n" % number)
        asyncio.get_running_loop().call_later(_HOLD_SECONDS, origin.release)
        await asyncio.gather(*(_answer(reader, taken) for reader, _ in connections))
    proxy.check_alive()
    taken.asked = origin.asked - before
    taken.cpu_us = (proxy.cpu_seconds() - cpu_seconds) * 1e6 / _CLIENTS
    say(f"  {proxy.name:9}  {taken.asked} of {_CLIENTS} requests have reached the origin")
    return taken


async def _answer(reader: asyncio.StreamReader, taken: _Round) -> None:
    started = time.monotonic()
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(len(SMALL))
    except (OSError, asyncio.IncompleteReadError):
        taken.errors += 1
    else:
        taken.errors += not head.startswith(b"HTTP/1.1 200 ") or body != SMALL
        taken.seconds.append(time.monotonic() - started)


def _row(name: str, proxy: Running, rounds: list[_Round]) -> Row:
    row = Row(name, proxy.name, _CLIENTS * len(rounds))
    waits = sorted(seconds for taken in rounds for seconds in taken.seconds)
    row.cpu_us = statistics.median(taken.cpu_us for taken in rounds)
    row.p50_ms = waits[len(waits) // 2] * 1000 if waits else None
    row.p99_ms = waits[len(waits) * 99 // 100] * 1000 if waits else None
    row.rss_kib = proxy.rss_kib()
    row.errors = sum(taken.errors for taken in rounds)
    row.origin_requests = max(taken.asked for taken in rounds)
    return row


def _allow_files() -> None:
    wanted = 2 * _CLIENTS + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise BenchError(f"{wanted} open files are needed, {hard} are allowed (ulimit -n)")
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
