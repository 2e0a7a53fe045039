"""Recipes about limits, caches, streams, errors and datagrams do what their pages say."""

from __future__ import annotations

import asyncio
import gzip
import logging
import socket
from typing import TYPE_CHECKING

import pytest

from pingora_core import Server, ServerConf
from pingora_core.apps import Priority
from pingora_core.metrics import WorkerMetrics
from pingora_core.metrics.exposition import render
from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.services import Placement, ServiceContext
from pingora_http import RequestHeader
from pingora_proxy import http_proxy_service
from pingora_proxy.testing import (
    Client,
    RunningProxy,
    RunningService,
    ScriptedOrigin,
    make_session,
    reply,
    stream,
)
from tests.support.client import RawClient
from tests.support.recipe_modules import load_recipe
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from pingora_proxy.asgi import Receive, Scope, Send

admission = load_recipe("admission_parts")
asgi = load_recipe("asgi")
cache_disk = load_recipe("cache_disk")
cache_redis = load_recipe("cache_redis")
debugging = load_recipe("debugging")
errors = load_recipe("errors")
front = load_recipe("front")
http2_grpc_websocket = load_recipe("http2_grpc_websocket")
l4_and_udp = load_recipe("l4_and_udp")

FOR_A_MINUTE = [("Cache-Control", "max-age=60")]
SHOP = [("Host", "shop.test")]


# ------------------------------------------------------------------------------- admission


async def test_a_connection_above_the_share_of_an_address_is_reset() -> None:
    """A hundred of one client are served, the next one is closed at once."""
    async with ScriptedOrigin() as origin:
        service = http_proxy_service(ServerConf(), admission.Gateway(origin.address))
        limits = admission.limit_connections(service)
        assert limits.max_connections == 10_000
        async with RunningService(service) as running:
            clients = [await RawClient.connect(running.address) for _ in range(100)]
            await eventually(lambda: limits.current == 100)
            assert (limits.clients, limits.refused_address) == (1, 0)
            try:
                async with await RawClient.connect(running.address) as further:
                    assert await further.is_closed_by_server()
            except ConnectionResetError:  # before the client has seen that it is connected
                pass
            assert limits.refused_address == 1
            for client in clients:
                await client.__aexit__(None, None, None)
            await eventually(lambda: limits.current == 0)


async def test_an_adaptive_limit_lets_a_quiet_server_serve() -> None:
    """Requests are counted, and the limit is where it begins."""
    async with ScriptedOrigin() as origin:
        origin.on("*", reply(200, b"served"))
        conf = ServerConf()
        service, shedder = admission.adaptive(conf, admission.Gateway(origin.address))
        async with RunningService(service) as running, Client(running.address) as client:
            assert (await client.get()).text == "served"
            await eventually(lambda: shedder.in_flight == 0)
        assert (shedder.admitted, shedder.shed, shedder.limit) == (1, 0, 20)


async def test_requests_differ_in_what_they_matter() -> None:
    """Health checks are not counted, exports give way first."""
    priorities = {"/healthz": Priority.EXEMPT, "/export/1": Priority.LOW, "/": Priority.NORMAL}
    for path, priority in priorities.items():
        assert admission.classify(RequestHeader("GET", path)) is priority
    async with ScriptedOrigin() as origin:
        origin.on("*", reply(200, b"served"))
        service = http_proxy_service(
            ServerConf(), admission.Gateway(origin.address), load_shedder=admission.shedder
        )
        before = (admission.shedder.exempt, admission.shedder.admitted)
        async with RunningService(service) as running, Client(running.address) as client:
            for path in priorities:
                assert (await client.get(path)).status == 200
            await eventually(lambda: admission.shedder.in_flight == 0)
        after = (admission.shedder.exempt, admission.shedder.admitted)
        assert after == (before[0] + 1, before[1] + 2)


