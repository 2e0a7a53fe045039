"""The rate limiter behind real sockets: proxy and server, HTTP/1, HTTP/2 and gRPC."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from pingora_core.apps import HttpServerOptions
from pingora_core.apps.serve_http import HttpServer, Response, ServeHttp
from pingora_core.modules import (
    GrpcWebBridgeBuilder,
    RateLimiter,
    RateLimiterBuilder,
    RateLimitPolicy,
    ResponseCompressionBuilder,
)
from pingora_core.modules.rate_limit_keys import by_client, by_header, by_path, everyone
from pingora_core.protocols.tls import ALPN
from pingora_core.upstreams import HttpPeer
from pingora_error import Error, HTTPStatus
from pingora_limits import TokenBucket
from pingora_limits.redis import RedisTokenBucket, connect
from tests.integration.test_serve_http import serving
from tests.support.client import RawClient
from tests.support.clock import FakeClock
from tests.support.grpc_server import GrpcServer, GrpcStub, channel_to, start_poller
from tests.support.h2client import RawH2Client
from tests.support.origin_steps import reply
from tests.support.proxy import BareProxy, RigProxy, RunningProxy
from tests.support.redis_server import RedisServer

import grpc  # isort: skip - after what configures it

if TYPE_CHECKING:
    from pathlib import Path

    from pingora_core.modules import HttpModules
    from pingora_core.protocols.http.server import ServerSession
    from pingora_http import ResponseHeader
    from pingora_proxy import Session
    from tests.support.origin import Origin
    from tests.support.proxy import RigContext, Upstream

H2C = HttpServerOptions(h2c=True)


def one_per_minute(clock: FakeClock | None = None, burst: int = 1) -> TokenBucket:
    return TokenBucket(1 / 60, burst, clock=clock or FakeClock())


class Limited(RigProxy):
    """The rig's proxy with a limiter; notes what its own filters see."""

    def __init__(self, upstream: Upstream, *policies: RateLimitPolicy) -> None:
        super().__init__(upstream)
        self.policies = policies
        self.filtered: list[str] = []
        self.limited: list[tuple[str, ...]] = []

    def init_downstream_modules(self, modules: HttpModules) -> None:
        modules.add_module(ResponseCompressionBuilder.enable(5))
        modules.add_module(RateLimiterBuilder(self.policies))
        modules.add_module(GrpcWebBridgeBuilder(enabled=True))

    async def request_filter(self, session: Session, ctx: RigContext) -> bool:
        self.filtered.append(session.req_header.path)
        limiter = session.downstream_modules_ctx[RateLimiter]
        self.limited.append(limiter.shadowed_by)
        return False

    async def response_filter(
        self, session: Session, upstream_response: ResponseHeader, ctx: RigContext
    ) -> None:
        upstream_response.insert_header("Access-Control-Allow-Origin", "*")


async def test_a_refusal_reaches_neither_filters_nor_upstream(origin: Origin) -> None:
    """Its client keeps the connection, and a browser can read why."""
    origin.handler = reply(fields=[("RateLimit", '"origin";r=7')], body=b"ok")
    clock = FakeClock()
    app = Limited(origin, RateLimitPolicy("api", one_per_minute(clock), by_client()))
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        first = await client.request("GET", "/a")
        refused = await client.request("GET", "/b")
        async with await proxy.connect() as other:
            posted = await other.request("POST", "/c", body=b"x" * 1000)
        head = await client.request("HEAD", "/d")
        clock.advance(60)
        last = await client.request("GET", "/e")
        await app.ended(5)

    assert (first.status, last.status) == (200, 200)
    assert first.head.get_all("ratelimit") == ['"origin";r=7', '"api";r=0;t=60']
    assert first.get("ratelimit-policy") == '"api";q=1;w=60'
    for response in (refused, posted, head):
        assert response.status == 429
        assert response.get("retry-after") == "60"
        assert response.get("ratelimit") == '"api";r=0;t=60'
        assert response.get("access-control-allow-origin") == "*"
    assert json.loads(refused.body)["violated-policies"] == ["api"]
    assert head.body == b""
    assert app.filtered == ["/a", "/e"]
    assert [request.path for request in origin.requests] == ["/a", "/e"]
    assert [(ending.status, ending.error) for ending in app.endings[1:4]] == [(429, None)] * 3


