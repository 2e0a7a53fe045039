"""What an attacker sends so that others get it: a drill of known ways to poison a cache."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from pingora_cache.cache import HttpCache
from pingora_cache.memory import MemoryStorage
from pingora_cache.policy import CachePolicy
from pingora_core.apps.http_app import HttpServerOptions
from tests.support.clock import FakeClock
from tests.support.h2client import RawH2Client
from tests.support.origin import Origin
from tests.support.proxy import BareProxy, RunningProxy
from tests.support.wire import Truncated, WireError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pingora_proxy import Session
    from tests.support.client import RawClient, Response
    from tests.support.origin import Exchange

_FRESH = ("Cache-Control", "max-age=60")
_OK = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n"


class Victim(BareProxy):
    """A proxy that caches with the defaults."""

    def __init__(self, origin: Origin, clock: FakeClock) -> None:
        super().__init__(origin)
        self.storage = MemoryStorage(1 << 20, clock=clock)
        self.policy = CachePolicy()

    async def request_cache_filter(self, session: Session, ctx: None) -> None:
        session.cache.enable(self.storage, policy=self.policy)


class Naive:
    """An origin that believes what it is told, and says that everything may be cached.

    Attributes:
        fields: What it adds to every response.
        status: What it answers with.
    """

    def __init__(self) -> None:
        self.fields: list[tuple[str, str]] = [_FRESH]
        self.status = "200 OK"
        self.raw: bytes | None = None

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.read_body()
        request = exchange.request
        if self.raw is not None:
            await exchange.send(self.raw)
            exchange.close()
            return
        # It shows all of the request in the body.
        shown = f"{request.head.start_line} of {request.get('x-forwarded-host')}".encode()
        await exchange.reply(self.status, shown, self.fields)


class Drill:
    """An attacker and a victim, in front of one cache."""

    def __init__(
        self, origin: Origin, naive: Naive, attacker: RawClient, victim: RawClient, address: str
    ) -> None:
        self.origin = origin
        self.address = address
        self.naive = naive
        self.attacker = attacker
        self.victim = victim

    async def fares(self, target: str = "/", *fields: tuple[str, str]) -> Response:
        """Have the victim ask as it always does."""
        return await self.victim.request("GET", target, fields)


async def _drill(options: HttpServerOptions | None) -> AsyncIterator[Drill]:
    naive, clock = Naive(), FakeClock(1_700_000_000.0)
    async with Origin(naive) as origin:
        app = Victim(origin, clock)
        proxy = RunningProxy(app, server_options=options, new_cache=lambda: HttpCache(clock))
        async with app.storage, proxy, await proxy.connect() as one, await proxy.connect() as two:
            yield Drill(origin, naive, one, two, proxy.address)


@pytest.fixture
async def drill() -> AsyncIterator[Drill]:
    async for made in _drill(None):
        yield made


@pytest.fixture
async def h2_drill() -> AsyncIterator[Drill]:
    async for made in _drill(HttpServerOptions(h2c=True)):
        yield made


async def test_a_field_that_is_not_in_the_key(drill: Drill) -> None:
    """An origin that uses a field has to say so in Vary: then each value has its own response."""
    drill.naive.fields.append(("Vary", "X-Forwarded-Host"))
    await drill.attacker.request("GET", "/", [("X-Forwarded-Host", "evil.example")])
    response = await drill.fares()

    assert b"evil" not in response.body


@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "X-Method-Override", "X-HTTP-Method"])
async def test_method_override(drill: Drill, name: str) -> None:
    """What an origin takes for another method is not what a GET gets."""
    attack = await drill.attacker.request("GET", "/", [(name, "DELETE")])
    response = await drill.fares()

    assert attack.get("age") is None
    assert (response.get("age"), len(drill.origin.requests)) == (None, 2)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "get", "GeT", "HEADER", "PROPFIND"])
async def test_other_methods(drill: Drill, method: str) -> None:
    """Nothing but GET and HEAD fills the cache, however it is spelt."""
    with suppress(Truncated, WireError, ConnectionResetError):
        await drill.attacker.request(method, "/")
    before = len(drill.origin.requests)
    await drill.fares()
    assert len(drill.origin.requests) == before + 1


async def test_a_get_with_a_body(drill: Drill) -> None:
    """A "fat GET" may be answered by its body; nobody else gets the answer."""
    await drill.attacker.request("GET", "/", body=b"name=evil")
    await drill.attacker.request("GET", "/", chunks=[b"name=evil"])
    await drill.fares()

    assert len(drill.origin.requests) == 3


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: test.example\r\nHost: evil.example\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: test.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: evil.example@test.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: test.example/evil\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: test.example:80evil\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: test.example evil\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: evil.example\r\nHost: test.example\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
    ],
)
async def test_host_confusion(drill: Drill, head: bytes) -> None:
    """However a host is hidden, what comes of it does not become the victim's response."""
    await drill.attacker.send(head)
    with suppress(Truncated, WireError):
        await drill.attacker.read_response()
    before = len(drill.origin.requests)
    await drill.fares()

    assert len(drill.origin.requests) == before + 1


