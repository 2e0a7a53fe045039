"""Framings of origins and clients, with a cache in between: each response ends where it should."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pingora_cache.cache import HttpCache
from pingora_cache.lock import CacheLock
from pingora_cache.memory import MemoryStorage
from pingora_cache.policy import CachePolicy
from tests.support.clock import FakeClock
from tests.support.origin import Origin
from tests.support.proxy import BareProxy, RunningProxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pingora_http import ResponseHeader
    from pingora_proxy import BodyFilterResult, Session
    from tests.support.client import RawClient
    from tests.support.origin import Exchange

_BODY = b"hello world"
_HEAD = b'HTTP/1.1 200 OK\r\nCache-Control: max-age=1\r\nETag: "a"\r\n'
_FRAMINGS = {
    "length": _HEAD + b"Content-Length: 11\r\n\r\n" + _BODY,
    "chunked": _HEAD + b"Transfer-Encoding: chunked\r\n\r\n6\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n",
    "trailers": _HEAD
    + b"Transfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\nb\r\nhello world\r\n0\r\nX-T: 1\r\n\r\n",
    "close": _HEAD + b"\r\n" + _BODY,
    "http10": _HEAD.replace(b"/1.1", b"/1.0") + b"Content-Length: 11\r\n\r\n" + _BODY,
    "empty": _HEAD + b"Content-Length: 0\r\n\r\n",
    "empty chunked": _HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "204": b"HTTP/1.1 204 No Content\r\nCache-Control: max-age=1\r\n\r\n",
}


class Cached(BareProxy):
    """A proxy that caches."""

    def __init__(self, origin: Origin, clock: FakeClock) -> None:
        super().__init__(origin)
        self.storage = MemoryStorage(1 << 22, clock=clock)
        self.lock = CacheLock(30.0)
        self.policy = CachePolicy()

    async def request_cache_filter(self, session: Session, ctx: None) -> None:
        session.cache.enable(self.storage, lock=self.lock, policy=self.policy)


class Shouting(Cached):
    """Changes what clients get."""

    async def response_body_filter(
        self, session: Session, body: bytes | None, end_of_stream: bool, ctx: None
    ) -> BodyFilterResult:
        out = (body or b"").upper()
        return out + b"!" if end_of_stream else out


class Sealing(Cached):
    """Changes what is stored."""

    async def upstream_response_filter(
        self, session: Session, upstream_response: ResponseHeader, ctx: None
    ) -> None:
        upstream_response.remove_header("content-length")

    async def upstream_response_body_filter(
        self, session: Session, body: bytes | None, end_of_stream: bool, ctx: None
    ) -> BodyFilterResult:
        return (body or b"") + (b" (sealed)" if end_of_stream else b"")


class Raw:
    """An origin that sends what it is told, and closes."""

    def __init__(self) -> None:
        self.wire = b""

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.read_body()
        if exchange.request.get("if-none-match"):
            await exchange.send(b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n')
        else:
            await exchange.send(self.wire)
        exchange.close()


@pytest.fixture
async def raw() -> AsyncIterator[tuple[Origin, Raw]]:
    handler = Raw()
    async with Origin(handler) as running:
        yield running, handler


async def run(app: Cached, clock: FakeClock) -> RunningProxy[None]:
    return RunningProxy(app, new_cache=lambda: HttpCache(clock))


async def check_all(client: RawClient, clock: FakeClock, body: bytes, status: int) -> None:
    """Send every sort of request on one connection: what is too much or too little shows."""
    validator = status == 200
    for _ in range(3):  # fetched, a hit, revalidated
        for _ in range(2):
            whole = await client.request("GET", "/")
            assert (whole.status, whole.body, whole.trailers) == (status, body, ())
        head = await client.request("HEAD", "/")
        assert (head.status, head.body) == (status, b"")
        if validator:
            same = await client.request("GET", "/", [("If-None-Match", '"a"')])
            assert (same.status, same.body) == (304, b"")
            part = await client.request("GET", "/", [("Range", "bytes=0-4")])
            assert (part.status, part.body) == ((206, body[:5]) if body else (416, b""))
        clock.advance(1.1)
    await client.send_request("GET", "/")
    await client.send_request("HEAD", "/")  # pipelined
    assert (await client.read_response("GET")).body == body
    assert (await client.read_response("HEAD")).body == b""


@pytest.mark.parametrize("framing", _FRAMINGS)
async def test_every_framing(raw: tuple[Origin, Raw], framing: str) -> None:
    """Whatever the origin sends, all that clients may ask ends properly, one after the other."""
    origin, handler = raw
    handler.wire = _FRAMINGS[framing]
    clock = FakeClock(1_700_000_000.0)
    app = Cached(origin, clock)
    status = 204 if framing == "204" else 200
    body = b"" if framing == "204" or "empty" in framing else _BODY
    async with app.storage, await run(app, clock) as proxy, await proxy.connect() as client:
        await check_all(client, clock, body, status)


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_clients_of_http10(raw: tuple[Origin, Raw], framing: str) -> None:
    """They are sent no chunks: not on a miss, and not on a hit."""
    origin, handler = raw
    handler.wire = _FRAMINGS[framing]
    clock = FakeClock(1_700_000_000.0)
    app = Cached(origin, clock)
    async with app.storage, await run(app, clock) as proxy:
        for _ in range(2):
            async with await proxy.connect() as client:
                await client.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
                received = await client.receive_all()
                head, _, body = received.partition(b"\r\n\r\n")
                assert b"chunked" not in head.lower()
                assert body == _BODY


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_what_is_stored_was_filtered_before(raw: tuple[Origin, Raw], framing: str) -> None:
    """The filters of the upstream's side run once, and what they make is stored."""
    origin, handler = raw
    handler.wire = _FRAMINGS[framing]
    clock = FakeClock(1_700_000_000.0)
    app = Sealing(origin, clock)
    async with app.storage, await run(app, clock) as proxy, await proxy.connect() as client:
        responses = [await client.request("GET", "/") for _ in range(3)]
        part = await client.request("GET", "/", [("Range", "bytes=-8")])

    assert {r.body for r in responses} == {b"hello world (sealed)"}
    assert responses[1].get("content-length") == "20"
    assert part.body == b"(sealed)"


async def test_what_clients_get_is_filtered_each_time(raw: tuple[Origin, Raw]) -> None:
    """The filters of the client's side run for hits as well, and may make another length of it."""
    origin, handler = raw
    handler.wire = _FRAMINGS["chunked"]
    clock = FakeClock(1_700_000_000.0)
    app = Shouting(origin, clock)
    async with app.storage, await run(app, clock) as proxy, await proxy.connect() as client:
        responses = [await client.request("GET", "/") for _ in range(3)]

    assert {r.body for r in responses} == {b"HELLO WORLD!"}
    assert len(origin.requests) == 1


async def test_a_stampede(raw: tuple[Origin, Raw]) -> None:
    """Hundreds of requests for one cold key reach the origin once."""
    origin, handler = raw
    handler.wire = _FRAMINGS["length"]
    clock = FakeClock(1_700_000_000.0)
    app = Cached(origin, clock)
    async with app.storage, await run(app, clock) as proxy:
        clients = [await proxy.connect() for _ in range(200)]
        try:
            responses = await asyncio.gather(*(client.request("GET", "/") for client in clients))
        finally:
            for client in clients:
                await client.__aexit__()

        assert {response.body for response in responses} == {_BODY}
        assert len(origin.requests) == 1
        await eventually(lambda: not app.lock.keys, "no locks")
