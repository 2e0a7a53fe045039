"""The examples do what their first lines say."""

from __future__ import annotations

import runpy
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from pingora_core import Server
from tests.support.client import RawClient
from tests.support.origin import Origin
from tests.support.origin_steps import close, hang, reply, send, sequence
from tests.support.process import ROOT, ServerProcess

if TYPE_CHECKING:
    from tests.support.client import Response
    from tests.support.origin import Exchange

EXAMPLES = ROOT / "examples"


def example(name: str, *arguments: str) -> ServerProcess:
    return ServerProcess(str(EXAMPLES / name), "--listen", "127.0.0.1:0", *arguments)


async def ask(
    server: ServerProcess, target: str, *fields: tuple[str, str], body: bytes = b""
) -> Response:
    host, port = await server.running()
    async with await RawClient.connect(f"{host}:{port}") as client:
        method = "POST" if body else "GET"
        response = await client.request(method, target, fields, body)
    server.send(signal.SIGTERM)
    assert await server.wait() == 0
    return response


async def test_http_server_greets() -> None:
    """GET is greeted."""
    async with example("http_server.py") as server:
        response = await ask(server, "/")

    assert (response.status, response.body) == (200, b"Hello World!\n")


async def test_http_server_echoes_and_compresses() -> None:
    """POST is echoed, compressed for who asks for it."""
    async with example("http_server.py") as server:
        response = await ask(server, "/", ("Accept-Encoding", "gzip"), body=b"x" * 1000)

    assert response.status == 200
    assert response.get("content-encoding") == "gzip"
    assert len(response.body) < 100


async def test_http_server_takes_no_more_than_it_should() -> None:
    """What would not fit is refused."""
    async with example("http_server.py") as server:
        response = await ask(server, "/", body=b"x" * ((1 << 20) + 1))

    assert response.status == 413


async def test_modify_headers() -> None:
    """The request gains the client's address and loses its User-Agent; the response is signed."""
    async with (
        Origin(reply(body=b"ok")) as origin,
        example("modify_headers.py", origin.address) as server,
    ):
        response = await ask(server, "/", ("User-Agent", "curl"))
        received = origin.requests[0]
        assert any("GET /, Host:" in line and "-> 200" in line for line in server.lines)

    assert response.get("server") == "MyGateway"
    assert received.get("user-agent") is None
    assert received.get("x-forwarded-for") == "127.0.0.1"


async def _name_yourself(exchange: Exchange) -> None:
    host = exchange.request.get("host")
    await exchange.reply("200 OK", f"{host} {exchange.request.target}".encode(), ())


@pytest.mark.parametrize(
    ("target", "fields", "status", "body"),
    [
        ("/health", [], 200, b'{"status":"ok"}'),
        ("/users/42", [], 401, b'{"error":"a valid X-Api-Key is required"}'),
        ("/users/42?a=b", [("X-Api-Key", "secret")], 200, b"users.internal /42?a=b"),
        (
            "/anything",
            [("X-Api-Key", "secret"), ("X-Service", "orders")],
            200,
            b"orders.internal /anything",
        ),
        (
            "/nothing/here",
            [("X-Api-Key", "secret")],
            404,
            b'{"error":"the request could not be served"}',
        ),
    ],
    ids=["health", "no key", "by path", "by header", "unknown service"],
)
async def test_gateway(
    target: str, fields: list[tuple[str, str]], status: int, body: bytes
) -> None:
    """The gateway routes, checks keys, rewrites, and answers errors in JSON."""
    async with (
        Origin(_name_yourself) as users,
        Origin(_name_yourself) as orders,
        example("gateway.py", "--users", users.address, "--orders", orders.address) as server,
    ):
        response = await ask(server, target, *fields)
        for origin in (users, orders):
            assert all(request.get("x-api-key") is None for request in origin.requests)

    assert (response.status, response.body) == (status, body)


async def test_gateway_cuts_off_what_it_cannot_finish() -> None:
    """A response that breaks off is not completed with the page for errors."""
    half = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"
    async with (
        Origin(sequence(send(half), close)) as users,
        example("gateway.py", "--users", users.address) as server,
    ):
        host, port = await server.running()
        async with await RawClient.connect(f"{host}:{port}") as client:
            await client.send(b"GET /users/1 HTTP/1.1\r\nHost: a\r\nX-Api-Key: secret\r\n\r\n")
            received = await client.receive_all()

    assert received.endswith(b"\r\n\r\n4\r\nhalf\r\n")


# What cannot do without: an application to mount, certificates, routes, backends to administer.
_NEEDS = {"admin.py", "asgi_mount.py", "ingress.py", "metrics.py", "sni_certs.py", "traced.py"}
_ALL = sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize(
    "name", [name for name in _ALL if name not in _NEEDS | {"upgrade_demo.py"}]
)
def test_an_example_can_do_without_arguments(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has sensible defaults, and comes as far as serving."""
    servers: list[Server] = []

    def run_forever(server: Server) -> None:
        servers.append(server)

    monkeypatch.setattr(sys, "argv", [name])
    monkeypatch.setattr(Server, "run_forever", run_forever)
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert len(servers) == 1


@pytest.mark.parametrize("name", _ALL)
def test_an_example_is_a_page(name: str) -> None:
    """It begins with what it shows and how to try it, and is shorter than 150 lines."""
    text = (EXAMPLES / name).read_text()
    assert f"python examples/{name}" in text.split('"""')[1]
    assert name in {"grpc_gateway.py", "ingress.py"} or len(text.splitlines()) < 150


async def test_hedging_does_not_wait_for_a_slow_server() -> None:
    """The second server answers, and the first one's connection is closed."""
    async with (
        Origin(hang) as slow,
        Origin(reply(body=b"second")) as second,
        example("hedging.py", slow.address, second.address, "--delay", "0.02") as server,
    ):
        response = await ask(server, "/")
        await slow.all_closed()

    assert (response.status, response.body) == (200, b"second")
    assert len(slow.requests) == 1
