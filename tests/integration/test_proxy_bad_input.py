"""Malformed requests: the precise 4xx, the connection closed, the phases told, nothing forwarded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from pingora_core.conf import ServerConf
from tests.support.proxy import RigContext, RigProxy, RunningProxy

if TYPE_CHECKING:
    from tests.support.client import RawClient
    from tests.support.origin import Origin

Proxy = RunningProxy[RigContext]

_H: Final = b"Host: a\r\n"

BAD_HEADS: Final[dict[str, tuple[bytes, set[int]]]] = {
    # The request line
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", {400}),
    "no target": (b"GET HTTP/1.1\r\n" + _H + b"\r\n", {400}),
    "empty target": (b"GET  HTTP/1.1\r\n" + _H + b"\r\n", {400}),
    "two spaces": (b"GET  / HTTP/1.1\r\n" + _H + b"\r\n", {400}),
    "tab between": (b"GET\t/ HTTP/1.1\r\n" + _H + b"\r\n", {400}),
    "space in target": (b"GET /a b HTTP/1.1\r\n" + _H + b"\r\n", {400}),
    "space at the end": (b"GET / HTTP/1.1 \r\n" + _H + b"\r\n", {400}),
    "control in target": (b"GET /\x01 HTTP/1.1\r\n" + _H + b"\r\n", {400}),
    "nul in target": (b"GET /\x00 HTTP/1.1\r\n" + _H + b"\r\n", {400}),
    "bytes above ascii in target": (b"GET /\xc3\xa9 HTTP/1.1\r\n" + _H + b"\r\n", {400}),
    "fragment": (b"GET /a#b HTTP/1.1\r\n" + _H + b"\r\n", {400}),
    "relative target": (b"GET a HTTP/1.1\r\n" + _H + b"\r\n", {400}),
    "asterisk": (b"GET * HTTP/1.1\r\n" + _H + b"\r\n", {400}),
    "bad method": (b"G(T / HTTP/1.1\r\n" + _H + b"\r\n", {400}),
    "small http": (b"GET / http/1.1\r\n" + _H + b"\r\n", {400}),
    "not http": (b"GET / ICE/1.1\r\n" + _H + b"\r\n", {400}),
    "long minor": (b"GET / HTTP/1.10\r\n" + _H + b"\r\n", {400, 505}),
    "http/2": (b"GET / HTTP/2.0\r\n" + _H + b"\r\n", {505}),
    "h2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 505}),
    "http/0.9": (b"GET /\r\n\r\n", {400, 505}),
    "connect without port": (b"CONNECT a HTTP/1.1\r\n" + _H + b"\r\n", {400, 405}),
    # Host
    "no host": (b"GET / HTTP/1.1\r\n\r\n", {400}),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", {400}),
    "host with space": (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", {400}),
    "host with path": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", {400}),
    "host with userinfo": (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", {400}),
    "host with bad port": (b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", {400}),
    # Fields
    "space before colon": (b"GET / HTTP/1.1\r\n" + _H + b"X : 1\r\n\r\n", {400}),
    "space before name": (b"GET / HTTP/1.1\r\n X: 1\r\n" + _H + b"\r\n", {400}),
    "folded": (b"GET / HTTP/1.1\r\n" + _H + b"X: 1\r\n 2\r\n\r\n", {400}),
    "no colon": (b"GET / HTTP/1.1\r\n" + _H + b"X\r\n\r\n", {400}),
    "no name": (b"GET / HTTP/1.1\r\n" + _H + b": 1\r\n\r\n", {400}),
    "bad name": (b"GET / HTTP/1.1\r\n" + _H + b"X(Y): 1\r\n\r\n", {400}),
    "nul in value": (b"GET / HTTP/1.1\r\n" + _H + b"X: a\x00b\r\n\r\n", {400}),
    "control in value": (b"GET / HTTP/1.1\r\n" + _H + b"X: a\x07b\r\n\r\n", {400}),
    "bare cr in value": (b"GET / HTTP/1.1\r\n" + _H + b"X: a\rb\r\n\r\n", {400}),
    "bare lf": (b"GET / HTTP/1.1\n" + _H + b"\r\n", {400}),
    "all lf": (b"GET / HTTP/1.1\nHost: a\n\n", {400}),
    "lf in fields": (b"GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n", {400}),
    "cr cr lf": (b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", {400}),
    # Framing
    "te and cl": (
        b"POST / HTTP/1.1\r\n" + _H + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\n",
        {400},
    ),
    "te in 1.0": (
        b"POST / HTTP/1.0\r\n" + _H + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        {400},
    ),
    "te not chunked": (
        b"POST / HTTP/1.1\r\n" + _H + b"Transfer-Encoding: identity\r\n\r\n",
        {400, 501},
    ),
    "te chunked not last": (
        b"POST / HTTP/1.1\r\n" + _H + b"Transfer-Encoding: chunked, gzip\r\n\r\n",
        {400},
    ),
    "te chunked twice": (
        b"POST / HTTP/1.1\r\n" + _H + b"Transfer-Encoding: chunked, chunked\r\n\r\n",
        {400},
    ),
    "te chunked in two fields": (
        b"POST / HTTP/1.1\r\n" + _H + b"Transfer-Encoding: chunked\r\n"
        b"Transfer-Encoding: identity\r\n\r\n",
        {400, 501},
    ),
    "te unknown": (
        b"POST / HTTP/1.1\r\n" + _H + b"Transfer-Encoding: xchunked\r\n\r\n",
        {400, 501},
    ),
    "te with control": (
        b"POST / HTTP/1.1\r\n" + _H + b"Transfer-Encoding: \x0bchunked\r\n\r\n",
        {400},
    ),
    "te quoted": (
        b"POST / HTTP/1.1\r\n" + _H + b'Transfer-Encoding: "chunked"\r\n\r\n',
        {400, 501},
    ),
    "te empty": (b"POST / HTTP/1.1\r\n" + _H + b"Transfer-Encoding:\r\n\r\n", {400}),
    **{
        f"cl {value!r}": (
            b"POST / HTTP/1.1\r\n" + _H + b"Content-Length: " + value + b"\r\n\r\nabc",
            {400, 413} if value.isdigit() else {400},
        )
        for value in (
            b"-1",
            b"+3",
            b"abc",
            b"3abc",
            b"0x3",
            b"3 3",
            b"3, 3",
            b"3;a",
            b"",
            b"1.5",
            b"9" * 30,
        )
    },
    "cl twice, equal": (
        b"POST / HTTP/1.1\r\n" + _H + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        {400},
    ),
    "cl twice, different": (
        b"POST / HTTP/1.1\r\n" + _H + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        {400},
    ),
    # Limits
    "long target": (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n" + _H + b"\r\n", {414}),
    "long field": (b"GET / HTTP/1.1\r\n" + _H + b"X: " + b"a" * 40_000 + b"\r\n\r\n", {431}),
    "many fields": (b"GET / HTTP/1.1\r\n" + _H + b"X: 1\r\n" * 300 + b"\r\n", {431}),
    "long head": (b"GET / HTTP/1.1\r\n" + _H + b"X: %b\r\n" % (b"a" * 1000) * 100 + b"\r\n", {431}),
}

# What follows the head of a chunked request.
BAD_CHUNKS: Final[dict[str, bytes]] = {
    "size not hex": b"xyz\r\nabc\r\n0\r\n\r\n",
    "size with 0x": b"0x3\r\nabc\r\n0\r\n\r\n",
    "size negative": b"-3\r\nabc\r\n0\r\n\r\n",
    "size with sign": b"+3\r\nabc\r\n0\r\n\r\n",
    "size empty": b"\r\nabc\r\n0\r\n\r\n",
    "size with space before": b" 3\r\nabc\r\n0\r\n\r\n",
    "size with underscore": b"1_0\r\n" + b"a" * 16 + b"\r\n0\r\n\r\n",
    "size too long": b"f" * 17 + b"\r\nabc",
    "size ends with lf": b"3\nabc\r\n0\r\n\r\n",
    "size ends with cr": b"3\rabc\r\n0\r\n\r\n",
    "no line end after data": b"3\r\nabcdef\r\n0\r\n\r\n",
    "lf after data": b"3\r\nabc\n0\r\n\r\n",
    "bare cr in extension": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "lf in extension": b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "nul in extension": b"3;a\x00\r\nabc\r\n0\r\n\r\n",
    "extension too long": b"3;" + b"a" * 20_000 + b"\r\nabc\r\n0\r\n\r\n",
    "trailer without colon": b"3\r\nabc\r\n0\r\nbad\r\n\r\n",
    "trailer with lf": b"3\r\nabc\r\n0\r\na: b\n\r\n",
    "trailer folded": b"3\r\nabc\r\n0\r\na: b\r\n c\r\n\r\n",
    "trailer with space before colon": b"3\r\nabc\r\n0\r\na : b\r\n\r\n",
    "trailers too long": b"3\r\nabc\r\n0\r\n" + b"a: %b\r\n" % (b"b" * 1000) * 100 + b"\r\n",
}


async def _told(app: RigProxy, status: int, count: int = 1) -> None:
    ending = await app.ended(count)
    assert len(app.endings) == count
    assert ending.status == status
    assert ending.error is not None


@pytest.mark.parametrize("name", BAD_HEADS)
async def test_bad_head(client: RawClient, origin: Origin, app: RigProxy, name: str) -> None:
    """A malformed head is refused once and precisely, and goes nowhere."""
    wire, expected = BAD_HEADS[name]

    await client.send(wire)
    response = await client.read_response()

    assert response.status in expected
    assert response.get("connection") == "close"
    assert await client.is_closed_by_server()
    assert not origin.connections
    await _told(app, response.status)


@pytest.mark.parametrize("name", BAD_HEADS)
async def test_bad_head_with_the_reference_engine(origin: Origin, name: str) -> None:
    """The other parser engine refuses the same heads."""
    wire, expected = BAD_HEADS[name]
    conf = ServerConf(http1_parser="h11")
    async with (
        RunningProxy(RigProxy(origin), conf=conf) as proxy,
        await proxy.connect() as client,
    ):
        await client.send(wire)
        response = await client.read_response()
        closed = await client.is_closed_by_server()

    # h11 does not look at codings any further when one is not "chunked".
    assert response.status in (expected | {501} if name.startswith("te ") else expected)
    assert closed
    assert not origin.connections


_SHORT = [name for name, (wire, _) in BAD_HEADS.items() if len(wire) < 200]


@pytest.mark.parametrize("name", _SHORT)
async def test_bad_head_byte_by_byte(
    client: RawClient, origin: Origin, app: RigProxy, name: str
) -> None:
    """Where the bytes are split makes no difference."""
    wire, expected = BAD_HEADS[name]

    await client.send_bytewise(wire)
    response = await client.read_response()

    assert response.status in expected
    assert await client.is_closed_by_server()
    assert not origin.connections
    await _told(app, response.status)


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        (b"GET / HTTP/1.1\nHost: a\n", 400),
        (b"GET /" + b"a" * 70_000, 414),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000, 431),
    ],
    ids=["bare lf", "target", "field"],
)
async def test_hopeless_head_is_refused_before_its_end(
    client: RawClient, origin: Origin, wire: bytes, expected: int
) -> None:
    """What cannot become a good head any more is not waited for."""
    await client.send(wire)
    response = await client.read_response()

    assert response.status == expected
    assert await client.is_closed_by_server()
    assert not origin.connections


async def test_malformed_head_of_unknown_request_is_logged_as_such(
    client: RawClient, app: RigProxy
) -> None:
    """``logging`` sees a placeholder for a request whose head could not be read."""
    await client.send(b"\x00\x01\r\n\r\n")
    await client.read_response()

    ending = await app.ended()
    assert ending.method == "-"
    assert ending.context.attempts == 0


async def test_bad_head_after_a_good_request(
    client: RawClient, origin: Origin, app: RigProxy
) -> None:
    """A good request is answered, the bad one pipelined behind it is refused, in that order."""
    await client.send(b"GET /test2 HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost : a\r\n\r\n")
    good = await client.read_response()
    bad = await client.read_response()

    assert (good.status, good.body, bad.status) == (200, b"hello world\n", 400)
    assert await client.is_closed_by_server()
    assert len(origin.requests) == 1
    await _told(app, 400, count=2)


@pytest.mark.parametrize("name", BAD_CHUNKS)
@pytest.mark.parametrize("later", [False, True], ids=["at once", "later"])
async def test_bad_chunk(
    client: RawClient, origin: Origin, app: RigProxy, name: str, later: bool
) -> None:
    """A malformed chunk is a 400, and the upstream never sees a request that looks complete."""
    head = b"POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n"
    if later:
        await client.send(head)
        await origin.requests_arrived()
        await client.send(BAD_CHUNKS[name])
    else:
        await client.send(head + BAD_CHUNKS[name])
    response = await client.read_response("POST")

    assert response.status in {400, 413, 431}
    assert response.get("connection") == "close"
    assert await client.is_closed_by_server()
    await _told(app, response.status)
    await origin.all_closed()
    assert not any(request.complete for request in origin.requests)
    assert all(connection.requests <= 1 for connection in origin.connections)


async def test_smuggled_request_behind_a_bad_chunk(client: RawClient, origin: Origin) -> None:
    """What looks like a request behind a malformed body is not taken for one."""
    await client.send(
        b"POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"1\r\nZ\r\nQ\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    await client.read_response("POST")

    assert await client.is_closed_by_server()
    assert not any("admin" in request.target for request in origin.requests)


async def test_body_cut_short(client: RawClient, origin: Origin, app: RigProxy) -> None:
    """A body that ends before its length is never forwarded as a whole one."""
    await client.send(b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
    await origin.requests_arrived()
    client.half_close()

    ending = await app.ended()
    await origin.all_closed()
    assert ending.error is not None
    assert not origin.requests[0].complete


# ------------------------------------------------------- what is unusual but must be understood


@pytest.mark.parametrize(
    ("wire", "start_line", "host"),
    [
        (
            b"GET http://b.example/x?y HTTP/1.1\r\nHost: b.example\r\n",
            "GET /x?y HTTP/1.1",
            "b.example",
        ),
        (b"GET http://b.example HTTP/1.1\r\nHost: b.example\r\n", "GET / HTTP/1.1", "b.example"),
        (b"GET http://b.example/ HTTP/1.1\r\nHost: evil\r\n", "GET / HTTP/1.1", "b.example"),
        (b"OPTIONS http://a HTTP/1.1\r\nHost: a\r\n", "OPTIONS * HTTP/1.1", "a"),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n", "OPTIONS * HTTP/1.1", "a"),
        (
            b"\r\nGET /after-empty-line HTTP/1.1\r\nHost: a\r\n",
            "GET /after-empty-line HTTP/1.1",
            "a",
        ),
        (b"BREW /pot HTTP/1.1\r\nHost: a\r\n", "BREW /pot HTTP/1.1", "a"),
        (b"GET /%00%0d%0a HTTP/1.1\r\nHost: a\r\n", "GET /%00%0d%0a HTTP/1.1", "a"),
        (b"GET /?a=http://b/ HTTP/1.1\r\nhOsT:a\r\n", "GET /?a=http://b/ HTTP/1.1", "a"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX:\r\nY: \t \r\n", "GET / HTTP/1.1", "a"),
        (b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n", "GET / HTTP/1.1", "[::1]:80"),
    ],
)
async def test_unusual_but_good_head(
    client: RawClient, origin: Origin, wire: bytes, start_line: str, host: str
) -> None:
    """Strict is not narrow: what the grammar allows goes through, target in origin form."""
    await client.send(wire + b"\r\n")
    await client.read_response()

    [request] = origin.requests
    assert request.head.start_line == start_line
    assert request.head.get_all("host") == [host]
