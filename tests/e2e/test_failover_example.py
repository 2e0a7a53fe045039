"""The failover example answers although a backend does not, and tells what that has cost."""

from __future__ import annotations

import json
import signal

from tests.support.client import RawClient
from tests.support.origin import Origin
from tests.support.origin_steps import reply
from tests.support.ports import free_address
from tests.support.process import ROOT, ServerProcess
from tests.support.waiting import eventually


async def _get(address: str) -> tuple[int, bytes]:
    async with await RawClient.connect(address) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
        response = await client.read_response()
        return response.status, response.body


async def test_a_backend_that_is_away_is_not_noticed() -> None:
    """It is ejected after three failures; the status page says so, and how many retries it took."""
    away = free_address()
    # Two services with the same address would share a socket: the ports are free, not 0.
    listen, status = free_address(), free_address()
    async with Origin(reply(body=b"hello")) as origin:
        arguments = ("--listen", listen, "--status", status, "--ejection-time", "60")
        script = str(ROOT / "examples" / "failover.py")
        async with ServerProcess(script, *arguments, away, origin.address) as server:
            await server.running()
            answers = [await _get(listen) for _ in range(40)]
            assert answers == [(200, b"hello")] * 40
            await eventually(lambda: len(origin.requests) == 40)

            _, body = await _get(status)
            page = json.loads(body)
            assert page["backends"] == {away: "ejected", origin.address: "0 requests"}
            assert page["requests"] == 40
            assert page["retries"] == 3
            server.send(signal.SIGTERM)
            assert await server.wait() == 0
