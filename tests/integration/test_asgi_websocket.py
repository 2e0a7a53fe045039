"""WebSockets through an ASGI application, rule by rule (ASGI WebSocket 2.5), over HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Close
from websockets.typing import Subprotocol

from pingora_core import HttpServerOptions
from pingora_core.protocols.http.v2.options import Http2Options
from pingora_proxy.asgi import AsgiOptions, AsgiServer, asgi_service
from pingora_proxy.testing import RunningProxy, RunningService
from tests.support.asgi import serving
from tests.support.client import RawClient
from tests.support.h2_websocket import H2Client
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from websockets.asyncio.client import ClientConnection

    from pingora_proxy.asgi import ASGIApp, Message, Receive, Scope, Send

ACCEPT: Message = {"type": "websocket.accept"}
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def make(talk: Callable[[Scope, Receive, Send], Awaitable[None]]) -> ASGIApp:
    """Make an application without a lifespan, for WebSockets.

    Args:
        talk: Serves one; it is connected but not accepted.

    Returns:
        The application.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            assert await receive() == {"type": "websocket.connect"}
            await talk(scope, receive, send)

    return app


def open_to(proxy: RunningProxy[None]) -> connect:
    """Connect as a browser does that knows no extension.

    Args:
        proxy: To what.

    Returns:
        The client, to be entered.
    """
    return connect(f"ws://{proxy.address}/", compression=None, ping_interval=None)


async def closed_with(socket: ClientConnection) -> tuple[int, str]:
    """Wait for the end.

    Args:
        socket: Of what.

    Returns:
        Code and reason that the server has sent.
    """
    with pytest.raises(ConnectionClosed) as closed:
        await socket.recv()
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


async def until_disconnect(receive: Receive) -> Message:
    """Receive until the end.

    Args:
        receive: The application's.

    Returns:
        The message that says so.
    """
    while (message := await receive())["type"] != "websocket.disconnect":
        pass
    return message


# --------------------------------------------------------------------- handshake


async def test_the_scope_and_the_answer_to_a_handshake() -> None:
    """What was offered, what was chosen, and further fields of the application's."""
    scopes: list[Scope] = []

    async def talk(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        headers = [
            (b"x-mine", b"1"),
            (b"sec-websocket-extensions", b"permessage-deflate"),
            (b"content-length", b"3"),
        ]
        await send({**ACCEPT, "subprotocol": "two", "headers": headers})
        await until_disconnect(receive)

    _, server = serving(make(talk))
    async with RunningProxy(server) as proxy:
        url = f"ws://{proxy.address}/a%20b?c"
        wanted = [Subprotocol("one"), Subprotocol("two")]
        async with connect(url, subprotocols=wanted) as socket:
            assert socket.subprotocol == "two"
            assert socket.response is not None
            assert socket.response.headers["x-mine"] == "1"
            assert "sec-websocket-extensions" not in socket.response.headers
    scope = scopes[0]
    assert {key: scope[key] for key in ("scheme", "path", "query_string", "subprotocols")} == {
        "scheme": "ws",
        "path": "/a b",
        "query_string": b"c",
        "subprotocols": ["one", "two"],
    }
    assert scope["extensions"] == {"websocket.http.response": {}}
    assert "method" not in scope


async def _never(scope: Scope, receive: Receive, send: Send) -> None:
    pytest.fail("the application was asked")


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ((b"Version: 13", b"Version: 8"), 426),
        ((b"dGhlIHNhbXBsZSBub25jZQ==", b"c2hvcnQ="), 400),
        ((b"dGhlIHNhbXBsZSBub25jZQ==", b"!"), 400),
    ],
)
async def test_a_handshake_that_is_none_is_refused(
    change: tuple[bytes, bytes], status: int
) -> None:
    """The application is not asked; 426 says which version is spoken."""
    application, server = serving(make(_never))
    async with RunningProxy(server) as proxy, await RawClient.connect(proxy.address) as client:
        await client.send(HANDSHAKE.replace(*change))
        answer = await client.read_response()
        assert answer.status == status
        assert answer.get("sec-websocket-version") == ("13" if status == 426 else None)
    assert application.failures == 0


