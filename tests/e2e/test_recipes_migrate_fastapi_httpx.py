"""The proxy that the page about FastAPI and httpx begins with works, and has the faults it names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pingora_proxy.asgi import asgi_service
from pingora_proxy.testing import Client, RunningService, ScriptedOrigin, reply
from tests.support.recipe_modules import load_recipe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

recipe = load_recipe("migrate_fastapi_httpx")


@dataclass
class _Answer:
    status_code: int
    headers: dict[str, str]
    body: bytes

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        yield self.body


@dataclass
class _Request:
    method: str
    url: str
    headers: dict[str, str]
    content: AsyncIterator[bytes]


class _StandIn:
    """What is used of httpx, with the client of the testing kit."""

    def build_request(
        self, method: str, url: str, *, headers: dict[str, str], content: AsyncIterator[bytes]
    ) -> _Request:
        return _Request(method, url, headers, content)

    async def send(self, request: _Request, *, stream: bool) -> _Answer:
        address, _, path = request.url.removeprefix("http://").partition("/")
        body = b"".join([piece async for piece in request.content])
        fields = [(name, value) for name, value in request.headers.items() if name[0] == "x"]
        async with Client(address) as client:
            answer = await client.request(request.method, f"/{path}", fields, body or None)
        kind = {"content-type": answer.header.get("content-type", "")}
        return _Answer(answer.status, kind, answer.body)


async def test_it_works_and_loses_the_query() -> None:
    """Status, fields and bodies pass; the query string is one of the things to find out."""
    async with ScriptedOrigin() as origin:
        origin.on("*", reply(201, b"made", [("Content-Type", "text/x")]))
        recipe.SERVICES["users"] = origin.address
        service = asgi_service(recipe.make_app(_StandIn()))
        async with RunningService(service) as running, Client(running.address) as client:
            answer = await client.request("POST", "/users/a/b?q=1", [("X-Me", "1")], b"body")
    assert (answer.status, answer.body) == (201, b"made")
    assert answer.header.get("content-type") == "text/x"
    (request,) = origin.requests
    assert request.header.raw_path == b"/a/b"
    assert (request.header.get("x-me"), request.body) == ("1", b"body")
