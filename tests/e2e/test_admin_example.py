"""The admin example: its workers are seen and changed together, whichever of them is asked."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, TypedDict

from tests.support.client import RawClient
from tests.support.nginx import free_ports
from tests.support.origin import Origin
from tests.support.origin_steps import reply
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
    state: str


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


async def _states(address: str, backend: str, wanted: str) -> set[int]:
    # Which workers see a backend in a state: connections reach one or the other.
    pids: set[int] = set()
    for _ in range(60):
        overview = await _overview(address)
        rows = overview["backends"]["backends"]
        assert [row["state"] for row in rows if row["address"] == backend] == [wanted]
        pids.add(overview["pid"])
        if len(pids) == 2:
            break
    return pids


async def test_what_one_worker_is_told_all_do(tmp_path: Path) -> None:
    """Two workers: each is seen by both, and a backend is drained in both."""
    token = tmp_path / "token"
    token.write_text(_TOKEN)
    conf = tmp_path / "conf.yaml"
    conf.write_text(
        f"workers: 2\nupgrade_sock: {tmp_path}/upgrade.sock\npid_file: {tmp_path}/pid\n"
    )
    proxy, admin = (f"127.0.0.1:{port}" for port in free_ports(2))
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
            pids = await _states(admin, first.address, "drained")
            assert pids <= {row["pid"] for row in workers}
            done = await _change(admin, "PUT", "/log-level", {"level": "error"})
            assert done["failed"] == {}

            server.send(signal.SIGTERM)
            assert await server.wait() == 0
