"""What the original's ``test_upstream.rs`` shows without its cache: bodies, early answers, upgrades."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pingora_core.conf import ServerConf
from pingora_core.upstreams import HttpPeer
from pingora_error import ErrorType
from tests.support.origin import Origin
from tests.support.origin_routes import DOWNLOAD_SIZE
from tests.support.proxy import RigContext, RigProxy, RunningProxy
from tests.support.waiting import eventually
from tests.support.wire import Truncated

if TYPE_CHECKING:
    from pingora_proxy import Session
    from tests.support.client import RawClient
    from tests.support.origin import Exchange

Proxy = RunningProxy[RigContext]


async def test_ip_binding(origin: Origin) -> None:
    """The upstream sees the configured source address."""
    conf = ServerConf(client_bind_to_ipv4=("127.0.0.2",))
    async with (
        RunningProxy(RigProxy(origin), conf=conf) as proxy,
        await proxy.connect() as client,
    ):
        response = await client.request("GET", "/client_ip")

    assert response.get("x-client-ip") == "127.0.0.2"


# ------------------------------------------------------------------------------------------ uploads


class _KeepOnEarlyResponse(RigProxy):
    async def early_request_filter(self, session: Session, ctx: RigContext) -> None:
        session.downstream_session.close_on_response_before_downstream_finish = False


async def test_duplex(origin: Origin) -> None:
    """An upstream may answer in full while the body is still coming; the client stays connected."""
    async with (
        RunningProxy(_KeepOnEarlyResponse(origin)) as proxy,
        await proxy.connect() as client,
    ):
        response = await client.request("POST", "/duplex/", body=b"b" * 1024 * 1024)
        again = await client.request("GET", "/")

    assert (response.status, response.body) == (200, b"hello world\n")
    assert response.get("connection") == "keep-alive"
    assert again.status == 200


async def test_close_on_response_before_downstream_finish(client: RawClient) -> None:
    """By default an early response is delivered whole and announces the end of the connection."""
    head = b"POST /duplex/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
    await client.send(head + b"only the beginning")
    response = await client.read_response()

    assert (response.status, response.body) == (200, b"hello world\n")
    assert response.get("connection") == "close"
    assert await client.is_closed_by_server()


async def test_upload(client: RawClient, origin: Origin) -> None:
    """A large upload arrives to the last byte."""
    body = bytes(range(256)) * (15 * 1024 * 4)
    response = await client.request("POST", "/upload/", body=body)

    assert (response.status, response.body) == (200, str(len(body)).encode())
    assert origin.requests[0].body == body


async def test_upload_chunked(client: RawClient, origin: Origin) -> None:
    """A chunked upload stays chunked and whole, whatever the sizes of its chunks."""
    chunks = [b"a", b"b" * 100_000, b"c" * 7, b"d" * 65_536]
    response = await client.request("POST", "/upload/", chunks=chunks)

    assert response.body == b"%d" % sum(map(len, chunks))
    assert origin.requests[0].chunked
    assert origin.requests[0].body == b"".join(chunks)


async def test_upload_is_streamed(client: RawClient, origin: Origin) -> None:
    """The upstream sees the first bytes of a body before the client has sent the last."""
    await client.send(b"POST /upload/ HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
    await origin.requests_arrived()
    await eventually(lambda: origin.requests[0].body == b"abc", "the first half at the origin")
    await client.send(b"def")

    assert (await client.read_response()).body == b"6"


async def test_upload_stalls_when_the_upstream_does() -> None:
    """A stalled upstream stalls the client, instead of filling the proxy's memory."""
    async with (
        Origin(hang_without_reading) as origin,
        RunningProxy(RigProxy(origin)) as proxy,
        await proxy.connect() as client,
    ):
        client.timeout = 0.5
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
        sent = 0
        try:
            while sent < 64 * 1024 * 1024:
                await client.send(b"x" * 65536)
                sent += 65536
        except TimeoutError:
            origin.open("end")

    # Kernel buffers of two connections on loopback, plus ours.
    assert sent < 32 * 1024 * 1024


