"""The phases of a request: their order, what they may change, and what their errors do."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from pingora_error import Error, ErrorSource, ErrorType, HTTPStatus
from pingora_http import ResponseHeader
from pingora_proxy import Delayed, FailToProxy
from tests.support.origin_steps import hang
from tests.support.proxy import RigProxy, RunningProxy
from tests.support.recording import RecordingProxy
from tests.support.wire import Truncated

if TYPE_CHECKING:
    from pingora_http import RequestHeader
    from pingora_proxy import BodyFilterResult, Session
    from tests.support.client import RawClient
    from tests.support.origin import Origin
    from tests.support.proxy import RigContext, Upstream

_BEFORE = ["early_request_filter", "request_filter", "proxy_upstream_filter", "upstream_peer"]
_UPSTREAM = [*_BEFORE, "connected_to_upstream", "upstream_request_filter", "request_body_filter"]
_HEADER = ["upstream_response_filter", "response_filter"]
_BODY = ["upstream_response_body_filter", "response_body_filter"]


async def test_order_of_a_get(origin: Origin) -> None:
    """A GET runs each callback once, in the order of the chart."""
    app = RecordingProxy(origin)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        await client.request("GET", "/")
        first = list(app.phases)
        app.phases.clear()
        await client.request("GET", "/")

    assert first == [*_UPSTREAM, *_HEADER, *_BODY, "logging", "persist_connection_context"]
    assert app.phases == ["on_connection_reuse 1", *first]


async def test_order_with_1xx_bodies_and_trailers(origin: Origin) -> None:
    """Each piece passes its filters: 1xx heads, every part of the bodies, trailers."""
    app = RecordingProxy(origin)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        await client.request("GET", "/103")
        hints = list(app.phases)
        app.phases.clear()
        await client.request("GET", "/trailers")

    assert hints[7:-2] == [*_HEADER, *_HEADER, *_BODY]
    assert app.phases[8:-2] == [
        *_HEADER,
        *_BODY,
        "upstream_response_trailer_filter",
        "response_trailer_filter",
        *_BODY,
    ]


async def test_order_when_the_upstream_cannot_be_reached(dead: str) -> None:
    """``fail_to_connect``, ``fail_to_proxy``, ``logging``; the error page passes a filter."""
    app = RecordingProxy(dead)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        await client.request("GET", "/")

    assert app.phases == [
        *_BEFORE,
        "fail_to_connect",
        "fail_to_proxy",
        "response_filter",
        "logging",
    ]


async def test_order_of_a_retry(origin: Origin) -> None:
    """A retried attempt starts at ``upstream_peer`` again, with a fresh request head."""

    class Marking(RecordingProxy):
        async def upstream_request_filter(
            self, session: Session, upstream_request: RequestHeader, ctx: RigContext
        ) -> None:
            await super().upstream_request_filter(session, upstream_request, ctx)
            upstream_request.append_header("x-attempt", str(ctx.attempts))

    app = Marking(origin)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        await client.request("GET", "/bad_lb")
        app.phases.clear()
        await client.request("GET", "/bad_lb")

    assert app.phases[1:-2] == [*_UPSTREAM, "error_while_proxy", *_UPSTREAM[3:], *_HEADER, *_BODY]
    assert [r.head.get_all("x-attempt") for r in origin.requests] == [["1"], ["1"], ["2"]]


async def test_order_for_a_malformed_request(origin: Origin) -> None:
    """A malformed request is told to ``fail_to_proxy``, the page filter and ``logging``."""
    app = RecordingProxy(origin)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        await client.read_response()

    assert app.phases == ["fail_to_proxy", "response_filter", "logging"]
    assert app.endings[0].method == "GET"


# ----------------------------------------------------------------------- errors in callbacks

_EARLY = [*_UPSTREAM, "upstream_response_filter", "response_filter"]


@pytest.mark.parametrize("phase", _EARLY)
async def test_fault_in_a_callback(
    origin: Origin, phase: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault is logged with request and phase, answered with 500 and told; others go on."""
    app = RecordingProxy(origin, failing=phase)
    async with RunningProxy(app) as proxy:
        async with await proxy.connect() as client:
            response = await client.request("GET", "/some?secret")
            assert await client.is_closed_by_server()
        app.failing = ""
        async with await proxy.connect() as client:
            other = await client.request("GET", "/")

    assert (response.status, response.body, other.status) == (500, b"", 200)
    assert app.endings[0].error is not None
    assert app.endings[0].error.root_etype is ErrorType.INTERNAL_ERROR
    record = [record for record in caplog.records if record.levelno == logging.ERROR][-1]
    message = record.getMessage()
    assert phase in message
    assert "GET /some, Host: test.example" in message
    assert "secret" not in message
    assert record.exc_info is not None


@pytest.mark.parametrize("phase", _BODY)
async def test_fault_in_a_body_filter(origin: Origin, phase: str) -> None:
    """A fault after the head was sent cuts the response off, visibly."""
    app = RecordingProxy(origin, failing=phase)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        await client.send_request("GET", "/chunked")
        with pytest.raises(Truncated):
            await _read_responses(client)
        assert (await app.ended()).error is not None


