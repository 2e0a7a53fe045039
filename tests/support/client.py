"""A raw HTTP/1 client that sends exactly the bytes a test wants and reads strictly.

It shares no code with the packages under test. A response that ends before its framing says so
raises ``Truncated``, one that breaks the grammar raises ``WireError``; every wait has a deadline.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from tests.support.wire import (
    BodyStream,
    Truncated,
    read_head,
    response_framing,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

    from tests.support.wire import (
        Head,
    )

__all__ = ["RawClient", "Response"]

_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Response:
    """One whole response.

    Attributes:
        head: Its final head.
        informational: The 1xx heads before it.
        body: Its body.
        trailers: Fields after a chunked body.
        framing: Bytes, ``CHUNKED`` or ``UNTIL_CLOSE``.
    """

    head: Head
    informational: tuple[Head, ...]
    body: bytes
    trailers: tuple[tuple[str, str], ...]
    framing: int

    @property
    def status(self) -> int:
        """The status code."""
        return int(self.head.start_line.split(" ")[1])

    @property
    def reason(self) -> str:
        """The reason phrase."""
        return self.head.start_line.split(" ", 2)[2]

    def get(self, name: str) -> str | None:
        """Return the first value of a field, or None.

        Args:
            name: Its name, in any case.
        """
        return self.head.get(name)


class RawClient:
    """One connection to the server under test.

    Attributes:
        timeout: Seconds that any one wait may take.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout: float
    ) -> None:
        self._reader = reader
        self._writer = writer
        self.timeout = timeout

    @classmethod
    async def connect(
        cls,
        address: str,
        *,
        tls: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
        receive_buffer: int | None = None,
        timeout: float = 60.0,
    ) -> Self:
        """Connect.

        Args:
            address: ``host:port``, ``[v6]:port`` or ``unix:/path``.
            tls: Client context, for TLS.
            server_hostname: Name to send and verify with TLS.
            receive_buffer: Kernel receive buffer in bytes, for a client that stalls.
            timeout: Seconds that any one wait may take.

        Returns:
            The client; use it as an async context manager.
        """
        if address.startswith("unix:"):
            reader, writer = await asyncio.open_unix_connection(
                address.removeprefix("unix:"), ssl=tls, server_hostname=server_hostname
            )
            return cls(reader, writer, timeout)
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        except BaseException:
            sock.close()
            raise
        limit = 4096 if receive_buffer is not None else 1 << 18
        reader, writer = await asyncio.open_connection(
            sock=sock, ssl=tls, server_hostname=server_hostname, limit=limit
        )
        return cls(reader, writer, timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.transport.abort()
        try:
            await self._writer.wait_closed()
        except OSError:
            return

    @property
    def local_address(self) -> tuple[str, int]:
        """Own host and port."""
        host, port = self._writer.get_extra_info("sockname")[:2]
        return str(host), int(port)

    async def send(self, data: bytes) -> None:
        """Send raw bytes.

        Args:
            data: The bytes.

        Raises:
            ConnectionResetError: If the connection is gone.
        """
        if self._writer.transport.is_closing():
            raise ConnectionResetError("the connection is closed")
        self._writer.write(data)
        async with asyncio.timeout(self.timeout):
            await self._writer.drain()

    async def send_bytewise(self, data: bytes) -> None:
        """Send raw bytes one at a time, each in a turn of the loop of its own.

        Args:
            data: The bytes.
        """
        for index in range(len(data)):
            await self.send(data[index : index + 1])
            await asyncio.sleep(0)

    async def send_request(
        self,
        method: str = "GET",
        target: str = "/",
        fields: Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
        *,
        chunks: Iterable[bytes] | None = None,
    ) -> None:
        """Send one well-formed request.

        Args:
            method: The method.
            target: The request target.
            fields: Fields besides Host and framing; a Host among them replaces the usual one.
            body: Sent with a Content-Length.
            chunks: Sent chunked, instead of ``body``.
        """
        lines = [f"{method} {target} HTTP/1.1"]
        given = list(fields)
        if not any(name.lower() == "host" for name, _ in given):
            lines.append("Host: test.example")
        lines += [f"{name}: {value}" for name, value in given]
        payload = b""
        if chunks is not None:
            lines.append("Transfer-Encoding: chunked")
            payload = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in chunks) + b"0\r\n\r\n"
        elif body is not None:
            lines.append(f"Content-Length: {len(body)}")
            payload = body
        await self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + payload)

    async def request(
        self,
        method: str = "GET",
        target: str = "/",
        fields: Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
        *,
        chunks: Iterable[bytes] | None = None,
    ) -> Response:
        """Send one well-formed request and read the response.

        Args:
            method: The method.
            target: The request target.
            fields: Fields besides Host and framing.
            body: Sent with a Content-Length.
            chunks: Sent chunked, instead of ``body``.

        Returns:
            The response.
        """
        await self.send_request(method, target, fields, body, chunks=chunks)
        return await self.read_response(method)

    async def read_head(self) -> Head:
        """Read one response head, informational or final.

        Returns:
            The head.

        Raises:
            Truncated: If the connection ends first; ``partial`` is empty when it ended cleanly.
            WireError: If the head is malformed.
        """
        async with asyncio.timeout(self.timeout):
            head = await read_head(self._reader, response=True)
        if head is None:
            raise Truncated(b"")
        return head

    async def read_final_head(self) -> tuple[Head, tuple[Head, ...]]:
        """Read heads up to the final one (a 101 counts as final).

        Returns:
            The final head and the informational ones before it.
        """
        informational: list[Head] = []
        while True:
            head = await self.read_head()
            status = int(head.start_line.split(" ")[1])
            if status >= 200 or status == 101:
                return head, tuple(informational)
            response_framing(head, "GET")
            informational.append(head)

    def body_of(self, head: Head, method: str = "GET") -> BodyStream:
        """Start reading the body of a response.

        Args:
            head: Its head.
            method: Method of the request.

        Returns:
            The body; the deadline of ``timeout`` does not apply.
        """
        return BodyStream(self._reader, response_framing(head, method))

    async def read_response(self, method: str = "GET") -> Response:
        """Read one whole response.

        Args:
            method: Method of the request it answers.

        Returns:
            The response.

        Raises:
            Truncated: If the connection ends within it.
            WireError: If it is malformed.
        """
        head, informational = await self.read_final_head()
        framing = response_framing(head, method)
        body = BodyStream(self._reader, framing)
        async with asyncio.timeout(self.timeout):
            content = await body.read_all()
        return Response(head, informational, content, body.trailers, framing)

    async def receive(self, size: int = 65536) -> bytes:
        """Read raw bytes.

        Args:
            size: How many at most.

        Returns:
            At least one byte; empty at the end of the stream.
        """
        async with asyncio.timeout(self.timeout):
            return await self._reader.read(size)

    async def receive_exactly(self, size: int) -> bytes:
        """Read so many raw bytes.

        Args:
            size: How many.

        Returns:
            The bytes.
        """
        async with asyncio.timeout(self.timeout):
            return await self._reader.readexactly(size)

    async def receive_all(self) -> bytes:
        """Read raw bytes up to the end of the stream.

        Returns:
            All bytes; a reset counts as the end.
        """
        received = bytearray()
        try:
            while data := await self.receive():
                received += data
        except OSError:
            pass
        return bytes(received)

    async def is_closed_by_server(self) -> bool:
        """Wait until the server has closed or reset the connection.

        Returns:
            True; False when it sent something first.
        """
        try:
            return await self.receive(1) == b""
        except OSError:
            return True

    def half_close(self) -> None:
        """Close the sending direction only."""
        self._writer.write_eof()

    def reset(self) -> None:
        """Reset the connection."""
        sock: socket.socket = self._writer.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._writer.transport.abort()
