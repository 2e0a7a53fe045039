"""The example asks a service who the client is, and does what that says."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from tests.support.client import RawClient
from tests.support.origin import Origin
from tests.support.origin_steps import reply
from tests.support.process import ROOT, ServerProcess

if TYPE_CHECKING:
    from tests.support.client import Response
    from tests.support.origin import Exchange

_SCRIPT = str(ROOT / "examples" / "auth_request.py")


async def _judge(exchange: Exchange) -> None:
    match exchange.request.get("authorization"):
        case "Bearer ada":
            await reply("204 No Content", fields=[("X-User", "ada")])(exchange)
        case "Bearer broken":
            await reply("500 Oops")(exchange)
        case None:
            await reply("401 Unauthorized", fields=[("WWW-Authenticate", "Bearer")])(exchange)
        case _:
            await reply("403 Forbidden")(exchange)


async def _get(address: str, *fields: bytes) -> Response:
    async with await RawClient.connect(address) as client:
        lines = b"".join(field + b"\r\n" for field in fields)
        await client.send(b"GET /page?q=1 HTTP/1.1\r\nHost: a.test\r\n" + lines + b"\r\n")
        return await client.read_response()


async def test_only_who_is_known_comes_in() -> None:
    """Yes lets the request pass with a name, no is told, and anything else is not taken for yes."""
    async with Origin(reply(body=b"secret")) as origin, Origin(_judge) as auth:
        arguments = (origin.address, "--auth", auth.address, "--listen", "127.0.0.1:0")
        async with ServerProcess(_SCRIPT, *arguments) as server:
            host, port = await server.running()
            address = f"{host}:{port}"
            known = await _get(address, b"Authorization: Bearer ada", b"X-User: root")
            nobody = await _get(address)
            other = await _get(address, b"Authorization: Bearer eve")
            broken = await _get(address, b"Authorization: Bearer broken")
            server.send(signal.SIGTERM)
            assert await server.wait() == 0

    assert (known.status, known.body) == (200, b"secret")
    assert (nobody.status, nobody.get("www-authenticate")) == (401, "Bearer")
    assert (other.status, broken.status) == (403, 502)
    assert [request.get("x-user") for request in origin.requests] == ["ada"]
    assert {request.get("x-original-uri") for request in auth.requests} == {"/page?q=1"}
