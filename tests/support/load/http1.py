"""HTTP/1 clients: a new connection for each request, kept ones, uploads, event streams."""

from __future__ import annotations

import asyncio
import itertools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from tests.support.load.target import LIMIT, Failed, Raced

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from tests.support.load.counts import Counts
    from tests.support.load.target import Front, Target

__all__ = ["Http1Connection", "keep_alive", "listen_to_events", "new_connections", "upload"]

_numbers = itertools.count(1)
_PIECE = b"u" * 65536


@dataclass(frozen=True, slots=True)
class _Head:
    status: int
    fields: dict[str, str]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        lines = data.decode("latin-1").split("\r\n")
        fields = (line.split(":", 1) for line in lines[1:] if line)
        return cls(
            int(lines[0].split(" ")[1]), {name.lower(): text.strip() for name, text in fields}
        )


class Http1Connection:
    """One connection, which carries one request after the other.

    Args:
        reader: Its input.
        writer: Its output.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._is_used = False
        self._is_last = False

    @classmethod
    async def open(cls, target: Target, front: Front, counts: Counts) -> Self:
        """Connect.

        Args:
            target: The server.
            front: Which of its addresses.
            counts: Where the connection is counted.

        Raises:
            Failed: If that is not possible.
        """
        return cls(*await target.connect(front, "http/1.1", counts))

    @property
    def is_over(self) -> bool:
        """Whether the server has ended the connection, or has said that it will."""
        return self._is_last or self._reader.at_eof() or self._writer.transport.is_closing()

    @property
    def was_reset(self) -> bool:
        """Whether the server has ended it without order while nothing was asked."""
        return self._reader.exception() is not None

    def close(self) -> None:
        """Close it."""
        self._writer.transport.abort()

    async def request(
        self,
        method: str,
        path: str,
        *,
        fields: str = "",
        body: Iterable[bytes] = (),
        pace: float = 0.0,
    ) -> bytes:
        """Make a request.

        Args:
            method: Its method.
            path: Its target.
            fields: More lines of its head, each with its end.
            body: Pieces of its body.
            pace: Seconds before each piece.

        Returns:
            The body of the answer, which is 200.

        Raises:
            Raced: If the connection had ended before the request could reach the server.
            Failed: If anything else is wrong with the answer.
        """
        try:
            async with asyncio.timeout(LIMIT):
                head = await self._ask(method, path, fields, body, pace)
                pieces = [piece async for piece in self._body(head)]
        except (OSError, RuntimeError, asyncio.IncompleteReadError) as error:
            raise Failed.of(f"{method} {path.split('/')[1]}", error) from error
        self._is_used = True
        if head.status != 200:
            raise Failed(f"status {head.status}", b"".join(pieces)[:200])
        return b"".join(pieces)

    async def stream(self, path: str, fields: str) -> AsyncIterator[bytes]:
        """Make a request and yield the pieces of its answer as they come.

        Args:
            path: Its target.
            fields: More lines of its head.

        Raises:
            Failed: If the answer is not 200, or ends before it is complete.
        """
        try:
            async with asyncio.timeout(LIMIT):
                head = await self._ask("GET", path, fields, (), 0)
            if head.status != 200:
                raise Failed(f"status {head.status}")
            async for piece in self._body(head):
                yield piece
        except (OSError, RuntimeError, asyncio.IncompleteReadError) as error:
            raise Failed.of("stream", error) from error

    async def _ask(
        self, method: str, path: str, fields: str, body: Iterable[bytes], pace: float
    ) -> _Head:
        try:
            self._writer.write(
                f"{method} {path} HTTP/1.1\r\nHost: load.test\r\n{fields}\r\n".encode()
            )
            for piece in body:
                await asyncio.sleep(pace)
                self._writer.write(piece)
                await self._writer.drain()
            data = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if self._is_used and not error.partial:
                raise Raced from error
            raise
        except (ConnectionResetError, BrokenPipeError, RuntimeError) as error:
            # uvloop raises the last of these for a write to a connection that is gone.
            if self._is_used:
                raise Raced from error
            raise
        head = _Head.parse(data)
        self._is_last = head.fields.get("connection", "").lower() == "close"
        return head

    async def _body(self, head: _Head) -> AsyncIterator[bytes]:
        if head.fields.get("transfer-encoding") != "chunked":
            yield await self._reader.readexactly(int(head.fields["content-length"]))
            return
        while True:
            size = int(await self._reader.readuntil(b"\r\n"), 16)
            piece = await self._reader.readexactly(size + 2)
            if size == 0:
                return
            yield piece[:-2]


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass


async def new_connections(
    target: Target, counts: Counts, stop: asyncio.Event, front: Front = "plain", pace: float = 0.01
) -> None:
    """Make one request on each connection.

    Args:
        target: The server.
        counts: Where everything is counted.
        stop: Ends it.
        front: Which address.
        pace: Seconds between two requests.
    """
    while not stop.is_set():
        token = f"{os.getpid()}.{next(_numbers)}"
        try:
            connection = await Http1Connection.open(target, front, counts)
            try:
                answer = await connection.request(
                    "GET", f"/echo/{token}", fields="Connection: close\r\n"
                )
            finally:
                connection.close()
        except Failed as failure:
            failure.count(counts)
        else:
            _check(answer, token, counts)
        await _pause(stop, pace)


async def keep_alive(
    target: Target,
    counts: Counts,
    stop: asyncio.Event,
    front: Front = "plain",
    pace: float = 0.0,
    path: str = "/echo",
) -> None:
    """Make one request after the other on a connection as long as it is there.

    Args:
        target: The server.
        counts: Where everything is counted.
        stop: Ends it.
        front: Which address.
        pace: Seconds between two requests.
        path: What is asked for; a token is put behind it, which the answer has to be.
    """
    kept: Http1Connection | None = None
    while not stop.is_set():
        token = f"{os.getpid()}.{next(_numbers)}"
        while True:
            try:
                if kept is not None and kept.is_over:
                    if kept.was_reset:
                        Failed("reset while idle", is_reset=True).count(counts)
                    else:
                        counts.reconnects += 1
                    kept.close()
                    kept = None
                if kept is None:
                    kept = await Http1Connection.open(target, front, counts)
                answer = await kept.request("GET", f"{path}/{token}")
            except Raced:
                counts.raced += 1
                _drop(kept)
                kept = None
                continue
            except Failed as failure:
                failure.count(counts)
                _drop(kept)
                kept = None
            else:
                _check(answer, token, counts)
            break
        await _pause(stop, pace)
    _drop(kept)


async def upload(
    target: Target,
    counts: Counts,
    stop: asyncio.Event,
    front: Front = "plain",
    pieces: int = 32,
    pace: float = 0.005,
) -> None:
    """Upload some MiB slowly, on a connection each.

    Args:
        target: The server.
        counts: Where everything is counted.
        stop: Ends it.
        front: Which address.
        pieces: Of 64 KiB each.
        pace: Seconds between two of them.
    """
    size = pieces * len(_PIECE)
    while not stop.is_set():
        try:
            connection = await Http1Connection.open(target, front, counts)
            try:
                answer = await connection.request(
                    "PUT",
                    "/upload",
                    fields=f"Content-Length: {size}\r\n",
                    body=itertools.repeat(_PIECE, pieces),
                    pace=pace,
                )
            finally:
                connection.close()
        except Failed as failure:
            failure.count(counts)
        else:
            _check(answer, str(size), counts)


async def listen_to_events(
    target: Target, counts: Counts, stop: asyncio.Event, front: Front = "plain"
) -> None:
    """Listen to an endless stream of numbered events; go on where it ended in order.

    Args:
        target: The server.
        counts: Where everything is counted.
        stop: Ends it.
        front: Which address.
    """
    last = 0
    while not stop.is_set():
        reading = asyncio.create_task(_listen_once(target, counts, front, last))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([reading, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not reading.done():
            reading.cancel()
            await asyncio.wait([reading])
            return
        try:
            last = reading.result()
            counts.reconnects += 1
        except Failed as failure:
            failure.count(counts)
            last = 0


async def _listen_once(target: Target, counts: Counts, front: Front, last: int) -> int:
    # Until the stream ends in order; returns the number of its last event.
    connection = await Http1Connection.open(target, front, counts)
    pending = b""
    try:
        async for piece in connection.stream("/events", f"Last-Event-ID: {last}\r\n"):
            *events, pending = (pending + piece).split(b"\n\n")
            for event in events:
                last += 1
                if event != b"id: %d\ndata: event %d" % (last, last):
                    raise Failed("wrong event", (last, event))
                counts.requests += 1
    finally:
        connection.close()
    if pending:
        raise Failed("the stream ended within an event", pending)
    return last


def _drop(connection: Http1Connection | None) -> None:
    if connection is not None:
        connection.close()


def _check(answer: bytes, wanted: str, counts: Counts) -> None:
    if answer == wanted.encode():
        counts.requests += 1
    else:
        counts.fail("wrong answer", (wanted, answer[:100]))
