"""The chaos proxy does the harm it was asked for, to the requests it was asked for."""

from __future__ import annotations

import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from pingora_error import Error
from pingora_proxy.testing import Client, ScriptedOrigin, reply
from tests.support.client import RawClient
from tests.support.process import ROOT, ServerProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_SCRIPT = str(ROOT / "examples" / "chaos_proxy.py")


@asynccontextmanager
async def _chaos(origin: ScriptedOrigin, *options: str) -> AsyncIterator[str]:
    origin.on("*", reply(200, b"0123456789"))
    async with ServerProcess(
        _SCRIPT, origin.address, "--listen", "127.0.0.1:0", *options
    ) as server:
        host, port = await server.running()
        yield f"{host}:{port}"
        server.send(signal.SIGTERM)
        assert await server.wait() == 0


async def test_a_request_names_its_faults() -> None:
    """Each is done to that request, and the server hears nothing of it."""
    async with ScriptedOrigin() as origin, _chaos(origin) as address, Client(address) as client:
        for faults, status in (
            ("status=418", 418),
            ("latency=0.01", 200),
            ("bandwidth=1000", 200),
            ("latency=0.01, truncate=10", 200),
            ("status", 400),
            ("status=200", 400),
            ("latency=nan", 400),
            ("latency=61", 400),
            ("bandwidth=0", 400),
            ("earthquake", 400),
        ):
            answer = await client.get("/", [("X-Chaos", faults)])
            assert (answer.status, faults) == (status, faults)
        with pytest.raises(Error):
            await client.get("/", [("X-Chaos", "reset")])
        with pytest.raises(Error):
            await client.get("/", [("X-Chaos", "truncate=4")])
        async with await RawClient.connect(address) as raw:
            await raw.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Chaos: truncate=4\r\n\r\n")
            assert (await raw.receive_all()).endswith(b"\r\n\r\n0123")
        assert (await client.get("/")).text == "0123456789"
        assert {request.header.get("x-chaos") for request in origin.requests} == {None}
        assert len(origin.requests) == 6


async def test_a_body_comes_slowly() -> None:
    """Also one that the server sends in one piece; truncation counts as well."""
    async with ScriptedOrigin() as origin, _chaos(origin) as address:
        async with await RawClient.connect(address) as raw:
            await raw.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Chaos: bandwidth=2\r\n\r\n")
            assert (await raw.read_head()).get("content-length") == "10"
            received = await raw.receive()
            assert b"0123456789".startswith(received)
            assert len(received) < 10
        async with await RawClient.connect(address) as raw:
            faults = b"X-Chaos: bandwidth=1000, truncate=7\r\n"
            await raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n" % faults)
            assert (await raw.receive_all()).endswith(b"\r\n\r\n0123456")


async def test_a_seed_repeats_its_faults() -> None:
    """A share of the requests is hit, the same ones in each run."""
    options = ("--seed", "7", "--fault", "status=503:0.5", "--fault", "latency=0:0.5")
    runs: list[list[int]] = []
    async with ScriptedOrigin() as origin:
        for _ in range(2):
            async with _chaos(origin, *options) as address, Client(address) as client:
                runs.append([(await client.get("/")).status for _ in range(40)])
    assert runs[0] == runs[1]
    assert set(runs[0]) == {200, 503}
    assert 8 <= runs[0].count(503) <= 32
