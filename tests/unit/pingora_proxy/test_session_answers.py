"""What a callback reads and answers as a whole."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from pingora_core import HttpPeer, Response
from pingora_error import Error, ErrorSource, HTTPStatus
from pingora_proxy import ProxyHttp
from pingora_proxy.testing import Client, RunningProxy, ScriptedOrigin, make_session, reply, reset

if TYPE_CHECKING:
    from pingora_proxy import Session


async def test_json_is_answered_with_its_type_and_length() -> None:
    """Of whatever msgspec encodes, with the fields that were given."""
    session = make_session()
    value = {"when": datetime(2026, 1, 2, tzinfo=UTC), "ä": [1, None]}
    await session.respond(Response.json(201, value, [("Location", "/x")]))
    sent = session.sent
    assert sent is not None
    assert (sent.status, sent.header.get("location")) == (201, "/x")
    assert sent.header.get("content-type") == "application/json"
    assert sent.header.get("content-length") == str(len(sent.body))
    assert json.loads(sent.body) == {"when": "2026-01-02T00:00:00Z", "ä": [1, None]}


async def test_a_problem_says_what_is_wrong() -> None:
    """In the form of RFC 9457; it is not cached, and the filter is told that there is an answer."""
    session = make_session()
    assert await session.respond_problem(429, 'too "fast"', [("Retry-After", "7")])
    sent = session.sent
    assert sent is not None
    assert (sent.status, sent.header.get("retry-after")) == (429, "7")
    assert sent.header.get("content-type") == "application/problem+json"
    assert sent.header.get("cache-control") == "no-store"
    problem = {"title": "Too Many Requests", "status": 429, "detail": 'too "fast"'}
    assert json.loads(sent.body) == problem


async def test_there_is_one_answer() -> None:
    """A second one is not sent; one without a body ends with its head."""
    session = make_session()
    await session.respond(Response(204))
    await session.respond_problem(500, "late")
    sent = session.sent
    assert sent is not None
    assert (sent.status, sent.body, sent.header.get("content-length")) == (204, b"", None)


async def test_a_whole_body_is_bounded() -> None:
    """As long as it may be, and one byte longer; none is empty."""
    assert await make_session(body=b"12345").buffer_request_body(5) == b"12345"
    assert await make_session().buffer_request_body(5) == b""
    with pytest.raises(Error) as refused:
        await make_session(body=b"123456").buffer_request_body(5)
    assert refused.value.etype == HTTPStatus(413)
    assert refused.value.esource is ErrorSource.DOWNSTREAM


class _Reads(ProxyHttp[list[bytes]]):
    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)

    def new_ctx(self) -> list[bytes]:
        return []

    async def request_filter(self, session: Session, ctx: list[bytes]) -> bool:
        ctx.append(await session.buffer_request_body(200_000))
        return False

    async def upstream_peer(self, session: Session, ctx: list[bytes]) -> HttpPeer:
        return HttpPeer(self.addresses.pop(0))

    async def error_while_proxy(
        self, peer: HttpPeer, session: Session, error: Error, ctx: list[bytes], client_reused: bool
    ) -> Error:
        error.set_retry(bool(self.addresses))
        return error


async def test_each_upstream_gets_a_body_that_was_read_before() -> None:
    """More than the proxy would keep by itself; too much is refused."""
    body = b"x" * 150_000
    async with ScriptedOrigin() as bad, ScriptedOrigin() as good:
        bad.on("*", reset)
        good.on("*", reply(200, b"ok"))
        app = _Reads(*[bad.address, good.address] * 2)
        async with RunningProxy(app) as proxy, Client(proxy.address) as client:
            assert (await client.request("POST", "/", (), body)).text == "ok"
            assert (await client.request("PUT", "/", (), b"short")).text == "ok"
            assert (await client.request("POST", "/", (), body * 2)).status == 413
        assert [request.body for request in good.requests] == [body, b"short"]
