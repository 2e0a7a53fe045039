"""The gRPC gateway among real gRPC clients and servers."""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.certificates import CertificateAuthority
from tests.support.client import RawClient
from tests.support.grpc_server import GrpcServer, GrpcStub, channel_to
from tests.support.process import ROOT, ServerProcess
from tests.support.waiting import eventually

import grpc  # isort: skip - after what configures it
import grpc.aio  # isort: skip

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.client import Response

LIMIT = 60.0
GRPC_WEB = ("Content-Type", "application/grpc-web+proto")


@asynccontextmanager
async def gateway(server: GrpcServer | str, *arguments: str) -> AsyncIterator[ServerProcess]:
    """Run the gateway in front of a server; it must come to a good end."""
    address = server if isinstance(server, str) else server.address
    async with ServerProcess(
        str(ROOT / "examples" / "grpc_gateway.py"),
        *("--listen", "127.0.0.1:0", "--route", f"rig.Rig={address}", *arguments),
    ) as process:
        yield process
        process.send(signal.SIGTERM)
        assert await process.wait() == 0


async def address_of(process: ServerProcess) -> str:
    host, port = await process.running()
    return f"{host}:{port}"


@pytest.fixture
async def server() -> AsyncIterator[GrpcServer]:
    """A gRPC server."""
    async with GrpcServer() as running:
        yield running


async def failure_of(call: grpc.aio.UnaryUnaryCall[bytes, bytes]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_calls_are_routed_by_service(server: GrpcServer) -> None:
    """A known service is called with the deadline; an unknown one is UNIMPLEMENTED."""
    async with gateway(server) as process, channel_to(await address_of(process)) as channel:
        stub = GrpcStub(channel)

        assert await stub.echo(b"hello", metadata=(("x-a", "1"),), timeout=LIMIT) == b"hello"
        assert await stub.join(aiter_of(b"a", b"b"), timeout=LIMIT) == b"ab"
        assert await failure_of(stub.other(b"", timeout=LIMIT)) == (
            grpc.StatusCode.UNIMPLEMENTED,
            "unknown service other.Service",
        )
        assert server.metadata[0]["x-a"] == "1"


async def test_methods_are_limited(server: GrpcServer) -> None:
    """Too many calls at a time, or too often, are RESOURCE_EXHAUSTED; other methods are free."""
    limits = ("--concurrency", "rig.Rig/Hang=1", "--rate", "rig.Rig/Echo=0.001")
    async with (
        gateway(server, *limits) as process,
        channel_to(await address_of(process)) as channel,
    ):
        stub = GrpcStub(channel)
        first = stub.hang(b"", timeout=LIMIT)
        waiting = asyncio.ensure_future(first.code())
        await eventually(lambda: server.hanging == 1, "the first call")

        assert await failure_of(stub.hang(b"", timeout=LIMIT)) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "too many calls of rig.Rig/Hang",
        )
        assert await stub.echo(b"", timeout=LIMIT) == b""
        assert await failure_of(stub.echo(b"", timeout=LIMIT)) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "rig.Rig/Echo is called too often",
        )
        first.cancel()
        assert await waiting is grpc.StatusCode.CANCELLED
        await eventually(lambda: server.cancelled == 1, "the end of the first call")
        again = asyncio.ensure_future(stub.hang(b"", timeout=LIMIT).code())
        await eventually(lambda: server.hanging == 1, "another call")
        again.cancel()


async def test_deadlines_are_bounded(server: GrpcServer) -> None:
    """A server is told the gateway's deadline where the client has none, or a later one."""
    async with (
        gateway(server, "--max-deadline", "0.5") as process,
        channel_to(await address_of(process)) as channel,
    ):
        # Whoever notices first, the server or the gateway, tells the client; a server of grpcio
        # may say UNKNOWN of a handler that its own deadline has cancelled.
        outcome, _ = await failure_of(GrpcStub(channel).hang(b"", timeout=LIMIT))
        await eventually(lambda: server.hanging == 0, "the end of the call on the server")

    assert outcome in {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNKNOWN}
    assert all(seconds is not None and seconds <= 0.5 for seconds in server.remaining)


