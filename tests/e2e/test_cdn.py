"""The CDN node: misses, hits, purges and stale pages, in memory and over a disk."""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.client import RawClient
from tests.support.origin import Origin
from tests.support.process import ROOT, ServerProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.client import Response
    from tests.support.origin import Exchange, Handler

EXAMPLE = str(ROOT / "examples" / "cdn.py")


class Cdn:
    """A running node.

    Attributes:
        address: Where it listens.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    async def send(self, target: str, *fields: tuple[str, str], method: str = "GET") -> Response:
        async with await RawClient.connect(self.address) as client:
            return await client.request(method, target, (("Host", "shop.test"), *fields))

    async def status(self, target: str, *fields: tuple[str, str]) -> str:
        """Say how the node has handled a request, without the numbers that change."""
        response = await self.send(target, *fields)
        parts = str(response.get("cache-status")).split("; ")
        return "; ".join(part for part in parts if not part.startswith("ttl="))

    async def purge(self, target: str, *fields: tuple[str, str]) -> int:
        return (await self.send(target, *fields, method="PURGE")).status


@asynccontextmanager
async def cdn(origin: Origin, *arguments: str) -> AsyncIterator[Cdn]:
    listen = ("--listen", "127.0.0.1:0")
    async with ServerProcess(EXAMPLE, origin.address, *listen, *arguments) as process:
        host, port = await process.running()
        yield Cdn(f"{host}:{port}")
        process.send(signal.SIGTERM)
        assert await process.wait() == 0


@pytest.fixture(params=["memory", "disk"])
def arguments(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, ...]:
    """Where objects are kept: in memory only, or on disk too."""
    return () if request.param == "memory" else ("--disk", str(tmp_path / "objects"))


def page(*fields: tuple[str, str]) -> Handler:
    """Answer with a page that has these fields, and as its body the request's target."""

    async def answer(exchange: Exchange) -> None:
        if exchange.request.get("if-none-match") is not None:
            await exchange.reply("304 Not Modified", b"", fields)
        else:
            await exchange.reply("200 OK", exchange.request.target.encode(), fields)

    return answer


FRESH = ("Cache-Control", "max-age=60")


async def test_a_page_is_fetched_once() -> None:
    """The second client is answered by the node, with the age; the response says how it came."""
    async with Origin(page(FRESH)) as origin, cdn(origin) as node:
        first = await node.send("/page")
        second = await node.send("/page")

    assert str(first.get("cache-status")).startswith("cdn; fwd=uri-miss; ttl=")
    assert str(first.get("cache-status")).endswith("; stored")
    assert str(second.get("cache-status")).startswith("cdn; hit; ttl=")
    assert int(str(second.get("age"))) <= 60
    assert [first.body, second.body] == [b"/page", b"/page"]
    assert len(origin.requests) == 1


async def test_a_page_is_purged_in_all_its_variants(arguments: tuple[str, ...]) -> None:
    """PURGE of a URL makes every variant of it a miss, and nothing else."""
    fields = (FRESH, ("Vary", "Accept-Language"))
    german, french = ("Accept-Language", "de"), ("Accept-Language", "fr")
    async with Origin(page(*fields)) as origin, cdn(origin, *arguments) as node:
        for target, language in (("/page", german), ("/page", french), ("/other", german)):
            await node.send(target, language)
            assert await node.status(target, language) == "cdn; hit"

        assert await node.purge("/nothing") == 404
        assert await node.purge("/page") == 200

        assert await node.status("/page", german) == "cdn; fwd=uri-miss; stored"
        assert await node.status("/page", french) == "cdn; fwd=vary-miss; stored"
        assert await node.status("/other", german) == "cdn; hit"


