"""The LLM gateway streams, counts, refuses, and asks another provider when the first cannot."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from pingora_http import ResponseHeader
from pingora_proxy.testing import Client, ScriptedOrigin, cut_off, hang, reply, reset, stream
from tests.support.client import RawClient
from tests.support.ports import free_address
from tests.support.process import ROOT, ServerProcess
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pingora_core import ServerSession
    from pingora_proxy.testing import ClientResponse

_PATH = "/v1/chat/completions"
_EVENT = [("Content-Type", "text/event-stream")]
_ASKED = json.dumps({"model": "small", "stream": True, "messages": []}).encode()


class Gateway:
    """The example as a process, with two providers."""

    def __init__(self, first: ScriptedOrigin, second: ScriptedOrigin) -> None:
        self.first = first
        self.second = second
        self.address = free_address()
        self.metrics = free_address()

    def configuration(self, tokens: int, timeout: float) -> str:
        """What the file says; JSON is YAML."""
        keys = {sha256(key).hexdigest(): name for key, name in ((b"a-key", "a"), (b"b-key", "b"))}
        providers = [
            {"address": address, "key_env": key, "tls": False}
            for address, key in ((self.first.address, "FIRST_KEY"), (self.second.address, "KEY_2"))
        ]
        section = {
            "listen": self.address,
            "metrics": self.metrics,
            "timeout": timeout,
            "tokens_per_hour": tokens,
            "models": {"small": providers},
            "clients": keys,
        }
        return json.dumps({"llm_gateway": section})

    async def ask(self, key: str = "a-key", body: bytes = _ASKED) -> ClientResponse:
        """Send a request and read all of the answer."""
        async with Client(self.address) as client:
            fields = [("Authorization", f"Bearer {key}"), ("Content-Type", "application/json")]
            return await client.request("POST", _PATH, fields, body)

    async def counted(self) -> str:
        """Read the metrics."""
        async with Client(self.metrics) as client:
            return (await client.get("/metrics")).text


@asynccontextmanager
async def _gateway(
    directory: Path, monkeypatch: pytest.MonkeyPatch, tokens: int = 1000, timeout: float = 10.0
) -> AsyncIterator[Gateway]:
    monkeypatch.setenv("FIRST_KEY", "first-secret")
    monkeypatch.setenv("KEY_2", "second-secret")
    async with ScriptedOrigin() as first, ScriptedOrigin() as second:
        gateway = Gateway(first, second)
        conf = directory / "gateway.yaml"
        conf.write_text(gateway.configuration(tokens, timeout))
        script = str(ROOT / "examples" / "llm_gateway.py")
        async with ServerProcess(script, "-c", str(conf)) as server:
            await server.running()
            yield gateway
            server.send(signal.SIGTERM)
            assert await server.wait() == 0


async def test_tokens_pass_as_they_come_and_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first event arrives while the second is not yet said; the usage at the end is charged."""
    async with _gateway(tmp_path, monkeypatch) as gateway:
        gate = asyncio.Event()
        events = [
            b'data: {"choices": [{"delta": {"content": "Hi \\"total_tokens\\": 9"}}]}\n\n',
            b'data: {"choices": [], "usage": {"total_tokens": 42}}\n\ndata: [DONE]\n\n',
        ]
        gateway.first.on(_PATH, stream(events, _EVENT, gate=gate))
        async with await RawClient.connect(gateway.address) as client:
            head = b"POST %b HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a-key\r\n"
            head += b"Cookie: a=b\r\nAccept-Encoding: gzip\r\n"
            head += b"Content-Length: %d\r\n\r\n%b"
            await client.send(head % (_PATH.encode(), len(_ASKED), _ASKED))
            assert " 200 " in (await client.read_head()).start_line
            received = b""
            while events[0] not in received:
                received += await client.receive()
            assert b"usage" not in received
            gate.set()
            while b"[DONE]" not in received:
                received += await client.receive()

        request = gateway.first.requests[0]
        assert request.body == _ASKED
        assert request.header.get("authorization") == "Bearer first-secret"
        assert request.header.get("accept-encoding") == "identity"
        assert request.header.get("cookie") is None
        assert request.header.get("host") == gateway.first.address
        counted = await gateway.counted()
        assert 'llm_tokens_total{client="a"} 42' in counted
        assert "gen_ai_server_time_to_first_token_seconds_count 1" in counted


