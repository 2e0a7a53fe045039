"""Every ending of a request is in the access log, and nothing secret is."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING

import pytest

from pingora_core.apps.http_app import HttpServerOptions
from pingora_core.apps.load_shedding import LoadShedder
from pingora_core.metrics import Registry
from pingora_core.runtime.log_sinks import FileSink, LogQueue
from pingora_proxy.access_log import AccessLog
from pingora_proxy.metrics import ProxyMetrics
from pingora_proxy.testing import ScriptedOrigin, hang, reply
from tests.support.client import RawClient
from tests.support.h2client import RawH2Client
from tests.support.h2wire import Code
from tests.support.proxy import BareProxy, RunningProxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from pingora_proxy import Session


class Routed(BareProxy):
    """Names its routes, and fails on demand."""

    async def request_filter(self, session: Session, ctx: None) -> bool:
        session.route = "/things/{id}"
        if session.req_header.path == "/bug":
            msg = "on purpose"
            raise RuntimeError(msg)
        return False


async def _raw(address: str, data: bytes) -> int:
    async with await RawClient.connect(address) as client:
        await client.send(data)
        return (await client.read_response()).status


def _get(target: str, fields: str = "") -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n".encode("latin-1")


def _lines(log_file: Path) -> list[str]:
    return log_file.read_text().splitlines()


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    """Where the lines go."""
    return tmp_path / "access.log"


async def test_every_ending_has_a_line(log_file: Path) -> None:
    """Answered, refused by a callback, malformed, failed upstream, left by the client."""
    log = AccessLog(LogQueue(FileSink(log_file)), headers=["User-Agent", "Cookie"])
    async with ScriptedOrigin() as origin:
        origin.on("/things", reply(200, b"hello"))
        origin.on("/hang", hang)
        proxy = RunningProxy(Routed(origin.address), observers=[log])
        async with proxy:
            fields = "User-Agent: me\r\nCookie: id=1\r\n"
            query = "?q=1&token=abc&Token=x&flag"
            assert await _raw(proxy.address, _get(f"/things{query}", fields)) == 200
            assert await _raw(proxy.address, _get("/bug")) == 500
            assert await _raw(proxy.address, b"GET / HTTP/1.1\r\nbad line\r\n\r\n") == 400
            async with await RawClient.connect(proxy.address) as client:
                await client.send(_get("/hang"))
                await eventually(lambda: len(origin.requests) == 2)
            await eventually(lambda: log.queue.written + log.queue.waiting >= 4)
    log.close()
    lines = [json.loads(line) for line in _lines(log_file)]
    assert [line["status"] for line in lines] == [200, 500, 400, 0]

    served, bug, malformed, left = lines
    assert served["query"] == "q=1&token=***&Token=***&flag"
    assert (served["method"], served["path"], served["host"]) == ("GET", "/things", "a.test")
    assert (served["user_agent"], served["cookie"]) == ("me", "***")
    assert (served["route"], served["protocol"]) == ("/things/{id}", "HTTP/1.1")
    assert (served["request_bytes"], served["response_bytes"]) == (0, 5)
    assert served["upstream"]["status"] == 200
    assert served["upstream"]["address"] == origin.address
    assert 0 <= served["upstream"]["wait"] <= served["upstream"]["duration"] <= served["duration"]
    assert served["client"].startswith("127.0.0.1:")
    assert "abc" not in "".join(_lines(log_file))

    assert bug["phase"] == "request_filter"
    assert "RuntimeError in request_filter" in bug["error"]
    assert (malformed["method"], malformed["path"]) == ("-", "-")
    assert left["error_type"] == "ConnectionClosed"


async def test_what_is_malformed_in_http2_has_a_line(log_file: Path) -> None:
    """It is answered by a reset alone, and told as any other request that could not be read."""
    registry = Registry()
    log = AccessLog(LogQueue(FileSink(log_file)))
    options = HttpServerOptions(h2c=True)
    async with (
        RunningProxy(
            BareProxy("127.0.0.1:9"),
            server_options=options,
            observers=[log, ProxyMetrics(registry)],
        ) as proxy,
        await RawH2Client.connect(proxy.address) as client,
    ):
        names = [b":method", b":scheme", b":authority", b":path"]
        head = list(zip(names, [b"GET", b"http", b"a.test", b"/a b"], strict=True))
        for _ in range(2):
            stream_id = await client.send_fields(head)
            assert (await client.response(stream_id)).reset == Code.PROTOCOL_ERROR
        await eventually(lambda: log.queue.written + log.queue.waiting == 2)
    log.close()
    for line in map(json.loads, _lines(log_file)):
        assert (line["method"], line["path"], line["protocol"]) == ("-", "-", "HTTP/2.0")
        assert (line["status"], line["error_type"]) == (0, "ConnectionClosed")
        assert ":path" in line["error"]
    durations = registry.collect()["http_server_request_duration_seconds"].series
    assert [sum(numbers[:-1]) for numbers in durations.values()] == [2]


async def test_the_combined_format_is_what_tools_expect(log_file: Path) -> None:
    """Quotes and control bytes of a client cannot make fields or lines of their own."""
    log = AccessLog(LogQueue(FileSink(log_file)), format="combined")
    async with ScriptedOrigin() as origin:
        origin.on("*", reply(200, b"hello"))
        async with RunningProxy(BareProxy(origin.address), observers=[log]) as proxy:
            fields = 'User-Agent: a"b\\ \xe9\r\nReferer: http://r.test/\r\n'
            await _raw(proxy.address, _get("/x?key=1", fields))
    log.close()
    (line,) = _lines(log_file)
    assert line.startswith("127.0.0.1 - - [")
    assert ' +0000] "GET /x?key=*** HTTP/1.1" 200 5 "http://r.test/" ' in line
    assert line.endswith('"a\\x22b\\x5c \\xe9"')


async def test_a_sample_has_all_failures(log_file: Path) -> None:
    """Of what went well a share is logged, of the rest everything."""
    chosen = iter([0.9, 0.4])
    log = AccessLog(LogQueue(FileSink(log_file)), sample=0.5, choose=lambda: next(chosen))
    async with ScriptedOrigin() as origin:
        origin.on("/ok", reply(200))
        origin.on("/bad", reply(503))
        async with RunningProxy(BareProxy(origin.address), observers=[log]) as proxy:
            for target in ("/ok", "/bad", "/ok"):
                await _raw(proxy.address, _get(target))
            # Failed, though not with a 5xx.
            assert await _raw(proxy.address, b"GET / HTTP/1.1\r\nbad line\r\n\r\n") == 400
    log.close()
    lines = [json.loads(line) for line in _lines(log_file)]
    assert [line["path"] for line in lines] == ["/bad", "/ok", "-"]


async def test_a_log_that_cannot_be_written_does_not_touch_traffic() -> None:
    """The disk is full: requests are answered, lines are counted."""
    log = AccessLog(LogQueue(FileSink("/dev/full")))
    async with ScriptedOrigin() as origin:
        origin.on("*", reply(200))
        async with RunningProxy(BareProxy(origin.address), observers=[log]) as proxy:
            for _ in range(3):
                assert await _raw(proxy.address, _get("/")) == 200
    log.close()
    assert log.queue.dropped == 3


def test_a_share_is_a_share() -> None:
    """Anything else is told at once."""
    with pytest.raises(ValueError, match="between 0 and 1"):
        AccessLog(LogQueue(FileSink("/dev/null")), sample=2)


async def test_no_secret_is_in_a_line_wherever_a_url_is(
    log_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the target, in Referer, in what the upstream answers; and no line is as long as a head."""
    names = ("Location", "Set-Cookie")
    both = [
        AccessLog(LogQueue(FileSink(log_file)), response_headers=names),
        AccessLog(LogQueue(FileSink(log_file.with_suffix(".combined"))), format="combined"),
    ]
    location = ("Location", "https://a.test/#access_token=hunter2")
    answer = reply(302, headers=[location, ("Set-Cookie", "id=hunter2")])
    async with ScriptedOrigin() as origin:
        origin.on("*", answer)
        async with RunningProxy(BareProxy(origin.address), observers=both) as proxy:
            referer = "Referer: https://me:hunter2@b.test/?%74oken=hunter2\r\n"
            await _raw(proxy.address, _get("/x?user[password]=hunter2", referer))
            await _raw(proxy.address, _get("http://me:hunter2@a.test/x?a=1;sig=hunter2"))
            await _raw(proxy.address, _get("/" + "y" * 20_000, f"User-Agent: {'z' * 20_000}\r\n"))
    texts = ["\n".join(_lines(file)) for file in (log_file, log_file.with_suffix(".combined"))]
    assert [text.count("\n") for text in texts] == [2, 2]
    texts += [record.getMessage() for record in caplog.records]
    assert len(texts) == 4
    assert "hunter2" not in "".join(texts)
    assert max(len(line) for text in texts for line in text.splitlines()) < 10_000
    first = json.loads(_lines(log_file)[0])
    assert first["referer"] == "https://***@b.test/?%74oken=***"
    assert first["response_location"] == "https://a.test/#access_token=***"
    assert first["response_set_cookie"] == "***"