@pytest.mark.parametrize(
    ("attack", "target"),
    [
        ("/a?b", "/a"),
        ("/a%3Fb", "/a?b"),
        ("/a/", "/a"),
        ("//a", "/a"),
        ("/A", "/a"),
        ("/a;b", "/a"),
        ("/%61", "/a"),
        ("/x/../a", "/a"),
        ("/a?x=1&y=2", "/a?x=1"),
        ("/a?x=1;y=2", "/a?x=1"),
    ],
)
async def test_targets_are_what_they_are(drill: Drill, attack: str, target: str) -> None:
    """The key has the target as it goes to the origin: nothing is taken to be the same."""
    await drill.attacker.request("GET", attack)
    response = await drill.fares(target)

    assert response.body.startswith(f"GET {target} ".encode())


async def test_a_fragment_is_refused(drill: Drill) -> None:
    """What no request has cannot make two keys of one target, or one of two."""
    with suppress(Truncated, WireError):
        response = await drill.attacker.request("GET", "/a#b")
        assert response.status == 400
    assert (await drill.fares("/a")).body.startswith(b"GET /a ")


@pytest.mark.parametrize("status", ["400 Bad Request", "416 Range", "412 Failed", "431 Too Large"])
async def test_errors_about_one_request(drill: Drill, status: str) -> None:
    """What an attacker can provoke by its own fields is no answer for others (CPDoS)."""
    drill.naive.status = status
    if status.startswith("400"):
        drill.naive.fields = []
    await drill.attacker.request("GET", "/", [("X-Oversized", "a" * 100)])
    drill.naive.status = "200 OK"

    assert (await drill.fares()).status == 200


async def test_a_206_that_nobody_has_asked_for(drill: Drill) -> None:
    """A part is never stored as the whole (H19)."""
    drill.naive.status = "206 Partial Content"
    drill.naive.fields.append(("Content-Range", "bytes 0-3/100"))
    await drill.attacker.request("GET", "/", [("Range", "bytes=0-3")])
    await drill.fares()

    assert len(drill.origin.requests) == 2


@pytest.mark.parametrize(
    "fields",
    [
        [("Connection", "Cache-Control"), ("Cache-Control", "private")],
        [("Connection", "Vary"), ("Vary", "Cookie"), _FRESH],
        [("Connection", "set-cookie"), ("Set-Cookie", "session=1"), _FRESH],
    ],
)
async def test_fields_that_are_taken_away(drill: Drill, fields: list[tuple[str, str]]) -> None:
    """What says that a response is not for everybody cannot be declared the connection's."""
    drill.naive.fields = [*fields, ("Last-Modified", "Tue, 03 May 2022 01:04:39 GMT")]
    await drill.attacker.request("GET", "/", [("Cookie", "of the attacker")])
    await drill.fares("/", ("Cookie", "of the victim"))

    assert len(drill.origin.requests) == 2


@pytest.mark.parametrize(
    "value",
    [
        "max-age=60, private",
        'max-age=60, private="',
        "max-age=60, private=",
        "max-age=60; no-store",
        "max-age=60, NO-STORE",
        "max-age=60 , no-store",
        "max-age=60,\tno-store",
        'max-age="60", no-store',
        "max-age=60, max-age=0",
    ],
)
async def test_spellings_of_no(drill: Drill, value: str) -> None:
    """However it is said that a response is not to be stored, it is not."""
    drill.naive.fields = [("Cache-Control", value)]
    await drill.attacker.request("GET", "/")
    await drill.fares()

    assert len(drill.origin.requests) == 2


@pytest.mark.parametrize(
    "value",
    ["*", "Accept, *", "Cookie", "cookie, accept", ", cookie ,", "Cookie\t", "a b", "Co(kie"],
)
async def test_deceptive_vary(drill: Drill, value: str) -> None:
    """Who is served depends on all that is named, and on nothing that is no name."""
    drill.naive.fields = [_FRESH, ("Vary", value)]
    await drill.attacker.request("GET", "/", [("Cookie", "of the attacker")])
    await drill.fares("/", ("Cookie", "of the victim"))

    assert len(drill.origin.requests) == 2


async def test_a_vary_of_thousands(drill: Drill) -> None:
    """A list that is a bomb is not stored."""
    drill.naive.fields = [_FRESH, ("Vary", ", ".join(f"x-{i}" for i in range(500)))]
    for _ in range(2):
        await drill.fares()

    assert len(drill.origin.requests) == 2


@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 5\r\nContent-Length: 30\r\n\r\nhello",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"Transfer-Encoding: gzip\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"Content-Length: 50\r\n\r\nhello",
        b"X: a\rX-Y: b\r\n\r\nhello",
        b"X: a\nSet-Cookie: b\r\n\r\nhello",
    ],
)
async def test_response_splitting_and_doubtful_framing(drill: Drill, rest: bytes) -> None:
    """What is not framed beyond doubt, or has not come to its end, is not stored."""
    drill.naive.raw = _OK + rest
    with suppress(Truncated, WireError):
        await drill.attacker.request("GET", "/")
    drill.naive.raw = None
    drill.naive.fields = []
    response = await drill.fares()

    assert response.body.startswith(b"GET / ")
    assert response.get("set-cookie") is None


