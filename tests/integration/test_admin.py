"""The admin interface over real sockets: what it tells, what it changes, whom it refuses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import TYPE_CHECKING

import pytest

from pingora_core.conf import ServerConf
from pingora_error import Error, ErrorType
from pingora_proxy.admin import AdminToken, app, operations
from pingora_proxy.admin.app import MAX_BODY
from tests.support.admin import TOKEN, AdminRig, running
from tests.support.client import RawClient
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pingora_core.metrics.snapshot import Families
    from tests.support.client import Response

_JSON = ("Content-Type", "application/json")


async def _ask(
    address: str, method: str, target: str, *fields: tuple[str, str], body: object = None
) -> tuple[Response, object]:
    given = (
        [*fields] if any(name == "Host" for name, _ in fields) else [("Host", "127.0.0.1"), *fields]
    )
    payload = None
    if body is not None:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        if not any(name == "Content-Type" for name, _ in fields):
            given.append(_JSON)
    async with await RawClient.connect(address) as client:
        response = await client.request(method, target, given, payload)
    kinds = {"application/json", "application/problem+json"}
    is_json = response.get("content-type") in kinds and response.body
    return response, json.loads(response.body) if is_json else None


@pytest.fixture
def rig() -> AdminRig:
    """What is looked at."""
    return AdminRig()


@pytest.fixture
def root_level() -> Iterator[None]:
    """Puts the level of the log back."""
    before = logging.getLogger().level
    yield
    logging.getLogger().setLevel(before)


async def test_probes_need_no_token(rig: AdminRig) -> None:
    """They tell alive and ready to whoever asks, under whatever name, and nothing else."""
    async with running(rig.service(token=AdminToken(value=TOKEN))) as address:
        for path, status, ready in (
            ("/livez", 200, False),
            ("/readyz", 503, False),
            ("/readyz", 200, True),
        ):
            rig.server.is_ready = ready
            response, answer = await _ask(address, "GET", path, ("Host", "pod.test"))
            assert response.status == status
            assert answer == {"status": "ok" if status == 200 else "not ready"}
        response, _ = await _ask(address, "POST", "/livez")
        assert (response.status, response.get("allow")) == (405, "GET, HEAD")


async def test_everything_else_needs_it(rig: AdminRig) -> None:
    """Without the token there is neither data nor a change, nor a hint of which paths there are."""
    paths = ("/overview", "/config", "/backends", "/cache", "/pools", "/workers", "/metrics.json",
             "/log-level", "/nothing", "/backends/drain")  # fmt: skip
    service = rig.service(token=AdminToken(value=TOKEN))
    async with running(service) as address:
        for path in paths:
            for method in ("GET", "POST"):
                response, answer = await _ask(address, method, path, body={})
                assert response.status == 401
                assert response.get("content-type") == "application/problem+json"
                assert answer == {
                    "title": "Unauthorized",
                    "status": 401,
                    "detail": "a token is needed",
                }
                assert str(response.get("www-authenticate")).startswith("Bearer")
        right = ("Authorization", f"Bearer {TOKEN}")
        assert (await _ask(address, "GET", "/overview", right))[0].status == 200
        assert (await _ask(address, "GET", "/nothing", right))[0].status == 404
        assert service.refused == 2 * len(paths)


async def test_other_sites_get_nothing(rig: AdminRig) -> None:
    """Neither by a name of their own, nor by a request from elsewhere, nor by asking in advance."""
    async with running(rig.service()) as address:
        drain = {"address": "127.0.0.1:8001"}
        for fields, status in (
            ((("Host", "evil.test"),), 421),
            ((("Origin", "https://evil.test"),), 403),
            ((("Sec-Fetch-Site", "cross-site"),), 403),
            ((("Content-Type", "text/plain"),), 415),
            ((("Content-Type", "application/x-www-form-urlencoded"),), 415),
        ):
            response, _ = await _ask(address, "POST", "/backends/drain", *fields, body=drain)
            assert response.status == status
        preflight = (("Origin", "https://evil.test"), ("Access-Control-Request-Method", "POST"))
        response, _ = await _ask(address, "OPTIONS", "/backends/drain", *preflight)
        assert response.status == 403
        assert not any("access-control" in name.lower() for name, _ in response.head.fields)
        assert rig.pool.current.states[0].is_enabled


async def test_the_heads_of_answers(rig: AdminRig) -> None:
    """Nothing is kept by caches, guessed at, framed or told to others."""
    async with running(rig.service()) as address:
        page, _ = await _ask(address, "GET", "/?every=1")
        data, _ = await _ask(address, "GET", "/overview")
    assert page.get("content-type") == "text/html; charset=utf-8"
    assert "default-src 'none'" in str(page.get("content-security-policy"))
    for response in (page, data):
        assert response.get("cache-control") == "no-store"
        assert response.get("x-content-type-options") == "nosniff"
        assert response.get("referrer-policy") == "no-referrer"
        assert response.get("cross-origin-resource-policy") == "same-origin"
        assert "frame-ancestors 'none'" in str(response.get("content-security-policy"))


async def test_the_views(rig: AdminRig) -> None:
    """Each has its part of the whole that the page asks for."""
    rig.serve(4)
    rig.server.configuration = ServerConf.from_yaml("app: {password: hunter2}")
    async with running(rig.service()) as address:
        _, overview = await _ask(address, "GET", "/overview")
        assert isinstance(overview, dict)
        for path, key in (("/backends", "backends"), ("/cache", "caches"), ("/pools", "pools")):
            assert (await _ask(address, "GET", path))[1] == overview[key]
        assert overview["traffic"]["requests"]["2xx"] == 4
        assert overview["pools"] == {
            "gateway": {"http1_idle": 0, "http2_connections": 0, "http2_idle": 0}
        }
        _, workers = await _ask(address, "GET", "/workers")
        assert isinstance(workers, dict)
        [worker] = workers["workers"]
        assert worker["is_this"]
        assert worker["memory"] > 0
        _, config = await _ask(address, "GET", "/config")
        assert isinstance(config, dict)
        assert config["values"]["max_retries"] == 16
        assert config["application"] == {"app": "[hidden: not in show_config]"}
        _, metrics = await _ask(address, "GET", "/metrics.json")
        assert isinstance(metrics, dict)
        assert metrics["http_server_request_duration_seconds"]["kind"] == "histogram"
        response, _ = await _ask(address, "HEAD", "/overview")
        assert (response.status, response.body) == (200, b"")


async def test_backends_are_taken_out_and_back(rig: AdminRig) -> None:
    """Draining, disabling and enabling change the pool; what is not there is told."""
    async with running(rig.service()) as address:
        where = {"address": "127.0.0.1:8001", "pool": "web"}
        for action, enabled in (("drain", False), ("enable", True), ("disable", False)):
            _, answer = await _ask(address, "POST", f"/backends/{action}", body=where)
            assert isinstance(answer, dict)
            assert answer["workers"]["failed"] == {}
            assert rig.pool.current.states[0].is_enabled is enabled
        for body, status in (
            ({"address": "127.0.0.1:9"}, 404),
            ({"address": "127.0.0.1:8001", "pool": "db"}, 404),
            ({"address": 5}, 400),
            ({}, 400),
            ([], 400),
            (b"{", 400),
            (b"[" * 9000, 400),
            (b"\xff", 400),
            (b'{"address": "127.0.0.1:8001", "address": "127.0.0.1:8002"}', 400),
            ({"address": "127.0.0.1:8001", "poool": "web"}, 400),
            ('{"address": "127.0.0.1:8001"}'.encode("utf-16"), 400),
        ):
            response, answer = await _ask(address, "POST", "/backends/drain", body=body)
            assert response.status == status
            assert isinstance(answer, dict)
            assert answer["status"] == status
            assert answer["detail"]
        for method in ("GET", "PUT", "DELETE"):
            response, _ = await _ask(address, method, "/backends/drain")
            assert (response.status, response.get("allow")) == (405, "POST")
        response, _ = await _ask(address, "DELETE", "/backends")
        assert (response.status, response.get("allow")) == (405, "GET, HEAD")


async def test_bodies_are_bounded(rig: AdminRig) -> None:
    """One that is too long is refused, announced or not; the connection is good for nothing else."""
    async with running(rig.service()) as address:
        response, _ = await _ask(address, "POST", "/backends/drain", body=b" " * (MAX_BODY + 1))
        assert response.status == 413
        async with await RawClient.connect(address) as client:
            response = await client.request(
                "POST",
                "/backends/drain",
                [("Host", "127.0.0.1"), _JSON],
                chunks=[b" " * 1000] * 20,
            )
            assert response.status == 413


async def test_the_cache_is_purged(rig: AdminRig) -> None:
    """By URL or tag, softly if wanted; an unknown number stays unknown."""
    async with running(rig.service()) as address:
        for body, purged in (
            ({"url": "https://a.test/x"}, 1),
            ({"tag": "red", "soft": True, "cache": "memory"}, 2),
            ({"tag": "unknown"}, None),
        ):
            _, answer = await _ask(address, "POST", "/cache/purge", body=body)
            assert isinstance(answer, dict)
            assert answer["purged"] == purged
        assert rig.cache.purged == [("https://a.test/x", False), ("red", True), ("unknown", False)]
        for body in (
            {},
            {"url": "a", "tag": "b"},
            {"url": ""},
            {"tag": "a", "soft": 1},
            {"url": "a"},
        ):
            response, _ = await _ask(address, "POST", "/cache/purge", body=body)
            assert response.status == 400


async def test_a_store_in_trouble_is_told(rig: AdminRig, caplog: pytest.LogCaptureFixture) -> None:
    """The client is told that it is, the log why."""

    async def fail(*_: object, **__: object) -> int:
        raise Error.internal(ErrorType.INTERNAL_ERROR, "disk on fire")

    rig.cache.purge_tag = fail  # type: ignore[method-assign]
    async with running(rig.service()) as address:
        response, answer = await _ask(address, "POST", "/cache/purge", body={"tag": "a"})
    assert response.status == 502
    assert isinstance(answer, dict)
    assert answer["detail"] == "cache 'memory' is in trouble; the log tells more"
    assert "disk on fire" in caplog.text


@pytest.mark.usefixtures("root_level")
async def test_the_log_level_is_changed(rig: AdminRig) -> None:
    """At once, for all loggers without a level of their own."""
    logging.getLogger().setLevel("WARNING")
    async with running(rig.service()) as address:
        assert (await _ask(address, "GET", "/log-level"))[1] == {"level": "warning"}
        _, answer = await _ask(address, "PUT", "/log-level", body={"level": "Debug"})
        assert isinstance(answer, dict)
        assert (answer["level"], answer["before"]) == ("debug", "warning")
        assert logging.getLogger().level == logging.DEBUG
        response, _ = await _ask(address, "PUT", "/log-level", body={"level": "loud"})
        assert response.status == 400
        response, _ = await _ask(address, "POST", "/log-level", body={"level": "info"})
        assert (response.status, response.get("allow")) == (405, "GET, HEAD, PUT")


async def test_a_unix_socket(rig: AdminRig, tmp_path: Path) -> None:
    """No browser gets there, so any Host will do; its file is the owner's."""
    path = tmp_path / "admin.sock"
    async with running(rig.service(listen=f"unix:{path}")):
        assert path.stat().st_mode & 0o777 == 0o600
        response, _ = await _ask(f"unix:{path}", "GET", "/pools", ("Host", "whatever.test"))
        assert response.status == 200