async def test_an_error_that_cannot_be_encoded_has_a_line(
    log_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an exception says may be anything."""
    # A report with such a text cannot be sent from one process of pytest to another.
    monkeypatch.setattr(logging.getLogger("pingora_proxy.proxy"), "disabled", True)

    class Odd(BareProxy):
        async def request_filter(self, session: Session, ctx: None) -> bool:
            raise RuntimeError("\udcff\n")

    log = AccessLog(LogQueue(FileSink(log_file)))
    async with RunningProxy(Odd("127.0.0.1:1"), observers=[log]) as proxy:
        assert await _raw(proxy.address, _get("/")) == 500
    (line,) = _lines(log_file)
    assert "\\udcff" in json.loads(line)["error"]


async def test_a_request_that_is_too_many_has_a_line(log_file: Path) -> None:
    """What the load shedder refuses is answered, logged and counted as anything else."""
    log = AccessLog(LogQueue(FileSink(log_file)))
    registry = Registry()
    async with ScriptedOrigin() as origin:
        origin.on("/hang", hang)
        proxy = RunningProxy(BareProxy(origin.address), observers=[log, ProxyMetrics(registry)])
        proxy.service.app_logic.load_shedder = LoadShedder(1)
        async with proxy:
            async with await RawClient.connect(proxy.address) as client:
                await client.send(_get("/hang"))
                await eventually(lambda: origin.requests)
                assert await _raw(proxy.address, _get("/refused")) == 503
            await eventually(lambda: log.queue.written + log.queue.waiting == 2)
    refused, left = [json.loads(line) for line in _lines(log_file)]
    assert (refused["path"], refused["status"]) == ("/refused", 503)
    assert (left["path"], left["status"]) == ("/hang", 0)
    counted = registry.collect()["http_server_request_duration_seconds"].series
    assert sum(counted["GET", "503", "", "http", "503"][:-1]) == 1
    assert registry.collect()["http_server_active_requests"].series == {(): [0.0]}


async def test_what_goes_through_a_tunnel_is_counted(log_file: Path) -> None:
    """After a 101 too: in both directions, and the line comes at its end."""

    async def echo_twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
        )
        writer.write(2 * await reader.readexactly(5))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    log = AccessLog(LogQueue(FileSink(log_file)))
    upstream = await asyncio.start_server(echo_twice, "127.0.0.1", 0)
    host, port = upstream.sockets[0].getsockname()
    async with (
        upstream,
        RunningProxy(BareProxy(f"{host}:{port}"), observers=[log]) as proxy,
        await RawClient.connect(proxy.address) as client,
    ):
        await client.send(_get("/up", "Connection: Upgrade\r\nUpgrade: x\r\n"))
        assert (await client.read_response()).status == 101
        await client.send(b"hello")
        await eventually(lambda: log.queue.written + log.queue.waiting)
    (line,) = (json.loads(line) for line in _lines(log_file))
    assert (line["status"], line["request_bytes"], line["response_bytes"]) == (101, 5, 10)
