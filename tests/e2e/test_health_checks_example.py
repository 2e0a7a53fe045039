"""``examples/health_checks.py``: a backend that is not well gets nothing, and the page says why."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

from tests.support.client import RawClient
from tests.support.origin import Origin
from tests.support.process import ROOT, ServerProcess

if TYPE_CHECKING:
    from tests.support.origin import Exchange, Handler

EXAMPLE = str(ROOT / "examples" / "health_checks.py")
ARGUMENTS = ("--listen", "127.0.0.1:0", "--status", "127.0.0.2:0", "--every", "0.05")


def _answer(sick: set[str], name: str) -> Handler:
    """Answer with a name, and to a check with how it is."""

    async def handler(exchange: Exchange) -> None:
        is_check = exchange.request.path == "/healthz"
        await exchange.reply("500 Oops" if is_check and name in sick else "200 OK", name.encode())

    return handler


async def _ask(address: str) -> bytes:
    async with await RawClient.connect(address) as client:
        return (await client.request("GET", "/")).body


async def test_a_backend_falls_ill_and_recovers() -> None:
    """Requests go to the other one meanwhile; the log and the page have the reason."""
    sick = {"two"}
    async with (
        Origin(_answer(sick, "one")) as one,
        Origin(_answer(sick, "two")) as two,
        ServerProcess(EXAMPLE, one.address, two.address, *ARGUMENTS) as server,
    ):
        await server.line_with("phase Running")
        where = dict(line.split(" listens on ") for line in server.lines if " listens on " in line)
        status = where.pop("service 'status'")
        (front,) = where.values()
        assert {await _ask(front) for _ in range(4)} == {b"one"}
        page = json.loads(await _ask(status))
        assert page[one.address]["healthy"]
        assert not page[two.address]["healthy"]
        assert "UnexpectedStatus 500" in page[two.address]["last error"]
        assert one.requests[0].get("host") == "upstream.internal"

        sick.clear()
        await server.line_with(f"{two.address} is healthy now")
        assert {await _ask(front) for _ in range(4)} == {b"one", b"two"}

        sick.update({"one"})
        line = await server.line_with(f"{one.address} is unhealthy now")
        assert "after 2 failed checks: Upstream UnexpectedStatus 500" in line
        assert {await _ask(front) for _ in range(4)} == {b"two"}

        server.send(signal.SIGTERM)
        assert await server.wait() == 0
