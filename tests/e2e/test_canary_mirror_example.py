"""The canary gets its clients and no others; the shadow gets copies, and nobody notices it."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from pingora_proxy.testing import Client, ScriptedOrigin, hang, reply
from tests.support.ports import free_address
from tests.support.process import ROOT, ServerProcess
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def _running(
    stable: ScriptedOrigin, canary: ScriptedOrigin, shadow: str, *options: str
) -> AsyncIterator[tuple[Client, Client, ServerProcess]]:
    listen, metrics = free_address(), free_address()
    stable.on("*", reply(200, b"stable"))
    canary.on("*", reply(200, b"canary"))
    script = str(ROOT / "examples" / "canary_mirror.py")
    where = ("--canary", canary.address, "--shadow", shadow)
    places = ("--listen", listen, "--metrics", metrics)
    async with (
        ServerProcess(script, stable.address, *where, *places, *options) as server,
        Client(listen) as client,
        Client(metrics) as told,
    ):
        await server.running()
        yield client, told, server


async def test_a_client_stays_where_it_is() -> None:
    """Below the share it is the canary, above not; who has no number that is good is given one."""
    async with ScriptedOrigin() as stable, ScriptedOrigin() as canary:
        options = ("--share", "30")
        async with _running(stable, canary, "127.0.0.1:1", *options) as (client, told, _):
            for bucket, version in ((0, "canary"), (29, "canary"), (30, "stable"), (99, "stable")):
                answer = await client.get("/", [("Cookie", f"a=b; bucket={bucket}")])
                assert answer.text == version
                assert answer.header.get("set-cookie") is None
            for bad in ("bucket=100", "bucket=-1", "bucket=x", "bucket", "other=5"):
                answer = await client.get("/", [("Cookie", bad)])
                given = re.match(r"bucket=(\d+);", answer.header.get("set-cookie") or "")
                assert given is not None
                again = await client.get("/", [("Cookie", f"bucket={given[1]}")])
                assert again.text == answer.text
            metrics = (await told.get("/metrics")).text
            assert 'canary_answers_total{version="canary",status="200"}' in metrics
            assert "shadow" not in metrics.replace("canary_shadowed", "")


async def test_the_shadow_is_compared_and_never_noticed() -> None:
    """A wrong answer, none at all and nobody there: clients get the service's answer at once."""
    async with ScriptedOrigin() as stable, ScriptedOrigin() as canary, ScriptedOrigin() as shadow:
        shadow.on("/same", reply(200, b"not the same bytes"))
        shadow.on("/wrong", reply(500))
        shadow.on("/silent", hang)
        options = ("--mirror", "100")
        async with _running(stable, canary, shadow.address, *options) as (client, told, server):
            for path in ("/same", "/wrong", "/silent"):
                assert (await client.get(path, [("Cookie", "bucket=1")])).text == "stable"
            for method, body in (("POST", b"x"), ("DELETE", None)):
                assert (await client.request(method, "/unsafe", (), body)).text == "stable"
            await eventually(lambda: len(shadow.requests) == 3)
            assert sorted(request.path for request in shadow.requests) == [
                "/same",
                "/silent",
                "/wrong",
            ]
            assert {request.header.get("x-shadow") for request in shadow.requests} == {"1"}
            assert {request.header.get("x-shadow") for request in stable.requests} == {None}
            await server.line_with("the shadow disagrees on /wrong")
            assert 'verdict="different"} 1' in (await told.get("/metrics")).text
            for _ in range(200):
                if 'verdict="same"} 1' in (await told.get("/metrics")).text:
                    break
                await asyncio.sleep(0.02)
            else:
                raise AssertionError("the other answer was not compared")