async def hang_without_reading(exchange: Exchange) -> None:
    """Leave everything where it is until the gate opens."""
    await exchange.passed("end")
    exchange.reset()


async def test_upload_connection_die(client: RawClient, origin: Origin) -> None:
    """A response that was given before the upstream died within the upload reaches the client."""
    await client.send(
        b"POST /upload_connection_die/ HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n"
    )
    response = await client.read_response()
    origin.open("upload_connection_die")

    assert response.status == 200


async def test_early_refusal_reaches_a_client_that_still_uploads(client: RawClient) -> None:
    """A 413 in the middle of an upload gets through although the upstream takes no more."""
    sending = asyncio.create_task(_send_until_closed(client))
    response = await client.read_response("POST")
    await sending

    assert (response.status, response.body) == (413, b"too large\n")
    assert response.get("connection") == "close"


async def _send_until_closed(client: RawClient) -> None:
    await client.send(
        b"POST /early_response HTTP/1.1\r\nHost: a\r\nContent-Length: 4000000\r\n\r\n"
    )
    try:
        for _ in range(32):
            await client.send(b"x" * 65536)
    except OSError:
        return


async def test_head_with_100_continue(client: RawClient) -> None:
    """An unasked 100 before the answer to HEAD disturbs nothing."""
    response = await client.request("HEAD", "/100")
    again = await client.request("GET", "/")

    assert [head.start_line for head in response.informational] == ["HTTP/1.1 100 Continue"]
    assert (response.status, response.body) == (200, b"")
    assert response.get("content-length") == "12"
    assert again.body == b"Hello World!\n"


