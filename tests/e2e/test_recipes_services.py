"""Recipes about services and reloads do what their pages say."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from pingora_core import HttpPeer, HttpServer, Response, ServeHttp, Server, ServerConf, Service
from pingora_core.protocols.tls import CaBundle
from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.services import Placement, Restart, ServiceReadyNotifier
from pingora_error import Error
from pingora_proxy.testing import Client, RunningProxy, RunningService, ScriptedOrigin, reply
from tests.support.certificates import CertificateAuthority
from tests.support.process import ROOT, ServerProcess
from tests.support.recipe_modules import load_recipe
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from pingora_core import ServerSession

reload = load_recipe("reload")
services = load_recipe("services")


class Told(Server):
    """A server that was told what to call at a reload, and is told when that is."""

    def __init__(self) -> None:
        super().__init__()
        self.callbacks: list[Callable[[ServerConf], Awaitable[None]]] = []

    def on_reload(self, callback: Callable[[ServerConf], Awaitable[None]]) -> None:
        super().on_reload(callback)
        self.callbacks.append(callback)

    async def reload(self, text: str) -> None:
        for callback in self.callbacks:
            await callback(ServerConf.from_yaml(text))


class Limited:
    """Has limits."""

    def __init__(self) -> None:
        self.limits = reload.Limits()


class Hello(ServeHttp):
    """Answers everything."""

    async def response(self, session: ServerSession) -> Response:
        return Response(200, b"hello")


# ---------------------------------------------------------------------------------- reloads


async def test_settings_of_a_program_are_checked_and_then_taken() -> None:
    """A mistake refuses the new configuration before anything changes."""
    server, proxy = Told(), Limited()
    reload.take_limits(server, proxy)
    await server.reload("site: {limits: {requests: 5}}")
    assert proxy.limits.requests == 5
    with pytest.raises(Error, match=r"site\.limits\.requests"):
        await server.reload("site: {limits: {requests: many}}")
    assert proxy.limits.requests == 5


async def test_listeners_are_replaced_while_a_service_runs(tmp_path: Path) -> None:
    """New addresses are served, also with TLS; one that cannot be bound changes nothing."""
    authority = CertificateAuthority(tmp_path)
    issued = authority.issue("127.0.0.1")
    server, service = Told(), Service("hello", HttpServer(Hello()))
    reload.take_listeners(server, service)
    site = (
        f"site: {{addresses: ['%s'], tls: '127.0.0.1:0',"
        f" certificate: {issued.chain_path}, key: {issued.key_path}}}"
    )
    async with RunningService(service) as running:
        before = running.address
        await server.reload(site % "127.0.0.2:0")
        plain, tls = map(str, service.addresses)
        assert plain.startswith("127.0.0.2:")
        assert tls == before  # an address that stays keeps its socket
        peer = HttpPeer(tls, tls=True)
        peer.options.ca = CaBundle([authority.certificate])
        for address in (plain, peer):
            async with Client(address) as client:
                assert (await client.get()).text == "hello"
        with pytest.raises(Error, match=r"192\.0\.2\.1"):
            await server.reload(site % "192.0.2.1:0")
        assert list(map(str, service.addresses)) == [plain, tls]


# --------------------------------------------------------------------------------- services


async def test_a_background_service_works_until_the_server_stops() -> None:
    """It does not wait for the end of its pause."""
    server = Server()
    services.add_cleaner(server)
    services.cleanings.clear()
    switch = ShutdownSwitch()
    task = asyncio.create_task(services.Cleaner().start(switch.watch))
    try:
        await eventually(lambda: services.cleanings == ["cleaned"])
        assert not task.done()
    finally:
        switch.start()
        await asyncio.wait_for(task, 30)
    assert services.cleanings == ["cleaned"]


async def test_a_circle_of_services_is_refused() -> None:
    """The message tells all services in it."""
    discovery, proxy = services.in_order(Server(), services.Proxy(services.Discovery()))
    with pytest.raises(ValueError, match="in a circle") as refused:
        discovery.add_dependency(proxy)
    page = (ROOT / "docs" / "how-to" / "services.md").read_text()
    assert f"\nValueError: {refused.value}\n" in page


async def test_a_service_says_when_it_is_ready() -> None:
    """That is when it has fetched what others need."""
    discovery, ready, switch = services.Discovery(), ServiceReadyNotifier(), ShutdownSwitch()
    task = asyncio.create_task(discovery.start_with_ready_notifier(switch.watch, ready))
    try:
        await asyncio.wait_for(ready.wait(), 30)
        async with ScriptedOrigin() as origin:
            origin.on("*", reply(200, b"found"))
            assert discovery.backends == ["127.0.0.1:8001"]
            discovery.backends = [origin.address]
            async with RunningProxy(services.Proxy(discovery)) as proxy:
                assert (await proxy.get()).text == "found"
    finally:
        switch.start()
        await asyncio.wait_for(task, 30)


async def test_a_service_says_what_follows_from_a_failure_and_where_it_runs() -> None:
    """Both are known to the server; the work fails as it should."""
    restarted = services.add_restarted(Server())
    assert restarted.on_failure == Restart(max_restarts=10)
    assert restarted.placement is Placement.EVERY_WORKER
    assert services.add_to_one_worker(Server()).placement is Placement.ONE_WORKER
    with pytest.raises(OSError, match="nobody to report to"):
        await restarted.task.start(ShutdownSwitch().watch)


async def test_a_reload_reaches_the_work_of_a_background_service() -> None:
    """The service passes it on."""
    service = services.add_restarted(Server())
    await service.reload(ServerConf.from_yaml("reports: {interval: 5.0}"))
    assert service.task.interval == 5.0


async def test_a_service_comes_and_goes_while_the_server_runs() -> None:
    """It is ready when it is there; when it was stopped nothing listens any more."""
    script = str(ROOT / "examples" / "recipes" / "services.py")
    async with ServerProcess(script) as server:
        there = await server.line_with("greeter is there: ")
        await server.line_with("greeter is gone")
        host, _, port = there.rpartition(" ")[2].rpartition(":")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(host, int(port))
        server.send(signal.SIGTERM)
        assert await server.wait() == 0
