"""A proxy in a process of its own, stopped while it works."""

from __future__ import annotations

import asyncio
import signal

from tests.support.client import RawClient
from tests.support.origin import Origin
from tests.support.origin_steps import reply, sequence, wait
from tests.support.process import ROOT, ServerProcess

PROXY = str(ROOT / "examples" / "modify_headers.py")


async def test_sigterm_lets_a_request_end_and_closes_idle_connections() -> None:
    """The idle connection is closed at once, the busy one after its response; then exit 0."""
    async with (
        Origin(sequence(wait("answer"), reply(body=b"done"))) as origin,
        ServerProcess(PROXY, "--listen", "127.0.0.1:0", origin.address) as server,
    ):
        host, port = await server.running()
        async with (
            await RawClient.connect(f"{host}:{port}") as busy,
            await RawClient.connect(f"{host}:{port}") as idle,
        ):
            origin.open("answer")
            await idle.request("GET", "/")
            await busy.send_request("GET", "/")
            await origin.requests_arrived(2)
            server.send(signal.SIGTERM)
            assert await idle.is_closed_by_server()
            origin.open("answer")
            response = await busy.read_response()
            assert await busy.is_closed_by_server()
        assert await server.wait() == 0

    assert (response.status, response.body) == (200, b"done")
    assert response.get("connection") == "close"


async def test_sigint_cuts_a_request() -> None:
    """SIGINT does not wait for anybody."""
    async with (
        Origin(wait("never")) as origin,
        ServerProcess(PROXY, "--listen", "127.0.0.1:0", origin.address) as server,
    ):
        host, port = await server.running()
        async with await RawClient.connect(f"{host}:{port}") as busy:
            await busy.send_request("GET", "/")
            await origin.requests_arrived(1)
            server.send(signal.SIGINT)
            async with asyncio.timeout(30):
                assert await server.wait() == 0
        origin.open("never")
