"""The programs of the migration pages do what those that they replace did."""

from __future__ import annotations

import signal

from pingora_proxy.testing import Client, ScriptedOrigin, reply
from tests.support.ports import free_address
from tests.support.process import ROOT, ServerProcess

EXAMPLES = ROOT / "examples" / "migration"


async def test_fastapi_and_httpx_as_callbacks() -> None:
    """Routes, the key, rewritten fields, and a service that nobody has."""
    address = free_address()
    script = str(EXAMPLES / "from_fastapi_httpx.py")
    async with ScriptedOrigin() as origin:
        origin.on("*", reply(200, b"me", [("Server", "secret")]))
        async with ServerProcess(script, "--listen", address, f"users={origin.address}") as server:
            await server.running()
            async with Client(address) as client:
                assert (await client.get("/users/1")).status == 401
                key = [("X-Api-Key", "secret")]
                answer = await client.get("/users/1", key)
                assert (answer.status, answer.text) == (200, "me")
                assert answer.header.get("server") is None
                assert (await client.get("/nobody", key)).status == 404
            server.send(signal.SIGTERM)
            assert await server.wait() == 0
    (request,) = origin.requests
    assert request.header.get("x-gateway") == "pingora"
    assert request.header.get("x-api-key") is None


async def test_a_mitmproxy_script_as_callbacks() -> None:
    """A JSON body is changed, others and large ones pass."""
    address = free_address()
    script = str(EXAMPLES / "from_mitmproxy.py")
    kind = [("Content-Type", "application/json")]
    large = b'{"x": "' + b"y" * (1 << 20) + b'"}'
    async with ScriptedOrigin() as origin:
        origin.on("/json", reply(200, b'{"a": 1}', kind))
        origin.on("/large", reply(200, large, kind))
        origin.on("/text", reply(200, b"text"))
        async with ServerProcess(script, "--listen", address, origin.address) as server:
            await server.running()
            async with Client(address) as client:
                assert (await client.get("/json")).text == '{"a": 1, "seen": true}'
                assert (await client.get("/large")).body == large
                assert (await client.get("/text")).text == "text"
            server.send(signal.SIGTERM)
            assert await server.wait() == 0
    assert origin.requests[0].header.get("x-seen") == "1"
