"""Responses that a filter has made impossible to send."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pingora_core.connectors.http import Connector
from pingora_core.protocols.http.task import BodyTask, HeaderTask
from pingora_core.upstreams import HttpPeer
from pingora_http import RequestHeader
from pingora_proxy.observe import ProxyObserver
from tests.support.origin_steps import reply
from tests.support.proxy import BareProxy, RunningProxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pingora_error import Error
    from pingora_http import ResponseHeader
    from pingora_proxy import Session
    from tests.support.origin import Origin


class Watching(ProxyObserver):
    """Notes where requests failed, and how they were answered."""

    def __init__(self) -> None:
        self.ended: list[tuple[str | None, int | None]] = []

    def request_ended(self, session: Session, error: Error | None) -> None:
        failed_in = None if session.record is None else session.record.failed_in
        written = session.response_written
        self.ended.append((failed_in, None if written is None else written.status))


class _BadLength(BareProxy):
    """Spoils the length of what comes from the upstream, but not of error pages."""

    def __init__(self, origin: Origin, values: list[str]) -> None:
        super().__init__(origin)
        self.values = values

    async def upstream_response_filter(
        self, session: Session, upstream_response: ResponseHeader, ctx: None
    ) -> None:
        upstream_response.remove_header("Content-Length")
        for value in self.values:
            upstream_response.append_header("Content-Length", value)


@pytest.mark.parametrize("values", [["abc"], ["-1"], ["2", "2"]], ids=str)
async def test_a_length_that_cannot_be_sent_is_a_500(origin: Origin, values: list[str]) -> None:
    """The client gets an error page, not a connection that is closed without a word."""
    origin.handler = reply(body=b"ok")
    async with (
        RunningProxy(_BadLength(origin, values)) as proxy,
        await proxy.connect() as client,
    ):
        response = await client.request("GET", "/")

    assert response.status == 500


async def test_a_connector_serves_without_a_proxy(origin: Origin) -> None:
    """Its sessions can be used alone, and their connections are reused."""
    origin.handler = reply(body=b"ok")
    connector = Connector()
    peer = HttpPeer(origin.address)
    seen: list[tuple[bool, int, bytes | None]] = []
    for _ in range(2):
        session, reused = await connector.get_http_session(peer)
        session.send_request_header(RequestHeader("GET", "/", headers=[("Host", "a")]))
        session.finish_request_body()
        head = await session.read_task()
        body = await session.read_task()
        assert isinstance(head, HeaderTask)
        assert isinstance(body, BodyTask)
        assert body.end
        seen.append((reused, head.header.status, body.data))
        connector.release_http_session(session, peer)
    await connector.close()

    assert seen == [(False, 200, b"ok"), (True, 200, b"ok")]


async def test_a_context_that_cannot_be_made_is_a_500(
    origin: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    """Without one no callback can run; the client gets an answer and the log a line all the same."""

    class Fails(BareProxy):
        def new_ctx(self) -> None:
            raise RuntimeError("no context today")

    seen = Watching()
    running = RunningProxy(Fails(origin), observers=[seen])
    async with running as proxy, await proxy.connect() as client:
        response = await client.request("GET", "/")
        await eventually(lambda: seen.ended == [("new_ctx", 500)])

    assert response.status == 500
    assert "no context today" in caplog.text
    assert origin.requests == []
