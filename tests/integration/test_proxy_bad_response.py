"""Malformed responses: 502, the upstream closed, never a truncated body that looks complete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from pingora_core.conf import ServerConf
from pingora_core.upstreams import HttpPeer
from pingora_error import ErrorSource
from tests.support.origin_steps import close, hang, read_body, send, sequence
from tests.support.proxy import RigProxy, RunningProxy
from tests.support.wire import Truncated

if TYPE_CHECKING:
    from pingora_proxy import Session
    from tests.support.client import RawClient
    from tests.support.origin import Origin
    from tests.support.proxy import RigContext

_OK: Final = b"HTTP/1.1 200 OK\r\n"

BAD_HEADS: Final[dict[str, bytes]] = {
    "garbage": b"\x15\x03\x01\x00\x02\x02\x28\r\n\r\n",
    "not http": b"ICY 200 OK\r\n\r\n",
    "small http": b"http/1.1 200 OK\r\n\r\n",
    "http/2": b"HTTP/2.0 200 OK\r\n\r\n",
    "http/0.9": b"hello world\r\n\r\n",
    "no status": b"HTTP/1.1\r\n\r\n",
    "short status": b"HTTP/1.1 20 OK\r\n\r\n",
    "long status": b"HTTP/1.1 2000 OK\r\n\r\n",
    "status out of range": b"HTTP/1.1 600 Custom\r\nContent-Length: 0\r\n\r\n",
    "two spaces": b"HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n",
    "tab": b"HTTP/1.1\t200 OK\r\nContent-Length: 0\r\n\r\n",
    "space before": b" HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "empty line before": b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "status zero": b"HTTP/1.1 000 OK\r\n\r\n",
    "status not a number": b"HTTP/1.1 2x0 OK\r\n\r\n",
    "status negative": b"HTTP/1.1 -20 OK\r\n\r\n",
    "nul in reason": b"HTTP/1.1 200 O\x00K\r\n\r\n",
    "bare cr in reason": b"HTTP/1.1 200 O\rK\r\n\r\n",
    "bare lf": b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
    "folded": _OK + b"X: 1\r\n 2\r\nContent-Length: 0\r\n\r\n",
    "space before colon": _OK + b"Content-Length : 0\r\n\r\n",
    "no colon": _OK + b"nonsense\r\n\r\n",
    "no name": _OK + b": 1\r\n\r\n",
    "bad name": _OK + b"X(Y): 1\r\n\r\n",
    "nul in value": _OK + b"X: a\x00b\r\nContent-Length: 0\r\n\r\n",
    "bare cr in value": _OK + b"X: a\rb\r\nContent-Length: 0\r\n\r\n",
    "te and cl": _OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "te twice": _OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "te in 1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "cl twice": _OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "cl negative": _OK + b"Content-Length: -1\r\n\r\n",
    "cl with sign": _OK + b"Content-Length: +3\r\n\r\nabc",
    "cl not a number": _OK + b"Content-Length: abc\r\n\r\n",
    "cl list, different": _OK + b"Content-Length: 3, 4\r\n\r\nabcd",
    "cl too large": _OK + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n",
    "long head": _OK + b"X: %b\r\n" % (b"a" * 1000) * 100 + b"\r\n",
    "endless head": _OK + b"X: " + b"a" * 200_000,
    "many fields": _OK + b"X: 1\r\n" * 1000 + b"\r\n",
}

# What follows the head of a chunked response and one good chunk, "good".
BAD_CHUNKS: Final[dict[str, bytes]] = {
    "size not hex": b"xyz\r\nabc\r\n0\r\n\r\n",
    "size negative": b"-3\r\nabc\r\n0\r\n\r\n",
    "size empty": b"\r\nabc\r\n0\r\n\r\n",
    "size too long": b"f" * 17 + b"\r\nabc",
    "size ends with lf": b"3\nabc\r\n0\r\n\r\n",
    "no line end after data": b"3\r\nabcdef\r\n0\r\n\r\n",
    "lf after data": b"3\r\nabc\n0\r\n\r\n",
    "extension too long": b"3;" + b"a" * 20_000 + b"\r\nabc\r\n0\r\n\r\n",
    "trailer without colon": b"0\r\nbad\r\n\r\n",
    "trailer with lf": b"0\r\na: b\n\r\n",
    "trailers too long": b"0\r\n" + b"a: %b\r\n" % (b"b" * 1000) * 100 + b"\r\n",
}


@pytest.mark.parametrize("name", BAD_HEADS)
async def test_bad_head(client: RawClient, origin: Origin, app: RigProxy, name: str) -> None:
    """A malformed head is a 502 that blames the upstream, and its connection is closed."""
    origin.handler = sequence(read_body, send(BAD_HEADS[name]), hang)

    response = await client.request("GET", "/")

    assert (response.status, response.body) == (502, b"")
    ending = await app.ended()
    assert ending.error is not None
    assert ending.error.esource is ErrorSource.UPSTREAM
    await origin.all_closed()
    assert len(origin.requests) == 1


async def test_endless_informational_heads(
    client: RawClient, origin: Origin, app: RigProxy
) -> None:
    """An upstream that sends one 103 after the other, and nothing else, is given up."""
    origin.handler = sequence(send(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000), hang)

    response = await client.request("GET", "/")

    assert response.status == 502
    assert 0 < len(response.informational) < 100
    await origin.all_closed()


@pytest.mark.parametrize("name", BAD_HEADS)
async def test_bad_head_with_the_reference_engine(origin: Origin, name: str) -> None:
    """The other parser engine refuses the same heads."""
    origin.handler = sequence(read_body, send(BAD_HEADS[name]), close)
    conf = ServerConf(http1_parser="h11")
    async with (
        RunningProxy(RigProxy(origin), conf=conf) as proxy,
        await proxy.connect() as client,
    ):
        response = await client.request("GET", "/")

    assert (response.status, response.body) == (502, b"")


@pytest.mark.parametrize("name", [name for name, wire in BAD_HEADS.items() if len(wire) < 200])
async def test_bad_head_closed_after(
    client: RawClient, origin: Origin, app: RigProxy, name: str
) -> None:
    """The same when the upstream closes right behind it."""
    origin.handler = sequence(read_body, send(BAD_HEADS[name]), close)

    response = await client.request("GET", "/")

    assert (response.status, response.body) == (502, b"")


@pytest.mark.parametrize("name", BAD_CHUNKS)
async def test_bad_chunk(client: RawClient, origin: Origin, app: RigProxy, name: str) -> None:
    """A malformed chunk cuts the response off where the client sees it."""
    wire = _OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n" + BAD_CHUNKS[name]
    origin.handler = sequence(read_body, send(wire), hang)

    await client.send_request("GET", "/")
    await _expect_truncated(client)

    assert (await app.ended()).error is not None
    await origin.all_closed()


@pytest.mark.parametrize(
    "wire",
    [
        _OK + b"Content-Length: 10\r\n\r\ngood",
        _OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n",
        _OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n",
        _OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n5\r\nba",
    ],
    ids=["length", "no last chunk", "no trailer end", "within chunk"],
)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_short_body(
    client: RawClient, origin: Origin, app: RigProxy, wire: bytes, version: bytes
) -> None:
    """A body that ends too early looks so to every client, by a reset if by nothing else."""
    origin.handler = sequence(read_body, send(wire), close)

    await client.send(b"GET / HTTP/%b\r\nHost: a\r\n\r\n" % version)
    await _expect_truncated(client)

    assert (await app.ended()).error is not None


async def _expect_truncated(client: RawClient) -> None:
    """A 502, or a response that is visibly cut off after what was good of it."""
    try:
        response = await client.read_response()
    except Truncated as error:
        truncated = error
    else:
        assert response.status == 502
        return
    assert b"good".startswith(truncated.partial[:4])


async def test_short_body_with_filters(origin: Origin) -> None:
    """A body filter makes no whole out of a part."""

    class Filtering(RigProxy):
        async def response_body_filter(
            self, session: Session, body: bytes | None, end_of_stream: bool, ctx: RigContext
        ) -> bytes | None:
            return body

    origin.handler = sequence(read_body, send(_OK + b"Content-Length: 10\r\n\r\ngood"), close)
    async with RunningProxy(Filtering(origin)) as proxy, await proxy.connect() as client:
        await client.send_request("GET", "/")
        await _expect_truncated(client)


async def test_invalid_content_length_is_tolerated_on_request(origin: Origin) -> None:
    """One named option reads such a response to the end of the connection; the default refuses."""
    origin.handler = sequence(read_body, send(_OK + b"Content-Length: abc\r\n\r\nbody"), close)

    def peer(session: Session) -> HttpPeer:
        peer = HttpPeer(origin.address)
        peer.options.allow_h1_response_invalid_content_length = True
        return peer

    async with RunningProxy(RigProxy(peer)) as proxy, await proxy.connect() as client:
        response = await client.request("GET", "/")

    assert (response.status, response.body) == (200, b"body")
    assert response.get("content-length") is None


@pytest.mark.parametrize(
    ("wire", "status", "body"),
    [
        (b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok", 200, b"ok"),
        (b"HTTP/1.1 299 Sp\xe9cial\tone\r\nContent-Length: 2\r\n\r\nok", 299, b"ok"),
        (b"HTTP/1.1 200 OK\r\ncontent-length:2\r\nX:\r\n\r\nok", 200, b"ok"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2;a=b;c\r\nok\r\n000\r\n\r\n",
            200,
            b"ok",
        ),
        (b"HTTP/1.1 200 OK\r\nX: \xff\xfe\r\nContent-Length: 002\r\n\r\nok", 200, b"ok"),
    ],
)
async def test_unusual_but_good_response(
    client: RawClient, origin: Origin, wire: bytes, status: int, body: bytes
) -> None:
    """What the grammar allows is understood."""
    origin.handler = sequence(read_body, send(wire), hang)

    response = await client.request("GET", "/")

    assert (response.status, response.body) == (status, body)
