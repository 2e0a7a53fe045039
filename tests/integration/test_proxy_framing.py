"""How messages are framed anew on each side: lengths, chunks, HTTP/1.0, pipelining, hop-by-hop fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pingora_core.apps.http_app import HttpServerOptions
from tests.support.origin_steps import read_body, reply, send, sequence
from tests.support.proxy import RigProxy, RunningProxy
from tests.support.wire import CHUNKED, UNTIL_CLOSE

if TYPE_CHECKING:
    from tests.support.client import RawClient
    from tests.support.origin import Origin


async def test_close_delimited_response_becomes_chunked(client: RawClient) -> None:
    """A body that only the end of the connection ends is chunked for the client, who stays."""
    for path in ("/close_delimited", "/http10"):
        response = await client.request("GET", path)

        assert response.framing == CHUNKED
        assert response.get("connection") == "keep-alive"
        assert response.head.start_line == "HTTP/1.1 200 OK"


async def test_http10_client_gets_a_close_delimited_body(client: RawClient) -> None:
    """An HTTP/1.0 client never sees chunks."""
    await client.send(b"GET /chunked HTTP/1.0\r\nHost: a\r\n\r\n")
    response = await client.read_response()

    assert (response.framing, response.body) == (UNTIL_CLOSE, b"hello world\n")
    assert response.get("connection") == "close"
    assert response.get("transfer-encoding") is None


async def test_http10_client_may_keep_the_connection(client: RawClient, origin: Origin) -> None:
    """An HTTP/1.0 client that asks for it is kept; the upstream is spoken to in 1.1."""
    for _ in range(2):
        await client.send(b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
        response = await client.read_response()
        assert response.get("connection") == "keep-alive"

    assert [request.head.start_line for request in origin.requests] == ["GET / HTTP/1.1"] * 2


async def test_http10_client_may_send_a_body(client: RawClient, origin: Origin) -> None:
    """A body with a length needs no HTTP/1.1."""
    await client.send(b"POST /echo HTTP/1.0\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
    response = await client.read_response("POST")

    assert (response.status, response.body) == (200, b"abc")
    assert origin.requests[0].body == b"abc"


async def test_http10_client_without_host(client: RawClient, origin: Origin) -> None:
    """HTTP/1.0 allows a request without Host; the upstream gets one all the same."""
    await client.send(b"GET / HTTP/1.0\r\n\r\n")
    response = await client.read_response()

    assert response.status == 200
    assert origin.requests[0].get("host") == origin.address


async def test_trailers_travel_both_ways(client: RawClient, origin: Origin) -> None:
    """Trailer fields of request and response reach the other side."""
    await client.send(
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n"
        b"3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n"
    )
    response = await client.read_response("POST")

    assert origin.requests[0].trailers == (("x-sum", "1"),)
    assert (response.body, response.trailers) == (b"abc", (("x-sum", "1"),))


@pytest.mark.parametrize(
    ("method", "path", "status", "length"),
    [
        ("HEAD", "/", 200, "13"),
        ("HEAD", "/chunked", 200, None),
        ("GET", "/no_content", 204, None),
        ("GET", "/not_modified", 304, "1000"),
    ],
)
async def test_bodiless_responses(
    client: RawClient, method: str, path: str, status: int, length: str | None
) -> None:
    """HEAD, 204 and 304 have no body, keep their fields and leave the connection usable."""
    response = await client.request(method, path)
    again = await client.request("GET", "/")

    assert (response.status, response.get("content-length")) == (status, length)
    assert response.get("connection") == "keep-alive"
    assert again.body == b"Hello World!\n"


@pytest.mark.parametrize(
    ("method", "wire"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello"),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
    ],
    ids=["head length", "head chunked", "204", "304", "empty"],
)
async def test_body_that_must_not_be_there_poisons_nothing(
    client: RawClient, origin: Origin, method: str, wire: bytes
) -> None:
    """A body where none may be is dropped with its connection; the next answer is the right one."""
    origin.handler, rig_handler = sequence(read_body, send(wire)), origin.handler
    first = await client.request(method, "/")
    origin.handler = rig_handler
    second = await client.request("GET", "/")

    assert first.body == b""
    assert (second.status, second.body) == (200, b"Hello World!\n")
    assert second.get("x-conn-reuse") == "0"


async def test_informational_head_with_framing_fields(client: RawClient, origin: Origin) -> None:
    """A 1xx has no body whatever it says, and says nothing of one to the client."""
    wire = b"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n"
    origin.handler = sequence(read_body, send(wire), reply(body=b"final"))
    response = await client.request("GET", "/")

    assert (response.status, response.body) in {(200, b"final"), (502, b"")}


@pytest.mark.parametrize("limit", [1, 3])
async def test_requests_per_connection_may_be_limited(origin: Origin, limit: int) -> None:
    """The last request that a connection may carry is told so."""
    options = HttpServerOptions(keepalive_request_limit=limit)
    async with (
        RunningProxy(RigProxy(origin), server_options=options) as proxy,
        await proxy.connect() as client,
    ):
        told = [(await client.request("GET", "/")).get("connection") for _ in range(limit)]
        closed = await client.is_closed_by_server()

    assert told == ["keep-alive"] * (limit - 1) + ["close"]
    assert closed


async def test_pipelined_requests_are_answered_in_order(client: RawClient, origin: Origin) -> None:
    """Requests sent without waiting are answered one after the other, bodies and all."""
    await client.send(
        b"GET /test2 HTTP/1.1\r\nHost: a\r\n\r\n"
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nfirst"
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nsecond\r\n0\r\n\r\n"
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    bodies = [
        (await client.read_response(method)).body for method in ("GET", "POST", "POST", "GET")
    ]

    assert bodies == [b"hello world\n", b"first", b"second", b"Hello World!\n"]
    assert len(origin.requests) == 4


async def test_hop_by_hop_fields_stop_here(client: RawClient, origin: Origin) -> None:
    """What concerns one connection only is not passed on, in either direction."""
    origin.handler = sequence(
        read_body,
        reply(
            fields=[
                ("Connection", "x-private, keep-alive"),
                ("Keep-Alive", "timeout=5"),
                ("X-Private", "1"),
                ("Proxy-Connection", "keep-alive"),
                ("X-Public", "1"),
            ]
        ),
    )
    response = await client.request(
        "GET",
        "/",
        [
            ("Connection", "x-secret, keep-alive"),
            ("X-Secret", "1"),
            ("TE", "trailers"),
            ("Keep-Alive", "300"),
            ("Upgrade-Insecure-Requests", "1"),
        ],
    )

    names = {name.lower() for name, _ in origin.requests[0].head.fields}
    assert names == {"host", "upgrade-insecure-requests"}
    assert response.get("x-public") == "1"
    assert response.get("x-private") is None
    assert response.get("keep-alive") is None
    assert response.head.get_all("connection") == ["keep-alive"]


async def test_connection_cannot_name_away_what_frames(client: RawClient, origin: Origin) -> None:
    """``Connection: host, content-length`` must not remove the fields that frame and route."""
    await client.request(
        "POST", "/echo", [("Connection", "host, content-length, x-a"), ("x-a", "1")], b"abc"
    )

    [request] = origin.requests
    assert (request.get("host"), request.get("content-length")) == ("test.example", "3")
    assert request.get("x-a") is None
    assert request.body == b"abc"