async def test_error_pages_tell_the_limits(dead: str) -> None:
    """A client that gets a 502 wants to know whether it may try again."""
    app = Limited(dead, RateLimitPolicy("api", one_per_minute(burst=2), by_client()))
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        response = await client.request("GET", "/")

    assert response.status == 502
    assert response.get("ratelimit") == '"api";r=1;t=60'


async def test_all_policies_that_refuse_are_named(origin: Origin) -> None:
    """Even if they are many, and fields and page long."""
    policies = [
        RateLimitPolicy(
            f"a rule with quite a long name, number {number}", one_per_minute(), everyone
        )
        for number in range(20)
    ]
    app = Limited(origin, *policies)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        await client.request("GET", "/")
        refused = await client.request("GET", "/", [("Accept-Encoding", "gzip")])
        again = await client.request("GET", "/")

    assert (refused.status, again.status) == (429, 429)
    assert len(refused.get("ratelimit") or "") > 1000
    assert len(json.loads(refused.body)["violated-policies"]) == 20


async def test_over_http2(origin: Origin) -> None:
    """Streams are refused one by one; the connection goes on."""
    origin.handler = reply(body=b"ok")
    app = Limited(origin, RateLimitPolicy("api", one_per_minute(burst=2), by_path("/api")))
    async with (
        RunningProxy(app, server_options=H2C) as proxy,
        await RawH2Client.connect(proxy.address) as client,
    ):
        responses = [await client.request("GET", "/api/x") for _ in range(3)]
        other = await client.request("GET", "/x")

    assert [response.status for response in responses] == [200, 200, 429]
    assert responses[0].get(b"ratelimit") == b'"api";r=1;t=60'
    assert responses[2].get(b"retry-after") == b"60"
    assert json.loads(bytes(responses[2].body))["violated-policies"] == ["api"]
    assert other.status == 200
    assert other.get(b"ratelimit") is None


async def test_a_shadow_is_seen_by_the_application_only(origin: Origin) -> None:
    """It learns in time whom the policy would have refused."""
    policy = RateLimitPolicy("new", one_per_minute(), by_client(), shadow=True)
    app = Limited(origin, policy)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        responses = [await client.request("GET", "/") for _ in range(3)]

    assert {(response.status, response.get("ratelimit")) for response in responses} == {(200, None)}
    assert app.limited == [(), ("new",), ("new",)]
    assert policy.counts.shadowed == 2


async def test_a_proxy_without_filters_is_limited_too(origin: Origin) -> None:
    """The shortest way through the proxy leads past the modules as well."""

    class Bare(BareProxy):
        def init_downstream_modules(self, modules: HttpModules) -> None:
            policy = RateLimitPolicy("a", one_per_minute(), by_header("k"))
            modules.add_module(RateLimiterBuilder([policy]))

    async with RunningProxy(Bare(origin)) as proxy, await proxy.connect() as client:
        statuses = [(await client.request("GET", "/", [("k", "1")])).status for _ in range(2)]
        other = await client.request("GET", "/")

    assert statuses == [200, 429]
    assert (other.status, other.get("ratelimit")) == (200, None)


async def test_a_faulty_key_function_is_a_fault_of_the_program(origin: Origin) -> None:
    """Requests are not let through unlimited."""

    def key(_: object) -> str:
        raise RuntimeError("no luck")

    app = Limited(origin, RateLimitPolicy("api", one_per_minute(), key))
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        response = await client.request("GET", "/")

    assert response.status == 500
    assert app.filtered == []


# ------------------------------------------------------------------------------------------ gRPC


@pytest.fixture(scope="module")
def poller() -> None:
    """Start what grpcio keeps for the process before anything is counted."""
    start_poller()


def grpc_proxy(server: GrpcServer) -> Limited:
    def peer(_session: Session) -> HttpPeer:
        peer = HttpPeer(server.address)
        peer.options.alpn = ALPN.H2
        return peer

    return Limited(peer, RateLimitPolicy("calls", one_per_minute(), by_client()))


