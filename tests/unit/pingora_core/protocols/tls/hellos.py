"""ClientHellos: built field by field, and written by real clients."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

from OpenSSL import SSL

from pingora_core.protocols.tls.client_hello import parse_client_hello

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "GREASE",
    "alpn",
    "build",
    "from_openssl",
    "from_program",
    "from_stdlib",
    "message",
    "number_list",
    "records",
    "server_name",
    "vector",
]

GREASE = 0x3A3A


def vector(prefix: int, data: bytes) -> bytes:
    """Put a length before bytes."""
    return len(data).to_bytes(prefix, "big") + data


def number_list(prefix: int, *numbers: int) -> bytes:
    """Make a vector of two-byte numbers."""
    return vector(prefix, b"".join(number.to_bytes(2, "big") for number in numbers))


def server_name(name: bytes) -> tuple[int, bytes]:
    """Make an SNI extension with one host name."""
    return 0, vector(2, b"\0" + vector(2, name))


def alpn(*protocols: bytes) -> tuple[int, bytes]:
    """Make an ALPN extension."""
    return 16, vector(2, b"".join(vector(1, protocol) for protocol in protocols))


def message(
    *extensions: tuple[int, bytes],
    version: int = 0x0303,
    session_id: bytes = b"",
    ciphers: tuple[int, ...] = (0x1301, 0xC02F),
    compression: bytes = b"\0",
    with_extensions: bool = True,
    rest: bytes = b"",
) -> bytes:
    """Make the handshake message."""
    body = version.to_bytes(2, "big") + bytes(range(32)) + vector(1, session_id)
    body += number_list(2, *ciphers) + vector(1, compression)
    if with_extensions:
        packed = (kind.to_bytes(2, "big") + vector(2, data) for kind, data in extensions)
        body += vector(2, b"".join(packed))
    return b"\x01" + vector(3, body + rest)


def records(data: bytes, sizes: Iterable[int] = (), *, minor: int = 1) -> bytes:
    """Put a handshake message into records of the given sizes; the last one takes what is left."""
    pieces: list[bytes] = []
    for size in sizes:
        piece, data = data[:size], data[size:]
        pieces.append(piece)
    pieces.append(data)
    return b"".join(bytes((22, 3, minor)) + vector(2, piece) for piece in pieces if piece)


def build(*extensions: tuple[int, bytes]) -> bytes:
    """Make a hello with some extensions in one record."""
    return records(message(*extensions))


def from_stdlib(
    name: str | None = "www.example.org", protocols: tuple[str, ...] = ("h2", "http/1.1")
) -> bytes:
    """Have Python's ssl module write one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(protocols)
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError


def from_openssl(name: bytes | None = b"www.example.org", *, version: int | None = None) -> bytes:
    """Have pyOpenSSL write one, which brings a more recent OpenSSL."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_alpn_protos([b"h2", b"http/1.1"])
    if version is not None:
        context.set_max_proto_version(version)
    connection = SSL.Connection(context, None)
    if name is not None:
        connection.set_tlsext_host_name(name)
    connection.set_connect_state()
    try:
        connection.do_handshake()
    except SSL.WantReadError:
        return connection.bio_read(65536)
    raise AssertionError


async def from_program(*command: str) -> bytes:
    """Have a program connect to a listener and keep what it says first.

    Args:
        command: The program and its arguments; ``{port}`` stands for the port.
    """
    received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = b""
        while piece := await reader.read(65536):
            data += piece
            if parse_client_hello(data) is not None:
                break
        if not received.done():
            received.set_result(data)
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(argument.replace("{port}", str(port)) for argument in command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(30), server:
            data = await received
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return data
