"""``examples/proxy_protocol.py``, twice: the first one announces its clients to the second."""

from __future__ import annotations

import signal

from tests.support.client import RawClient
from tests.support.origin import Origin
from tests.support.origin_steps import reply
from tests.support.process import ROOT, ServerProcess

EXAMPLE = str(ROOT / "examples" / "proxy_protocol.py")
LISTEN = ("--listen", "127.0.0.1:0")


async def test_a_client_is_known_behind_two_proxies() -> None:
    """The origin is told the address that the first proxy saw; without a header nobody gets in."""
    async with (
        Origin(reply(body=b"ok")) as origin,
        ServerProcess(EXAMPLE, origin.address, *LISTEN, "--trusted", "127.0.0.0/8") as behind,
    ):
        host, port = await behind.running()
        async with ServerProcess(EXAMPLE, f"{host}:{port}", *LISTEN, "--announce") as front:
            front_host, front_port = await front.running()
            async with (
                await RawClient.connect(f"{front_host}:{front_port}") as client,
                await RawClient.connect(f"{host}:{port}") as stranger,
            ):
                response = await client.request("GET", "/")
                await stranger.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await behind.line_with("ProxyProtocolError")
                for server in (front, behind):
                    server.send(signal.SIGTERM)
            assert await front.wait() == 0
        assert await behind.wait() == 0

    assert (response.status, response.body) == (200, b"ok")
    assert [request.get("x-forwarded-for") for request in origin.requests] == ["127.0.0.1"]
