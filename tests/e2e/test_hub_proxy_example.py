"""The hub proxy routes as it is told over REST, and remembers it."""

from __future__ import annotations

import json
import signal
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from pingora_proxy.testing import Client, ScriptedOrigin, reply
from tests.support.ports import free_address
from tests.support.process import ROOT, ServerProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

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
async def _hub(monkeypatch: pytest.MonkeyPatch, *options: str) -> AsyncIterator[Hub]:
    monkeypatch.setenv("CONFIGPROXY_AUTH_TOKEN", "t0")
    listen, api = free_address(), free_address()
    script = str(ROOT / "examples" / "hub_proxy.py")
    # As JupyterHub starts it.
    (ip, _, port), (api_ip, _, api_port) = listen.partition(":"), api.partition(":")
    places = ("--ip", ip, "--port", port, "--api-ip", api_ip, "--api-port", api_port)
    page = ("--error-target", "http://127.0.0.1:1/hub/error")
    async with ServerProcess(script, *places, *page, *options) as server:
        await server.running()
        async with Client(listen) as proxy, Client(api) as told:
            yield Hub(listen, proxy, told)
        server.send(signal.SIGTERM)
        assert await server.wait() == 0


async def test_routes_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest prefix of whole segments counts; what was posted is told, with the last activity."""
    async with ScriptedOrigin() as default, ScriptedOrigin() as alice:
        default.on("*", reply(200, b"default"))
        alice.on("*", reply(200, b"alice"))
        target = {"target": f"http://{alice.address}", "user": "alice", "jupyterhub": True}
        async with _hub(monkeypatch, "--trust", "127.0.0.0/8") as hub:
            assert (await hub.proxy.get("/")).status == 404
            assert (await hub.proxy.get("/_chp_healthz")).text == '{"status":"OK"}'
            root = {"target": f"http://{default.address}"}
            assert (await hub.api("POST", "/", root)).status == 201
            assert (await hub.api("POST", "/user/al%20ice/", target)).status == 201
            for path, text in (
                ("/user/al%20ice", "alice"),
                ("/user/al%20ice/lab/tree?x=1", "alice"),
                ("/user/al%20icex", "default"),
                ("/user", "default"),
                ("/" * 9, "default"),
            ):
                assert (await hub.proxy.get(path)).text == text
            await hub.proxy.get("/user/al%20ice/a?x=1", [("X-Forwarded-Proto", "https")])
            request = alice.requests[-1].header
            assert request.get("x-forwarded-for") == "127.0.0.1"
            assert request.get("x-forwarded-proto") == "https"
            assert request.raw_target == b"/user/al%20ice/a?x=1"

            route = json.loads((await hub.api("GET", "/user/al%20ice")).text)
            every = json.loads((await hub.api("GET")).text)
            assert every.keys() == {"/", "/user/al ice"}
            assert every["/user/al ice"] == route
            del route["last_activity"]
            assert route == target
            assert (await hub.api("DELETE", "/user/al%20ice")).status == 204
            assert (await hub.api("DELETE", "/user/al%20ice")).status == 404
            assert (await hub.proxy.get("/user/al%20ice")).text == "default"


async def test_who_was_idle_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only answers are an activity; not what fails, and is asked for again and again."""
    async with ScriptedOrigin() as origin, _hub(monkeypatch) as hub:
        origin.on("/good", reply(200))
        origin.on("/bad", reply(503))
        for path in ("/good", "/bad"):
            assert (
                await hub.api("POST", path, {"target": f"http://{origin.address}"})
            ).status == 201
        assert (await hub.api("POST", "/gone", {"target": "http://127.0.0.1:1"})).status == 201
        since = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        for path, status in (("/good", 200), ("/bad", 503), ("/gone", 502)):
            assert (await hub.proxy.get(path)).status == status
        for name in ("inactive_since", "inactiveSince"):
            idle = json.loads((await hub.api("GET", f"?{name}={since}")).text)
            assert idle.keys() == {"/bad", "/gone"}
        assert json.loads((await hub.api("GET", "?inactive_since=2001-01-01")).text) == {}
        assert (await hub.api("GET", "?inactive_since=yesterday")).status == 400


async def test_prefixes_may_begin_with_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """As subdomains of the Hub need it."""
    async with ScriptedOrigin() as origin, _hub(monkeypatch, "--host-routing") as hub:
        origin.on("*", reply(200, b"alice"))
        target = {"target": f"http://{origin.address}"}
        assert (await hub.api("POST", "/alice.hub.test/user", target)).status == 201
        for host, status in (("alice.hub.test:80", 200), ("bob.hub.test", 404)):
            assert (await hub.proxy.get("/user/x", [("Host", host)])).status == status


async def test_websockets_pass_and_mistakes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A WebSocket is an activity; what is no route is refused and changes nothing."""

    async def echo(socket: ServerConnection) -> None:
        async for message in socket:
            await socket.send(message)

    async with serve(echo, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        options = ("--default-target", f"http://127.0.0.1:{port}")
        async with _hub(monkeypatch, *options) as hub:
            before = json.loads((await hub.api("GET")).text)["/"]["last_activity"]
            async with connect(f"ws://{hub.address}/kernel", compression=None) as socket:
                await socket.send("hello")
                assert await socket.recv() == "hello"
            assert json.loads((await hub.api("GET")).text)["/"]["last_activity"] > before

            assert await hub.stranger() == 403
            for target in ("127.0.0.1:1", "http://a:b", "ftp://a", 1, None, "http://a/b?c"):
                assert (await hub.api("POST", "/x", {"target": target})).status == 400
            assert (await hub.api("POST", "/x", [])).status == 400
            assert (await hub.api("POST", "/x", "x" * 70000)).status == 413
            assert (await hub.api("GET", "/x")).status == 404
            assert (await hub.api("DELETE", "/x")).status == 404
            assert (await hub.api("PUT", "/x")).status == 405
            assert (await hub.api("GET", "x")).status == 404