async def test_a_websocket_can_be_refused_with_a_response() -> None:
    """By the extension for it, in one piece or several; a close alone is a 403."""

    async def talk(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/close":
            await send({"type": "websocket.close"})
            assert (await receive())["code"] == 1006
            return
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
        pieces = [b"log ", b"in"] if scope["path"] == "/two" else [b"log in"]
        for piece in pieces:
            more = piece is not pieces[-1]
            await send({"type": "websocket.http.response.body", "body": piece, "more_body": more})

    application, server = serving(make(talk))
    async with RunningProxy(server) as proxy:
        for path, status, body in (
            ("/close", 403, b""),
            ("/one", 401, b"log in"),
            ("/two", 401, b"log in"),
        ):
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"ws://{proxy.address}{path}")
            assert (refused.value.response.status_code, refused.value.response.body) == (
                status,
                body,
            )
    assert application.failures == 0


# ---------------------------------------------------------------------- messages


async def test_an_application_that_only_sends_need_not_receive() -> None:
    """Pings are answered meanwhile, and it learns that the client has left from ``send``."""
    raised = asyncio.Event()

    async def talk(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        try:
            while True:
                await send({"type": "websocket.send", "text": "tick"})
                await asyncio.sleep(0.005)
        except OSError:
            raised.set()
            raise

    application, server = serving(make(talk))
    async with RunningProxy(server) as proxy:
        async with open_to(proxy) as socket:
            await (await socket.ping())
            assert await socket.recv() == "tick"
        await raised.wait()
        await eventually(lambda: not application.running)
    assert application.failures == 0


async def test_two_tasks_may_send_to_a_client_that_is_slow() -> None:
    """Both wait for room; nothing is lost or mixed up."""
    size, count = 300_000, 8

    async def talk(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)

        async def some(letter: bytes) -> None:
            for _ in range(count):
                await send({"type": "websocket.send", "bytes": bytearray(letter * size)})

        await asyncio.gather(some(b"a"), some(b"b"))

    application, server = serving(make(talk))
    async with (
        RunningProxy(server) as proxy,
        connect(f"ws://{proxy.address}/", compression=None, max_queue=1, max_size=None) as socket,
    ):
        got = [await socket.recv() for _ in range(2 * count)]
    assert sorted(got) == [b"a" * size] * count + [b"b" * size] * count
    assert application.failures == 0


async def test_fragments_are_one_message_and_its_size_is_limited_in_bytes() -> None:
    """A client that sends more than that is closed with 1009."""
    codes: list[object] = []

    async def talk(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
        codes.append(message["code"])

    _, server = serving(make(talk), AsgiOptions(max_message_size=1000))
    async with RunningProxy(server) as proxy, open_to(proxy) as socket:
        await socket.send(["ab", "", "cd"])
        assert await socket.recv() == "abcd"
        await socket.send("\u20ac" * 334)
        assert (await closed_with(socket))[0] == 1009
    assert codes == [1009]


async def send_much(socket: ClientConnection) -> None:
    """Send more than buffers on the way can hold.

    Args:
        socket: Where.
    """
    for _ in range(64):
        await socket.send(bytes(1 << 20))


async def test_a_client_that_sends_more_than_is_read_has_to_wait() -> None:
    """The server reads one message ahead of the application, not more; nothing is lost."""
    go_on = asyncio.Event()
    got: list[object] = []

    async def talk(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        await go_on.wait()
        while (message := await receive())["type"] == "websocket.receive":
            got.append(message["bytes"])

    application, server = serving(make(talk))
    async with RunningProxy(server) as proxy, open_to(proxy) as socket:
        sending = asyncio.ensure_future(send_much(socket))
        done, _ = await asyncio.wait((sending,), timeout=0.3)
        assert not done
        go_on.set()
        await sending
        await eventually(lambda: len(got) == 64)
    assert application.failures == 0


# ----------------------------------------------------------------------- endings


async def test_how_a_client_ends_it_is_told() -> None:
    """Its code and reason; 1005 without a code, 1006 without a word."""
    told: list[Message] = []

    async def talk(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        told.append(await until_disconnect(receive))
        assert await receive() == told[-1]
        await send({"type": "websocket.close"})  # of no effect
        with pytest.raises(OSError, match="gone"):
            await send({"type": "websocket.send", "text": "too late"})

    application, server = serving(make(talk))
    async with RunningProxy(server) as proxy:
        async with open_to(proxy) as socket:
            await socket.close(4001, "enough")
        async with await RawClient.connect(proxy.address) as client:
            await client.send(HANDSHAKE + b"\x88\x80\0\0\0\0")
            await client.read_head()
            assert await client.receive_all() == b"\x88\x00"
        async with await RawClient.connect(proxy.address) as client:
            await client.send(HANDSHAKE)
            await client.read_head()
        await eventually(lambda: len(told) == 3)
    assert [(message["code"], message["reason"]) for message in told] == [
        (4001, "enough"),
        (1005, ""),
        (1006, ""),
    ]
    assert application.failures == 0


@pytest.mark.parametrize(
    ("frames", "code"),
    [(b"\x81\x01a", 1002), (b"\x81\x81\0\0\0\0\xff", 1007), (b"\x83\x80\0\0\0\0", 1002)],
    ids=["not masked", "no UTF-8", "reserved opcode"],
)
async def test_frames_that_are_none_end_it(frames: bytes, code: int) -> None:
    """With the code for it, which the application is told as well."""
    told: list[object] = []

    async def talk(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        told.append((await until_disconnect(receive))["code"])

    _, server = serving(make(talk))
    async with RunningProxy(server) as proxy, await RawClient.connect(proxy.address) as client:
        await client.send(HANDSHAKE + frames)
        await client.read_head()
        close = await client.receive_all()
        assert (close[0], int.from_bytes(close[2:4], "big")) == (0x88, code)
    assert told == [code]


async def test_a_client_that_answers_no_ping_is_let_go() -> None:
    """Silence is answered with a Ping, and more silence with the end."""
    told: list[object] = []

    async def talk(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        told.append((await until_disconnect(receive))["code"])

    options = AsgiOptions(ping_interval=0.02, ping_timeout=0.02)
    _, server = serving(make(talk), options)
    async with RunningProxy(server) as proxy, await RawClient.connect(proxy.address) as client:
        await client.send(HANDSHAKE)
        await client.read_head()
        data = await client.receive_all()
        assert data[:2] == b"\x89\x00"
        assert (data[2], int.from_bytes(data[4:6], "big")) == (0x88, 1011)
    assert told == [1006]


async def test_a_client_that_answers_pings_stays() -> None:
    """However long nothing else is said."""

    async def talk(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        await receive()
        await send({"type": "websocket.send", "text": "still here"})
        await until_disconnect(receive)

    _, server = serving(make(talk), AsgiOptions(ping_interval=0.01, ping_timeout=5.0))
    async with RunningProxy(server) as proxy, open_to(proxy) as socket:
        await asyncio.sleep(0.05)
        await socket.send("hello?")
        assert await socket.recv() == "still here"


@pytest.mark.parametrize("heeds", [True, False])
async def test_websockets_are_ended_in_order_when_the_server_stops(heeds: bool) -> None:
    """The client is told 1001, and so is the application; one that goes on is cancelled."""
    told: list[Message] = []

    async def talk(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        if not heeds:
            await asyncio.Event().wait()
        told.append(await until_disconnect(receive))
        with pytest.raises(OSError, match="shutting down"):
            await send({"type": "websocket.send", "text": "wait"})

    application, server = serving(make(talk), AsgiOptions(disconnect_timeout=0.05))
    async with RunningProxy(server) as proxy, open_to(proxy) as socket:
        await (await socket.ping())
        proxy.end_streams()
        assert await closed_with(socket) == (1001, "server is shutting down")
        await eventually(lambda: not application.running)
    reason = "server is shutting down"
    end: Message = {"type": "websocket.disconnect", "code": 1001, "reason": reason}
    assert told == ([end] if heeds else [])
    assert application.failures == 0


# ------------------------------------------------------------------------ faults

SAID: dict[str, Message] = {
    "neither text nor bytes": {"type": "websocket.send"},
    "both": {"type": "websocket.send", "text": "a", "bytes": b"b"},
    "a text of bytes": {"type": "websocket.send", "text": b"a"},
    "bytes of text": {"type": "websocket.send", "bytes": "a"},
    "accepted twice": ACCEPT,
    "a code for local use": {"type": "websocket.close", "code": 1006},
    "a code too large": {"type": "websocket.close", "code": 70000},
    "nonsense": {"type": "websocket.nonsense"},
    "a response": {"type": "websocket.http.response.start", "status": 200},
}


@pytest.mark.parametrize("name", SAID)
async def test_a_breach_of_the_protocol_ends_it_with_1011(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted and logged once, with the traceback."""

    async def talk(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        await send(SAID[name])

    application, server = serving(make(talk))
    async with RunningProxy(server) as proxy, open_to(proxy) as socket:
        assert (await closed_with(socket))[0] == 1011
    assert application.failure_counts["protocol"] == application.failures == 1
    assert len([each for each in caplog.records if each.levelno >= logging.ERROR]) == 1


@pytest.mark.parametrize(
    ("messages", "kind"),
    [
        ([], "unanswered"),
        ([{"type": "websocket.send", "text": "a"}], "protocol"),
        ([{**ACCEPT, "subprotocol": "never offered"}], "protocol"),
        ([{**ACCEPT, "headers": [(b"a", b"b\r\nc: d")]}], "protocol"),
    ],
)
async def test_a_fault_before_it_is_accepted_is_a_500(messages: list[Message], kind: str) -> None:
    """There is still a response to be sent."""

    async def talk(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    application, server = serving(make(talk))
    async with RunningProxy(server) as proxy:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://{proxy.address}/")
        assert refused.value.response.status_code == 500
    assert application.failure_counts[kind] == application.failures == 1


async def test_an_application_that_does_not_accept_in_time_is_a_504() -> None:
    """As for any request."""

    async def talk(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    application, server = serving(make(talk), AsgiOptions(response_timeout=0.05))
    async with RunningProxy(server) as proxy:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://{proxy.address}/")
        assert refused.value.response.status_code == 504
    assert application.failure_counts["timeout"] == 1


async def test_a_client_that_leaves_before_it_is_accepted_is_told() -> None:
    """The application need not answer then."""
    waiting = asyncio.Event()
    told: list[object] = []

    async def talk(scope: Scope, receive: Receive, send: Send) -> None:
        waiting.set()
        told.append((await receive())["code"])

    application, server = serving(make(talk))
    async with RunningProxy(server) as proxy:
        async with await RawClient.connect(proxy.address) as client:
            await client.send(HANDSHAKE)
            await waiting.wait()
        await eventually(lambda: bool(told))
    assert told == [1006]
    assert application.failures == 0


# ------------------------------------------------------------------------ HTTP/2


async def test_all_of_it_over_http2() -> None:
    """Extended CONNECT (RFC 8441): scope, messages, ends of either side, refusal, the server's stop."""
    told: list[tuple[object, object]] = []

    async def talk(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/refuse":
            await send({"type": "websocket.close"})
            return
        await send({**ACCEPT, "headers": [(b"x-version", str(scope["http_version"]).encode())]})
        while (message := await receive())["type"] == "websocket.receive":
            if message["text"] == "bye":
                await send({"type": "websocket.close", "code": 4000, "reason": "as you like"})
            else:
                await send({"type": "websocket.send", "text": json.dumps(scope["path"])})
        told.append((message["code"], message["reason"]))

    options = HttpServerOptions(h2c=True, http2=Http2Options(extended_connect=True))
    service = asgi_service(make(talk), server_options=options)
    async with RunningService(service) as running:
        async with await H2Client.connect(running.address) as client:
            socket = await client.open("/a")
            assert (socket.status, socket.headers["x-version"]) == (200, "2")
            socket.send("hello")
            assert await socket.recv() == '"/a"'
            socket.send("bye")
            assert await socket.closed() == Close(4000, "as you like")
            refused = await client.open("/refuse")
            assert refused.status == 403
            last = await client.open("/b")
            running.end_streams()
            assert await last.closed() == Close(1001, "server is shutting down")
        application = service.app_logic.app
        assert isinstance(application, AsgiServer)
    assert told == [(4000, "as you like"), (1001, "server is shutting down")]
    assert application.application.failures == 0
