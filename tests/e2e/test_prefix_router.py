"""The prefix router keeps prompts that begin alike at one server, and moves them when it must."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from pingora_load_balancing import LoadBalancer
from tests.support.client import RawClient
from tests.support.origin import Origin
from tests.support.process import ROOT, ServerProcess
from tests.support.recipe_modules import load_example
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

    from pingora_core.upstreams import PeerAddress
    from tests.support.client import Response
    from tests.support.origin import Exchange


@asynccontextmanager
async def routed(count: int) -> AsyncIterator[tuple[str, list[Origin], ServerProcess]]:
    """Run the example before some inference servers.

    A server answers with its number and the length of what it was sent; the target ``/slow`` is
    answered when the gate ``slow`` opens.
    """
    origins: list[Origin] = []

    async def answer(exchange: Exchange) -> None:
        await exchange.read_body()
        if exchange.request.target == "/slow":
            await exchange.passed("slow")
        body = f"{len(exchange.request.body)}".encode()
        number = origins.index(exchange.origin)
        # No connection is kept: a prompt that has met its end unseen would not be sent again.
        fields = [("X-Server", str(number)), ("Connection", "close")]
        await exchange.reply("200 OK", body, fields)

    async with AsyncExitStack() as stack:
        origins += [await stack.enter_async_context(Origin(answer)) for _ in range(count)]
        program = str(ROOT / "examples" / "prefix_router.py")
        server = await stack.enter_async_context(
            ServerProcess(program, "--listen", "127.0.0.1:0", *(o.address for o in origins))
        )
        host, port = await server.running()
        yield f"{host}:{port}", origins, server
        server.send(signal.SIGTERM)
        assert await server.wait() == 0


async def ask(address: str, prompt: str, target: str = "/v1/completions") -> Response:
    """Send one prompt over a connection of its own."""
    async with await RawClient.connect(address) as client:
        return await client.request(
            "POST", target, body=json.dumps({"model": "m", "prompt": prompt}).encode()
        )


def chat(number: int, turns: int = 1) -> str:
    """A conversation, of which each turn repeats all before it."""
    return f"Conversation {number:04}. " * 10 + "And then something else was said. " * turns


async def test_conversations_stay_where_they_began() -> None:
    """Each turn of a conversation reaches the server of the turns before; all servers get some."""
    async with routed(3) as (address, _, _):
        homes: dict[int, str | None] = {}
        for turn in range(1, 5):
            for number in range(24):
                response = await ask(address, chat(number, turn))
                assert response.status == 200
                homes.setdefault(number, response.get("x-server"))
                assert response.get("x-server") == homes[number]

    assert set(homes.values()) == {"0", "1", "2"}


async def test_busy_server_is_relieved() -> None:
    """Prompts of one conversation that all come at once do not wait for one server."""
    async with routed(3) as (address, origins, _):
        asking = [asyncio.create_task(ask(address, chat(1), "/slow")) for _ in range(24)]
        await eventually(lambda: sum(len(o.requests) for o in origins) == 24, "all prompts")
        counts = [len(origin.requests) for origin in origins]
        for origin in origins:
            origin.open("slow", 24)
        responses = await asyncio.gather(*asking)

    assert all(response.status == 200 for response in responses)
    assert min(counts) >= 3
    assert max(counts) <= 18


async def test_server_that_is_down_is_replaced() -> None:
    """A prompt whose server cannot be reached goes to the next, with its whole body."""
    async with routed(2) as (address, origins, _):
        first = await ask(address, chat(1))
        home = int(str(first.get("x-server")))
        await origins[home].stop()

        again = [await ask(address, chat(1, turns)) for turns in (2, 3)]

    assert [response.get("x-server") for response in again] == [str(1 - home)] * 2
    lengths = [len(json.dumps({"model": "m", "prompt": chat(1, turns)})) for turns in (2, 3)]
    assert [int(response.body) for response in again] == lengths


async def test_prompt_longer_than_what_is_looked_at_arrives_whole() -> None:
    """Only its beginning is held back to choose by."""
    async with routed(2) as (address, _, _):
        response = await ask(address, "x" * 3_000_000)

    assert response.status == 200
    assert int(response.body) > 3_000_000


async def test_nobody_left() -> None:
    """All servers down is 503, and the log says who was asked last."""
    async with routed(2) as (address, origins, server):
        for origin in origins:
            await origin.stop()
        response = await ask(address, chat(1))

    assert response.status == 503
    assert any("no inference server is left" in line for line in server.lines)


def test_prefixes_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many prompts come, only the latest are known; one in use is not forgotten."""
    example = load_example("prefix_router")
    monkeypatch.setattr(example, "MOST_PREFIXES", 8)
    homes: dict[int, PeerAddress] = {}
    servers = LoadBalancer(
        ["127.0.0.1:1", "127.0.0.1:2"], selection=partial(example.PrefixAware, homes=homes)
    )
    favourite = b"the same for everybody".ljust(example.BLOCK)
    home = servers.select(favourite, 256)

    for number in range(100):
        assert servers.select(favourite, 256) == home
        servers.select(b"prompt %d" % number, 256)

    assert len(homes) == 8
