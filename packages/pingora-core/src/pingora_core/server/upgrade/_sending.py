"""The connection to a successor, as the server holds it that hands over."""

from __future__ import annotations

import asyncio
import os
import socket
from array import array
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self, final

from pingora_core._version import __version__
from pingora_core.server.upgrade._rendezvous import peer_of
from pingora_core.server.upgrade._wire import (
    BATCH,
    HEADER_SIZE,
    PROTOCOL,
    Accepted,
    Descriptors,
    Failed,
    Hello,
    Ready,
    body_size,
    decode,
    encode,
    refuse,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from pingora_core.server.upgrade._wire import Message

__all__ = ["Successor"]

_POLL_INTERVAL: Final = 0.1
_CHUNK: Final = 65536


@final
class Successor:
    """The process that takes the listening sockets; made by `meet`.

    Args:
        connection: The connection to it, non-blocking; owned from now on.

    Attributes:
        pid: Its process.

    Raises:
        Error: ``UPGRADE_ERROR`` if it is a process of another user.
    """

    __slots__ = ("_connection", "_received", "pid")

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = bytearray()
        try:
            self.pid = peer_of(connection)
        except BaseException:
            connection.close()
            raise

    @classmethod
    async def meet(cls, path: str, limit: float) -> Self:
        """Connect to it.

        Args:
            path: The upgrade socket.
            limit: How long to wait for it to listen, seconds; it is tried once at least.

        Returns:
            The successor.

        Raises:
            Error: ``UPGRADE_ERROR`` if nobody listens, or somebody who is not trusted.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.settimeout(0)
                connection.connect(path)
            except OSError as error:
                connection.close()
                # It may be in the middle of making it, in the place of one that a crash has left.
                if not _may_come(error) or loop.time() >= deadline:
                    refuse(f"no successor listens on the upgrade socket {path}", error)
            else:
                return cls(connection)
            await asyncio.sleep(_POLL_INTERVAL)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def say(self, message: Message) -> None:
        """Say something that need not arrive.

        Args:
            message: What to say.
        """
        with suppress(OSError):
            self._connection.send(encode(message))

    async def give(
        self, sockets: Mapping[str, socket.socket], limit: float, *, shared: Collection[str] = ()
    ) -> None:
        """Send sockets, and wait until they are accepted.

        Args:
            sockets: The listening sockets by address key.
            limit: How long that may take, seconds.
            shared: Keys of those that somebody else keeps too.

        Raises:
            Error: ``UPGRADE_ERROR`` if they are not accepted.
        """
        try:
            async with asyncio.timeout(limit):
                # What it said before it went is worth more than the news that it went.
                with suppress(BrokenPipeError, ConnectionResetError):
                    await self._send_sockets(sockets, shared)
                answer = await self._receive()
        except TimeoutError:
            refuse(f"successor {self.pid} does not take the sockets")
        except OSError as error:
            refuse(f"sending sockets to successor {self.pid}", error)
        self._expect(answer, Accepted)

    async def wait_until_ready(self, limit: float) -> None:
        """Wait until it serves.

        Args:
            limit: How long that may take, seconds.

        Raises:
            Error: ``UPGRADE_ERROR`` if it does not, and from now on it cannot say so any more.
        """
        try:
            async with asyncio.timeout(limit):
                answer = await self._receive()
        except TimeoutError:
            # What it says from here on fails at its end; what was on its way counts.
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RD)
                self._received += self._connection.recv(_CHUNK)
            late = self._take()
            if late is None:
                refuse(f"successor {self.pid} is not ready after {limit:g} s")
            answer = late
        self._expect(answer, Ready)

    def _expect(self, answer: Message, wanted: type[Accepted | Ready]) -> None:
        if isinstance(answer, Failed):
            refuse(f"successor {self.pid} failed: {answer.reason}")
        if not isinstance(answer, wanted):
            refuse(f"successor {self.pid} says {type(answer).__name__} out of turn")

    # ------------------------------------------------------------------------------ bytes

    async def _send_sockets(
        self, sockets: Mapping[str, socket.socket], shared: Collection[str]
    ) -> None:
        keys = tuple(sockets)
        hello = Hello(PROTOCOL, os.getpid(), __version__, keys, tuple(shared))
        await self._send(encode(hello))
        for start in range(0, len(keys), BATCH):
            batch = [sockets[key].fileno() for key in keys[start : start + BATCH]]
            await self._send(encode(Descriptors(len(batch))), batch)

    async def _send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        loop = asyncio.get_running_loop()
        attached = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))]
        if not descriptors:
            attached.clear()
        rest = memoryview(data)
        while rest:
            try:
                sent = self._connection.sendmsg([rest], attached)
            except BlockingIOError:
                await self._wait(loop.add_writer, loop.remove_writer)
                continue
            attached.clear()
            rest = rest[sent:]

    async def _receive(self) -> Message:
        loop = asyncio.get_running_loop()
        while (message := self._take()) is None:
            try:
                data = self._connection.recv(_CHUNK)
            except BlockingIOError:
                await self._wait(loop.add_reader, loop.remove_reader)
                continue
            except OSError:
                data = b""  # reset: it went without hearing us out
            if not data:
                refuse(f"successor {self.pid} has ended before it was ready")
            self._received += data
        return message

    def _take(self) -> Message | None:
        if len(self._received) < HEADER_SIZE:
            return None
        end = HEADER_SIZE + body_size(bytes(self._received[:HEADER_SIZE]))
        if len(self._received) < end:
            return None
        body = bytes(self._received[HEADER_SIZE:end])
        del self._received[:end]
        return decode(body)

    async def _wait(
        self,
        add: Callable[[int, Callable[[], None]], object],
        remove: Callable[[int], object],
    ) -> None:
        # Nothing is read or written in here, so that nothing is lost when this is cancelled.
        possible = asyncio.Event()
        number = self._connection.fileno()
        add(number, possible.set)
        try:
            await possible.wait()
        finally:
            remove(number)


def _may_come(error: OSError) -> bool:
    return isinstance(
        error, FileNotFoundError | ConnectionRefusedError | BlockingIOError | PermissionError
    )
