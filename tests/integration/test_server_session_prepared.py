"""Responses whose head was written before and whose body is at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_core.protocols.http.prepared_head import PreparedHead
from pingora_http import ResponseHeader
from tests.integration.test_server_session import talking_to

if TYPE_CHECKING:
    from pingora_core.protocols.http.server import ServerSession

_DATE = "Mon, 23 Nov 2026 12:00:00 GMT"
_PREPARED = PreparedHead(ResponseHeader(200, headers=[("Date", _DATE)]), 2)


async def test_head_and_body_in_one() -> None:
    """They are sent together, counted, and leave the connection for the next request."""
    sent: list[int] = []

    async def handler(session: ServerSession) -> None:
        session.send_prepared_head(_PREPARED, 7, b"ok")
        session.send_response_body(b"more", end=True)
        sent.append(session.body_bytes_sent)

    async with talking_to(handler) as client:
        responses = [await client.request("GET", "/") for _ in range(2)]

    assert [(r.body, r.get("age"), r.get("content-length")) for r in responses] == [
        (b"ok", "7", "2")
    ] * 2
    assert sent == [2, 2]


async def test_a_body_of_another_length_takes_the_long_way() -> None:
    """As many bytes are sent as the head promises."""

    async def handler(session: ServerSession) -> None:
        session.send_prepared_head(_PREPARED, 7, b"okay")

    async with talking_to(handler) as client:
        response = await client.request("GET", "/")

    assert (response.body, response.get("age")) == (b"ok", "7")


async def test_a_body_that_is_not_asked_for() -> None:
    """The answer to HEAD is the head."""

    async def handler(session: ServerSession) -> None:
        session.send_prepared_head(_PREPARED, 7, b"ok")

    async with talking_to(handler) as client:
        response = await client.request("HEAD", "/")

    assert (response.body, response.get("content-length")) == (b"", "2")
