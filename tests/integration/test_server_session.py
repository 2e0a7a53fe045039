"""One HTTP/1 session with a client, spoken to directly: what applications below the proxy rely on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

import pytest

from pingora_core.apps.http_app import HttpServerApp, HttpServerOptions
from pingora_core.protocols.http.prepared_head import PreparedHead
from pingora_core.protocols.http.server import ServerSession
from pingora_core.protocols.http.v1.server import Http1Options
from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.services.listening import Service
from pingora_core.services.service import ServiceContext, ServiceReadyNotifier
from pingora_error import Error
from pingora_http import ResponseHeader
from tests.support.client import RawClient
from tests.support.wire import CHUNKED, UNTIL_CLOSE, Truncated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pingora_core.runtime.shutdown import ShutdownWatch

Handler: TypeAlias = Callable[[ServerSession], Awaitable[None]]

_UPGRADE = b"Host: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"


class Scripted(HttpServerApp):
    """Hands each session to a function."""

    def __init__(self, handler: Handler, options: HttpServerOptions | None = None) -> None:
        self.handler = handler
        self.errors: list[Error] = []
        if options is not None:
            self.server_options = options

    async def process_new_http(self, session: ServerSession, shutdown: ShutdownWatch) -> bool:
        try:
            if not await session.read_request():
                return False
            await self.handler(session)
            return await session.finish()
        except Error as error:
            self.errors.append(error)
            session.shutdown()
            return False


@asynccontextmanager
async def talking_to(
    handler: Handler, options: HttpServerOptions | None = None
) -> AsyncIterator[RawClient]:
    """Run a handler behind a listener; yields a connected client."""
    app = Scripted(handler, options)
    service = Service("scripted", app)
    service.add_tcp("127.0.0.1:0")
    switch = ShutdownSwitch()
    ready = ServiceReadyNotifier()
    running = asyncio.create_task(
        service.start_service(ServiceContext(shutdown=switch.watch, ready=ready))
    )
    await ready.wait()
    try:
        async with await RawClient.connect(str(service.addresses[0])) as client:
            yield client
    finally:
        switch.start()
        await running


def ok(length: int | None = None, *, reason: str | None = None) -> ResponseHeader:
    """Make a 200."""
    header = ResponseHeader(200, reason=reason)
    if length is not None:
        header.set_content_length(length)
    return header


async def hello(session: ServerSession) -> None:
    """Answer with a word."""
    await session.write_response_header(ok(5))
    await session.write_response_body(b"hello", end=True)


# -------------------------------------------------------------------------------- keep-alive


async def test_server_may_close() -> None:
    """``set_keepalive(None)`` closes after the exchange and says so."""

    async def handler(session: ServerSession) -> None:
        session.set_keepalive(None)
        await hello(session)

    async with talking_to(handler) as client:
        response = await client.request("GET", "/")
        assert await client.is_closed_by_server()

    assert response.get("connection") == "close"


async def test_server_may_choose_the_idle_time() -> None:
    """``set_keepalive(seconds)`` bounds the time until the next request; the last choice stays."""
    seconds: list[float] = [0, 0.05]

    async def handler(session: ServerSession) -> None:
        session.set_keepalive(seconds.pop(0))
        await hello(session)

    async with talking_to(handler) as client:
        first = await client.request("GET", "/")
        second = await client.request("GET", "/")
        assert await client.is_closed_by_server()

    assert [r.get("connection") for r in (first, second)] == ["keep-alive", "keep-alive"]


@pytest.mark.parametrize(
    ("head", "kept"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", True),
        (b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", True),
    ],
)
async def test_client_decides_first(head: bytes, kept: bool) -> None:
    """A client that closes is not overruled by ``set_keepalive``."""

    async def handler(session: ServerSession) -> None:
        session.set_keepalive(60)
        await hello(session)

    async with talking_to(handler) as client:
        await client.send(head)
        response = await client.read_response()
        if not kept:
            assert await client.is_closed_by_server()

    assert response.get("connection") == ("keep-alive" if kept else "close")


async def test_response_may_ask_to_close() -> None:
    """``Connection: close`` in a response that a program made is heeded."""

    async def handler(session: ServerSession) -> None:
        header = ok(0)
        header.insert_header("Connection", "close")
        await session.write_response_header(header, end=True)

    async with talking_to(handler) as client:
        response = await client.request("GET", "/")
        assert await client.is_closed_by_server()

    assert response.head.get_all("connection") == ["close"]


# ---------------------------------------------------------------------------------- responses


async def test_custom_reason_and_date() -> None:
    """A reason phrase of one's own is kept; a Date is added, or kept if there is one."""

    async def handler(session: ServerSession) -> None:
        header = ok(0, reason="Just Fine")
        if session.request.path == "/dated":
            header.insert_header("Date", "Thu, 01 Jan 1970 00:00:00 GMT")
        await session.write_response_header(header, end=True)

    async with talking_to(handler) as client:
        response = await client.request("GET", "/")
        dated = await client.request("GET", "/dated")

    assert response.reason == "Just Fine"
    assert response.get("date") is not None
    assert dated.head.get_all("date") == ["Thu, 01 Jan 1970 00:00:00 GMT"]


