"""The ingress with everything it is for, behind one address in clear and one with TLS."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from tests.support.certificates import CertificateAuthority
from tests.support.client import RawClient
from tests.support.grpc_server import GrpcServer, GrpcStub, channel_to
from tests.support.origin import Origin
from tests.support.process import ROOT, ServerProcess

import grpc  # isort: skip - after what configures it
import grpc.aio  # isort: skip

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from websockets.asyncio.server import ServerConnection

    from tests.support.client import Response
    from tests.support.origin import Exchange

EXAMPLE = str(ROOT / "examples" / "ingress.py")


async def show(exchange: Exchange) -> None:
    """Answer with what arrived."""
    request = exchange.request
    names = ("host", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-for")
    seen = {"target": request.target, **{name: request.get(name) for name in names}}
    await exchange.reply("200 OK", json.dumps(seen).encode(), ())


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


class Ingress:
    """A running ingress.

    Attributes:
        plain: Address in clear.
        tls: Address with TLS.
        authority: What clients trust.
    """

    def __init__(self, lines: list[str], authority: CertificateAuthority) -> None:
        listens = next(line for line in lines if "listens on " in line)
        self.plain, self.tls = listens.partition(" on ")[2].split(", ")
        self.authority = authority

    async def get(self, target: str, host: str, *fields: tuple[str, str]) -> Response:
        async with await RawClient.connect(self.plain) as client:
            return await client.request("GET", target, (("Host", host), *fields))

    def context(self, *alpn: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.authority.cert_path))
        if alpn:
            context.set_alpn_protocols(alpn)
        return context


@asynccontextmanager
async def ingress(
    folder: Path, routes: list[dict[str, str | bool]], **settings: object
) -> AsyncIterator[Ingress]:
    authority = CertificateAuthority(folder)
    first = authority.issue("localhost", "127.0.0.2")
    second = authority.issue("*.shop.test")
    certificates = [
        {"cert": str(each.chain_path), "key": str(each.key_path)} for each in (first, second)
    ]
    # JSON is YAML.
    section = {"routes": routes, "certificates": certificates, **settings}
    conf = folder / "ingress.yaml"
    conf.write_text(json.dumps({"ingress": section}), encoding="utf-8")
    listen = ("--listen", "127.0.0.1:0", "--listen-tls", "127.0.0.2:0")
    async with ServerProcess(EXAMPLE, "--conf", str(conf), *listen) as process:
        await process.running()
        yield Ingress(process.lines, authority)
        process.send(signal.SIGTERM)
        assert await process.wait() == 0


async def test_hosts_and_paths(tmp_path: Path) -> None:
    """The closest host and the longest path win; a prefix is whole segments, and can be cut."""
    async with Origin(show) as one, Origin(show) as two, Origin(show) as three:
        routes: list[dict[str, str | bool]] = [
            {"host": "a.shop.test", "upstream": f"http://{one.address}"},
            {"host": "*.shop.test", "upstream": f"http://{two.address}"},
            {
                "host": "a.shop.test",
                "path": "/api/",
                "strip_prefix": True,
                "upstream": f"http://{two.address}",
            },
            {"path": "/any", "upstream": f"http://{three.address}"},
        ]
        async with ingress(tmp_path, routes) as running:
            forged = ("X-Forwarded-For", "6.6.6.6")
            by_host = await running.get("/x?q=1", "A.shop.test:8080", forged)
            by_path = await running.get("/api/x?q=1", "a.shop.test")
            no_segment = await running.get("/apis", "a.shop.test")
            wildcard = await running.get("/", "b.shop.test")
            anywhere = await running.get("/any", "elsewhere")
            nowhere = await running.get("/", "elsewhere")

        assert json.loads(by_host.body) == {
            "target": "/x?q=1",
            "host": "A.shop.test:8080",
            "x-forwarded-proto": "http",
            "x-forwarded-host": "A.shop.test:8080",
            "x-forwarded-for": "127.0.0.1",
        }
        assert json.loads(by_path.body)["target"] == "/x?q=1"
        assert json.loads(no_segment.body)["target"] == "/apis"
        assert (wildcard.status, anywhere.status, nowhere.status) == (200, 200, 404)
        assert [len(each.requests) for each in (one, two, three)] == [2, 2, 1]


async def test_clear_is_sent_to_tls(tmp_path: Path) -> None:
    """Requests in clear are redirected with method and target; those with TLS are served."""
    async with Origin(show) as origin:
        routes: list[dict[str, str | bool]] = [{"upstream": f"http://{origin.address}"}]
        async with ingress(tmp_path, routes, redirect_to_https=True, https_port=8443) as running:
            clear = await running.get("/x?q=1", "localhost:8080")
            async with await RawClient.connect(
                running.tls, tls=running.context(), server_hostname="localhost"
            ) as client:
                served = await client.request("GET", "/", [("Host", "localhost")])

    assert clear.status == 308
    assert clear.get("location") == "https://localhost:8443/x?q=1"
    assert json.loads(served.body)["x-forwarded-proto"] == "https"


async def test_certificates_are_chosen_by_name(tmp_path: Path) -> None:
    """Each host gets its certificate, unknown ones the first; HTTP/2 is offered."""
    async with Origin(show) as origin:
        routes: list[dict[str, str | bool]] = [{"upstream": f"http://{origin.address}"}]
        async with ingress(tmp_path, routes) as running:
            host, port = running.tls.split(":")
            for name, alpn in (("localhost", "h2"), ("a.shop.test", "http/1.1")):
                context = running.context(alpn)
                _, writer = await asyncio.open_connection(
                    host, int(port), ssl=context, server_hostname=name
                )
                tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
                assert tls.selected_alpn_protocol() == alpn
                writer.transport.abort()


async def test_websockets(tmp_path: Path) -> None:
    """WebSockets pass, in clear and with TLS."""
    async with serve(echo, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        routes: list[dict[str, str | bool]] = [
            {"path": "/chat", "upstream": f"http://127.0.0.1:{port}"}
        ]
        async with ingress(tmp_path, routes) as running:
            async with connect(f"ws://{running.plain}/chat") as client:
                await client.send("clear")
                assert await client.recv() == "clear"
            async with connect(
                f"wss://{running.tls}/chat", ssl=running.context(), server_hostname="localhost"
            ) as client:
                await client.send("secret")
                assert await client.recv() == "secret"


async def test_grpc(tmp_path: Path) -> None:
    """A gRPC path leads to a server that speaks HTTP/2 in clear; another is UNIMPLEMENTED."""
    async with GrpcServer() as server:
        routes: list[dict[str, str | bool]] = [
            {"path": "/rig.Rig/", "upstream": f"h2c://{server.address}"}
        ]
        async with (
            ingress(tmp_path, routes) as running,
            channel_to(running.tls, running.authority) as channel,
        ):
            assert await GrpcStub(channel).echo(b"hello", timeout=30) == b"hello"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await GrpcStub(channel).other(b"", timeout=30)

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_bad_route_is_told_before_anything_listens(tmp_path: Path) -> None:
    """A mistake in the file is one line that names the place and what is allowed."""
    conf = tmp_path / "ingress.yaml"
    conf.write_text("ingress: {routes: [{upstream: 'ftp://a:1'}]}", encoding="utf-8")
    async with ServerProcess(EXAMPLE, "--conf", str(conf)) as process:
        assert await process.wait() != 0

    assert "routes[0].upstream" in process.lines[-1]