async def test_a_body_that_ends_with_the_connection(drill: Drill) -> None:
    """What has no length may have been cut: it is passed on, and what is stored is what came."""
    drill.naive.raw = _OK + b"\r\nhello"
    first = await drill.attacker.request("GET", "/")
    second = await drill.fares()

    assert first.body == second.body == b"hello"


async def test_a_second_response_behind_the_first(drill: Drill) -> None:
    """What an origin sends beyond a response is not the answer to the next request."""
    second = _OK + b"Content-Length: 4\r\n\r\nevil"
    drill.naive.raw = _OK + b"Content-Length: 5\r\n\r\nhello" + second
    assert (await drill.attacker.request("GET", "/a")).body == b"hello"
    drill.naive.raw = None
    response = await drill.fares("/b")

    assert b"evil" not in response.body


async def test_set_cookie_is_nobodys_but_the_firsts(drill: Drill) -> None:
    """Where the origin says that everybody may have the response, they do not get the cookie."""
    drill.naive.fields = [("Cache-Control", "public, max-age=60"), ("Set-Cookie", "session=1")]
    first = await drill.attacker.request("GET", "/")
    second = await drill.fares()

    assert (first.get("set-cookie"), second.get("set-cookie")) == ("session=1", None)
    assert len(drill.origin.requests) == 1


async def test_a_304_cannot_change_for_whom_it_is(drill: Drill) -> None:
    """One that adds to Vary, or to what is private, takes the object out of use."""
    drill.naive.fields = [("Cache-Control", "max-age=0, stale-while-revalidate=0"), ("ETag", '"a"')]
    await drill.attacker.request("GET", "/", [("Cookie", "a")])
    drill.naive.raw = b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nVary: Cookie\r\nCache-Control: max-age=60\r\n\r\n'
    await drill.attacker.request("GET", "/", [("Cookie", "a")])
    drill.naive.raw = None
    await drill.fares("/", ("Cookie", "b"))

    assert len(drill.origin.requests) == 3


async def test_only_the_proxys_conditions_confirm(drill: Drill) -> None:
    """A client cannot have its own validator confirm what is stored."""
    drill.naive.fields = [("Cache-Control", "max-age=0"), ("ETag", '"good"')]
    await drill.fares()
    await drill.attacker.request("GET", "/", [("If-None-Match", '"evil"'), ("If-Match", '"evil"')])

    conditions = drill.origin.requests[1]
    assert (conditions.get("if-none-match"), conditions.get("if-match")) == ('"good"', None)


# ------------------------------------------------------------------------------- HTTP/2


@pytest.mark.parametrize(
    "fields",
    [
        [("host", "evil.example")],
        [("cookie", "a=1"), ("host", "test.example:81")],
        [("x-forwarded-host", "evil.example"), ("transfer-encoding", "chunked")],
        [("connection", "cache-control")],
        [("x-http-method-override", "DELETE")],
    ],
)
async def test_fields_of_http2(h2_drill: Drill, fields: list[tuple[str, str]]) -> None:
    """Two names of one host, and fields that HTTP/2 does not have, poison nothing either."""
    async with await RawH2Client.connect(h2_drill.address) as attacker:
        await attacker.request("GET", "/", fields)
    before = len(h2_drill.origin.requests)
    response = await h2_drill.fares()

    assert (response.status, len(h2_drill.origin.requests)) == (200, before + 1)
    assert b"evil" not in response.body


async def test_a_get_with_a_body_over_http2(h2_drill: Drill) -> None:
    """One whose length no field tells is not taken for a plain request either."""
    async with await RawH2Client.connect(h2_drill.address) as attacker:
        response = await attacker.request("GET", "/", (), b"evil")
    before = len(h2_drill.origin.requests)
    await h2_drill.fares()

    assert response.status == 200
    assert len(h2_drill.origin.requests) == before + 1


async def test_cookies_in_pieces(h2_drill: Drill) -> None:
    """A cookie that HTTP/2 has split is the same as the one in a single field."""
    h2_drill.naive.fields.append(("Vary", "Cookie"))
    async with await RawH2Client.connect(h2_drill.address) as client:
        for pieces in ([("cookie", "a=1"), ("cookie", "b=2")], [("cookie", "a=1; b=2")]):
            await client.request("GET", "/", pieces)
        await client.request("GET", "/", [("cookie", "a=1"), ("cookie", "b=3")])

    assert [r.get("cookie") for r in h2_drill.origin.requests] == ["a=1; b=2", "a=1; b=3"]


async def test_both_versions_have_one_key(h2_drill: Drill) -> None:
    """A request is the same in either version, so that there is one object of it."""
    async with await RawH2Client.connect(h2_drill.address) as client:
        await client.request("GET", "/")
    await h2_drill.fares()

    assert len(h2_drill.origin.requests) == 1
