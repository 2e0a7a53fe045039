"""Resets at any byte, half-open and slow connections, upstreams that die: each has an answer."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final

import pytest

from pingora_core.apps.http_app import HttpServerOptions
from pingora_core.protocols.http.v1.server import Http1Options
from pingora_core.upstreams import HttpPeer
from pingora_error import ErrorSource, ErrorType
from tests.support.leaks import LeakCheck
from tests.support.origin_steps import (
    close,
    half_close,
    hang,
    read_body,
    read_piece,
    reset,
    send,
    sequence,
    wait,
)
from tests.support.proxy import RigContext, RigProxy, RunningProxy
from tests.support.wire import Truncated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pingora_error import Error
    from pingora_proxy import Session
    from tests.support.client import RawClient
    from tests.support.origin import Exchange, Handler, Origin

Proxy = RunningProxy[RigContext]

_RESPONSES: Final = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nx-a: b\r\n\r\nhello",
    "chunked": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;a=b\r\nllo\r\n0\r\nx: y\r\n\r\n"
    ),
    "informational": b"HTTP/1.1 103 Early Hints\r\nx: y\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
}


# --------------------------------------------------------------------------- the upstream dies


@pytest.mark.parametrize("end", [reset, close, half_close], ids=["reset", "close", "half-close"])
@pytest.mark.parametrize("kind", _RESPONSES)
async def test_upstream_ends_at_any_byte(
    proxy: Proxy, origin: Origin, app: RigProxy, kind: str, end: Handler
) -> None:
    """Wherever a response breaks off: a 502, or a body that is visibly cut; never a wrong whole."""
    wire = _RESPONSES[kind]
    for cut in range(len(wire) + 1):
        origin.handler = sequence(read_body, send(wire[:cut]), end)
        async with await proxy.connect() as client:
            outcome = await _outcome(client)

        if cut < wire.rindex(b"\r\n\r\n", 0, len(wire) - 4) and kind == "length":
            assert outcome == (502, b"", True), cut
        status, body, complete = outcome
        if complete and status == 200:
            assert (body, cut) == (b"hello", len(wire))
        elif complete:
            assert (status, body) == (502, b"")
        else:
            assert b"hello".startswith(body)
    await app.ended(len(wire) + 1)
    await origin.all_closed()


async def _outcome(client: RawClient) -> tuple[int | None, bytes, bool]:
    """Status, body and completeness of the response to one GET."""
    await client.send_request("GET", "/")
    try:
        head, _ = await client.read_final_head()
    except Truncated as error:
        return None, error.partial[:0], False
    body = client.body_of(head)
    status = int(head.start_line.split(" ")[1])
    try:
        await body.read_all()
    except Truncated:
        return status, bytes(body.received), False
    return status, bytes(body.received), True


async def test_upstream_refuses_the_connection(app: RigProxy, client: RawClient, dead: str) -> None:
    """Nobody listens: 502, told as a refused connection."""
    app.upstream = dead
    response = await client.request("GET", "/")

    ending = await app.ended()
    assert response.status == 502
    assert ending.error is not None
    assert ending.error.root_etype is ErrorType.CONNECT_REFUSED


@pytest.fixture
def full_backlog() -> Iterator[str]:
    """Address of a listener that completes no further connection."""
    listener = socket.socket()
    waiting: list[socket.socket] = []
    with listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(listener.getsockname())
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        for sock in waiting:
            sock.close()


async def test_upstream_does_not_answer_the_connection(full_backlog: str) -> None:
    """A connection that is not made in time is a 504."""

    def peer(session: Session) -> HttpPeer:
        peer = HttpPeer(full_backlog)
        peer.options.connection_timeout = 0.05
        return peer

    app = RigProxy(peer)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        response = await client.request("GET", "/")

    assert response.status == 504
    ending = await app.ended()
    assert ending.error is not None
    assert ending.error.root_etype is ErrorType.CONNECT_TIMEDOUT


@pytest.mark.parametrize(
    "sent",
    [b"", b"HTTP/1.1 200", b"HTTP/1.1 103 Early Hints\r\n\r\n"],
    ids=["nothing", "some", "103"],
)
async def test_upstream_is_silent(origin: Origin, sent: bytes) -> None:
    """An upstream that does not finish its head in time is a 504, and let go of."""
    app = RigProxy(_impatient(origin))
    origin.handler = sequence(read_body, send(sent), hang)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        response = await client.request("GET", "/")
        await origin.all_closed()

    assert response.status == 504


async def test_upstream_falls_silent_within_the_body(origin: Origin) -> None:
    """An upstream that stops in the middle is given up; the client sees that the body is cut."""
    app = RigProxy(_impatient(origin))
    origin.handler = sequence(read_body, send(_RESPONSES["length"][:-1]), hang)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        with pytest.raises(Truncated):
            await client.request("GET", "/")
        await origin.all_closed()


async def test_upstream_takes_no_more_of_the_body(origin: Origin) -> None:
    """An upstream that stops reading a long body is given up: 504."""
    origin.handler = wait("end")

    def peer(session: Session) -> HttpPeer:
        peer = HttpPeer(origin.address)
        peer.options.write_timeout = 0.1
        peer.options.read_timeout = 0.1
        return peer

    app = RigProxy(peer)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        sending = asyncio.create_task(_send_much(client))
        ending = await app.ended()
        client.reset()
        await sending
    origin.open("end")

    assert ending.error is not None
    assert ending.error.etype is ErrorType.WRITE_TIMEDOUT
    assert ending.error.esource is ErrorSource.UPSTREAM


async def _send_much(client: RawClient) -> None:
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
    try:
        while True:
            await client.send(b"x" * 65536)
    except (OSError, TimeoutError):
        return


@pytest.mark.parametrize("end", [reset, close], ids=["reset", "close"])
async def test_upstream_dies_within_the_upload(
    client: RawClient, origin: Origin, app: RigProxy, end: Handler
) -> None:
    """An upstream that dies while a body is on its way is a 502 for a client that still sends."""
    origin.handler = sequence(read_piece, end)
    await client.send(
        b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 50_000
    )
    response = await client.read_response("PUT")

    assert (response.status, response.get("connection")) == (502, "close")
    assert (await app.ended()).status == 502


async def test_reused_upstream_dies_within_the_upload(client: RawClient, origin: Origin) -> None:
    """On a reused connection the attempt is repeated, with what was sent so far and the rest."""

    async def die_when_reused(exchange: Exchange) -> None:
        if exchange.request.number:
            await exchange.read_piece()
            exchange.reset()
        else:
            await exchange.reply(body=await exchange.read_body())

    origin.handler = die_when_reused
    await client.request("GET", "/")
    await client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello")
    await origin.requests_arrived(3)
    await client.send(b"world")
    response = await client.read_response("PUT")

    assert (response.status, response.body) == (200, b"helloworld")


async def test_upload_that_takes_its_time(origin: Origin) -> None:
    """While the client is still sending, an upstream that waits for the rest is not late."""
    app = RigProxy(_impatient(origin, 0.5))
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        await client.send(b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 15\r\n\r\n")
        for letter in b"abcdefghijklmno":
            await asyncio.sleep(0.04)
            await client.send(bytes([letter]))
        response = await client.read_response("POST")

    assert (response.status, response.body) == (200, b"15")


def _impatient(origin: Origin, read_timeout: float = 0.05) -> Callable[[Session], HttpPeer]:
    def peer(session: Session) -> HttpPeer:
        peer = HttpPeer(origin.address)
        peer.options.read_timeout = read_timeout
        return peer

    return peer


# ----------------------------------------------------------------------------- failing over


class _FailingOver(RigProxy):
    """Tries a dead address first, then the origin."""

    def __init__(self, dead: str, origin: Origin) -> None:
        super().__init__(origin)
        self.dead = dead

    async def upstream_peer(self, session: Session, ctx: RigContext) -> HttpPeer:
        peer = await super().upstream_peer(session, ctx)
        return HttpPeer(self.dead) if ctx.attempts == 1 else peer

    async def fail_to_connect(
        self, session: Session, peer: HttpPeer, ctx: RigContext, error: Error
    ) -> Error:
        error.set_retry(True)
        return error


@pytest.mark.parametrize("body", [None, b"x" * 100_000], ids=["none", "large"])
async def test_failing_over_to_another_upstream(
    origin: Origin, dead: str, body: bytes | None
) -> None:
    """An error that a callback marks for retry leads to another attempt, with the whole body."""
    app = _FailingOver(dead, origin)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        response = await client.request("POST", "/echo", body=body)

    assert (response.status, response.body) == (200, body or b"")
    assert app.endings[0].context.attempts == 2


async def test_attempts_are_bounded(client: RawClient, app: RigProxy, dead: str) -> None:
    """Not even a callback that always asks for another attempt can loop for ever."""

    async def always(session: Session, peer: HttpPeer, ctx: RigContext, error: Error) -> Error:
        error.set_retry(True)
        return error

    app.fail_to_connect = always  # type: ignore[method-assign]
    app.upstream = dead
    response = await client.request("GET", "/")

    assert response.status == 502
    assert (await app.ended()).context.attempts == 16


# ------------------------------------------------------------------------------ the client dies

_REQUEST: Final = (
    b"PUT /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
)


@pytest.mark.parametrize("how", ["reset", "half-close"])
async def test_client_ends_at_any_byte(
    proxy: Proxy, origin: Origin, app: RigProxy, how: str
) -> None:
    """Wherever a request breaks off: it is logged once, and the upstream gets nothing whole."""
    async with LeakCheck():
        for cut in range(1, len(_REQUEST)):
            async with await proxy.connect() as client:
                await client.send(_REQUEST[:cut])
                if how == "reset":
                    await asyncio.sleep(0)
                    client.reset()
                else:
                    client.half_close()
                    assert b" 200 " not in await client.receive_all()
                await app.ended(cut)
        await origin.all_closed()

    assert all(ending.error is not None for ending in app.endings)
    assert not any(request.complete for request in origin.requests)


async def test_client_that_sends_nothing_is_no_request(proxy: Proxy, app: RigProxy) -> None:
    """A connection that closes before its first byte tells nobody anything."""
    async with await proxy.connect() as client:
        client.half_close()
        assert await client.is_closed_by_server()
    async with await proxy.connect() as client:
        await client.send(b"\r\n")
        client.half_close()
        assert await client.is_closed_by_server()

    assert not app.endings


@pytest.mark.parametrize("how", ["reset", "half-close"])
async def test_client_leaves_while_the_upstream_thinks(
    client: RawClient, origin: Origin, app: RigProxy, how: str
) -> None:
    """A client that leaves ends the work upstream at once."""
    origin.handler = hang
    await client.send_request("GET", "/")
    await origin.requests_arrived()

    if how == "reset":
        client.reset()
    else:
        client.half_close()

    await origin.all_closed()
    ending = await app.ended()
    assert ending.status is None
    assert ending.error is not None
    assert ending.error.esource is ErrorSource.DOWNSTREAM


@pytest.mark.parametrize("how", ["reset", "half-close"])
async def test_client_leaves_within_the_response(
    client: RawClient, origin: Origin, app: RigProxy, how: str
) -> None:
    """The same while the response is on its way."""
    origin.handler = sequence(read_body, send(_RESPONSES["length"][:-2]), hang)
    await client.send_request("GET", "/")
    await client.read_head()

    if how == "reset":
        client.reset()
    else:
        client.half_close()

    await origin.all_closed()
    assert (await app.ended()).error is not None


class _Patient(RigProxy):
    async def early_request_filter(self, session: Session, ctx: RigContext) -> None:
        session.downstream_session.abort_on_close = False


async def test_half_close_can_be_tolerated(origin: Origin) -> None:
    """With ``abort_on_close`` off, a client may close its direction and still be answered."""
    origin.handler = sequence(read_body, wait("answer"), send(_RESPONSES["length"]))
    async with RunningProxy(_Patient(origin)) as proxy, await proxy.connect() as client:
        await client.send_request("GET", "/")
        client.half_close()
        await origin.requests_arrived()
        origin.open("answer")
        response = await client.read_response()

    assert response.body == b"hello"


# ---------------------------------------------------------------------------- the client is slow


def _options(*, header: float = 60.0, idle: float = 60.0) -> HttpServerOptions:
    return HttpServerOptions(http1=Http1Options(header_timeout=header, keepalive_timeout=idle))


async def test_slow_head(origin: Origin) -> None:
    """A head that is not whole in time is a 408, however busily its bytes drip."""
    app = RigProxy(origin)
    async with (
        RunningProxy(app, server_options=_options(header=0.1)) as proxy,
        await proxy.connect() as client,
    ):
        dripping = asyncio.create_task(_drip(client))
        response = await client.read_response()
        dripping.cancel()
        await asyncio.wait((dripping,))
        closed = await client.is_closed_by_server()

    assert (response.status, response.get("connection")) == (408, "close")
    assert closed
    assert (await app.ended()).status == 408
    assert not origin.connections


async def _drip(client: RawClient) -> None:
    await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
    for letter in b"x-never: ending" * 100:
        await client.send(bytes([letter]))
        await asyncio.sleep(0.01)


async def test_idle_connection_is_closed_in_silence(origin: Origin) -> None:
    """Between requests there is nothing to answer: an idle connection is just closed."""
    app = RigProxy(origin)
    async with (
        RunningProxy(app, server_options=_options(idle=0.05)) as proxy,
        await proxy.connect() as idle,
        await proxy.connect() as client,
    ):
        await client.request("GET", "/")

        assert await client.is_closed_by_server()
        assert await idle.is_closed_by_server()
    assert len(app.endings) == 1


class _HurryingBodies(RigProxy):
    async def early_request_filter(self, session: Session, ctx: RigContext) -> None:
        session.downstream_session.read_timeout = 0.05


async def test_slow_body(origin: Origin) -> None:
    """A body that stops coming is a 408, and the upstream never gets a whole request."""
    app = _HurryingBodies(origin)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        await client.send(b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
        response = await client.read_response("POST")
        await origin.all_closed()

    assert (response.status, response.get("connection")) == (408, "close")
    assert (await app.ended()).status == 408
    assert not origin.requests[0].complete


# ------------------------------------------------------------------------------------ shutdown


async def test_shutdown_finishes_what_is_in_flight(origin: Origin) -> None:
    """A busy connection is answered and told to close; an idle one is closed at once."""
    app = RigProxy(origin)
    async with (
        RunningProxy(app) as proxy,
        await proxy.connect() as idle,
        await proxy.connect() as busy,
    ):
        await idle.request("GET", "/")
        await busy.send_request("GET", "/sleep")
        await origin.requests_arrived(2)
        proxy.begin_shutdown()
        idle_closed = await idle.is_closed_by_server()
        origin.open("sleep")
        response = await busy.read_response()

        assert idle_closed
        assert (response.status, response.get("connection")) == (200, "close")
        assert await busy.is_closed_by_server()
