"""The gateway that remembers what an authorization service has said."""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tests.support.client import RawClient
from tests.support.origin import Origin
from tests.support.origin_steps import reset
from tests.support.process import ROOT, ServerProcess
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.client import Response
    from tests.support.origin import Exchange

EXAMPLE = str(ROOT / "examples" / "read_through.py")


class Gateway:
    """A running gateway.

    Attributes:
        address: Where it listens.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    async def ask(self, *fields: tuple[str, str]) -> Response:
        async with await RawClient.connect(self.address) as client:
            return await client.request("GET", "/", fields)

    async def ask_with(self, token: str) -> tuple[int, str, str | None]:
        """Ask with a token: status, body, and how the user was known."""
        response = await self.ask(("Authorization", token))
        return response.status, response.body.decode(), response.get("x-auth")


@asynccontextmanager
async def gateway(upstream: Origin, auth: Origin) -> AsyncIterator[Gateway]:
    arguments = (upstream.address, "--auth", auth.address, "--listen", "127.0.0.1:0")
    async with ServerProcess(EXAMPLE, *arguments) as process:
        host, port = await process.running()
        yield Gateway(f"{host}:{port}")
        process.send(signal.SIGTERM)
        assert await process.wait() == 0


async def greet(exchange: Exchange) -> None:
    """Greet the user that the gateway names; a token must not come this far."""
    request = exchange.request
    assert request.get("authorization") is None
    await exchange.reply("200 OK", f"Hello {request.get('x-user')}".encode(), ())


async def judge(exchange: Exchange) -> None:
    """Know the users of two tokens, one of them for a second."""
    token = exchange.request.get("authorization")
    if token == "Bearer ann":
        await exchange.reply("200 OK", b"yes", (("X-User", "ann"),))
    elif token == "Bearer bob":
        fields = (("X-User", "bob"), ("Cache-Control", "max-age=1"))
        await exchange.reply("200 OK", b"yes", fields)
    else:
        await exchange.reply("403 Forbidden", b"no", ())


async def test_a_token_is_asked_about_once() -> None:
    """The first request asks, the others are let in or kept out by what it was told."""
    async with Origin(greet) as upstream, Origin(judge) as auth, gateway(upstream, auth) as proxy:
        assert await proxy.ask_with("Bearer ann") == (200, "Hello ann", "miss")
        assert await proxy.ask_with("Bearer ann") == (200, "Hello ann", "hit")
        forged = await proxy.ask(("Authorization", "Bearer ann"), ("X-User", "root"))
        refused = [(await proxy.ask_with("Bearer eve"))[0] for _ in range(2)]
        nobody = await proxy.ask()

    assert forged.body == b"Hello ann"
    assert refused == [403, 403]
    assert nobody.status == 401
    assert [request.target for request in auth.requests] == ["/check", "/check"]


async def test_many_requests_make_one_question() -> None:
    """Who comes while a token is asked about waits for that answer."""

    async def judge_later(exchange: Exchange) -> None:
        await exchange.passed("asked")
        await judge(exchange)

    async with (
        Origin(greet) as upstream,
        Origin(judge_later) as auth,
        gateway(upstream, auth) as proxy,
    ):
        asking = [asyncio.create_task(proxy.ask_with("Bearer ann")) for _ in range(50)]
        await auth.requests_arrived()
        auth.open("asked", 50)
        answers = await asyncio.gather(*asking)

    assert {(status, body) for status, body, _ in answers} == {(200, "Hello ann")}
    assert len(auth.requests) == 1


async def test_an_old_answer_counts_while_it_is_asked_again() -> None:
    """What has expired is used once more; the service is asked behind the client's back."""
    async with Origin(greet) as upstream, Origin(judge) as auth, gateway(upstream, auth) as proxy:
        assert await proxy.ask_with("Bearer bob") == (200, "Hello bob", "miss")
        seen = set[str | None]()
        while "stale" not in seen:
            status, body, known = await proxy.ask_with("Bearer bob")
            assert (status, body) == (200, "Hello bob")
            seen.add(known)
            await asyncio.sleep(0.02)
        await eventually(lambda: len(auth.requests) == 2, "the second question")

    assert seen == {"hit", "stale"}


async def test_without_the_service_nobody_new_comes_in() -> None:
    """A service that fails is told as 503, and asked again the next time."""
    async with Origin(greet) as upstream, Origin(reset) as auth, gateway(upstream, auth) as proxy:
        answers = [(await proxy.ask_with("Bearer ann"))[0] for _ in range(2)]

    assert answers == [503, 503]
    assert len(auth.requests) == 2
    assert upstream.requests == []
