"""The MCP gateway keeps sessions at their servers, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import TYPE_CHECKING

from pingora_proxy.testing import Client, ScriptedOrigin, reply, stream
from tests.support.client import RawClient
from tests.support.process import ROOT, ServerProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pingora_core import ServerSession
    from pingora_proxy.testing import ClientResponse, Step

_ID = "Mcp-Session-Id"
_EVENTS = [("Content-Type", "text/event-stream")]


def _server(name: str, gate: asyncio.Event) -> Step:
    # Begins a session for those without; streams for GET, the second event when the gate is open.
    begin = reply(200, name.encode(), [(_ID, f"session.of-{name}")])
    say = stream([b"id: 8\ndata: a\n\n", b"id: 9\ndata: b\n\n"], _EVENTS, gate=gate)

    async def step(session: ServerSession) -> None:
        if session.request.get(_ID) is None:
            await begin(session)
        elif session.request.get(_ID) != f"session.of-{name}":
            await reply(404)(session)
        elif session.request.method == "GET":
            await say(session)
        else:
            await reply(200, name.encode())(session)

    return step


def _write(path: Path, servers: list[object]) -> None:
    # By renaming, as the discovery wants it.
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(servers))
    os.replace(fresh, path)  # noqa: PTH105


async def _ask(
    address: str, session: str = "", key: str = "a-key", **fields: str
) -> ClientResponse:
    headers = [("Authorization", f"Bearer {key}"), *fields.items()]
    if session:
        headers.append((_ID, session))
    async with Client(address) as client:
        return await client.request("POST", "/mcp", headers, b'{"jsonrpc": "2.0"}')


@asynccontextmanager
async def _gateway(servers: Path) -> AsyncIterator[str]:
    script = str(ROOT / "examples" / "mcp_gateway.py")
    clients = [f"{name}={sha256(f'{name}-key'.encode()).hexdigest()}" for name in ("a", "b")]
    options = ("--client", clients[0], "--client", clients[1], "--origin", "https://ours.test")
    async with ServerProcess(script, str(servers), *options, "--listen", "127.0.0.1:0") as server:
        host, port = await server.running()
        yield f"{host}:{port}"
        server.send(signal.SIGTERM)
        assert await server.wait() == 0


async def _comes_to(address: str, session: str, *, status: int = 200, text: str = "") -> None:
    # The discovery looks at the file four times a second.
    for _ in range(500):
        answer = await _ask(address, session)
        if answer.status == status and text in answer.text:
            return
        await asyncio.sleep(0.02)
    msg = f"{status} {text} was never answered"
    raise AssertionError(msg)


async def test_sessions_stay_where_they_began(tmp_path: Path) -> None:
    """At their server, drained or not; when it has gone they are unknown, and new ones begin."""
    servers = tmp_path / "servers.json"
    gate = asyncio.Event()
    async with ScriptedOrigin() as first, ScriptedOrigin() as second:
        first.on("/mcp", _server("first", gate))
        second.on("/mcp", _server("second", gate))
        _write(servers, [first.address])
        async with _gateway(servers) as address:
            begun = await _ask(address)
            session = begun.header.get(_ID) or ""
            assert begun.text == "first"
            assert session.endswith(".session.of-first")
            request = first.requests[0].header
            assert (request.get("authorization"), request.get("x-client")) == (None, "a")

            # Drained: it keeps what it has.
            _write(servers, [{"address": first.address, "weight": 0}, second.address])
            await _comes_to(address, "", text="second")
            assert (await _ask(address, session)).text == "first"

            # Gone: the client has to begin anew.
            _write(servers, [second.address])
            await _comes_to(address, session, status=404)
            assert (await _ask(address)).text == "second"

            # Back: nothing was forgotten.
            _write(servers, [first.address, second.address])
            await _comes_to(address, session)


async def test_streams_are_resumed_and_strangers_kept_out(tmp_path: Path) -> None:
    """Events pass as they come, the server sees where to go on; sessions belong to their client."""
    servers = tmp_path / "servers.json"
    gate = asyncio.Event()
    async with ScriptedOrigin() as origin:
        origin.on("/mcp", _server("x", gate))
        _write(servers, ["127.0.0.1:1", origin.address])
        async with _gateway(servers) as address:
            # A server that does not answer is passed over while there is no session.
            session = (await _ask(address)).header.get(_ID) or ""
            async with await RawClient.connect(address) as client:
                head = f"GET /mcp HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a-key\r\n{_ID}: "
                await client.send(f"{head}{session}\r\nLast-Event-ID: 7\r\n\r\n".encode())
                assert " 200 " in (await client.read_head()).start_line
                received = b""
                while b"id: 8" not in received:
                    received += await client.receive()
                assert b"id: 9" not in received
                gate.set()
                while b"id: 9" not in received:
                    received += await client.receive()
            assert origin.requests[-1].header.get("last-event-id") == "7"

            # Pages of a site that is let in may ask first; that says the server.
            async with Client(address) as client:
                for site, status in (("https://ours.test", 200), ("https://evil.test", 403)):
                    fields = [("Origin", site), ("Access-Control-Request-Method", "POST")]
                    assert (await client.request("OPTIONS", "/mcp", fields)).status == status

            unknown = await _ask(address, "", "c-key")
            assert (unknown.status, unknown.header.get("www-authenticate")) == (401, "Bearer")
            assert (await _ask(address, session, "b-key")).status == 404
            assert (await _ask(address, f"0{session[1:]}"[:-1])).status == 404
            assert (await _ask(address, "\xe9.x")).status == 404
            assert (await _ask(address, session, Origin="https://evil.test")).status == 403
            assert (await _ask(address, session, Origin="https://ours.test")).status == 200
