"""A test suite that needs pingora-proxy's testing kit, and an ASGI application in a service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_core import HttpPeer
from pingora_proxy import ProxyHttp
from pingora_proxy.asgi import AsgiApplication, AsgiOptions, asgi_service
from pingora_proxy.testing import (
    Client,
    RunningService,
    ScriptedOrigin,
    make_session,
    record_phases,
    reply,
)

if TYPE_CHECKING:
    from pingora_proxy import Session
    from pingora_proxy.asgi import Receive, Scope, Send
    from pingora_proxy.testing import (
        FakeSession,
        RunningProxy,
    )
    from pingora_proxy.testing.pytest_plugin import StartProxy


class Gate(ProxyHttp[int]):
    """Sends everything to one place."""

    def new_ctx(self) -> int:
        """Count from zero."""
        return 0

    async def upstream_peer(self, session: Session, ctx: int) -> HttpPeer:
        """Go there."""
        return HttpPeer("127.0.0.1:1")


async def test_one_callback() -> None:
    """What was sent has a status and a text."""
    session: FakeSession = make_session("GET", "/")
    await Gate().request_filter(session, 0)
    text: str = "" if session.sent is None else session.sent.text
    assert text == ""


async def test_all(start_proxy: StartProxy) -> None:
    """A proxy keeps the type of its context."""
    app = Gate()
    phases: list[str] = record_phases(app)
    async with ScriptedOrigin() as origin, Client(HttpPeer(origin.address)) as client:
        origin.expect("/", reply(204))
        status: int = (await client.get()).status
    proxy: RunningProxy[int] = await start_proxy(app)
    assert (status, phases, proxy.app) == (204, [], app)


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer nothing."""


async def test_an_application() -> None:
    """A service of an application is a service like any other."""
    options = AsgiOptions(response_timeout=1.0)
    async with RunningService(asgi_service(answer, options=options)) as running:
        address: str = running.address
    failures: int = AsgiApplication(answer, options=options).failures
    assert (bool(address), failures) == (True, 0)
