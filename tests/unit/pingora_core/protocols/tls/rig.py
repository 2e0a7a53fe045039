"""TLS streams whose records a test can hold in its hands, and TLS streams over sockets."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

from OpenSSL import SSL

from pingora_core.protocols.digest import Digest
from pingora_core.protocols.interfaces import Stream
from pingora_core.protocols.l4 import L4Stream
from pingora_core.protocols.tls import TlsStream
from pingora_core.protocols.tls.openssl import set_groups
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.support.certificates import CertificateAuthority, IssuedCertificate

__all__ = [
    "KeyLogCallback",
    "Wire",
    "client_connection",
    "server_connection",
    "shake_hands",
    "tls_pair",
    "wired_pair",
]


KeyLogCallback: TypeAlias = "Callable[[SSL.Connection, bytes], None]"


class Wire(Stream):
    """A stream without a transport: a test reads what was written and delivers what arrives.

    Attributes:
        sent: What was written and not yet taken away.
        tuning: Calls of the socket options.
        ends: How it was closed.
        lingers: How long each close might take.
        above: The TLS stream, which is made to send what it holds back before it is looked at.
    """

    on_data: Callable[[], None] | None = None

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.tuning: list[object] = []
        self.ends: list[str] = []
        self.lingers: list[float | None] = []
        self._buffer = b""
        self._waiter: asyncio.Future[bool] | None = None
        self._eof = False
        self._lost = False
        self._digest = Digest()
        self._on_disconnect: Callable[[], None] | None = None
        self._failure: Error | None = None
        self.full = False
        self.above: TlsStream | None = None

    def take_sent(self) -> bytes:
        if self.above is not None:
            self.above.flush_writes()
        data = b"".join(self.sent)
        self.sent.clear()
        return data

    def deliver(self, data: bytes) -> None:
        self._buffer += data
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(True)
        elif self.on_data is not None:
            self.on_data()

    def end(self, *, reset: bool = False) -> None:
        self._eof = True
        self._lost = reset
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(False)
        if self._on_disconnect is not None:
            self._on_disconnect()

    @property
    def id(self) -> int:
        return 4711

    @property
    def digest(self) -> Digest:
        return self._digest

    @property
    def buffered(self) -> int:
        return len(self._buffer)

    @property
    def at_eof(self) -> bool:
        return self._eof

    def take(self) -> bytes:
        data, self._buffer = self._buffer, b""
        return data

    def unread(self, data: bytes) -> None:
        self._buffer = data + self._buffer

    async def fill(self, timeout: float | None = None) -> bool:
        if self._failure is not None:
            raise self._failure
        if self._lost:
            raise Error(ErrorType.READ_ERROR, "reset")
        if self._eof:
            return False
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                return await self._waiter
        except TimeoutError:
            raise Error(ErrorType.READ_TIMEDOUT, "wire") from None
        finally:
            self._waiter = None

    @property
    def needs_drain(self) -> bool:
        return self.full

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._lost:
            raise Error(ErrorType.WRITE_ERROR, "lost")
        self.sent.append(bytes(data))

    async def drain(self, timeout: float | None = None) -> None:
        self.tuning.append(("drain", timeout))

    @property
    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        raise AssertionError

    def close(self, *, discard_input: bool = False, linger: float | None = None) -> None:
        self.lingers.append(linger)
        self.ends.append("discard" if discard_input else "close")

    def abort(self) -> None:
        self.ends.append("abort")

    async def wait_closed(self) -> None:
        self.ends.append("waited")

    @property
    def is_closed(self) -> bool:
        return self._lost

    def fail(self, error: Error) -> None:
        self._failure = error

    def set_on_disconnect(self, callback: Callable[[], None] | None) -> None:
        self._on_disconnect = callback

    def set_nodelay(self, *, enabled: bool = True) -> None:
        self.tuning.append(enabled)

    def set_keepalive(
        self, *, idle: float, interval: float, count: int, user_timeout: float = 0
    ) -> None:
        self.tuning.append((idle, interval, count, user_timeout))


def client_connection(
    authority: CertificateAuthority | None = None,
    *,
    version: int | None = None,
    keylog: KeyLogCallback | None = None,
) -> SSL.Connection:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if keylog is not None:
        context.set_keylog_callback(keylog)
    context.set_alpn_protos([b"h2", b"http/1.1"])
    if version is not None:
        context.set_max_proto_version(version)
    if authority is not None:
        context.load_verify_locations(str(authority.cert_path))
        context.set_verify(SSL.VERIFY_PEER)
    connection = SSL.Connection(context, None)
    connection.set_connect_state()
    return connection


def server_connection(
    certificate: IssuedCertificate,
    *,
    alpn: bytes | None = None,
    groups: str | None = None,
    keylog: KeyLogCallback | None = None,
    partial_write: bool = False,
) -> SSL.Connection:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    if groups is not None:
        assert set_groups(context, groups)
    if keylog is not None:
        context.set_keylog_callback(keylog)
    context.use_certificate(certificate.certificate)
    context.use_privatekey(certificate.private_key)
    if not partial_write:
        context.clear_mode(1)
    if alpn is not None:
        context.set_alpn_select_callback(lambda _, offered: alpn if alpn in offered else b"")
    connection = SSL.Connection(context, None)
    connection.set_accept_state()
    return connection


async def shake_hands(client: TlsStream, server: TlsStream) -> None:
    """Carry the handshake of two streams, whose wires are their inner streams, back and forth."""
    client_wire, server_wire = client._inner, server._inner
    assert isinstance(client_wire, Wire)
    assert isinstance(server_wire, Wire)
    tasks = [
        asyncio.ensure_future(client.handshake(5.0)),
        asyncio.ensure_future(server.handshake(5.0)),
    ]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        if not tasks[1].done():
            server_wire.deliver(client_wire.take_sent())
            await asyncio.sleep(0)
        if not tasks[0].done():
            client_wire.deliver(server_wire.take_sent())
    await asyncio.gather(*tasks)


@asynccontextmanager
async def wired_pair(
    certificate: IssuedCertificate,
    *,
    version: int | None = None,
    read_buffer: int = 65536,
    partial_write: bool = False,
) -> AsyncIterator[tuple[TlsStream, Wire, TlsStream, Wire]]:
    """Make a client and a server that are through their handshake, without sockets.

    Session tickets of the server are left in its wire's ``sent``.
    """
    client_wire, server_wire = Wire(), Wire()
    client = TlsStream(client_wire, client_connection(version=version), read_buffer=read_buffer)
    server = TlsStream(server_wire, server_connection(certificate, partial_write=partial_write))
    client_wire.above, server_wire.above = client, server
    await shake_hands(client, server)
    yield client, client_wire, server, server_wire
    client.abort()
    server.abort()


@asynccontextmanager
async def tls_pair(
    certificate: IssuedCertificate,
    *,
    server_alpn: bytes | None = None,
    authority: CertificateAuthority | None = None,
) -> AsyncIterator[tuple[TlsStream, TlsStream, L4Stream]]:
    """Connect a client and a server by a socket pair.

    The third item is the stream below the server.
    """
    loop = asyncio.get_running_loop()
    inner: list[L4Stream] = []
    for sock in socket.socketpair():
        sock.settimeout(0)
        _, stream = await loop.create_unix_connection(lambda: L4Stream(loop), sock=sock)
        inner.append(stream)
    client = TlsStream(inner[0], client_connection(authority))
    server = TlsStream(inner[1], server_connection(certificate, alpn=server_alpn))
    await asyncio.gather(client.handshake(5.0), server.handshake(5.0))
    try:
        yield client, server, inner[1]
    finally:
        for each in (client, server):
            each.abort()
            await each.wait_closed()
