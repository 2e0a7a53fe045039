"""A real gRPC server whose methods do what the request says; messages are plain bytes.

grpcio keeps a poller with a socket pair and a thread for the whole process. It is started before
anything is counted and never stopped, so that leak checks see no change.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Self

# Its handlers around fork() are for programs that go on using gRPC in the child.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import grpc.aio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.certificates import CertificateAuthority, IssuedCertificate

__all__ = ["SERVICE", "GrpcServer", "GrpcStub", "channel_to", "start_poller"]

SERVICE = "rig.Rig"
_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

Context = grpc.aio.ServicerContext[bytes, bytes]


class GrpcServer:
    """A server on a free port, as an async context manager.

    ``Echo``, ``Join``, ``Count`` and ``Chat`` are of the four kinds. ``Fail`` ends with the
    status and details in the metadata, ``Hang`` with the call. Metadata whose names begin with
    ``x-`` come back in the initial and, with ``t`` in front, in the trailing metadata.

    Args:
        certificate: For TLS; None for none.

    Attributes:
        address: Where it listens.
        metadata: What each call came with.
        remaining: Seconds to the deadline at the start of each ``Hang``; None for no deadline.
        hanging: Calls of ``Hang`` that run.
        cancelled: Calls of ``Hang`` that were cancelled.
    """

    def __init__(self, certificate: IssuedCertificate | None = None) -> None:
        self._certificate = certificate
        self.address = ""
        self.metadata: list[dict[str, str | bytes]] = []
        self.remaining: list[float | None] = []
        self.hanging = 0
        self.cancelled = 0
        self.server: grpc.aio.Server | None = None

    async def __aenter__(self) -> Self:
        options = [*_UNLIMITED, ("grpc.so_reuseport", 0)]
        self.server = server = grpc.aio.server(options=options)
        server.add_generic_rpc_handlers((self._handlers(),))
        if self._certificate is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            pair = (self._certificate.key_pem, self._certificate.chain_pem)
            port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        await server.start()
        self.address = f"127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stop at once, whatever runs."""
        server, self.server = self.server, None
        if server is not None:
            await server.stop(None)

    def _handlers(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Echo": grpc.unary_unary_rpc_method_handler(self._echo),
                "Fail": grpc.unary_unary_rpc_method_handler(self._fail),
                "Hang": grpc.unary_unary_rpc_method_handler(self._hang),
                "Join": grpc.stream_unary_rpc_method_handler(self._join),
                "Count": grpc.unary_stream_rpc_method_handler(self._count),
                "Chat": grpc.stream_stream_rpc_method_handler(self._chat),
            },
        )

    async def _begin(self, context: Context) -> None:
        received = dict(context.invocation_metadata() or ())
        self.metadata.append(received)
        back = [(name, value) for name, value in received.items() if name.startswith("x-")]
        await context.send_initial_metadata(back)
        context.set_trailing_metadata([(f"t{name}", value) for name, value in back])

    async def _echo(self, request: bytes, context: Context) -> bytes:
        await self._begin(context)
        return request

    async def _fail(self, request: bytes, context: Context) -> bytes:
        received = dict(context.invocation_metadata() or ())
        if "after-head" in received:
            await context.send_initial_metadata([])
        number = int(received["code"])
        code = next(each for each in grpc.StatusCode if each.value[0] == number)
        await context.abort(code, request.decode(), (("tx-why", "asked"),))

    async def _hang(self, request: bytes, context: Context) -> bytes:
        self.remaining.append(context.time_remaining())
        self.hanging += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.hanging -= 1
        return request

    async def _join(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        await self._begin(context)
        return b"".join([request async for request in requests])

    async def _count(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        await self._begin(context)
        size, _, count = request.partition(b"*")
        for number in range(int(count)):
            yield b"%d:" % number + b"x" * int(size)

    async def _chat(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        await self._begin(context)
        async for request in requests:
            yield request


_poller: list[bool] = []


def start_poller() -> None:
    """Start what grpcio keeps for the process, unless it runs; call it before leaks are counted."""

    async def start() -> None:
        grpc.aio.init_grpc_aio()

    if not _poller:
        _poller.append(True)
        asyncio.run(start())


def channel_to(address: str, authority: CertificateAuthority | None = None) -> grpc.aio.Channel:
    """Open a channel of its own connection.

    Args:
        address: Where to.
        authority: What to trust; None for no TLS.

    Returns:
        The channel; use it as an async context manager.
    """
    options = [*_UNLIMITED, ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    if authority is None:
        return grpc.aio.insecure_channel(address, options)
    credentials = grpc.ssl_channel_credentials(authority.cert_pem)
    return grpc.aio.secure_channel(address, credentials, options)


class GrpcStub:
    """The methods of the rig's server, as a client calls them.

    Args:
        channel: Where to.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.echo: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        self.echo = channel.unary_unary(f"/{SERVICE}/Echo")
        self.fail: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        self.fail = channel.unary_unary(f"/{SERVICE}/Fail")
        self.hang: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        self.hang = channel.unary_unary(f"/{SERVICE}/Hang")
        self.nothing: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        self.nothing = channel.unary_unary(f"/{SERVICE}/Nothing")
        self.other: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        self.other = channel.unary_unary("/other.Service/Echo")
        self.join: grpc.aio.StreamUnaryMultiCallable[bytes, bytes]
        self.join = channel.stream_unary(f"/{SERVICE}/Join")
        self.count: grpc.aio.UnaryStreamMultiCallable[bytes, bytes]
        self.count = channel.unary_stream(f"/{SERVICE}/Count")
        self.chat: grpc.aio.StreamStreamMultiCallable[bytes, bytes]
        self.chat = channel.stream_stream(f"/{SERVICE}/Chat")
