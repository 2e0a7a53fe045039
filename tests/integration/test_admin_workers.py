"""The admin interface of a server with several workers: they ask and tell one another."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from pingora_core.conf import ServerConf
from pingora_core.metrics import WorkerMetrics
from pingora_load_balancing import Backend
from pingora_proxy.admin import operations
from pingora_proxy.admin.guard import Refusal
from tests.support.admin import AdminRig, running
from tests.support.certificates import CertificateAuthority
from tests.support.client import RawClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pingora_proxy.admin import AdminService

_TWO = ServerConf(workers=2)
# A number that no process has.
_OTHER = 4_194_305


async def _ask(address: str, method: str, path: str, body: object = None) -> dict[str, object]:
    fields = [("Host", "127.0.0.1"), ("Content-Type", "application/json")]
    async with await RawClient.connect(address) as client:
        payload = None if body is None else json.dumps(body).encode()
        answer: dict[str, object] = json.loads(
            (await client.request(method, path, fields, payload)).body
        )
    return answer


@asynccontextmanager
async def _other(service: AdminService, answer: object) -> AsyncIterator[list[object]]:
    # Another worker, which always says the same.
    questions: list[object] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        questions.append(json.loads(await reader.readline()))
        writer.write(json.dumps(answer).encode() + b"\n")
        writer.close()
        await writer.wait_closed()

    name = f"\0{service._siblings._prefix}{_OTHER}"
    async with await asyncio.start_unix_server(serve, name):
        yield questions


async def _say(service: AdminService, question: object) -> dict[str, object]:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(f"\0{service._siblings._prefix}{os.getpid()}")
    reader, writer = await asyncio.open_unix_connection(sock=sock)
    writer.write(json.dumps(question).encode() + b"\n")
    answer: dict[str, object] = json.loads(await reader.readline())
    writer.close()
    await writer.wait_closed()
    return answer


async def test_a_change_is_passed_on() -> None:
    """The others are told the same words; what they purge is counted along."""
    service = AdminRig().service()
    async with (
        running(service, _TWO) as address,
        _other(service, {"purged": 3, "pid": _OTHER}) as questions,
    ):
        answer = await _ask(address, "POST", "/cache/purge", {"tag": "red"})
        assert answer["purged"] == 5
        assert answer["workers"] == {"asked": 2, "failed": {}, "pid": os.getpid()}
        assert questions == [
            {"change": "cache/purge", "arguments": {"tag": "red"}, "stamp": mock.ANY}
        ]


@pytest.mark.parametrize(
    ("answer", "why"), [({"error": "not here"}, "not here"), ([], "no answer")]
)
async def test_who_has_not_changed_is_named(answer: object, why: str) -> None:
    """The change is made here nevertheless."""
    rig = AdminRig()
    service = rig.service()
    async with running(service, _TWO) as address, _other(service, answer):
        done = await _ask(address, "POST", "/backends/drain", {"address": "127.0.0.1:8001"})
        assert done["workers"] == {"asked": 2, "failed": {str(_OTHER): why}, "pid": os.getpid()}
        assert not rig.pool.current.states[0].is_enabled


async def test_another_worker_is_answered() -> None:
    """It gets a row of the table, or what came of a change, or why nothing did."""
    rig = AdminRig()
    service = rig.service()
    async with running(service, _TWO):
        view = await _say(service, {"ask": "view"})
        assert view.keys() == {"worker", "backends", "caches", "pools"}
        where = {"address": "127.0.0.1:8001"}
        change = {"change": "backends/disable", "arguments": where, "stamp": 7}
        assert (await _say(service, change))["action"] == "disable"
        assert not rig.pool.current.states[0].is_enabled
        assert await _say(service, {"ask": "decisions"}) == {
            "decisions": [["backends/disable", "web", "127.0.0.1:8001", 7]]
        }
        change = {"change": "shutdown", "arguments": {}, "stamp": 8}
        assert await _say(service, change) == {"error": "'shutdown' cannot be changed"}


async def test_a_change_that_is_refused_here_is_not_passed_on() -> None:
    """What is wrong with it would be wrong everywhere."""
    service = AdminRig().service()
    async with running(service, _TWO) as address, _other(service, {}) as questions:
        answer = await _ask(address, "PUT", "/log-level", {"level": "loud"})
        assert answer["status"] == 400
        assert questions == []


async def test_the_later_of_two_changes_counts() -> None:
    """Two workers are told at once, and pass it on: all end up with the same."""
    rig = AdminRig()
    service = rig.service()
    async with running(service, _TWO):
        where = {"address": "127.0.0.1:8001"}
        later = {"change": "backends/drain", "arguments": where, "stamp": 9}
        earlier = {"change": "backends/enable", "arguments": where, "stamp": 8}
        for change in (later, earlier):
            assert "error" not in await _say(service, change)
    assert not rig.pool.current.states[0].is_enabled


async def test_a_backend_that_only_the_other_worker_has_found() -> None:
    """Discovery is ahead there; what was decided is done here once it is found."""
    rig = AdminRig()
    service = rig.service()
    async with running(service, _TWO):
        where = {"address": "127.0.0.1:8003"}
        change = {"change": "backends/drain", "arguments": where, "stamp": 9}
        assert (await _say(service, change))["action"] == "drain"
    rig.pool.replace([Backend("127.0.0.1:8003")])
    assert not rig.pool.current.states[0].is_enabled


async def test_a_worker_that_begins_decides_as_the_others_have() -> None:
    """It takes the place of one that has died: a drained backend must not get requests there."""
    rig = AdminRig()
    service = rig.service()
    decisions = [
        ["backends/drain", "web", "127.0.0.1:8001", 5],
        ["log-level/error", "", "", 6],
        ["backends/drain", "unknown", "127.0.0.1:8002", 7],
        ["shutdown", "", "", 8],
        ["too", "short"],
        None,
    ]
    before = logging.getLogger().level
    try:
        async with _other(service, {"decisions": decisions}), running(service, _TWO) as address:
            assert [state.is_enabled for state in rig.pool.current.states] == [False, True]
            assert logging.getLogger().level == logging.ERROR
            asked = await _say(service, {"ask": "decisions"})
            assert asked == {"decisions": decisions[:2]}
            # A configuration with a level of its own has the last word.
            await service.reload(ServerConf(log_level="warning"))
            assert await _say(service, {"ask": "decisions"}) == {"decisions": decisions[:1]}
            assert (await _ask(address, "GET", "/backends"))["web"]
    finally:
        logging.getLogger().setLevel(before)


async def test_all_workers_are_seen() -> None:
    """Their numbers are added up; of a backend the worst is told, with how many say so."""
    rig = AdminRig()
    rig.serve(4)
    service = rig.service()
    mine = service._operations.view()
    assert isinstance(mine["backends"], dict)
    theirs = json.loads(json.dumps(mine)) | {"worker": {"pid": _OTHER, "uptime": 1.0}}
    theirs["backends"]["web"][0] |= {"state": "unhealthy", "is_ready": False, "in_flight": 3}
    async with running(service, _TWO) as address, _other(service, theirs):
        overview = await _ask(address, "GET", "/overview")
    workers, backends, caches = (overview[each] for each in ("workers", "backends", "caches"))
    assert isinstance(workers, list)
    assert [row["pid"] for row in workers] == [os.getpid(), _OTHER]
    assert isinstance(backends, dict)
    first, second = backends["web"]
    assert (first["state"], first["is_ready"], first["in_flight"]) == ("unhealthy", False, 3)
    assert first["states"] == {"ready": 1, "unhealthy": 1}
    assert (second["state"], second["is_ready"]) == ("ready", True)
    assert isinstance(caches, dict)
    assert caches["memory"]["requests"]["requests"] == 8


async def test_numbers_of_all_workers() -> None:
    """With these the page need not care which process answers."""
    rig = AdminRig()
    metrics = WorkerMetrics(rig.registry)
    try:
        async with running(rig.service(metrics=metrics)) as address:
            assert (await _ask(address, "GET", "/overview"))["is_of_all_workers"] is True
            assert "pingora_workers" in await _ask(address, "GET", "/metrics.json")
    finally:
        metrics.close()
    async with running(rig.service(metrics=None)) as address:
        overview = await _ask(address, "GET", "/overview")
        assert (overview["is_of_all_workers"], overview["traffic"]) == (False, None)
        assert await _ask(address, "GET", "/metrics.json") == {}


async def test_several_to_choose_from() -> None:
    """Then it must be said which one is meant; a system without /proc shows no memory."""
    rig = AdminRig()
    doing = rig.service(caches={"a": rig.cache, "b": rig.cache}, backends={})._operations
    with pytest.raises(Refusal, match="'cache' is one of a, b"):
        await doing.change("cache/purge", {"tag": "red"})
    with pytest.raises(Refusal, match="'pool' is one of none"):
        await doing.change("backends/drain", {"address": "127.0.0.1:8001"})
    assert (await doing.change("cache/purge", {"tag": "red", "cache": "b"}))["cache"] == "b"


def test_a_system_without_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It shows no memory."""
    monkeypatch.setattr(operations, "_STATM", tmp_path / "none")
    assert AdminRig().service()._operations.worker()["memory"] == 0


async def test_over_tls(tmp_path: Path) -> None:
    """On addresses that others reach, the token and the numbers are not for all to read."""
    authority = CertificateAuthority(tmp_path)
    issued = authority.issue("admin.test")
    service = AdminRig().service(listen=None, allowed_hosts=["admin.test"])
    service.add_tls("127.0.0.1:0", issued.chain_path, issued.key_path)
    context = ssl.create_default_context(cadata=authority.cert_pem.decode())
    async with (
        running(service) as address,
        await RawClient.connect(address, tls=context, server_hostname="admin.test") as client,
    ):
        fields = [("Host", "admin.test"), ("Origin", "https://admin.test")]
        assert (await client.request("GET", "/pools", fields)).status == 200