async def test_a_budget_that_is_spent_is_429(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next request of that client is refused and told when to come again; others are not."""
    async with _gateway(tmp_path, monkeypatch, tokens=100) as gateway:
        gateway.first.on(_PATH, reply(200, b'{"usage": {"total_tokens": 150}}'), reply(200, b"x"))
        assert (await gateway.ask()).status == 200
        refused = await gateway.ask()
        assert refused.status == 429
        assert 0 < int(refused.header.get("retry-after") or 0) <= 7200
        assert "used up" in json.loads(refused.text)["detail"]
        assert (await gateway.ask("b-key")).status == 200
        assert len(gateway.first.requests) == 2
        # No usage was told: a token for every four bytes of question and answer.
        assert f'client="b"}} {(len(_ASKED) + 1) // 4}' in await gateway.counted()


async def test_the_second_provider_answers_for_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the first byte: after a 500, a 429, a 401, a reset; with its own key and all of the body."""
    async with _gateway(tmp_path, monkeypatch, tokens=10**7) as gateway:
        gateway.first.on(
            _PATH, reply(500), reply(429), reply(401), reset, cut_off(b"half", 9), reply(503)
        )
        gateway.second.on(_PATH, reply(200, b"second"))
        long = json.dumps({"model": "small", "messages": ["x" * 1_000_000]}).encode()
        for body in (_ASKED, long, _ASKED, _ASKED):
            assert (await gateway.ask(body=body)).text == "second"
            request = gateway.second.requests[-1]
            assert request.header.get("authorization") == "Bearer second-secret"
            assert request.body == body
        with pytest.raises(Exception, match=r"Closed|Premature|PREMATURE"):
            await gateway.ask()  # what has begun is not begun again
        assert len(gateway.second.requests) == 4

        # What providers refuse is not charged, and the last answer counts.
        before = await gateway.counted()
        gateway.first.on(_PATH, reply(503))
        gateway.second.on(_PATH, reply(400, b"broken"), reset)
        assert (await gateway.ask()).text == "broken"
        assert (await gateway.ask()).status == 503
        assert _tokens(await gateway.counted()) == _tokens(before)

        # Nobody is there at all.
        await gateway.first.__aexit__(None, None, None)
        gateway.second.on(_PATH, reply(200, b"second"))
        assert (await gateway.ask()).text == "second"


async def test_a_provider_that_says_nothing_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the time for the first token is over, the other one is asked."""
    async with _gateway(tmp_path, monkeypatch, timeout=1.0) as gateway:
        gateway.first.on(_PATH, hang)
        gateway.second.on(_PATH, reply(200, b"second"))
        assert (await gateway.ask()).text == "second"


async def test_a_client_that_leaves_pays_for_what_has_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider is told to stop, and the tokens of question and answer so far are estimated."""
    async with _gateway(tmp_path, monkeypatch) as gateway:
        gone = asyncio.Event()

        async def step(session: ServerSession) -> None:
            await session.write_response_header(ResponseHeader(200, headers=_EVENT))
            await session.write_response_body(b'data: {"choices": []}\r\n\r\n' * 5)
            session.watch_disconnect(gone.set)
            await gone.wait()
            session.shutdown()

        gateway.first.on(_PATH, step)
        async with await RawClient.connect(gateway.address) as client:
            head = b"POST %b HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a-key\r\n"
            head += b"Content-Length: %d\r\n\r\n%b"
            await client.send(head % (_PATH.encode(), len(_ASKED), _ASKED))
            received = b""
            while received.count(b"data:") < 5:
                received += await client.receive()
        await eventually(gone.is_set)
        counted = 0
        for _ in range(500):
            counted = _tokens(await gateway.counted())
            if counted:
                break
            await asyncio.sleep(0.02)
        assert counted == len(_ASKED) // 4 + 5


async def test_who_is_refused_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown keys, models and paths, what is no JSON, and what is too long."""
    async with _gateway(tmp_path, monkeypatch) as gateway:
        unknown = await gateway.ask("c-key")
        assert (unknown.status, unknown.header.get("www-authenticate")) == (401, "Bearer")
        assert (await gateway.ask(body=b"[")).status == 404
        assert (await gateway.ask(body=b'{"messages": []}')).status == 404
        assert (await gateway.ask(body=b'{"model": "huge"}')).status == 404
        assert (await gateway.ask(body=b" " * (9 << 20))).status == 413
        async with Client(gateway.address) as client:
            fields = [("Authorization", "Bearer a-key")]
            for path in ("/v1/files", "/v1/organization/admin_api_keys"):
                assert (await client.request("POST", path, fields, _ASKED)).status == 404
        assert not gateway.first.requests
        assert not gateway.second.requests


def _tokens(metrics: str) -> int:
    found = re.search(r'llm_tokens_total\{client="a"\} (\d+)', metrics)
    return 0 if found is None else int(found[1])