async def test_a_reload_reads_the_token_again(rig: AdminRig, tmp_path: Path) -> None:
    """The new one counts; one that cannot be used is refused, and the old one stays."""
    path = tmp_path / "token"
    path.write_text(TOKEN)
    service = rig.service(token=AdminToken(file=path))
    async with running(service) as address:
        path.write_text("short")
        with pytest.raises(Error, match="fewer than 16"):
            await service.reload(rig.server.configuration)
        old = ("Authorization", f"Bearer {TOKEN}")
        assert (await _ask(address, "GET", "/pools", old))[0].status == 200
        path.write_text("another-0123456789")
        await service.reload(rig.server.configuration)
        assert (await _ask(address, "GET", "/pools", old))[0].status == 401


async def test_tokens_are_not_tried_at_will(rig: AdminRig) -> None:
    """After some that were wrong the client has to wait, with the right one as well."""
    right = ("Authorization", f"Bearer {TOKEN}")
    async with running(rig.service(token=AdminToken(value=TOKEN))) as address:
        for number in range(10):
            wrong = ("Authorization", f"Bearer {number}")
            assert (await _ask(address, "GET", "/pools", wrong))[0].status == 401
        response, answer = await _ask(address, "GET", "/pools", right)
        assert (response.status, response.get("retry-after")) == (429, "3")
        assert isinstance(answer, dict)
        assert TOKEN not in str(answer)
        # Those who send none are told that one is needed, and probes are answered.
        assert (await _ask(address, "GET", "/pools"))[0].status == 401
        assert (await _ask(address, "GET", "/livez"))[0].status == 200