async def test_workers_share_the_number_of_the_server() -> None:
    """Each of four has a quarter of the connections, and the whole share of an address."""
    conf = ServerConf(workers=4)
    service = http_proxy_service(conf, admission.Gateway("127.0.0.1:1"))
    limits = admission.divide(conf, service)
    assert (limits.max_connections, limits.max_per_address) == (2500, 100)


# ------------------------------------------------------------------------------------ ASGI


async def test_an_application_has_an_address_of_its_own() -> None:
    """It needs no proxy of one's own."""
    service = asgi.alone(Server(conf=ServerConf()), "127.0.0.1:0")
    async with RunningService(service) as running, Client(running.address) as client:
        assert (await client.get("/api/hello")).text == '{"hello":"world"}'


async def test_an_application_is_an_upstream_on_a_unix_socket(tmp_path: Path) -> None:
    """The proxy reaches it like any other upstream."""
    path = str(tmp_path / "api.sock")
    service = asgi.behind(Server(conf=ServerConf()), path)
    async with RunningService(service), RunningProxy(asgi.Gateway(path)) as proxy:
        assert (await proxy.get("/api/hello")).text == '{"hello":"world"}'


async def test_what_goes_wrong_in_an_application_is_in_the_metrics() -> None:
    """One that raises is a 500, and counted."""
    metrics = WorkerMetrics()

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise OSError

    async with RunningProxy(asgi.Mounted(metrics, broken)) as proxy:
        assert (await proxy.get("/broken")).status == 500
    text = b"".join(render(metrics.registry.collect())).decode()
    assert 'pingora_asgi_failures_total{application="api",kind="raised"} 1' in text
    with pytest.raises(AssertionError):
        await asgi.Mounted(metrics, broken).upstream_peer(make_session(), None)


# ----------------------------------------------------------------------------------- caches


async def test_a_cache_on_disk_outlives_a_restart_and_sees_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is there is found; what is damaged is a miss, counted, and told by a check."""
    store = tmp_path / "store"
    async with ScriptedOrigin() as origin:
        origin.on("*", reply(200, bytes(range(256)) * 64, FOR_A_MINUTE))

        async def ask() -> dict[str, int]:
            app = cache_disk.Proxy(origin.address, str(store), str(tmp_path))
            async with RunningProxy(app) as proxy:
                assert len((await proxy.get("/picture", SHOP)).body) == 16_384
                cache_disk.show(app.storage)
                failures: dict[str, int] = app.storage.stats.failures
            return failures

        assert [await ask(), await ask(), len(origin.requests)] == [{}, {}, 1]
        cache_disk.check(str(store))
        assert capsys.readouterr().out.split()[:3] == ["{}", "{}", "1"]
        largest = max(store.rglob("*"), key=lambda path: path.is_file() * path.stat().st_size)
        content = bytearray(largest.read_bytes())
        content[content.index(bytes(range(256)))] ^= 1
        largest.write_bytes(content)
        cache_disk.check(str(store))
        assert largest.name in capsys.readouterr().out
        assert (await ask(), len(origin.requests)) == ({"damaged body": 1}, 2)


async def test_machines_share_a_cache_in_redis(tmp_path: Path) -> None:
    """What one proxy has fetched, another one finds."""
    async with ScriptedOrigin() as origin, RedisServer(tmp_path) as redis:
        origin.on("*", reply(200, b"shared", FOR_A_MINUTE))
        apps = [cache_redis.Proxy(origin.address, redis.url) for _ in range(2)]
        for app in apps:
            async with RunningProxy(app) as proxy:
                assert (await proxy.get("/", SHOP)).text == "shared"
        assert len(origin.requests) == 1
        assert [app.storage.second.stats.hits for app in apps] == [0, 1]


async def test_requests_go_on_while_redis_is_away() -> None:
    """The origin answers, or the memory."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        url = f"redis://127.0.0.1:{nobody.getsockname()[1]}/0"
        async with ScriptedOrigin() as origin:
            origin.on("*", reply(200, b"fresh", FOR_A_MINUTE))
            app = cache_redis.Proxy(origin.address, url)
            async with RunningProxy(app) as proxy:
                assert (await proxy.get("/", SHOP)).text == "fresh"
                assert (await proxy.get("/", SHOP)).text == "fresh"
                assert app.storage.second.is_away


