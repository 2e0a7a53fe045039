"""Subrequests whose response is read by the callback that made them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pingora_core.protocols.http.subrequest import PipedSubrequest
from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_error import Error, ErrorType
from pingora_http import RequestHeader, ResponseHeader
from pingora_proxy import SubrequestSpawner
from tests.support.origin_steps import close, hang, read_body, reply, send, sequence
from tests.support.proxy import RigProxy, RunningProxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pingora_core.protocols.http.server import ServerSession
    from pingora_core.runtime.shutdown import ShutdownWatch
    from pingora_proxy import Session, Subrequest
    from tests.support.origin import Exchange, Origin
    from tests.support.proxy import RigContext


class Asking(RigProxy):
    """Answers each request out of what a subrequest to ``/asked`` brings.

    Args:
        origin: Where subrequests go.
        use: Is given the subrequest that runs, and returns what the client gets.
        body: Of the subrequest.
    """

    def __init__(
        self, origin: Origin, use: Callable[[Subrequest], Awaitable[bytes]], body: bytes = b""
    ) -> None:
        super().__init__(origin)
        self.use = use
        self.body = body
        self.failures: list[Error] = []

    async def allow_spawning_subrequest(self, session: Session, ctx: RigContext) -> bool:
        return not session.is_subrequest

    async def request_filter(self, session: Session, ctx: RigContext) -> bool:
        spawner = session.subrequest_spawner
        if spawner is None:
            return False
        request = RequestHeader("PUT", "/asked", headers=[("Host", "asked.test")])
        try:
            async with spawner.create_subrequest(session, request, self.body) as asked:
                told = await self.use(asked)
        except Error as error:
            self.failures.append(error)
            raise
        header = ResponseHeader(200, headers=[("Content-Length", str(len(told)))])
        await session.write_response_header(header, end=not told)
        await session.write_response_body(told, end=True)
        return True


async def _tell(asked: Subrequest) -> bytes:
    header = await asked.header()
    body = await asked.read_whole_body()
    trailers = [] if asked.trailers is None else asked.trailers.raw_items
    return b"%d %s %r" % (header.status, body, [*trailers])


async def _echo(exchange: Exchange) -> None:
    await read_body(exchange)
    await reply("201 Created", body=exchange.request.body)(exchange)


async def test_a_subrequest_is_a_request_like_others(origin: Origin) -> None:
    """It goes through all phases with its body, and its response comes back."""
    origin.handler = _echo
    app = Asking(origin, _tell, b"question")
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        response = await client.request("GET", "/", [("X-A", "1")])
        await app.ended(2)

    assert response.body == b"201 question []"
    [request] = origin.requests
    assert request.head.start_line == "PUT /asked HTTP/1.1"
    assert (request.get("host"), request.get("x-a")) == ("asked.test", None)
    assert sorted(ending.status or 0 for ending in app.endings) == [200, 201]


async def test_trailers_come_after_the_body(origin: Origin) -> None:
    """They are there once the body was read."""
    chunks = b"2\r\nhi\r\n0\r\nX-Sum: 1\r\n\r\n"
    origin.handler = send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    async with RunningProxy(Asking(origin, _tell)) as proxy, await proxy.connect() as client:
        response = await client.request("GET", "/")

    assert response.body == b"200 hi [(b'X-Sum', b'1')]"


async def test_the_body_is_sent_again_with_a_retry(origin: Origin) -> None:
    """What was lost with the first connection is still known."""
    count = 0

    async def second_time(exchange: Exchange) -> None:
        nonlocal count
        count += 1
        await read_body(exchange)
        await (close if count == 1 else _echo)(exchange)

    origin.handler = _echo
    app = Asking(origin, _tell, b"again")
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        await client.request("GET", "/")
        origin.handler = second_time
        response = await client.request("GET", "/")

    assert (response.body, count) == (b"201 again []", 2)


async def test_one_that_fails_has_the_error_page(origin: Origin) -> None:
    """An upstream that says nothing is a 502, as for any client."""
    origin.handler = close
    app = Asking(origin, _tell)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        response = await client.request("GET", "/")

    assert response.body.startswith(b"502 ")


async def test_a_response_that_breaks_off_is_an_error(origin: Origin) -> None:
    """And is never taken for a whole one."""
    origin.handler = sequence(
        send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"),
        close,
    )
    app = Asking(origin, _tell)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        response = await client.request("GET", "/")

    assert response.status == 500
    [error] = app.failures
    assert error.etype == ErrorType.CONNECTION_CLOSED
    assert "PUT /asked" in error.context


async def test_who_has_seen_enough_leaves(origin: Origin) -> None:
    """The rest of the response is not waited for, and its connection is closed."""
    origin.handler = sequence(
        send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"),
        hang,
    )

    async def head_only(asked: Subrequest) -> bytes:
        return b"%d" % (await asked.header()).status

    app = Asking(origin, head_only)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        response = await client.request("GET", "/")
        await origin.all_closed()

    assert response.body == b"200"


async def test_a_body_may_be_too_long(origin: Origin) -> None:
    """Memory is bounded by whoever asks for the whole."""
    origin.handler = reply(body=bytes(100))

    async def a_little(asked: Subrequest) -> bytes:
        return await asked.read_whole_body(limit=99)

    app = Asking(origin, a_little)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        response = await client.request("GET", "/")

    assert response.status == 500
    assert "longer than 99 bytes" in app.failures[0].context


class _Parent:
    """What a subrequest takes over from its request."""

    def __init__(self) -> None:
        self.req_header = RequestHeader("GET", "/", headers=[("Content-Length", "9")])
        self.client_addr = None
        self.server_addr = None
        self.digest = PipedSubrequest(self.req_header).digest
        self.shutdown_watch = ShutdownSwitch().watch


def _spawner(serve: Callable[[ServerSession], Awaitable[None]]) -> SubrequestSpawner:
    async def process(session: ServerSession, shutdown: ShutdownWatch, subrequest: object) -> bool:
        await serve(session)
        return False

    return SubrequestSpawner(process, max_running=1)


async def test_the_other_side_waits_for_who_reads() -> None:
    """No more is kept than the limit and one piece."""
    written = 0

    async def serve(session: ServerSession) -> None:
        nonlocal written
        await session.write_response_header(ResponseHeader(200))
        for _ in range(32):
            await session.write_response_body(bytes(16 * 1024))
            written += 16 * 1024
        await session.finish()

    spawner = _spawner(serve)
    async with spawner.create_subrequest(_Parent()) as asked:
        await asked.header()
        await eventually(lambda: written == 64 * 1024, "a full pipe")
        assert await asked.read_body() == bytes(16 * 1024)
        await eventually(lambda: written == 80 * 1024, "another piece")
        assert len(await asked.read_whole_body()) == 31 * 16 * 1024
        assert await asked.read_body() is None
    assert spawner.running == 0


async def test_nobody_answers() -> None:
    """Whoever waits for a head is told."""

    async def serve(session: ServerSession) -> None:
        assert session.is_body_empty
        assert session.request.get("content-length") is None

    async with _spawner(serve).create_subrequest(_Parent()) as asked:
        with pytest.raises(Error, match="broke off: GET /"):
            await asked.header()


async def test_there_are_not_too_many() -> None:
    """One more than may run is refused, and runs when there is room."""

    async def serve(session: ServerSession) -> None:
        await asyncio.Event().wait()

    spawner = _spawner(serve)
    second = spawner.create_subrequest(_Parent())
    async with spawner.create_subrequest(_Parent()) as first:
        with pytest.raises(Error, match="too many subrequests"):
            await second.__aenter__()
        with pytest.raises(RuntimeError, match="runs once"):
            await first.__aenter__()
    async with second:
        assert spawner.running == 1
    await spawner.close()