def _informing(*statuses: int, ignore: bool = False) -> Handler:
    async def handler(session: ServerSession) -> None:
        session.ignore_info_resp = ignore
        for status in statuses:
            await session.write_response_header(ResponseHeader(status))
        await hello(session)

    return handler


async def test_informational_heads() -> None:
    """Several 1xx heads may come before the final one, as they are."""
    async with talking_to(_informing(100, 102, 103)) as client:
        response = await client.request("GET", "/")

    assert [len(head.fields) for head in response.informational] == [0, 0, 0]
    assert [head.start_line[9:12] for head in response.informational] == ["100", "102", "103"]


async def test_informational_heads_may_be_ignored() -> None:
    """With ``ignore_info_resp`` only a 100 that the client has asked for is sent."""
    async with talking_to(_informing(100, 103, ignore=True)) as client:
        silent = await client.request("GET", "/")
        asked = await client.request("POST", "/", [("Expect", "100-continue")], b"")

    assert not silent.informational
    assert [head.start_line[9:12] for head in asked.informational] == ["100"]


async def test_informational_heads_are_not_for_http10() -> None:
    """An HTTP/1.0 client never sees a 1xx, and its connection is kept all the same."""
    async with talking_to(_informing(103)) as client:
        await client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        response = await client.read_response()

    assert (response.informational, response.get("connection")) == ((), "keep-alive")


async def test_second_final_head_is_dropped() -> None:
    """What was said cannot be taken back."""

    async def handler(session: ServerSession) -> None:
        await session.write_response_header(ok(5))
        await session.write_response_header(ResponseHeader(502))
        await session.write_response_body(b"hello", end=True)

    async with talking_to(handler) as client:
        assert (await client.request("GET", "/")).status == 200
        assert (await client.request("GET", "/")).status == 200


async def test_body_with_length() -> None:
    """Bytes beyond the length are dropped; payload is counted without the head."""
    sent: list[int] = []

    async def handler(session: ServerSession) -> None:
        await session.write_response_header(ok(5))
        sent.append(session.body_bytes_sent)
        await session.write_response_body(b"hel")
        await session.write_response_body(b"lo, and more", end=True)
        sent.append(session.body_bytes_sent)

    async with talking_to(handler) as client:
        first = await client.request("GET", "/")
        second = await client.request("GET", "/")

    assert (first.body, second.body) == (b"hello", b"hello")
    assert sent[:2] == [0, 5]


async def test_body_shorter_than_its_length() -> None:
    """A body that ends early is an error, and visible to the client."""

    async def handler(session: ServerSession) -> None:
        await session.write_response_header(ok(5))
        await session.write_response_body(b"hel", end=True)

    async with talking_to(handler) as client:
        with pytest.raises(Truncated):
            await client.request("GET", "/")


@pytest.mark.parametrize(("version", "framing"), [(b"1.1", CHUNKED), (b"1.0", UNTIL_CLOSE)])
async def test_body_without_length(version: bytes, framing: int) -> None:
    """Without a length a body is chunked, for HTTP/1.0 it ends with the connection."""

    async def handler(session: ServerSession) -> None:
        await session.write_response_header(ok())
        await session.write_response_body(b"hel")
        await session.write_response_body(b"")
        await session.write_response_body(b"lo", end=True)

    async with talking_to(handler) as client:
        await client.send(b"GET / HTTP/%b\r\nHost: a\r\nConnection: keep-alive\r\n\r\n" % version)
        response = await client.read_response()

    assert (response.framing, response.body) == (framing, b"hello")
    assert response.get("connection") == ("keep-alive" if framing == CHUNKED else "close")


