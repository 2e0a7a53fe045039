"""What the original's ``test_basic.rs`` shows, as far as clients speak plain HTTP/1."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest

from pingora_core.apps.http_app import HttpServerOptions
from pingora_core.conf import ServerConf
from pingora_core.modules.compression import ResponseCompression
from tests.support.client import RawClient
from tests.support.origin import Origin
from tests.support.origin_routes import rig
from tests.support.ports import needs_ipv6
from tests.support.proxy import BareProxy, RigContext, RigProxy, RunningProxy
from tests.support.wire import Truncated

if TYPE_CHECKING:
    from pathlib import Path

    from pingora_proxy import Session

Proxy = RunningProxy[RigContext]


async def test_simple_proxy(origin: Origin) -> None:
    """A GET goes through with length and body; all four addresses are known."""
    conf = ServerConf(client_bind_to_ipv4=("127.0.0.2",))
    async with (
        RunningProxy(RigProxy(origin), conf=conf) as proxy,
        await proxy.connect() as client,
    ):
        response = await client.request("GET", "/")
        host, port = client.local_address

    assert (response.status, response.get("content-length")) == (200, "13")
    assert response.body == b"Hello World!\n"
    assert response.get("x-client-addr") == f"{host}:{port}"
    assert response.get("x-server-addr") == proxy.address
    assert response.get("x-upstream-server-addr") == origin.address
    upstream_client = response.get("x-upstream-client-addr")
    assert upstream_client is not None
    assert upstream_client.startswith("127.0.0.2:")


async def test_proxy_without_optional_callbacks(origin: Origin) -> None:
    """A class with nothing but the two mandatory callbacks proxies as well."""
    async with RunningProxy(BareProxy(origin)) as proxy, await proxy.connect() as client:
        small = await client.request("GET", "/")
        echo = await client.request("POST", "/echo", body=b"abc")
        large = await client.request("GET", "/download")

    assert (small.status, small.body) == (200, b"Hello World!\n")
    assert (echo.status, echo.body) == (200, b"abc")
    assert len(large.body) == 4 * 1024 * 1024


async def test_h1_fields_arrive_in_order_and_case(client: RawClient, origin: Origin) -> None:
    """Names keep their case, repeated fields their order, values their bytes."""
    fields = [("X-CaSe", "1"), ("x-twice", "a"), ("X-Twice", "b"), ("x-bytes", "\xe9\xff")]

    response = await client.request("GET", "/set_cookie?q=%20a%2Fb", fields)

    [request] = origin.requests
    assert [field for field in request.head.fields if field in fields] == fields
    assert request.target == "/set_cookie?q=%20a%2Fb"
    assert response.head.get_all("set-cookie") == ["chocolate chip", "b=2"]


async def test_simple_proxy_uds(origin: Origin, tmp_path: Path) -> None:
    """Clients may come over a Unix socket; their address is unknown then."""
    app = RigProxy(origin)
    path = tmp_path / "proxy.sock"
    async with RunningProxy(app, uds=path), await RawClient.connect(f"unix:{path}") as client:
        response = await client.request("GET", "/")

    assert (response.status, response.body) == (200, b"Hello World!\n")
    assert response.get("x-client-addr") in {"None", "unix:"}
    assert response.get("x-server-addr") == f"unix:{path}"
    assert not path.exists()


async def test_simple_proxy_uds_peer(tmp_path: Path) -> None:
    """The upstream may listen on a Unix socket; its connection is reused as well."""
    async with (
        Origin(rig, uds=tmp_path / "origin.sock") as origin,
        RunningProxy(RigProxy(origin)) as proxy,
        await proxy.connect() as client,
    ):
        first = await client.request("GET", "/")
        second = await client.request("GET", "/")

    assert (first.status, first.body) == (200, b"Hello World!\n")
    assert first.get("x-upstream-server-addr") == origin.address
    assert second.get("x-conn-reuse") == "1"


@needs_ipv6
async def test_ipv6_listener_and_peer() -> None:
    """Both sides may speak IPv6."""
    async with (
        Origin(rig, host="::1") as origin,
        RunningProxy(RigProxy(origin), listen=("[::1]:0",)) as proxy,
        await proxy.connect() as client,
    ):
        response = await client.request("GET", "/")

    assert response.status == 200
    assert response.get("x-upstream-server-addr") == origin.address


# -------------------------------------------------------------- dropped upstream connections


async def test_dropped_conn_get(client: RawClient, origin: Origin) -> None:
    """A reused upstream connection that dies in silence is replaced: the client notices nothing."""
    first = await client.request("GET", "/bad_lb")
    second = await client.request("GET", "/bad_lb")

    assert [first.status, second.status] == [200, 200]
    assert second.body == b"dog!"
    assert second.get("x-conn-reuse") == "0"
    assert [request.connection for request in origin.requests] == [0, 0, 1]


async def test_dropped_conn_put_body(client: RawClient, origin: Origin) -> None:
    """A small body is replayed from the retry buffer."""
    await client.request("GET", "/bad_lb")
    response = await client.request("PUT", "/bad_lb", body=b"x" * 10_000)

    assert (response.status, response.body) == (200, b"x" * 10_000)
    assert [request.body for request in origin.requests[1:]] == [b"x" * 10_000] * 2


async def test_dropped_conn_put_chunked_body(client: RawClient) -> None:
    """A chunked body is replayed, too."""
    await client.request("GET", "/bad_lb")
    response = await client.request("PUT", "/bad_lb", chunks=[b"cat", b"fish!"])

    assert (response.status, response.body) == (200, b"catfish!")


async def test_dropped_conn_put_body_over(client: RawClient, origin: Origin) -> None:
    """A body that outgrew the retry buffer is never replayed, least of all in part: 502."""
    await client.request("GET", "/bad_lb")
    response = await client.request("PUT", "/bad_lb", body=b"x" * (64 * 1024 + 1))

    assert response.status == 502
    assert len(origin.requests) == 2


async def test_dropped_conn_retry_buffer_size_is_an_option(origin: Origin) -> None:
    """The size of the retry buffer can be chosen."""
    async with (
        RunningProxy(RigProxy(origin), retry_buffer_size=1 << 20) as proxy,
        await proxy.connect() as client,
    ):
        await client.request("GET", "/bad_lb")
        response = await client.request("PUT", "/bad_lb", body=b"x" * (64 * 1024 + 1))

    assert (response.status, len(response.body)) == (200, 64 * 1024 + 1)


@pytest.mark.parametrize("body", [None, b"", b"body"], ids=["none", "empty", "some"])
async def test_dropped_conn_post_is_not_repeated(
    client: RawClient, origin: Origin, body: bytes | None
) -> None:
    """What is not idempotent is never executed twice, unlike in the original."""
    await client.request("GET", "/bad_lb")
    response = await client.request("POST", "/bad_lb", body=body)

    assert response.status == 502
    assert len(origin.requests) == 2


# ------------------------------------------------------------------------------ compression


class _UpstreamCompression(RigProxy):
    async def early_request_filter(self, session: Session, ctx: RigContext) -> None:
        session.upstream_compression.adjust_level(6)


class _DownstreamCompression(RigProxy):
    async def early_request_filter(self, session: Session, ctx: RigContext) -> None:
        module = session.downstream_modules_ctx.get(ResponseCompression)
        assert module is not None
        module.adjust_level(6)


@pytest.mark.parametrize("kind", [_UpstreamCompression, _DownstreamCompression])
async def test_compression(origin: Origin, kind: type[RigProxy]) -> None:
    """Both compressions turn a compressible body into gzip, chunked, with Vary."""
    async with RunningProxy(kind(origin)) as proxy, await proxy.connect() as client:
        plain = await client.request("GET", "/no_compression")
        packed = await client.request("GET", "/no_compression", [("accept-encoding", "gzip")])

    assert (plain.get("content-encoding"), plain.body) == (None, b"B" * 32)
    assert packed.get("content-encoding") == "gzip"
    assert packed.get("content-length") is None
    assert gzip.decompress(packed.body) == b"B" * 32


# --------------------------------------------------------------------- connection and CONNECT


async def test_connect_close(client: RawClient) -> None:
    """The connection is kept by default; a client's ``close`` is honoured and echoed."""
    kept = await client.request("GET", "/")
    closed = await client.request("GET", "/", [("Connection", "close")])

    assert kept.get("connection") == "keep-alive"
    assert closed.get("connection") == "close"
    assert await client.is_closed_by_server()