async def _read_responses(client: RawClient) -> None:
    while True:
        await client.read_response()


@pytest.mark.parametrize("phase", ["fail_to_proxy", "logging", "persist_connection_context"])
async def test_fault_at_the_end(
    origin: Origin, dead: str, phase: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Faults in the last callbacks are logged and disturb no other request."""
    app = RecordingProxy(origin, failing=phase)
    if phase == "fail_to_proxy":
        app.upstream = dead
    async with RunningProxy(app) as proxy:
        async with await proxy.connect() as client:
            response = await client.request("GET", "/")
        async with await proxy.connect() as client:
            other = await client.request("GET", "/")

    expected = 502 if phase == "fail_to_proxy" else 200
    assert (response.status, other.status) == (expected, expected)
    assert len(app.endings) == 2
    assert any("a fault of the program" in str(record.exc_info) for record in caplog.records)


@pytest.mark.parametrize("phase", _EARLY)
async def test_error_with_a_status(origin: Origin, phase: str) -> None:
    """An ``HTTPStatus`` chooses the answer from any callback."""
    app = RecordingProxy(origin, failing=phase, failure=Error(HTTPStatus(418), "short and stout"))
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        response = await client.request("GET", "/")

    assert response.status == 418


async def test_source_of_an_error_decides_the_status(origin: Origin) -> None:
    """Without a status of its own, the source of an error decides."""
    statuses = []
    for failure in (
        Error.up(ErrorType.CONNECT_ERROR, "x"),
        Error.up(ErrorType.READ_TIMEDOUT, "x"),
        Error.down(ErrorType.INVALID_HTTP_HEADER, "x"),
        Error.down(ErrorType.READ_TIMEDOUT, "x"),
        Error(ErrorType.UNKNOWN_ERROR, "x", source=ErrorSource.UNSET),
    ):
        app = RecordingProxy(origin, failing="request_filter", failure=failure)
        async with RunningProxy(app) as proxy, await proxy.connect() as client:
            statuses.append((await client.request("GET", "/")).status)

    assert statuses == [502, 504, 400, 408, 500]


# -------------------------------------------------------------------- what callbacks may change


class _Answering(RigProxy):
    async def request_filter(self, session: Session, ctx: RigContext) -> bool:
        if session.req_header.path != "/own":
            return False
        header = ResponseHeader(200, headers=[("x-own", "1")])
        header.set_content_length(3)
        await session.write_response_header(header)
        await session.write_response_body(b"own", end=True)
        return True


async def test_request_filter_may_answer(origin: Origin) -> None:
    """A response written by a filter ends the request; the connection goes on."""
    app = _Answering(origin)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        own = await client.request("GET", "/own")
        with_body = await client.request("POST", "/own", body=b"unread")
        proxied = (
            await client.request("GET", "/") if with_body.get("connection") != "close" else None
        )

    assert (own.status, own.body, own.get("x-own")) == (200, b"own", "1")
    assert own.get("connection") == "keep-alive"
    assert with_body.body == b"own"
    assert proxied is None or proxied.status == 200
    assert not any(request.path == "/own" for request in origin.requests)
    assert app.endings[0].error is None


class _Stopping(RigProxy):
    async def proxy_upstream_filter(self, session: Session, ctx: RigContext) -> bool:
        return False


async def test_proxy_upstream_filter_may_stop(origin: Origin) -> None:
    """Stopping before the upstream without an answer makes a 502."""
    async with RunningProxy(_Stopping(origin)) as proxy, await proxy.connect() as client:
        response = await client.request("GET", "/")

    assert response.status == 502
    assert not origin.connections


class _Rewriting(RigProxy):
    async def upstream_request_filter(
        self, session: Session, upstream_request: RequestHeader, ctx: RigContext
    ) -> None:
        upstream_request.set_target("/echo?rewritten")
        upstream_request.insert_header("Host", "rewritten.example")
        upstream_request.remove_header("Content-Length")
        upstream_request.insert_header("Transfer-Encoding", "chunked")

    async def request_body_filter(
        self, session: Session, body: bytes | None, end_of_stream: bool, ctx: RigContext
    ) -> bytes | None:
        return (body or b"").upper() + (b"!" if end_of_stream else b"")

    async def response_filter(
        self, session: Session, upstream_response: ResponseHeader, ctx: RigContext
    ) -> None:
        upstream_response.remove_header("Content-Length")
        upstream_response.insert_header("x-rewritten", "1")

    async def response_body_filter(
        self, session: Session, body: bytes | None, end_of_stream: bool, ctx: RigContext
    ) -> BodyFilterResult:
        return (body or b"").replace(b"HELLO", b"bye") + (b"?" if end_of_stream else b"")


@pytest.mark.parametrize("body", [b"hello", None], ids=["body", "none"])
async def test_filters_may_rewrite_everything(origin: Origin, body: bytes | None) -> None:
    """Target, Host, framing and both bodies can be changed; what is changed arrives whole."""
    async with RunningProxy(_Rewriting(origin)) as proxy, await proxy.connect() as client:
        response = await client.request("POST", "/", body=body)
        again = await client.request("POST", "/", body=body)

    assert [request.target for request in origin.requests] == ["/echo?rewritten"] * 2
    assert origin.requests[0].get("host") == "rewritten.example"
    assert origin.requests[0].body == (b"HELLO!" if body else b"!")
    assert response.body == (b"bye!?" if body else b"!?")
    assert again.body == response.body
    assert response.get("x-rewritten") == "1"


class _Shortening(RigProxy):
    async def request_body_filter(
        self, session: Session, body: bytes | None, end_of_stream: bool, ctx: RigContext
    ) -> bytes | None:
        return body[:-1] if body else body


async def test_filter_that_breaks_the_length_is_found_at_once(origin: Origin) -> None:
    """A body shorter than the Content-Length that was sent is a fault of ours: 500, no waiting."""
    async with RunningProxy(_Shortening(origin)) as proxy, await proxy.connect() as client:
        response = await client.request("POST", "/echo", body=b"hello")
        await origin.all_closed()

    assert response.status == 500
    assert not any(request.complete for request in origin.requests)


class _Counting(RigProxy):
    received = -1

    async def logging(self, session: Session, error: Error | None, ctx: RigContext) -> None:
        self.received = session.upstream_body_bytes_received
        await super().logging(session, error, ctx)


@pytest.mark.parametrize(
    ("path", "size"),
    [("/", 13), ("/chunked", 12), ("/close_delimited", 13), ("/connection_die", 5)],
)
async def test_upstream_bytes_are_counted(origin: Origin, path: str, size: int) -> None:
    """``logging`` knows how much payload the upstream sent, however it was framed."""
    app = _Counting(origin)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        await client.send_request("GET", path)
        await client.receive_exactly(12)
        await app.ended()

    assert app.received == size


class _Persisting(RigProxy):
    def __init__(self, upstream: Upstream) -> None:
        super().__init__(upstream)
        self.to_leave: list[str | None] = ["first", None, "third", None]
        self.found: list[object] = []

    def on_connection_reuse(self, session: Session, ctx: RigContext, previous: object) -> None:
        self.found.append(previous)

    def persist_connection_context(self, session: Session, ctx: RigContext) -> object | None:
        return self.to_leave.pop(0)


async def test_connection_context_is_left_to_the_next_request_only(origin: Origin) -> None:
    """What a request leaves, the next one on the connection finds; None leaves nothing."""
    app = _Persisting(origin)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        for _ in range(4):
            await client.request("GET", "/")

    assert app.found == ["first", "third"]


class _Throttling(RigProxy):
    async def response_body_filter(
        self, session: Session, body: bytes | None, end_of_stream: bool, ctx: RigContext
    ) -> BodyFilterResult:
        return Delayed(body, 0.04)


async def test_body_filter_may_throttle(origin: Origin) -> None:
    """A returned delay is waited for after each piece, while the piece is already out."""
    async with RunningProxy(_Throttling(origin)) as proxy, await proxy.connect() as client:
        loop = asyncio.get_running_loop()
        await client.send_request("GET", "/slow_body")
        body = client.body_of(await client.read_head())
        started = loop.time()
        for _ in range(3):
            origin.open("slow_body")
            await body.read()
        origin.open("slow_body")
        await body.read()
        took = loop.time() - started

    assert took >= 0.08


class _OwnPage(RigProxy):
    async def fail_to_proxy(self, session: Session, error: Error, ctx: RigContext) -> FailToProxy:
        await session.respond_error(503, b"come back later")
        return FailToProxy(error_code=503)

    async def response_filter(
        self, session: Session, upstream_response: ResponseHeader, ctx: RigContext
    ) -> None:
        upstream_response.insert_header("x-everywhere", "1")


async def test_fail_to_proxy_may_send_its_own_page(dead: str) -> None:
    """A page of the user's, which passes ``response_filter`` as all responses do."""
    async with RunningProxy(_OwnPage(dead)) as proxy, await proxy.connect() as client:
        response = await client.request("GET", "/")

    assert (response.status, response.body) == (503, b"come back later")
    assert response.get("x-everywhere") == "1"


class _Silent(RigProxy):
    def suppress_error_log(self, session: Session, ctx: RigContext, error: Error) -> bool:
        return True


async def test_error_log_may_be_suppressed(dead: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is logged about an error that the user wants to keep quiet; the answer is the same."""
    async with RunningProxy(_Silent(dead)) as proxy, await proxy.connect() as client:
        response = await client.request("GET", "/")

    assert response.status == 502
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_one_slow_request_holds_up_no_other(origin: Origin) -> None:
    """Requests on different connections are independent."""
    async with (
        RunningProxy(RigProxy(origin)) as proxy,
        await proxy.connect() as slow,
        await proxy.connect() as fast,
    ):
        origin.handler, rig_handler = hang, origin.handler
        await slow.send_request("GET", "/")
        await origin.requests_arrived()
        origin.handler = rig_handler
        assert (await fast.request("GET", "/")).status == 200