@pytest.mark.parametrize(
    ("method", "status", "version"),
    [
        ("HEAD", 200, "1.1"),
        ("HEAD", 200, "1.0"),
        ("GET", 204, "1.1"),
        ("GET", 204, "1.0"),
        ("GET", 304, "1.0"),
    ],
)
async def test_bodiless_head_leaves_at_once(method: str, status: int, version: str) -> None:
    """A response without a body is complete with its head, and the connection is kept."""
    waiting = asyncio.Event()

    async def handler(session: ServerSession) -> None:
        header = ResponseHeader(status)
        if status != 204:
            header.set_content_length(5)
        await session.write_response_header(header)
        await waiting.wait()

    async with talking_to(handler) as client:
        request = f"{method} / HTTP/{version}\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"
        await client.send(request.encode())
        response = await client.read_response(method)
        waiting.set()

    assert (response.status, response.body) == (status, b"")
    assert response.get("connection") == "keep-alive"


# ------------------------------------------------------------------------------ request bodies


async def test_empty_bodies_are_told_apart() -> None:
    """A length of zero ends a request with its head, a chunked body never does."""
    seen: list[tuple[bool, bool, bool]] = []

    async def handler(session: ServerSession) -> None:
        empty = session.is_body_empty
        assert await session.read_request_body() is None
        seen.append((empty, session.is_body_empty, session.is_body_done))
        await hello(session)

    async with talking_to(handler) as client:
        await client.request("POST", "/", body=b"")
        await client.request("GET", "/")
        await client.request("POST", "/", chunks=[])

    assert seen == [(True, True, True), (True, True, True), (False, False, True)]


async def test_trailers_belong_to_one_request() -> None:
    """Trailers of a request are seen after its body, and not by the next one."""
    seen: list[str | None] = []

    async def handler(session: ServerSession) -> None:
        while await session.read_request_body() is not None:
            pass
        trailers = session.request_trailers
        seen.append(None if trailers is None else trailers.get("x-sum"))
        await hello(session)

    async with talking_to(handler) as client:
        await client.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n"
        )
        await client.read_response("POST")
        await client.request("POST", "/", chunks=[b"abc"])

    assert seen == ["1", None]


async def test_http10_without_length_has_no_body() -> None:
    """What follows an HTTP/1.0 head without a length is no body, at any pace."""
    bodies: list[bytes | None] = []

    async def handler(session: ServerSession) -> None:
        bodies.append(await session.read_request_body())
        await hello(session)

    async with talking_to(handler) as client:
        await client.send(b"POST / HTTP/1.0\r\nHost: a\r\n\r\nabc")
        response = await client.read_response("POST")
        assert await client.is_closed_by_server()

    assert (response.body, bodies) == (b"hello", [None])


@pytest.mark.parametrize("size", [10, 500_000])
async def test_unread_body_is_drained(size: int) -> None:
    """A body that nobody read is dropped so that the connection can go on."""

    async def handler(session: ServerSession) -> None:
        session.close_on_response_before_downstream_finish = False
        await hello(session)

    async with talking_to(handler) as client:
        for _ in range(2):
            response = await client.request("POST", "/", body=b"x" * size)
            assert response.get("connection") == "keep-alive"


async def test_unread_body_is_not_drained_for_ever() -> None:
    """Beyond a bound the connection is given up, but not before the client has the answer."""
    options = HttpServerOptions(http1=Http1Options(max_drain_size=1000))

    async def handler(session: ServerSession) -> None:
        session.close_on_response_before_downstream_finish = False
        await hello(session)

    async with talking_to(handler, options) as client:
        response = await client.request("POST", "/", body=b"x" * 500_000)
        assert await client.is_closed_by_server()

    assert response.body == b"hello"


# ------------------------------------------------------------------------------------- upgrade


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", True),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nConnection: x, Upgrade\r\nUpgrade: WebSocket\r\n\r\n",
            True,
        ),
        (b"GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", False),
    ],
    ids=["plain", "list", "1.0", "no upgrade", "no connection"],
)
async def test_what_is_an_upgrade_request(head: bytes, expected: bool) -> None:
    """HTTP/1.1 with Upgrade, named by Connection."""
    seen: list[bool] = []

    async def handler(session: ServerSession) -> None:
        seen.append(session.is_upgrade_request)
        await hello(session)

    async with talking_to(handler) as client:
        await client.send(head)
        await client.read_response()

    assert seen == [expected]