@pytest.mark.usefixtures("poller")
async def test_grpc_clients_are_told_that_resources_are_exhausted() -> None:
    """As grpcio sees it; the fields are metadata."""
    async with (
        GrpcServer() as server,
        RunningProxy(grpc_proxy(server), server_options=H2C) as proxy,
        channel_to(proxy.address) as channel,
    ):
        stub = GrpcStub(channel)
        assert await stub.echo(b"hello", timeout=30)
        call = stub.echo(b"again", timeout=30)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call

    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.value.details() == "too much for calls"
    metadata = {
        str(key): value
        for each in (refused.value.initial_metadata(), refused.value.trailing_metadata())
        for key, value in each
    }
    assert metadata["ratelimit"] == '"calls";r=0;t=60'
    assert metadata["retry-after"] == "60"


@pytest.mark.usefixtures("poller")
async def test_grpc_web_clients_are_told_so_too() -> None:
    """Over HTTP/1, with the status where the protocol has it when there is no message."""
    fields = [("Content-Type", "application/grpc-web+proto")]
    async with (
        GrpcServer() as server,
        RunningProxy(grpc_proxy(server)) as proxy,
        await proxy.connect() as client,
    ):
        await client.request("POST", "/rig.Rig/Echo", fields, body=b"\0\0\0\0\0")
        refused = await client.request("POST", "/rig.Rig/Echo", fields, body=b"\0\0\0\0\0")

    assert (refused.status, refused.body) == (200, b"")
    assert refused.get("grpc-status") == "8"
    assert refused.get("content-type") == "application/grpc-web+proto"
    assert refused.get("retry-after") == "60"


# ----------------------------------------------------------------------------------- many machines


async def test_two_proxies_share_a_limit_in_redis(origin: Origin, tmp_path: Path) -> None:
    """Exactly while Redis is there; each by itself when it has died, without a failed request."""
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(RedisServer(tmp_path))
        clients: list[RawClient] = []
        policies: list[RateLimitPolicy] = []
        for _ in range(2):
            link = connect(redis.url)
            stack.push_async_callback(link.aclose)
            bucket = RedisTokenBucket(link, 1 / 3600, 10, name="test", timeout=5)
            await stack.enter_async_context(bucket)
            policies.append(RateLimitPolicy("all", bucket, everyone, timeout=30))
            proxy = await stack.enter_async_context(RunningProxy(Limited(origin, policies[-1])))
            clients.append(await stack.enter_async_context(await proxy.connect()))

        async def ask(count: int) -> list[int]:
            return [
                (await client.request("GET", "/")).status
                for _ in range(count)
                for client in clients
            ]

        assert await ask(7) == [200] * 10 + [429] * 4
        await redis.kill()
        # What each has allowed itself is known to it: five, so five are left.
        assert await ask(7) == [200] * 10 + [429] * 4

    assert [policy.counts.failed for policy in policies] == [0, 0]


# ---------------------------------------------------------------------------- without a proxy


class Web(ServeHttp):
    """Counts what it answers; some paths fail."""

    def __init__(self) -> None:
        self.answered = 0

    async def response(self, session: ServerSession) -> Response:
        self.answered += 1
        if session.request.path == "/teapot":
            raise Error(HTTPStatus(418), "short and stout")
        return Response(200, b"ok")


async def test_a_server_without_a_proxy_is_limited() -> None:
    """Answers, error pages and refusals have the fields."""
    web = Web()
    app = HttpServer(web)
    app.add_module(
        RateLimiterBuilder([RateLimitPolicy("web", one_per_minute(burst=2), by_client())])
    )
    async with serving(app) as address:
        async with await RawClient.connect(address) as client:
            first = await client.request("GET", "/")
            teapot = await client.request("GET", "/teapot")
        async with await RawClient.connect(address) as client:
            refused = [await client.request("GET", "/") for _ in range(2)]

    assert (first.status, first.get("ratelimit")) == (200, '"web";r=1;t=60')
    assert (teapot.status, teapot.get("ratelimit")) == (418, '"web";r=0;t=120')
    assert [response.status for response in refused] == [429, 429]
    assert refused[0].get("retry-after") == "60"
    assert web.answered == 2