async def test_close_of_the_client_does_not_close_upstream(proxy: Proxy, origin: Origin) -> None:
    """``Connection: close`` concerns one hop: the upstream connection is kept and reused."""
    for _ in range(2):
        async with await proxy.connect() as client:
            await client.request("GET", "/", [("Connection", "close")])

    assert [request.connection for request in origin.requests] == [0, 0]
    assert origin.requests[0].get("connection") is None


async def test_connect_proxying_disallowed_h1(
    client: RawClient, origin: Origin, app: RigProxy
) -> None:
    """CONNECT is answered with 405 and told to ``logging``; nothing reaches the upstream."""
    await client.send(b"CONNECT test.example:443 HTTP/1.1\r\nHost: test.example:443\r\n\r\n")
    response = await client.read_response()

    assert response.status == 405
    assert await client.is_closed_by_server()
    assert not origin.requests
    assert (await app.ended()).status == 405


async def test_connect_proxying_allowed_h1(origin: Origin) -> None:
    """With the option a CONNECT goes upstream, and what follows the 200 are raw bytes."""
    options = HttpServerOptions(allow_connect_method_proxying=True)
    async with (
        RunningProxy(RigProxy(origin), server_options=options) as proxy,
        await proxy.connect() as client,
    ):
        await client.send(b"CONNECT test.example:443 HTTP/1.1\r\nHost: test.example:443\r\n\r\n")
        head = await client.read_head()
        tunnelled = await client.receive_exactly(len(b"hello world\n"))

    assert head.start_line.startswith("HTTP/1.1 200 ")
    assert tunnelled == b"hello world\n"
    assert origin.requests[0].head.start_line == "CONNECT test.example:443 HTTP/1.1"