_BODIES = {
    "length": (b"Content-Length: 5\r\n\r\n", b"abcde"),
    "chunked": (b"Transfer-Encoding: chunked\r\n\r\n", b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("body", _BODIES)
@pytest.mark.parametrize("pieces", [1, 2, 3])
async def test_upgrade_after_a_body(body: str, pieces: int) -> None:
    """The body is read by its framing, then a 100 or not, then the 101, then raw bytes."""
    framing, wire = _BODIES[body]

    async def handler(session: ServerSession) -> None:
        received = b""
        while (piece := await session.read_request_body()) is not None:
            received += piece
        await session.write_response_header(ResponseHeader(100))
        header = ResponseHeader(101, headers=[("Upgrade", "websocket")])
        await session.write_response_header(header)
        session.send_upgraded(received)
        while raw := await session.read_upgraded():
            session.send_upgraded(raw)

    head = b"POST / HTTP/1.1\r\n" + _UPGRADE + framing
    async with talking_to(handler) as client:
        match pieces:
            case 1:
                await client.send(head + wire + b"raw")
            case 2:
                await client.send(head)
                await client.send(wire + b"raw")
            case _:
                await client.send(head + wire)
                await asyncio.sleep(0.01)
                await client.send(b"raw")
        await client.read_head()
        switched = await client.read_head()
        echoed = await client.receive_exactly(8)
        client.half_close()
        assert await client.is_closed_by_server()

    assert switched.start_line == "HTTP/1.1 101 Switching Protocols"
    assert echoed == b"abcderaw"


async def test_upgrade_before_the_body() -> None:
    """After a 101 all is raw, a body that had not been read included."""
    received: list[bytes] = []

    async def handler(session: ServerSession) -> None:
        await session.write_response_header(ResponseHeader(101))
        while raw := await session.read_upgraded():
            received.append(raw)

    async with talking_to(handler) as client:
        await client.send(
            b"POST / HTTP/1.1\r\n" + _UPGRADE + b"Content-Length: 5\r\n\r\nabcde" + b"raw"
        )
        await client.read_head()
        client.half_close()
        assert await client.is_closed_by_server()

    assert b"".join(received) == b"abcderaw"


_PREPARED = PreparedHead(
    ResponseHeader(200, headers=[("Date", "Mon, 23 Nov 2026 12:00:00 GMT"), ("X-A", "1")]), 2
)


async def test_a_prepared_head() -> None:
    """It is completed with the age and the end of the connection, and told as it was sent."""
    told: list[str | None] = []

    async def handler(session: ServerSession) -> None:
        session.send_prepared_head(_PREPARED, 7)
        session.send_prepared_head(_PREPARED, 8)
        session.send_response_body(b"ok", end=True)
        written = session.response_written
        assert written is not None
        told.extend([written.get("age"), written.get("content-length")])

    async with talking_to(handler) as client:
        first = await client.request("GET", "/")
        last = await client.request("GET", "/", [("Connection", "close")])

    assert (first.body, first.get("age"), first.get("x-a")) == (b"ok", "7", "1")
    assert [first.get("connection"), last.get("connection")] == ["keep-alive", "close"]
    assert told == ["7", "2"] * 2


async def test_a_prepared_head_of_an_empty_body() -> None:
    """The message ends with it."""
    empty = PreparedHead(_PREPARED.header, 0)

    async def handler(session: ServerSession) -> None:
        session.send_prepared_head(empty, 0)

    async with talking_to(handler) as client:
        responses = [await client.request("GET", "/") for _ in range(2)]

    assert [(response.status, response.body) for response in responses] == [(200, b"")] * 2


async def test_a_prepared_head_takes_the_long_way() -> None:
    """Where a body of the request is left unread, or is not asked for, all rules apply."""

    async def handler(session: ServerSession) -> None:
        session.send_prepared_head(_PREPARED, 7)
        session.send_response_body(b"ok", end=True)

    async with talking_to(handler) as client:
        head = await client.request("HEAD", "/")
        unread = await client.request("GET", "/", [], b"body")

    assert (head.status, head.get("content-length"), head.body) == (200, "2", b"")
    assert (unread.body, unread.get("age"), unread.get("connection")) == (b"ok", "7", "close")
