"""Every step of the tutorial does what its page says."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import TYPE_CHECKING

from pingora_proxy.testing import Client, ScriptedOrigin, reply
from tests.support.ports import free_address
from tests.support.process import ROOT, ServerProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_STEPS = ROOT / "examples" / "tutorial"
_HASH = sha256(b"secret").hexdigest()
_KEY = [("X-Api-Key", "secret")]


@asynccontextmanager
async def _step(name: str, *arguments: str) -> AsyncIterator[Client]:
    # Runs a step; leaves it by a graceful stop.
    script = str(_STEPS / f"{name}.py")
    async with ServerProcess(script, "--listen", "127.0.0.1:0", *arguments) as server:
        host, port = await server.running()
        async with Client(f"{host}:{port}") as client:
            yield client
        server.send(signal.SIGTERM)
        assert await server.wait() == 0


@asynccontextmanager
async def _services() -> AsyncIterator[tuple[ScriptedOrigin, ScriptedOrigin, list[str]]]:
    # Two services, and the arguments that name them.
    async with ScriptedOrigin() as catalog, ScriptedOrigin() as orders:
        catalog.on("*", reply(200, b"catalog"))
        orders.on("*", reply(200, b"orders"))
        yield catalog, orders, ["--catalog", catalog.address, "--orders", orders.address]


async def test_step_1_passes_everything_on() -> None:
    """There is one server, and it answers."""
    async with ScriptedOrigin() as origin:
        origin.on("/hello", reply(200, b"hello"))
        async with _step("step1_first", origin.address) as client:
            assert (await client.get("/hello")).text == "hello"


async def test_step_2_routes_by_the_first_segment() -> None:
    """It is taken away; a service that is not there is 404."""
    async with _services() as (catalog, orders, where), _step("step2_routes", *where) as client:
        assert (await client.get("/catalog/books?page=2")).text == "catalog"
        assert (await client.get("/orders")).text == "orders"
        assert (await client.get("/catalogue")).status == 404
        assert catalog.requests[0].header.raw_target == b"/books?page=2"
        assert orders.requests[0].header.raw_target == b"/"


async def test_step_3_wants_a_key() -> None:
    """Without it, nobody is asked; with it, the service hears a name and no key."""
    async with _services() as (catalog, _, where):
        async with _step("step3_keys", *where, "--client", f"alice={_HASH}") as client:
            assert (await client.get("/catalog/")).status == 401
            assert (await client.get("/catalog/", [("X-Api-Key", "wrong")])).status == 401
            assert (await client.get("/catalog/", _KEY)).text == "catalog"
        [request] = catalog.requests
        assert request.header.get("x-client") == "alice"
        assert request.header.get("x-api-key") is None


async def test_step_4_shares_the_work() -> None:
    """All servers of a service get requests."""
    async with ScriptedOrigin() as other, _services() as (catalog, _, where):
        other.on("*", reply(200, b"catalog"))
        where.insert(2, other.address)
        async with _step("step4_balance", *where, "--client", f"alice={_HASH}") as client:
            for _ in range(20):
                assert (await client.get("/catalog/", _KEY)).status == 200
        assert len(catalog.requests) + len(other.requests) == 20
        assert catalog.requests
        assert other.requests


async def test_step_5_asks_another_server() -> None:
    """One that is away, or answers 503, is not noticed."""
    async with ScriptedOrigin() as bad, _services() as (_, _, where):
        bad.on("*", reply(503))
        where[1:2] = ["127.0.0.1:1", bad.address, where[1]]
        async with _step("step5_retries", *where, "--client", f"alice={_HASH}") as client:
            for _ in range(10):
                assert (await client.get("/catalog/", _KEY)).text == "catalog"
            assert (await client.get("/nowhere/", _KEY)).status == 404


async def test_step_6_asks_once() -> None:
    """What the catalog says is for everybody is kept; orders are not; the key is still wanted."""
    public = [("Cache-Control", "public, max-age=60")]
    async with _services() as (catalog, orders, where):
        catalog.on("*", reply(200, b"catalog", public))
        orders.on("*", reply(200, b"orders", public))
        async with _step("step6_cache", *where, "--client", f"alice={_HASH}") as client:
            for _ in range(3):
                assert (await client.get("/catalog/", _KEY)).text == "catalog"
                assert (await client.get("/orders/", _KEY)).text == "orders"
            assert (await client.get("/catalog/")).status == 401
        assert (len(catalog.requests), len(orders.requests)) == (1, 3)


async def test_step_7_refuses_what_is_too_much() -> None:
    """After the burst it is 429, with the time to wait."""
    async with _services() as (_, _, where):
        async with _step("step7_limits", *where, "--client", f"alice={_HASH}") as client:
            answers = [await client.get("/orders/", _KEY) for _ in range(40)]
        assert {answer.status for answer in answers} == {200, 429}
        refused = next(answer for answer in answers if answer.status == 429)
        assert refused.header.get("retry-after") == "1"


async def test_step_8_tells_what_happens(tmp_path: Path) -> None:
    """Each request is a line and a number."""
    metrics, log = free_address(), tmp_path / "access.log"
    options = ("--client", f"alice={_HASH}", "--metrics", metrics, "--access-log", str(log))
    async with (
        _services() as (_, _, where),
        _step("step8_watch", *where, *options) as client,
        Client(metrics) as told,
    ):
        await client.get("/orders/7?token=x", _KEY)
        await client.get("/orders/7")
        assert 'http_route="orders"' in (await told.get("/metrics")).text
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["status"], line.get("route")) for line in lines] == [(200, "orders"), (401, None)]
    assert lines[0]["query"] == "token=***"


async def test_the_gateway_runs_from_its_file(tmp_path: Path) -> None:
    """It is checked, serves with two workers, takes on a new client at a reload, and logs."""
    conf, log = tmp_path / "gateway.yaml", tmp_path / "access.log"
    listen, metrics = free_address(), free_address()
    async with _services() as (catalog, orders, _):

        def write(clients: dict[str, str]) -> None:
            section = {
                "listen": [listen],
                "metrics": metrics,
                "access_log": str(log),
                "services": {"catalog": [catalog.address], "orders": [orders.address]},
                "clients": clients,
            }
            server = {"workers": 2, "upgrade_sock": str(tmp_path / "upgrade.sock")}
            conf.write_text(json.dumps(server | {"gateway": section}))

        write({"alice": _HASH})
        async with ServerProcess(str(_STEPS / "my_gateway.py"), "-c", str(conf)) as server:
            await server.running()
            async with Client(listen) as client:
                assert (await client.get("/orders/", _KEY)).text == "orders"
                assert (await client.get("/orders/", [("X-Api-Key", "second")])).status == 401
            write({"alice": _HASH, "bob": sha256(b"second").hexdigest()})
            server.send(signal.SIGHUP)
            for _ in range(1000):
                async with Client(listen) as client:
                    if (await client.get("/orders/", [("X-Api-Key", "second")])).status == 200:
                        break
                await asyncio.sleep(0.05)
            else:
                raise AssertionError("the new client was not taken on")
            server.send(signal.SIGTERM)
            assert await server.wait() == 0
    assert json.loads(log.read_text().splitlines()[0])["path"] == "/orders/"


def test_the_file_of_the_tutorial_is_valid() -> None:
    """The configuration that is shown passes its own check."""
    script, conf = str(_STEPS / "my_gateway.py"), str(_STEPS / "gateway.yaml")
    done = subprocess.run(
        [sys.executable, script, "-t", "-c", conf],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "valid" in done.stdout + done.stderr
    assert done.returncode == 0