async def test_deadlines_are_enforced() -> None:
    """A call to a server that never says anything ends at the deadline all the same."""

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    host, port = silent.sockets[0].getsockname()
    async with (
        silent,
        gateway(f"{host}:{port}", "--max-deadline", "0.3") as process,
        channel_to(await address_of(process)) as channel,
    ):
        assert await failure_of(GrpcStub(channel).echo(b"", timeout=LIMIT)) == (
            grpc.StatusCode.DEADLINE_EXCEEDED,
            "the deadline has passed",
        )


async def test_streams_end_at_the_deadline(server: GrpcServer) -> None:
    """A stream under way is completed with the status: in trailers, or a frame for a browser."""
    # Long enough to be under way on a busy machine.
    async with gateway(server, "--max-deadline", "2") as process:
        address = await address_of(process)
        async with channel_to(address) as channel, await RawClient.connect(address) as client:
            await client.send(
                b"POST /rig.Rig/Chat HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
                b"Content-Type: application/grpc-web+proto\r\n\r\n5\r\n" + bytes(5) + b"\r\n"
            )
            chat = GrpcStub(channel).chat()
            await chat.write(b"hello")
            assert await chat.read() == b"hello"
            assert await chat.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            late = await client.read_response("POST")

    assert late.body.startswith(bytes(5) + b"\x80")
    assert b"grpc-status:4\r\n" in late.body


async def test_a_server_that_is_down_is_unavailable() -> None:
    """The caller learns that the server is not there, and nothing of the inside."""
    async with GrpcServer() as server:
        await server.stop()
        async with gateway(server) as process, channel_to(await address_of(process)) as channel:
            assert await failure_of(GrpcStub(channel).echo(b"", timeout=LIMIT)) == (
                grpc.StatusCode.UNAVAILABLE,
                "the server cannot be reached",
            )


async def test_browsers(server: GrpcServer) -> None:
    """gRPC-web over HTTP/1.1 on the same port: an answer, a refusal, a preflight."""
    async with gateway(server, "--allow-origin", "https://a.test") as process:
        address = await address_of(process)
        empty = bytes(5)
        good = await ask(address, "POST", "/rig.Rig/Echo", GRPC_WEB, body=empty)
        unknown = await ask(address, "POST", "/other.S/M", GRPC_WEB, body=empty)
        plain = await ask(address, "GET", "/")
        asked = ("Access-Control-Request-Headers", "x-grpc-web")
        preflight = await ask(address, "OPTIONS", "/rig.Rig/Echo", asked)

    assert good.body.startswith(empty + b"\x80")
    assert b"grpc-status:0\r\n" in good.body
    assert good.get("access-control-allow-origin") == "https://a.test"
    assert (unknown.status, unknown.get("grpc-status"), unknown.body) == (200, "12", b"")
    assert plain.status == 415
    assert (preflight.status, preflight.get("access-control-allow-headers")) == (204, "x-grpc-web")


async def ask(
    address: str, method: str, target: str, *fields: tuple[str, str], body: bytes = b""
) -> Response:
    async with await RawClient.connect(address) as client:
        return await client.request(method, target, fields, body)


async def test_tls_on_both_sides(tmp_path: Path) -> None:
    """A listener with TLS and HTTP/2, and servers with TLS."""
    authority = CertificateAuthority(tmp_path)
    certificate = authority.issue("localhost", "127.0.0.2")
    (tmp_path / "conf.yaml").write_text(f"ca_file: {authority.cert_path}\n", encoding="utf-8")
    files = ("--cert", str(certificate.chain_path), "--key", str(certificate.key_path))
    conf = ("--conf", str(tmp_path / "conf.yaml"))
    async with GrpcServer(certificate) as server:
        address = f"https://localhost:{server.address.rpartition(':')[2]}"
        listen = ("--listen-tls", "127.0.0.2:0")
        async with gateway(address, *listen, *files, *conf) as process:
            await process.running()
            with_tls = client_target(process, 1)
            async with channel_to(with_tls, authority) as channel:
                assert await GrpcStub(channel).echo(b"hello", timeout=LIMIT) == b"hello"


def client_target(process: ServerProcess, number: int = 0) -> str:
    """Return one of the addresses that the log names."""
    listens = next(line for line in process.lines if "listens on " in line)
    return listens.partition(" on ")[2].split(", ")[number]


async def aiter_of(*messages: bytes) -> AsyncIterator[bytes]:
    for message in messages:
        yield message
