"""``examples/admission.py``: what is too much is refused or waits, and the page shows it."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING

from tests.support.client import RawClient
from tests.support.origin import Origin
from tests.support.process import ROOT, ServerProcess

if TYPE_CHECKING:
    from tests.support.origin import Exchange

EXAMPLE = str(ROOT / "examples" / "admission.py")
ARGUMENTS = (
    *("--listen", "127.0.0.1:0", "--status", "127.0.0.2:0"),
    *("--max-connections", "4", "--per-address", "3", "--in-flight", "2"),
)


async def _page(address: str) -> dict[str, int]:
    async with await RawClient.connect(address) as client:
        page: dict[str, int] = json.loads((await client.request("GET", "/")).body)
        return page


async def _connect(address: str, source: str) -> RawClient:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), local_addr=(source, 0))
    return RawClient(reader, writer, 60.0)


async def _is_refused(address: str, source: str) -> bool:
    try:
        async with await _connect(address, source) as client:
            return await client.is_closed_by_server()
    except ConnectionResetError:
        # Even before the client's event loop has seen that it is connected.
        return True


async def test_the_example_takes_no_more_than_it_can_serve() -> None:
    """Requests are refused by importance, connections by address, and the rest waits its turn."""
    go = asyncio.Event()
    arrived = asyncio.Semaphore(0)

    async def slow(exchange: Exchange) -> None:
        arrived.release()
        if exchange.request.path != "/healthz":
            await go.wait()
        await exchange.reply("200 OK", b"served")

    async with Origin(slow) as origin, ServerProcess(EXAMPLE, origin.address, *ARGUMENTS) as server:
        await server.line_with("phase Running")
        where = dict(line.split(" listens on ") for line in server.lines if " listens on " in line)
        status = where.pop("service 'status'")
        (front,) = where.values()
        async with (
            await _connect(front, "127.0.0.1") as one,
            await _connect(front, "127.0.0.1") as two,
            await _connect(front, "127.0.0.1") as three,
        ):
            await one.send_request("GET", "/")
            await two.send_request("GET", "/checkout")
            async with asyncio.timeout(30):
                await arrived.acquire()
                await arrived.acquire()
            refused = await three.request("GET", "/export")
            assert refused.status == 503
            assert 1 <= int(refused.get("retry-after") or 0) <= 5
            assert (await three.request("GET", "/healthz")).status == 200

            assert await _is_refused(front, "127.0.0.1")
            page = await _page(status)
            assert (page["connections"], page["connections refused"]) == (3, 1)
            assert (page["requests in flight"], page["requests refused"]) == (2, 1)
            assert page["requests in flight, limit"] == 2

            async with await _connect(front, "127.0.0.3") as other:
                assert (await other.request("GET", "/healthz")).status == 200
                async with await _connect(front, "127.0.0.4") as last:
                    await last.send_request("GET", "/healthz")
                    assert (await _page(status))["times full"] == 1
                    await other.__aexit__(None, None, None)
                    assert (await last.read_response()).status == 200
            go.set()
            assert (await one.read_response()).body == b"served"
            assert (await two.read_response()).body == b"served"

        server.send(signal.SIGTERM)
        assert await server.wait() == 0