# ------------------------------------------------------------------------------------- 1xx


async def test_103(client: RawClient) -> None:
    """Early hints reach the client before the final response."""
    response = await client.request("GET", "/103")

    assert [hint.start_line for hint in response.informational] == ["HTTP/1.1 103 Early Hints"]
    assert response.informational[0].get("link") == "</style.css>; rel=preload"
    assert response.informational[0].get("connection") is None
    assert (response.status, response.body) == (200, b"123456")


async def test_103_die(client: RawClient, app: RigProxy) -> None:
    """An upstream that dies after a 103 still makes a 502."""
    response = await client.request("GET", "/103-die")

    assert [hint.start_line for hint in response.informational] == ["HTTP/1.1 103 Early Hints"]
    assert response.status == 502
    assert (await app.ended()).status == 502


async def test_error_before_headers_sent(client: RawClient) -> None:
    """An upstream that dies before the head makes an empty, complete error page."""
    response = await client.request("GET", "/abort_at", [("x-abort-at", "0")])

    assert (response.status, response.body) == (502, b"")
    assert response.get("connection") == "close"
    assert await client.is_closed_by_server()


async def test_error_after_headers_sent(client: RawClient, app: RigProxy) -> None:
    """An upstream that dies within the body makes a visibly truncated response."""
    await client.send_request("GET", "/connection_die")
    head = await client.read_head()
    with pytest.raises(Truncated) as caught:
        await client.body_of(head).read_all()

    assert caught.value.partial == b"AAAAA"
    ending = await app.ended()
    assert ending.status == 200
    assert ending.error is not None
