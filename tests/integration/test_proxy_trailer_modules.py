"""Where the ends of bodies meet: trailers, modules, and responses that a filter completes."""

from __future__ import annotations

import asyncio
import gzip
from typing import TYPE_CHECKING

from pingora_core.modules import (
    HttpModule,
    HttpModuleBuilder,
    ResponseCompressionBuilder,
)
from pingora_error import Error, ErrorType, HTTPStatus
from pingora_http import HeaderMap, ResponseHeader
from pingora_proxy import FailToProxy
from tests.support.origin import Origin
from tests.support.proxy import RigProxy, RunningProxy
from tests.support.wire import CHUNKED

if TYPE_CHECKING:
    from pingora_core.modules import HttpModules
    from pingora_http import RequestHeader
    from pingora_proxy import Session
    from tests.support.origin import Exchange
    from tests.support.proxy import RigContext


class Witness(HttpModule):
    """Takes note of how it learns the end, and adds a last word of its own."""

    calls: list[str]

    def __init__(self) -> None:
        self.calls = []

    def request_body_start(self) -> None:
        self.calls.append("start")

    def response_body_filter(self, body: bytes | None, end: bool) -> bytes | None:
        if end:
            self.calls.append("end")
        return body

    def response_trailer_filter(self, trailers: HeaderMap | None) -> bytes | None:
        assert trailers is not None
        self.calls.append("trailers")
        moved = b"".join(value for _, value in trailers.raw_items)
        trailers.remove_headers(tuple(trailers.keys_lower()))
        return b"moved: " + moved

    def response_done_filter(self) -> bytes | None:
        self.calls.append("done")
        return b" the end"


class WitnessBuilder(HttpModuleBuilder):
    """Makes them, and keeps the last one."""

    module_type = Witness
    last: Witness

    def init(self) -> Witness:
        self.last = Witness()
        return self.last


class WitnessProxy(RigProxy):
    """A proxy with a witness on the client's side."""

    def init_downstream_modules(self, modules: HttpModules) -> None:
        self.builder = WitnessBuilder()
        modules.add_module(self.builder)


async def test_trailers_end_the_body_of_the_clients_modules(origin: Origin) -> None:
    """A module is told of the end once: by the trailers. It may put them into the body."""
    app = WitnessProxy(origin)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        response = await client.request("GET", "/trailers")

    assert app.builder.last.calls == ["start", "trailers"]
    assert response.body.endswith(b"moved: abc1")
    assert (response.framing, response.trailers) == (CHUNKED, ())


async def test_a_filters_own_answer_ends_for_the_modules() -> None:
    """What a filter writes passes the modules to the last."""

    class Answers(WitnessProxy):
        async def request_filter(self, session: Session, ctx: RigContext) -> bool:
            await session.write_response_header(ResponseHeader(200))
            await session.write_response_body(b"this is", end=True)
            return True

    async with RunningProxy(Answers("127.0.0.1:1")) as proxy, await proxy.connect() as client:
        response = await client.request("GET", "/")

    assert response.body == b"this is the end"


async def test_trailers_end_the_body_of_the_upstreams_modules() -> None:
    """The last bytes of a compressed body come before the trailers."""

    async def text(exchange: Exchange) -> None:
        await exchange.start_chunked(fields=[("Content-Type", "text/plain")])
        await exchange.send(b"5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n")

    class Compresses(RigProxy):
        def init_upstream_modules(self, modules: HttpModules) -> None:
            modules.add_module(ResponseCompressionBuilder.enable(5))

        async def request_filter(self, session: Session, ctx: RigContext) -> bool:
            await session.upstream_modules_ctx.request_header_filter(session.req_header)
            return False

        async def upstream_request_filter(
            self, session: Session, upstream_request: RequestHeader, ctx: RigContext
        ) -> None:
            upstream_request.remove_header("Accept-Encoding")

    async with (
        Origin(text) as origin,
        RunningProxy(Compresses(origin)) as proxy,
        await proxy.connect() as client,
    ):
        response = await client.request("GET", "/", [("Accept-Encoding", "gzip")])

    assert response.get("content-encoding") == "gzip"
    assert gzip.decompress(response.body) == b"hello"
    assert response.trailers == (("x-sum", "1"),)


async def test_a_timer_ends_an_exchange(origin: Origin) -> None:
    """A callback's own timer interrupts the wait for the upstream; its error is answered."""

    class Impatient(RigProxy):
        async def connected_to_upstream(self, session: Session, *args: object) -> None:
            error = Error.up(HTTPStatus(504), "out of time")
            asyncio.get_running_loop().call_soon(session.interrupt, error)

    app = Impatient(origin)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        response = await client.request("GET", "/sleep")
        ending = await app.ended()

    assert response.status == 504
    assert "out of time" in str(ending.error)


async def test_a_timer_ends_an_exchange_while_the_client_still_sends(origin: Origin) -> None:
    """Even if its error says what a deadline says: that one is not waited out for ever."""

    class Impatient(RigProxy):
        async def connected_to_upstream(self, session: Session, *args: object) -> None:
            error = Error.up(ErrorType.READ_TIMEDOUT, "out of time")
            asyncio.get_running_loop().call_later(0.02, session.interrupt, error)

    app = Impatient(origin)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        await client.send(b"PUT /sleep HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
        response = await client.read_response()

    assert response.status == 504


async def test_an_interrupt_before_there_is_an_upstream_does_nothing(origin: Origin) -> None:
    """It is too early then; the time to connect has limits of its own."""

    class Hasty(RigProxy):
        async def request_filter(self, session: Session, ctx: RigContext) -> bool:
            session.interrupt(Error.up(HTTPStatus(504)))
            return False

    async with RunningProxy(Hasty(origin)) as proxy, await proxy.connect() as client:
        assert (await client.request("GET", "/")).status == 200


async def test_a_failed_response_can_be_completed() -> None:
    """An application that ends a response under way in its own manner says so, and it counts."""

    class Completes(RigProxy):
        async def fail_to_proxy(
            self, session: Session, error: Error, ctx: RigContext
        ) -> FailToProxy:
            await session.write_response_trailers(HeaderMap([("x-failed", "yes")]))
            return FailToProxy(error_code=502, response_completed=True)

    async def die(exchange: Exchange) -> None:
        await exchange.start_chunked()
        await exchange.send_chunk(b"AAAAA")
        await exchange.passed("death")
        exchange.reset()

    async with Origin(die) as origin:
        app = Completes(origin)
        async with RunningProxy(app) as proxy, await proxy.connect() as client:
            await client.send_request("GET", "/")
            head, _ = await client.read_final_head()
            origin.open("death")
            body = client.body_of(head)
            content = await body.read_all()
            ending = await app.ended()

    assert ending.error is not None
    assert (content, body.trailers) == (b"AAAAA", (("x-failed", "yes"),))
