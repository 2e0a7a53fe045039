"""The admin example: its workers are seen and changed together, whichever of them is asked."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import TYPE_CHECKING, TypedDict

from tests.support.client import RawClient
from tests.support.origin import Origin
from tests.support.origin_steps import reply
from tests.support.ports import free_address
from tests.support.process import ROOT, ServerProcess

if TYPE_CHECKING:
    from pathlib import Path

_TOKEN = "0123456789-abcdefgh"
_FIELDS = [
    ("Host", "127.0.0.1"),
    ("Authorization", f"Bearer {_TOKEN}"),
    ("Content-Type", "application/json"),
]


class _Row(TypedDict):
    address: str
    states: dict[str, int]


class _Worker(TypedDict):
    pid: int
    is_ready: bool


class _Overview(TypedDict):
    pid: int
    backends: dict[str, list[_Row]]
    workers: list[_Worker]


class _Done(TypedDict):
    asked: int
    failed: dict[str, str]


async def _admin(address: str, method: str, path: str, body: object = None) -> bytes:
    async with await RawClient.connect(address) as client:
        payload = None if body is None else json.dumps(body).encode()
        response = await client.request(method, path, _FIELDS, payload)
    assert response.status == 200, response.body
    return response.body


async def _overview(address: str) -> _Overview:
    overview: _Overview = json.loads(await _admin(address, "GET", "/overview"))
    return overview


async def _change(address: str, method: str, path: str, body: object) -> _Done:
    changed: dict[str, _Done] = json.loads(await _admin(address, method, path, body))
    return changed["workers"]


async def _settled(address: str, backend: str) -> dict[str, int]:
    # How many workers see a backend in which state, once all of them have been asked anew.
    while True:
        rows = (await _overview(address))["backends"]["backends"]
        states = next(row["states"] for row in rows if row["address"] == backend)
        if sum(states.values()) == 2 and "ready" not in states:
            return states
        await asyncio.sleep(0.05)


async def _replaced(address: str, killed: int) -> None:
    # Until another worker has taken the place of one.
    async with asyncio.timeout(60):
        while True:
            rows = (await _overview(address))["workers"]
            ready = [row["pid"] for row in rows if row.get("is_ready")]
            if len(ready) == 2 and killed not in ready:
                return
            await asyncio.sleep(0.05)


async def test_what_one_worker_is_told_all_do(tmp_path: Path) -> None:
    """Two workers: a backend is drained in both, and in the one that replaces one of them."""
    token = tmp_path / "token"
    token.write_text(_TOKEN)
    conf = tmp_path / "conf.yaml"
    conf.write_text(
        f"workers: 2\nupgrade_sock: {tmp_path}/upgrade.sock\npid_file: {tmp_path}/pid\n"
    )
    proxy, admin = free_address(), free_address()
    async with Origin(reply(body=b"hello")) as first, Origin(reply(body=b"hello")) as second:
        arguments = (
            "-c",
            str(conf),
            "--listen",
            proxy,
            "--admin",
            admin,
            "--token-file",
            str(token),
        )
        script = str(ROOT / "examples" / "admin.py")
        async with ServerProcess(script, *arguments, first.address, second.address) as server:
            await server.line_with("phase Running")
            for _ in range(10):
                async with await RawClient.connect(proxy) as client:
                    assert (await client.request()).body == b"hello"
            workers = (await _overview(admin))["workers"]
            assert len(workers) == 2
            assert all(row["is_ready"] for row in workers)

            done = await _change(admin, "POST", "/backends/drain", {"address": first.address})
            assert done["asked"] == 2
            assert done["failed"] == {}
            assert await _settled(admin, first.address) == {"drained": 2}
            done = await _change(admin, "PUT", "/log-level", {"level": "error"})
            assert done["failed"] == {}

            # The worker that takes the place of another knows it, too.
            os.kill(workers[0]["pid"], signal.SIGKILL)
            await _replaced(admin, workers[0]["pid"])
            assert await _settled(admin, first.address) == {"drained": 2}
            before = len(first.requests)
            for number in range(10):
                async with await RawClient.connect(proxy) as client:
                    assert (await client.request(target=f"/{number}")).body == b"hello"
            assert len(first.requests) == before

            server.send(signal.SIGTERM)
            assert await server.wait() == 0
