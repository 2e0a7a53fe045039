"""The other workers of the same server: what one is told, all are told.

Theory of operation. A client reaches one worker, whichever accepts its connection; a backend that
is disabled there only goes on getting requests from the others. So each worker listens on a Unix socket
in the abstract namespace, whose name has a part that the workers inherit and the number of its
process. Who is there is read from the kernel's list of such sockets: a worker that is gone is not in
it, and no file is left behind. Such a socket has no permissions, so both ends make sure that the other
one runs as the same user, by what the kernel says of it.

On the wire each message is a line of JSON; one question, one answer, end.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Answer", "Siblings"]

_logger = logging.getLogger(__name__)

Answer: TypeAlias = dict[str, object]
"""What comes back: for JSON."""

_TIMEOUT: Final = 1.0
_CLOSE_TIMEOUT: Final = 1.0
# A pool of thousands of backends; both ends are this program.
_MAX_LINE: Final = 8 * 1024 * 1024
_QUESTION_TIMEOUT: Final = 30.0
_CREDENTIALS: Final = struct.Struct("3i")
# How the kernel writes down that a socket listens: SO_ACCEPTCON.
_LISTENS: Final = "00010000"
_LIST: Final = Path("/proc/net/unix")


@final
class Siblings:
    """Asks the other workers, and answers them.

    To be made before the workers are, so that all of them have the same name in common.

    Args:
        answer: Called with what a sibling asks.
        timeout: How long a sibling may take, seconds.
    """

    def __init__(
        self, answer: Callable[[Answer], Awaitable[Answer]], *, timeout: float = _TIMEOUT
    ) -> None:
        self._answer = answer
        self._timeout = timeout
        self._prefix = f"pingora-admin-{secrets.token_hex(8)}-"
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin to answer. A process that cannot is not asked, which is told in the log."""
        try:
            self._server = await asyncio.start_unix_server(
                self._accepted, f"\0{self._prefix}{os.getpid()}", limit=_MAX_LINE
            )
        except OSError as error:
            _logger.warning("other workers cannot ask this one: %s", error)

    async def stop(self) -> None:
        """Answer no more; again does nothing."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        connections = list(self._connections)
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        if server is not None:
            await server.wait_closed()

    async def ask(
        self, question: Answer, *, timeout: float | None = None
    ) -> dict[int, Answer | None]:
        """Ask all siblings at once.

        Args:
            question: What, for JSON.
            timeout: How long they may take for this, seconds; None for what they may in general.

        Returns:
            Their answers, by process; None for one that did not give any in time.
        """
        if self._server is None:
            return {}
        pids = [pid for pid in _listening(self._prefix) if pid != os.getpid()]
        limit = self._timeout if timeout is None else timeout
        answers = await asyncio.gather(*(self._ask(pid, question, limit) for pid in pids))
        return dict(zip(pids, answers, strict=True))

    async def _ask(self, pid: int, question: Answer, limit: float) -> Answer | None:
        try:
            async with asyncio.timeout(limit):
                return await self._exchange(pid, question)
        except (OSError, ValueError) as error:  # a TimeoutError is an OSError
            _logger.warning("worker %d does not answer: %r", pid, error)
            return None

    async def _exchange(self, pid: int, question: Answer) -> Answer:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, f"\0{self._prefix}{pid}")
            if not _is_ours(sock):
                raise ConnectionRefusedError("it belongs to somebody else")
            reader, writer = await asyncio.open_unix_connection(sock=sock, limit=_MAX_LINE)
        except BaseException:
            sock.close()
            raise
        try:
            return await _converse(reader, writer, question)
        finally:
            await _close(writer)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # Who asks gives up sooner; a purge that takes long is not broken off in the middle.
            async with asyncio.timeout(_QUESTION_TIMEOUT):
                if _is_ours(writer.get_extra_info("socket")):
                    answer = await self._answer(_decode(await reader.readline()))
                    writer.write(_encode(answer))
                    await writer.drain()
        except (OSError, ValueError) as error:
            _logger.warning("a question of another worker got no answer: %r", error)
        except Exception:
            # What a source of the application's raises must not end unseen with the task.
            _logger.exception("a question of another worker got no answer")
        finally:
            await _close(writer)


async def _converse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, question: Answer
) -> Answer:
    writer.write(_encode(question))
    await writer.drain()
    return _decode(await reader.readline())


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):  # a TimeoutError is one
        async with asyncio.timeout(_CLOSE_TIMEOUT):
            await writer.wait_closed()
        return
    writer.transport.abort()


def _encode(message: Answer) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def _decode(line: bytes) -> Answer:
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("not an object")
    return message


def _is_ours(sock: socket.socket) -> bool:
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _pid, uid, _gid = _CREDENTIALS.unpack(credentials)
    return bool(uid == os.geteuid())


def _listening(prefix: str) -> list[int]:
    # Num RefCount Protocol Flags Type St Inode Path
    pids: set[int] = set()
    try:
        text = _LIST.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    for line in text.splitlines():
        *rest, name = line.split(" ")
        if name.startswith("@" + prefix) and _LISTENS in rest:
            number = name.removeprefix("@" + prefix)
            if number.isdecimal():
                pids.add(int(number))
    return sorted(pids)
