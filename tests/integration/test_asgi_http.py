"""HTTP through an ASGI application, rule by rule (ASGI HTTP 2.5).

What a scope has was compared with uvicorn 0.54 on the same requests.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING

import pytest

from pingora_core import HttpServerOptions
from pingora_core.protocols.http.v1.server import Http1Options
from pingora_proxy.asgi import AsgiApplication, AsgiOptions, asgi_service
from pingora_proxy.testing import Client, RunningProxy, RunningService
from tests.support.asgi import START, body, make, sending, serving, start
from tests.support.client import RawClient
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pingora_proxy.asgi import Message, Receive, Scope, Send

# ------------------------------------------------------------------------- scope


async def test_the_scope_has_what_the_specification_says() -> None:
    """Each key, of a request with all that is odd."""
    scopes: list[Scope] = []

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await send(START)
        await send(body())

    service = asgi_service(make(answer), root_path="/a b")
    async with (
        RunningService(service) as running,
        await RawClient.connect(running.address) as client,
    ):
        await client.send(
            b"get http://b.test/a%20b/%C3%A9%ff?x=%20&y HTTP/1.1\r\n"
            b"Host: a.test\r\nX-A: 1\r\nx-a: \xff\r\n\r\n"
        )
        assert (await client.read_response()).status == 200
        host, port = running.address.split(":")
    scope = scopes[0]
    client_address = scope.pop("client")
    assert isinstance(client_address, tuple)
    assert client_address[0] == "127.0.0.1"
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/a b/é\ufffd",
        "raw_path": b"/a%20b/%C3%A9%ff",
        "query_string": b"x=%20&y",
        "root_path": "/a b",
        "headers": [(b"host", b"b.test"), (b"x-a", b"1"), (b"x-a", b"\xff")],
        "server": (host, int(port)),
        "state": {},
        "extensions": {"http.response.early_hint": {}, "http.response.trailers": {}},
    }


async def test_state_is_a_copy_for_each_request() -> None:
    """What one request puts there, the next does not see; what the lifespan has, it does."""
    seen: list[dict[str, object]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        state = scope["state"]
        assert isinstance(state, dict)
        if scope["type"] == "lifespan":
            await receive()
            state["pool"] = "open"
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        seen.append(dict(state))
        state["mine"] = 1
        await send(START)
        await send(body())

    async with RunningService(asgi_service(app)) as running, Client(running.address) as client:
        await client.get()
        await client.get()
    assert seen == [{"pool": "open"}] * 2


async def test_a_request_leaves_no_context_behind() -> None:
    """Context variables that an application sets are not those of the next request."""
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(body(user.get().encode()))
        user.set("alice")

    async with (
        RunningService(asgi_service(make(answer))) as running,
        Client(running.address) as client,
    ):
        assert [(await client.get()).text for _ in range(2)] == ["nobody", "nobody"]


# --------------------------------------------------------------------- responses


@pytest.mark.parametrize("piece", [bytearray(b"data"), memoryview(b"data")])
async def test_a_body_may_be_any_kind_of_bytes(piece: object) -> None:
    """Starlette passes memoryviews on as they are."""
    app = sending(start((b"content-length", b"4")), body(piece))
    async with RunningService(asgi_service(app)) as running, Client(running.address) as client:
        assert (await client.get()).body == b"data"


async def test_trailers_may_come_in_parts() -> None:
    """They are sent behind the body, all of them."""
    app = sending(
        start(trailers=True),
        body(b"x"),
        {"type": "http.response.trailers", "headers": [(b"a", b"1")], "more_trailers": True},
        {"type": "http.response.trailers", "headers": [(b"b", b"2")]},
    )
    async with RunningService(asgi_service(app)) as running, Client(running.address) as client:
        answer = await client.get()
        assert answer.trailers is not None
        assert (answer.body, list(answer.trailers)) == (b"x", [("a", "1"), ("b", "2")])


async def test_early_hints_come_before_the_response() -> None:
    """A 103 with the links."""
    hint: Message = {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]}
    app = sending(hint, start(), body(b"x"))
    async with (
        RunningService(asgi_service(app)) as running,
        await RawClient.connect(running.address) as client,
    ):
        await client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        answer = await client.read_response()
        assert answer.informational[0].start_line == "HTTP/1.1 103 Early Hints"
        assert ("link", "</a.css>; rel=preload") in answer.informational[0].fields
        assert answer.body == b"x"


@pytest.mark.parametrize("status", [204, 304])
async def test_a_response_that_must_not_have_a_body_has_none(status: int) -> None:
    """Whatever the application sends; the connection goes on."""
    app = sending(start(status=status), body(b"not wanted"))
    async with RunningService(asgi_service(app)) as running, Client(running.address) as client:
        for _ in range(2):
            answer = await client.get()
            assert (answer.status, answer.body) == (status, b"")


async def test_head_has_no_body_and_no_length_that_is_not_known() -> None:
    """The fields are those of the application."""
    app = sending(start(), body())
    async with RunningService(asgi_service(app)) as running, Client(running.address) as client:
        answer = await client.request("HEAD")
        assert answer.header.get("content-length") is None
        assert (await client.request("HEAD")).status == 200


async def test_what_follows_a_complete_response_is_ignored() -> None:
    """It is no fault, and harms no later response."""
    application, server = serving(sending(START, body(b"x"), body(b"y"), START))
    async with RunningProxy(server) as proxy:
        assert (await proxy.get()).text == "x"
        assert (await proxy.get()).text == "x"
    assert application.failures == 0


async def test_the_next_request_does_not_wait_for_work_in_the_background() -> None:
    """The application goes on after its response; the service waits for it when it stops."""
    go_on = asyncio.Event()
    done: list[str] = []

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(body(b"x"))
        await go_on.wait()
        done.append("work")

    application, server = serving(make(answer))
    async with RunningProxy(server) as proxy:
        for _ in range(3):
            assert (await proxy.get()).text == "x"
        assert application.running == 3
        go_on.set()
    assert done == ["work"] * 3


# ---------------------------------------------------------------------- requests


async def test_a_body_is_asked_for_only_by_who_reads_it() -> None:
    """``100 Continue`` is sent at the first receive, and never within a response."""
    release = asyncio.Event()

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/first":
            await receive()
        await send(START)
        await send(body(b"begun", more=True))
        if scope["path"] == "/late":
            reading = asyncio.ensure_future(receive())
            await release.wait()
            reading.cancel()
        await send(body(b" and ended"))

    head = b"POST %b HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    async with RunningService(asgi_service(make(answer))) as running:
        async with await RawClient.connect(running.address) as client:
            await client.send(head % b"/first")
            go_ahead = b"HTTP/1.1 100 Continue\r\n\r\n"
            assert await client.receive_exactly(len(go_ahead)) == go_ahead
            await client.send(b"abc")
            assert (await client.read_response()).body == b"begun and ended"
        async with await RawClient.connect(running.address) as client:
            await client.send(head % b"/late")
            release.set()
            answer_late = await client.read_response()
            assert (answer_late.informational, answer_late.body) == ((), b"begun and ended")


async def test_a_response_may_end_while_somebody_still_waits_for_the_body() -> None:
    """Who waits is told that it is over, and the connection is closed in order."""
    told: list[object] = []

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        reading = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        await send(START)
        await send(body(b"enough"))
        told.append((await reading)["type"])

    async with (
        RunningService(asgi_service(make(answer))) as running,
        await RawClient.connect(running.address) as client,
    ):
        await client.send(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9\r\n\r\nabc")
        assert (await client.read_response()).body == b"enough"
        await eventually(lambda: bool(told))
    assert told == ["http.disconnect"]


async def test_a_receive_that_is_cancelled_loses_nothing() -> None:
    """The next one gets what has come meanwhile."""
    waiting = asyncio.Event()

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await receive()
        waiting.set()
        whole = b""
        more = True
        while more:
            message = await receive()
            piece = message["body"]
            assert isinstance(piece, bytes)
            whole += piece
            more = bool(message["more_body"])
        await send(START)
        await send(body(whole))

    async with (
        RunningService(asgi_service(make(answer))) as running,
        await RawClient.connect(running.address) as client,
    ):
        await client.send(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 6\r\n\r\n")
        await waiting.wait()
        await client.send(b"abcdef")
        assert (await client.read_response()).body == b"abcdef"


async def test_a_body_that_is_too_large_is_a_413() -> None:
    """The application is told that the client is gone; what it answers then does not matter."""
    ended: list[str] = []

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] == "http.request":
            pass
        with pytest.raises(OSError, match="gone"):
            await send(START)
        ended.append("told")
        msg = "no body"
        raise ValueError(msg)

    application = AsgiApplication(make(answer))
    options = HttpServerOptions(http1=Http1Options(max_body_size=4))
    service = asgi_service(make(answer), server_options=options)
    async with (
        RunningService(service) as running,
        await RawClient.connect(running.address) as client,
    ):
        await client.send(b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.send(b"8\r\nabcdefgh\r\n")
        assert (await client.read_response()).status == 413
    assert ended == ["told"]
    assert application.failures == 0


async def test_a_request_that_is_no_http_is_a_400() -> None:
    """It never reaches the application."""
    async with (
        RunningService(asgi_service(sending(START, body()))) as running,
        await RawClient.connect(running.address) as client,
    ):
        await client.send(b"GET / HTTP/1.1\r\n\r\n")
        assert (await client.read_response()).status == 400


# ------------------------------------------------------------------ disconnection


async def test_sending_to_a_client_that_has_gone_raises_oserror() -> None:
    """Also what frameworks raise then is no fault of the application's."""
    begun = asyncio.Event()
    raised: list[str] = []

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(body(b"x", more=True))
        begun.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        assert (await receive())["type"] == "http.disconnect"
        try:
            await send(body(b"y"))
        except OSError as error:
            raised.append(type(error).__name__)
            msg = "a framework's own"
            raise RuntimeError(msg) from error

    application, server = serving(make(answer))
    async with RunningProxy(server) as proxy:
        async with await RawClient.connect(proxy.address) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
            await begun.wait()
        await eventually(lambda: not application.running)
    assert raised == ["ClientDisconnectedError"]
    assert application.failures == 0