async def test_expect_100_continue_is_answered_by_the_upstream(
    client: RawClient, origin: Origin
) -> None:
    """A client that waits for a go-ahead gets the upstream's, once."""
    await client.send(
        b"POST /continue HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    )
    first = await client.read_head()
    await client.send(b"abc")
    response = await client.read_response("POST")

    assert first.start_line == "HTTP/1.1 100 Continue"
    assert (response.body, response.informational) == (b"abc", ())
    assert origin.requests[0].get("expect") == "100-continue"


async def test_expect_refused_without_the_body(client: RawClient) -> None:
    """An upstream that refuses before the go-ahead spares the client the body."""
    await client.send(
        b"POST /early_response HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"
        b"Expect: 100-continue\r\n\r\n"
    )
    response = await client.read_response("POST")

    assert response.status == 413
    assert response.get("connection") == "close"


# ---------------------------------------------------------------------------------------- downloads


async def test_download_is_whole(client: RawClient) -> None:
    """A large response arrives to the last byte."""
    response = await client.request("GET", "/download/")

    assert response.body == bytes(range(256)) * (DOWNLOAD_SIZE // 256)


async def test_response_is_streamed(client: RawClient, origin: Origin) -> None:
    """Each piece of a response reaches the client before the next one exists."""
    await client.send_request("GET", "/slow_body")
    body = client.body_of(await client.read_head())
    pieces = []
    for _ in range(3):
        origin.open("slow_body")
        pieces.append(await body.read())
    origin.open("slow_body")

    assert (pieces, await body.read()) == ([b"1", b"2", b"3"], b"")


@pytest.mark.parametrize("path", ["/connection_die", "/connection_die_chunked"])
async def test_connection_die(client: RawClient, path: str) -> None:
    """A response cut short by the upstream is cut short for the client, visibly."""
    with pytest.raises(Truncated) as caught:
        await client.request("GET", path)

    assert caught.value.partial == b"AAAAA"


class _Impatient(RigProxy):
    min_send_rate: int | None = None

    async def early_request_filter(self, session: Session, ctx: RigContext) -> None:
        session.downstream_session.write_timeout = 0.1
        session.downstream_session.min_send_rate = self.min_send_rate


class _ImpatientByRate(_Impatient):
    min_send_rate: int | None = 1000


async def endless(exchange: Exchange) -> None:
    """A body without an end, as fast as it is taken."""
    await exchange.reply(length=1 << 40)
    while True:
        await exchange.send(b"x" * 65536)


async def test_download_timeout() -> None:
    """A client that stops reading is given up after the write timeout, and the upstream with it."""
    async with Origin(endless) as origin:
        app = _Impatient(origin)
        async with (
            RunningProxy(app) as proxy,
            await proxy.connect(receive_buffer=4096) as client,
        ):
            await client.send_request("GET", "/")
            ending = await app.ended()
            await origin.all_closed()

    assert ending.error is not None
    assert ending.error.root_etype is ErrorType.WRITE_TIMEDOUT


async def test_download_timeout_min_rate() -> None:
    """A minimum rate replaces a short write timeout: a slow but sufficient reader is kept."""
    async with Origin(endless) as origin:
        app = _ImpatientByRate(origin)
        async with (
            RunningProxy(app) as proxy,
            await proxy.connect(receive_buffer=4096) as client,
        ):
            await client.send_request("GET", "/")
            for _ in range(12):
                await asyncio.sleep(0.04)
            still_running = not app.endings
            client.reset()
            await app.ended()

    assert still_running


async def test_download_stalls_when_the_client_does(origin: Origin) -> None:
    """A stalled client stalls the upstream, instead of filling the proxy's memory."""
    written = 0

    async def count(exchange: Exchange) -> None:
        nonlocal written
        await exchange.reply(length=1 << 40)
        while True:
            await exchange.send(b"x" * 65536)
            written += 65536

    origin.handler = count
    async with (
        RunningProxy(RigProxy(origin)) as proxy,
        await proxy.connect(receive_buffer=4096) as client,
    ):
        await client.send_request("GET", "/")
        seen = -1
        while written != seen or not written:
            seen = written
            for _ in range(4):
                await asyncio.sleep(0.04)

    assert written < 32 * 1024 * 1024


# ------------------------------------------------------------------------------ upstream keep-alive


async def test_upstream_connections_are_reused(proxy: Proxy, origin: Origin) -> None:
    """An upstream connection outlives the client's and is used again."""
    reused = []
    for _ in range(3):
        async with await proxy.connect() as client:
            reused.append((await client.request("GET", "/")).get("x-conn-reuse"))

    assert reused == ["0", "1", "1"]
    assert len(origin.connections) == 1


@pytest.mark.parametrize("path", ["/noreuse", "/excess", "/http10_length", "/close_delimited"])
async def test_upstream_connections_that_must_not_be_reused(
    client: RawClient, origin: Origin, path: str
) -> None:
    """After ``close``, after bytes too many, after HTTP/1.0: a new connection is made."""
    first = await client.request("GET", path)
    second = await client.request("GET", "/")

    assert first.status == 200
    assert (second.status, second.get("x-conn-reuse")) == (200, "0")
    assert [request.connection for request in origin.requests] == [0, 1]


async def test_idle_upstream_connection_that_closed_is_not_used(
    client: RawClient, origin: Origin
) -> None:
    """An idle connection that the upstream closed in time costs no failed attempt."""
    await client.request("GET", "/silent_close")
    await origin.all_closed()
    response = await client.request("POST", "/echo", body=b"not idempotent")

    assert (response.status, response.body) == (200, b"not idempotent")
    assert response.get("x-conn-reuse") == "0"


async def test_idle_upstream_connection_with_stray_bytes_is_not_used(
    client: RawClient, origin: Origin
) -> None:
    """Bytes that arrive on an idle connection are never taken for an answer."""
    await client.request("GET", "/test2")
    connection = origin.connections[0]
    connection.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
    await connection.writer.drain()
    await origin.all_closed()
    response = await client.request("GET", "/test2")

    assert response.body == b"hello world\n"
    assert response.get("x-conn-reuse") == "0"


async def test_different_peers_share_no_connection(origin: Origin) -> None:
    """What tells two peers apart keeps their connections apart."""
    group = 0

    def peer(session: Session) -> HttpPeer:
        return HttpPeer(origin.address, group_key=group)

    async with RunningProxy(RigProxy(peer)) as proxy, await proxy.connect() as client:
        await client.request("GET", "/")
        group = 1
        other = await client.request("GET", "/")
        group = 0
        same = await client.request("GET", "/")

    assert (other.get("x-conn-reuse"), same.get("x-conn-reuse")) == ("0", "1")