async def test_pages_are_purged_by_tag(arguments: tuple[str, ...]) -> None:
    """One request purges whatever has come with the tag."""

    async def answer(exchange: Exchange) -> None:
        tags = "news, sport" if exchange.request.target == "/sport" else "news"
        await exchange.reply("200 OK", b"page", (FRESH, ("Cache-Tag", tags)))

    async with Origin(answer) as origin, cdn(origin, *arguments) as node:
        for target in ("/a", "/sport"):
            await node.send(target)

        assert await node.purge("/", ("Cache-Tag", "sport")) == 204
        assert await node.status("/a") == "cdn; hit"
        assert await node.status("/sport") == "cdn; fwd=uri-miss; stored"

        assert await node.purge("/", ("Cache-Tag", "news, weather")) == 204
        assert await node.status("/a") == "cdn; fwd=uri-miss; stored"


async def test_a_soft_purge_has_a_page_revalidated(arguments: tuple[str, ...]) -> None:
    """What was purged softly is asked for with its validator, and served if the origin confirms."""
    fields = (FRESH, ("ETag", '"1"'))
    soft = ("Purge-Mode", "soft")
    async with Origin(page(*fields)) as origin, cdn(origin, *arguments) as node:
        await node.send("/page")

        assert await node.purge("/page", soft) == 200
        assert await node.status("/page") == "cdn; fwd=stale; fwd-status=304"
        # While the page is still being written it cannot be renewed, and stays expired.
        status = ""
        for _ in range(100):
            status = await node.status("/page")
            if status != "cdn; fwd=stale; fwd-status=304":
                break
        assert status == "cdn; hit"
        assert origin.requests[1].get("if-none-match") == '"1"'


async def test_a_page_outlives_its_origin() -> None:
    """When the origin fails, what has expired is served for up to an hour."""
    works = True

    async def answer(exchange: Exchange) -> None:
        if works:
            await exchange.reply("200 OK", b"page", (FRESH,))
        else:
            await exchange.reply("503 Service Unavailable", b"down", ())

    async with Origin(answer) as origin, cdn(origin) as node:
        await node.send("/page")
        works = False
        await node.purge("/page", ("Purge-Mode", "soft"))

        response = await node.send("/page")
        unknown = await node.send("/unknown")

    assert (response.status, response.body) == (200, b"page")
    assert "fwd=stale" in str(response.get("cache-status"))
    assert unknown.status == 503


async def test_a_hundred_clients_make_one_request() -> None:
    """Who comes while a page is fetched waits for it, and says so."""

    async def answer(exchange: Exchange) -> None:
        await exchange.passed("all there")
        await exchange.reply("200 OK", b"page", (FRESH,))

    async with Origin(answer) as origin, cdn(origin) as node:
        clients = [asyncio.create_task(node.send("/page")) for _ in range(100)]
        await origin.requests_arrived()
        origin.open("all there", 100)
        responses = await asyncio.gather(*clients)

    assert {response.body for response in responses} == {b"page"}
    assert len(origin.requests) == 1


async def test_the_smallest_cache() -> None:
    """One callback and a store are enough."""
    small = str(ROOT / "examples" / "cached.py")
    async with (
        Origin(page(FRESH)) as origin,
        ServerProcess(small, origin.address, "--listen", "127.0.0.1:0") as process,
    ):
        host, port = await process.running()
        node = Cdn(f"{host}:{port}")
        ages = [(await node.send("/page")).get("age") for _ in range(2)]
        process.send(signal.SIGTERM)
        assert await process.wait() == 0

    assert ages[0] is None
    assert ages[1] is not None
    assert len(origin.requests) == 1


async def test_objects_on_disk_survive_a_restart(tmp_path: Path) -> None:
    """A node that is started again has what it had."""
    disk = ("--disk", str(tmp_path / "objects"))
    async with Origin(page(FRESH)) as origin:
        async with cdn(origin, *disk) as node:
            await node.send("/page")
        async with cdn(origin, *disk) as node:
            assert await node.status("/page") == "cdn; hit"

    assert len(origin.requests) == 1


async def test_cookies_are_not_shared_unless_told() -> None:
    """A response that sets a cookie is for one client, and not stored."""
    fields = (FRESH, ("Set-Cookie", "session=1"))
    async with Origin(page(*fields)) as origin, cdn(origin) as node:
        first = await node.send("/page")
        assert await node.status("/page") == "cdn; fwd=miss; detail=OriginNotCache"
        assert first.get("set-cookie") == "session=1"
