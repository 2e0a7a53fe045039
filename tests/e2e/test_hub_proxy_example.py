"""The hub proxy routes as it is told over REST, and remembers it."""

from __future__ import annotations

import json
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from pingora_proxy.testing import Client, ScriptedOrigin, reply
from tests.support.ports import free_address
from tests.support.process import ROOT, ServerProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import pytest
    from websockets.asyncio.server import ServerConnection

    from pingora_proxy.testing import ClientResponse


class Hub:
    """A client of the example."""

    def __init__(self, address: str, proxy: Client, api: Client) -> None:
        self.address = address
        self.proxy = proxy
        self._api = api

    async def api(self, method: str, path: str = "", body: object = None) -> ClientResponse:
        """Use the REST interface."""
        data = None if body is None else json.dumps(body).encode()
        token = [("Authorization", "token t0")]
        return await self._api.request(method, f"/api/routes{path}", token, data)

    async def stranger(self) -> int:
        """Use it without the token."""
        return (await self._api.get("/api/routes", [("Authorization", "token t1")])).status


@asynccontextmanager
async def _hub(file: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> AsyncIterator[Hub]:
    monkeypatch.setenv("HUB_PROXY_TOKEN", "t0")
    listen, api = free_address(), free_address()
    script = str(ROOT / "examples" / "hub_proxy.py")
    places = ("--listen", listen, "--api", api)
    async with ServerProcess(script, str(file), *places, *options) as server:
        await server.running()
        async with Client(listen) as proxy, Client(api) as told:
            yield Hub(listen, proxy, told)
        server.send(signal.SIGTERM)
        assert await server.wait() == 0


async def test_routes_come_and_go_and_survive_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest prefix of whole segments counts; the file has what the API was told."""
    file = tmp_path / "routes.json"
    async with ScriptedOrigin() as default, ScriptedOrigin() as alice:
        default.on("*", reply(200, b"default"))
        alice.on("*", reply(200, b"alice"))
        target = {"target": f"http://{alice.address}", "user": "alice"}
        async with _hub(file, monkeypatch) as hub:
            assert (await hub.proxy.get("/")).status == 404
            assert (
                await hub.api("POST", "/", {"target": f"http://{default.address}"})
            ).status == 201
            assert (await hub.api("POST", "/user/al%20ice/", target)).status == 201
            for path, text in (
                ("/user/al%20ice", "alice"),
                ("/user/al%20ice/lab/tree?x=1", "alice"),
                ("/user/al%20icex", "default"),
                ("/user", "default"),
                ("/" * 9, "default"),
            ):
                assert (await hub.proxy.get(path)).text == text
            assert alice.requests[-1].header.get("x-forwarded-for") == "127.0.0.1"
            assert alice.requests[-1].header.raw_target == b"/user/al%20ice/lab/tree?x=1"

        assert json.loads(file.read_text()).keys() == {"/", "/user/al ice"}
        async with _hub(file, monkeypatch) as hub:
            assert (await hub.proxy.get("/user/al%20ice")).text == "alice"
            route = json.loads((await hub.api("GET", "/user/al%20ice")).text)
            every = json.loads((await hub.api("GET")).text)
            assert every["/user/al ice"] == route
            del route["last_activity"]
            assert route == target
            assert (await hub.api("DELETE", "/user/al%20ice")).status == 204
            assert (await hub.proxy.get("/user/al%20ice")).text == "default"
        assert json.loads(file.read_text()).keys() == {"/"}


async def test_websockets_pass_and_mistakes_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A WebSocket is an activity; what is no route is refused and changes nothing."""

    async def echo(socket: ServerConnection) -> None:
        async for message in socket:
            await socket.send(message)

    async with serve(echo, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        options = ("--default", f"http://127.0.0.1:{port}")
        async with _hub(tmp_path / "routes.json", monkeypatch, *options) as hub:
            before = json.loads((await hub.api("GET")).text)["/"]["last_activity"]
            async with connect(f"ws://{hub.address}/kernel", compression=None) as socket:
                await socket.send("hello")
                assert await socket.recv() == "hello"
            assert json.loads((await hub.api("GET")).text)["/"]["last_activity"] > before

            assert await hub.stranger() == 403
            for target in ("127.0.0.1:1", "http://a:b", "ftp://a", 1, None, "x" * 70000):
                assert (await hub.api("POST", "/x", {"target": target})).status == 400
            assert (await hub.api("POST", "/x", [])).status == 400
            assert (await hub.api("GET", "/x")).status == 404
            assert (await hub.api("DELETE", "/x")).status == 404
            assert (await hub.api("PUT", "/x")).status == 404
            assert (await hub.api("GET", "x")).status == 404