async def test_tokens_are_never_logged(rig: AdminRig, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the right one nor what somebody took for it; who was refused is told."""
    service = rig.service(token=AdminToken(value=TOKEN))
    with caplog.at_level(logging.DEBUG):
        async with running(service) as address:
            for token in (TOKEN, "guess-0123456789"):
                await _ask(address, "GET", "/pools", ("Authorization", f"Bearer {token}"))
    assert "this is not the token" in caplog.text
    assert "127.0.0.1" in caplog.text
    assert TOKEN not in caplog.text + repr(service.__dict__)
    assert "guess-0123456789" not in caplog.text


async def test_a_body_that_never_ends(rig: AdminRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for only so long, however steadily it comes."""
    monkeypatch.setattr(app, "IO_TIMEOUT", 0.05)
    async with running(rig.service()) as address, await RawClient.connect(address) as client:
        await client.send(
            b"POST /backends/drain HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{"
        )
        assert (await client.read_response("POST")).status == 408


async def test_a_store_that_hangs(rig: AdminRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for only so long."""
    monkeypatch.setattr(operations, "PURGE_TIMEOUT", 0.02)

    async def hang(*_: object, **__: object) -> int:
        await asyncio.get_running_loop().create_future()
        return 1

    rig.cache.purge_tag = hang  # type: ignore[method-assign]
    async with running(rig.service()) as address:
        response, _ = await _ask(address, "POST", "/cache/purge", body={"tag": "a"})
    assert response.status == 504


async def test_who_changed_what_is_logged(rig: AdminRig, caplog: pytest.LogCaptureFixture) -> None:
    """With the client's address and the outcome, without secrets of URLs."""
    async with running(rig.service()) as address:
        await _ask(address, "POST", "/backends/drain", body={"address": "127.0.0.1:8001"})
        await _ask(address, "POST", "/backends/drain", body={"address": "127.0.0.1:9"})
        await _ask(address, "POST", "/cache/purge", body={"url": "https://a.test/?token=hunter2"})
    lines = [each.getMessage() for each in caplog.records if each.name.endswith("admin.app")]
    assert len(lines) == 3
    assert lines[0].startswith(
        'admin interface: backends/drain {"address": "127.0.0.1:8001"} from '
    )
    assert lines[0].endswith(": done")
    assert "has no backend" in lines[1]
    assert "hunter2" not in caplog.text


async def test_readiness_may_need_backends(rig: AdminRig) -> None:
    """Where the program says so a process without any that is ready is not ready itself."""
    async with running(rig.service(ready_backends=["web"])) as address:
        assert (await _ask(address, "GET", "/readyz"))[0].status == 200
        for each in rig.pool.current:
            rig.pool.set_enabled(each.addr, False)
        assert (await _ask(address, "GET", "/readyz"))[0].status == 503
        _, overview = await _ask(address, "GET", "/overview")
        assert isinstance(overview, dict)
        assert (overview["is_ready"], overview["missing"]) == (False, ["web"])
        assert (await _ask(address, "GET", "/livez"))[0].status == 200
    with pytest.raises(ValueError, match="'db' is not in backends"):
        rig.service(ready_backends=["db"])
    with pytest.raises(TypeError, match="several are wanted"):
        rig.service(ready_backends="web")


async def test_many_viewers_cost_what_one_does(
    rig: AdminRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within half a second all get the same answer; a change is seen at once."""
    monkeypatch.setattr(app, "FRESH", 3600.0)
    service = rig.service()
    looks: list[object] = []
    collect = rig.registry.collect

    def counted() -> Families:
        looks.append(None)
        return collect()

    monkeypatch.setattr(rig.registry, "collect", counted)
    async with running(service) as address:
        answers = await asyncio.gather(*(_ask(address, "GET", "/overview") for _ in range(20)))
        assert len(looks) == 1
        assert all(answer == answers[0][1] for _, answer in answers)
        await _ask(address, "POST", "/backends/drain", body={"address": "127.0.0.1:8001"})
        _, rows = await _ask(address, "GET", "/backends")
        assert isinstance(rows, dict)
        assert rows["web"][0]["state"] == "drained"


async def test_slow_clients_keep_nobody_out(rig: AdminRig) -> None:
    """One address has so many connections; from another the probe is answered all the same."""
    service = rig.service()
    async with running(service) as address, contextlib.AsyncExitStack() as stack:
        for _ in range(80):
            client = await stack.enter_async_context(await RawClient.connect(address))
            with contextlib.suppress(OSError):
                await client.send(b"GET / HTTP/1.1\r\nX: ")
        limits = service._limits
        await eventually(lambda: limits.refused_address >= 16)
        assert limits.current == 64


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:0", "[::]:0", "10.0.0.1:6190", "example.test:6190", "a.localhost:6190"]
)
def test_other_addresses_need_a_token(rig: AdminRig, listen: str) -> None:
    """Without one the server does not start there."""
    with pytest.raises(Error, match=r"service 'Admin': address: got .* without a token, allowed:"):
        rig.service(listen=listen).check()
    rig.service(listen=listen, token=AdminToken(value=TOKEN)).check()


def test_a_token_that_is_none_is_told_at_the_start(rig: AdminRig) -> None:
    """So is a service without any address."""
    with pytest.raises(Error, match="service 'Admin': the token from environment variable"):
        rig.service(token=AdminToken(environment="NO_SUCH_TOKEN_IS_SET")).check()
    with pytest.raises(Error, match="has no address to listen on"):
        rig.service(listen=None).check()
    for listen in ("127.0.0.1:0", "[::1]:0", "localhost:0", "unix:/tmp/x.sock"):
        rig.service(listen=listen).check()


def test_a_unix_socket_for_everybody_needs_a_token(rig: AdminRig) -> None:
    """Everybody on the machine is as good as the network."""
    service = rig.service(listen=None)
    service.add_uds("/tmp/x.sock", 0o666)
    with pytest.raises(Error, match=r"permissions: /tmp/x\.sock is for everybody"):
        service.check()
    service = rig.service(listen=None)
    service.add_uds("/tmp/x.sock", 0o660)
    service.check()
    service = rig.service(listen=None, token=AdminToken(value=TOKEN))
    service.add_uds("/tmp/x.sock", 0o666)
    service.check()