async def test_a_stream_to_nobody_is_cancelled() -> None:
    """An application that waits for news and never looks whether anybody listens."""
    begun = asyncio.Event()

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(body(b"x", more=True))
        begun.set()
        await asyncio.Event().wait()

    application, server = serving(make(answer), AsgiOptions(disconnect_timeout=0.05))
    async with RunningProxy(server) as proxy:
        async with await RawClient.connect(proxy.address) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
            await begun.wait()
        await eventually(lambda: not application.running)


async def test_an_event_stream_is_ended_in_order_when_the_server_stops() -> None:
    """The body is complete as far as it goes, so that the client connects anew; nobody hangs."""
    begun = asyncio.Event()
    told: list[str] = []

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start((b"content-type", b"text/event-stream")))
        await send(body(b"data: 1\n\n", more=True))
        begun.set()
        await receive()
        told.append(str((await receive())["type"]))
        await send(body(b"data: never\n\n", more=True))

    application, server = serving(make(answer))
    async with RunningProxy(server) as proxy, await RawClient.connect(proxy.address) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        await begun.wait()
        proxy.end_streams()
        assert (await client.read_response()).body == b"data: 1\n\n"
    assert told == ["http.disconnect"]
    assert application.failures == 0


async def test_a_client_too_slow_for_the_end_does_not_hold_up_a_stop() -> None:
    """An event stream that is stuck is cut off."""
    begun = asyncio.Event()

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start((b"content-type", b"text/event-stream")))
        begun.set()
        while True:
            await send(body(b"data: %b\n\n" % bytes(1 << 20), more=True))

    application, server = serving(make(answer))
    async with RunningProxy(server) as proxy, await RawClient.connect(proxy.address) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        await begun.wait()
        await asyncio.sleep(0.05)
        proxy.end_streams()
        await eventually(lambda: not application.running)
