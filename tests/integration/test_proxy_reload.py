"""A proxy takes on a configuration that was loaded anew, with requests in flight."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pingora_core import ServerConf
from pingora_core.apps.stream_proxy import StreamProxy
from pingora_core.services.stream_proxy import stream_proxy
from pingora_core.upstreams.peer import BasicPeer
from tests.support.origin import Origin
from tests.support.origin_steps import reply
from tests.support.proxy import RigProxy, RunningProxy

if TYPE_CHECKING:
    from pingora_core.apps.stream_proxy import StreamSession
    from tests.support.origin import Exchange


async def test_upstream_connections_follow_the_configuration() -> None:
    """New requests come from the new source address; one in flight ends where it began."""
    may_answer = asyncio.Event()
    sources: list[str] = []

    async def serve(exchange: Exchange) -> None:
        sources.append(exchange.connection.writer.get_extra_info("peername")[0])
        if exchange.request.target == "/slow":
            await may_answer.wait()
        await exchange.reply("200 OK", b"ok", ())

    conf = ServerConf(client_bind_to_ipv4=("127.0.0.2",))
    async with (
        Origin(serve) as origin,
        RunningProxy(RigProxy(origin.address), conf=conf) as proxy,
        await proxy.connect() as slow_client,
        await proxy.connect() as client,
    ):
        slow = asyncio.create_task(slow_client.request("GET", "/slow"))
        assert (await client.request("GET", "/")).status == 200

        await proxy.service.reload(ServerConf(client_bind_to_ipv4=("127.0.0.3",), max_retries=2))

        assert (await client.request("GET", "/")).status == 200
        may_answer.set()
        assert (await slow).status == 200
        assert (await slow_client.request("GET", "/")).status == 200
        assert proxy.service.app_logic.max_retries == 2

    assert sorted(sources) == ["127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.3"]


async def test_a_reload_that_is_about_something_else_keeps_the_connections() -> None:
    """The pool survives."""
    async with (
        Origin(reply(body=b"ok")) as origin,
        RunningProxy(RigProxy(origin.address)) as proxy,
        await proxy.connect() as client,
    ):
        await client.request("GET", "/")

        await proxy.service.reload(ServerConf(keepalive_min_seconds=0.5))
        await client.request("GET", "/")

        assert len(origin.connections) == 1


async def test_a_stream_proxy_follows_the_configuration() -> None:
    """Its connections to upstreams come from the new source address, too."""

    class ToNowhere(StreamProxy[None]):
        def new_ctx(self) -> None:
            return None

        async def upstream_peer(self, session: StreamSession, ctx: None) -> BasicPeer:
            return BasicPeer("127.0.0.1:1")

    app = stream_proxy(ServerConf(), ToNowhere())
    before = app.connector

    await app.reload(ServerConf(client_bind_to_ipv4=("127.0.0.3",)))

    assert app.connector is not before
    await app.cleanup()
