"""The ASGI example answers its own routes with FastAPI and proxies the others."""

from __future__ import annotations

import json
import signal

from websockets.asyncio.client import connect

from pingora_proxy.testing import Client, ScriptedOrigin, reply
from tests.support.ports import free_address
from tests.support.process import ROOT, ServerProcess


async def test_two_servers_in_one() -> None:
    """Reading and writing the API, its validation, a WebSocket, and the server behind."""
    address = free_address()
    script = str(ROOT / "examples" / "asgi_mount.py")
    async with ScriptedOrigin() as origin:
        origin.on("*", reply(200, b"behind"))
        async with ServerProcess(script, "--listen", address, origin.address) as server:
            await server.running()
            async with Client(address) as client:
                assert (await client.get("/page")).text == "behind"
                limit = await client.get("/api/limits/alice")
                assert json.loads(limit.text) == {"requests": 100}
                kind = [("Content-Type", "application/json")]
                put = await client.request("PUT", "/api/limits/bob", kind, b'{"requests": 5}')
                assert put.status == 200
                assert json.loads((await client.get("/api/limits/bob")).text) == {"requests": 5}
                bad = await client.request("PUT", "/api/limits/bob", kind, b'{"requests": -1}')
                assert bad.status == 422
                assert (await client.get("/api/limits/eve")).status == 404
            async with connect(f"ws://{address}/api/echo", compression=None) as socket:
                await socket.send("ab")
                assert await socket.recv() == "abab"
            server.send(signal.SIGTERM)
            assert await server.wait() == 0