# --------------------------------------------------------- errors, logs, compression, streams


async def test_an_error_chooses_what_the_client_gets() -> None:
    """The status is the one of the error; its text is not for the client."""
    async with ScriptedOrigin() as origin:
        origin.on("*", reply(200, b"let in"))
        async with RunningProxy(errors.Guarded(origin.address)) as proxy:
            page = await proxy.get()
            assert (page.status, page.body) == (403, b"")
            assert (await proxy.get("/", [("X-Key", "k")])).text == "let in"


async def test_one_part_of_the_log_talks_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Compression says what it does; nothing else says more than before."""
    logger = logging.getLogger("pingora_core.protocols.http.compression")
    text = b"hello " * 1000
    async with ScriptedOrigin() as origin:
        origin.on("*", reply(200, text, [("Content-Type", "text/html")]))
        async with RunningProxy(front.Front(origin.address, [])) as proxy:
            accept = [("Accept-Encoding", "gzip")]
            await proxy.get("/", accept)
            assert [r for r in caplog.records if r.levelno == logging.DEBUG] == []
            debugging.talk()
            try:
                await proxy.get("/", accept)
            finally:
                logger.setLevel(logging.NOTSET)
    said = [record for record in caplog.records if record.levelno == logging.DEBUG]
    assert {record.name.startswith(logger.name) for record in said} == {True}


async def test_nothing_is_compressed_until_a_callback_asks_for_it() -> None:
    """With level 0 only what a callback has chosen comes smaller."""
    text = b"hello " * 1000
    async with ScriptedOrigin() as origin:
        origin.on("*", reply(200, text, [("Content-Type", "text/html")]))
        async with RunningProxy(front.Choosy(origin.address, [])) as proxy:
            accept = [("Accept-Encoding", "gzip")]
            report = await proxy.get("/reports/1", accept)
            assert report.header.get("content-encoding") == "gzip"
            assert gzip.decompress(report.body) == text
            assert (await proxy.get("/", accept)).body == text


async def test_an_event_stream_may_be_silent_for_longer() -> None:
    """Its peer has an hour, others what they always have."""
    async with ScriptedOrigin() as origin:
        event = b"data: 1\n\n"
        origin.on("*", stream([event, event], [("Content-Type", "text/event-stream")]))
        app = http2_grpc_websocket.Streams(origin.address)
        peer = await app.upstream_peer(make_session("GET", "/events"), None)
        other = await app.upstream_peer(make_session("GET", "/"), None)
        assert peer.options.read_timeout == 3600
        assert other.options.read_timeout != 3600
        async with RunningProxy(app) as proxy:
            assert (await proxy.get("/events")).body == event * 2


# -------------------------------------------------------------------------------- datagrams


async def test_a_datagram_service_that_remembers_runs_in_one_worker() -> None:
    """It counts what each client sends, which needs all of its datagrams in one process."""
    service = l4_and_udp.counting("127.0.0.1:0")
    assert service.placement is Placement.ONE_WORKER
    switch = ShutdownSwitch()
    context = ServiceContext(shutdown=switch.watch)
    task = asyncio.create_task(service.start_service(context))
    try:
        await asyncio.wait_for(context.ready.wait(), 30)
        loop = asyncio.get_running_loop()
        for _ in range(2):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.setblocking(False)
                client.connect((service.addresses[0].host, service.addresses[0].port))
                for count in (b"1", b"2"):
                    client.send(b"count me")
                    assert await asyncio.wait_for(loop.sock_recv(client, 16), 30) == count
    finally:
        switch.start()
        await asyncio.wait_for(task, 30)
