"""The recipes of the how-to pages do what their pages say."""

from __future__ import annotations

import gzip
import json
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from pingora_proxy.testing import Client, ScriptedOrigin, reply, stream
from tests.support.process import ROOT, ServerProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_JSON = [("Content-Type", "application/json")]


@asynccontextmanager
async def _recipe(name: str, *arguments: str) -> AsyncIterator[Client]:
    script = str(ROOT / "examples" / "recipes" / f"{name}.py")
    async with ServerProcess(script, "--listen", "127.0.0.1:0", *arguments) as server:
        host, port = await server.running()
        async with Client(f"{host}:{port}") as client:
            yield client
        server.send(signal.SIGTERM)
        assert await server.wait() == 0


async def test_answers_need_no_upstream() -> None:
    """Redirects, fixed pages, JSON and problems; the rest is passed on."""
    async with ScriptedOrigin() as origin, _recipe("answers", origin.address) as client:
        origin.on("*", reply(200, b"from behind"))
        moved = await client.get("/old/page?q=1")
        assert (moved.status, moved.header.get("location")) == (308, "/new/page?q=1")
        www = await client.get("/a?b=c", [("Host", "www.evil.test")])
        assert www.header.get("location") == "https://example.com/a?b=c"
        assert (await client.get("/robots.txt")).header.get("content-type") == "text/plain"
        assert json.loads((await client.get("/version")).text) == {"version": 7}
        assert (await client.get("/internal/x")).status == 403
        assert (await client.get("/other")).text == "from behind"
        assert len(origin.requests) == 1


async def test_other_origins_are_told_whether_they_may() -> None:
    """A preflight is answered here; only those that are known may read answers."""
    app = ("Origin", "https://app.example.com")
    method = ("Access-Control-Request-Method", "DELETE")
    async with ScriptedOrigin() as origin, _recipe("answers", origin.address) as client:
        origin.on("*", reply(200, b"data"))
        preflight = await client.request("OPTIONS", "/data", [app, method])
        assert preflight.status == 204
        assert preflight.header.get("access-control-allow-methods") == "GET, POST, DELETE"
        assert preflight.header.get("access-control-allow-origin") == app[1]
        assert origin.requests == []
        known = await client.get("/data", [app])
        assert known.header.get("access-control-allow-origin") == app[1]
        other = await client.get("/data", [("Origin", "https://evil.test")])
        assert other.header.get("access-control-allow-origin") is None
        assert other.header.get("vary") == "Origin"


async def test_a_request_body_is_read_and_replaced() -> None:
    """Its length is that of the new one; what is no JSON, or too long, is refused."""
    async with ScriptedOrigin() as origin, _recipe("bodies", origin.address) as client:
        origin.on("*", reply(200, b"ok"))
        body = b'{"user": "alice", "debug": true}'
        assert (await client.request("POST", "/api", _JSON, body)).text == "ok"
        [request] = origin.requests
        assert request.body == b'{"user": "alice"}'
        assert request.header.get("content-length") == "17"
        assert (await client.request("POST", "/api", _JSON, b"{")).status == 400
    async with ScriptedOrigin() as origin, _recipe("bodies", origin.address) as client:
        assert (await client.request("POST", "/api", _JSON, b" " * 70000)).status == 413
        assert origin.requests == []


@pytest.mark.parametrize("size", [1, 7, 23, 100])
async def test_a_response_body_is_changed_wherever_it_is_cut(size: int) -> None:
    """A word that two pieces share is found; other kinds of bodies pass."""
    body = b"<a href='http://internal.example/x'>http://internal.exampl</a>http://internal"
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    async with ScriptedOrigin() as origin, _recipe("bodies", origin.address) as client:
        origin.on("/page", stream(pieces, [("Content-Type", "text/html")]))
        origin.on("/image", stream(pieces, [("Content-Type", "image/png")]))
        wanted = body.replace(b"http://internal.example", b"https://www.example")
        assert (await client.get("/page")).body == wanted
        assert (await client.get("/image")).body == body


async def test_the_front_knows_clients_and_compresses() -> None:
    """What a balancer says of a client is believed, what a client says is not."""
    text = b"hello " * 1000
    claim = [("X-Forwarded-For", "203.0.113.66")]
    async with ScriptedOrigin() as origin:
        origin.on("*", reply(200, text, [("Content-Type", "text/html")]))
        async with _recipe("front", origin.address, "--trust", "127.0.0.1") as client:
            assert (await client.get("/", claim)).status == 403
            assert (await client.get("/", [("X-Forwarded-For", "203.0.113.9")])).body == text
            small = await client.get("/", [("Accept-Encoding", "gzip")])
            assert small.header.get("content-encoding") == "gzip"
            assert gzip.decompress(small.body) == text
            assert (await client.request("POST", "/", [], bytes(11 << 20))).status == 413
        async with _recipe("front", origin.address) as client:
            assert (await client.get("/", claim)).status == 200
    forwarded = [request.header.get("x-forwarded-for") for request in origin.requests]
    assert forwarded == ["203.0.113.9, 127.0.0.1", "127.0.0.1", "127.0.0.1"]
