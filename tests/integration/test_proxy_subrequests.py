"""Requests that the proxy makes to itself, and modules on the upstream's side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_core.modules import HttpModule, HttpModuleBuilder
from pingora_core.protocols.digest import Digest
from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_http import RequestHeader
from pingora_proxy import SubrequestSpawner
from tests.support.origin_steps import hang, reply
from tests.support.proxy import RigProxy, RunningProxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pingora_core.modules import HttpModules
    from pingora_core.protocols.address import SocketAddress
    from pingora_core.protocols.http.server import ServerSession
    from pingora_core.runtime.shutdown import ShutdownWatch
    from pingora_http import ResponseHeader
    from pingora_proxy import Session
    from tests.support.origin import Exchange, Origin
    from tests.support.proxy import RigContext


class Refreshing(RigProxy):
    """Sends every request once more, in the background."""

    def __init__(self, origin: Origin) -> None:
        super().__init__(origin)
        self.subrequests: list[bool] = []

    async def allow_spawning_subrequest(self, session: Session, ctx: RigContext) -> bool:
        self.subrequests.append(session.is_subrequest)
        return not session.is_subrequest

    async def request_filter(self, session: Session, ctx: RigContext) -> bool:
        spawner = session.subrequest_spawner
        if spawner is not None:
            assert spawner.spawn_background_subrequest(session)
        return False


async def test_a_background_subrequest_runs_all_phases(origin: Origin) -> None:
    """It reaches the upstream without the body, is logged, and its response goes nowhere."""
    origin.handler = reply(body=b"ok")
    app = Refreshing(origin)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        response = await client.request("POST", "/a", [("X-A", "1")], b"body")
        await app.ended(2)

    assert response.body == b"ok"
    assert app.subrequests == [False, True]
    sizes = sorted(str(request.get("content-length")) for request in origin.requests)
    assert sizes == ["4", "None"]
    assert {request.get("x-a") for request in origin.requests} == {"1"}
    assert {ending.status for ending in app.endings} == {200}


async def _answer_clients_only(exchange: Exchange) -> None:
    if exchange.request.get("content-length"):
        await reply(body=b"ok")(exchange)
    else:
        await hang(exchange)


async def test_subrequests_end_with_the_service(origin: Origin) -> None:
    """One that still runs at the end of the service is broken off."""
    origin.handler = _answer_clients_only
    app = Refreshing(origin)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        await client.request("POST", "/", (), b"body")
        await origin.requests_arrived(2)
    await origin.all_closed()

    assert len(app.endings) == 1


class _Parent:
    """What a subrequest takes over from its request."""

    def __init__(self, shutdown_watch: ShutdownWatch) -> None:
        self.req_header = RequestHeader("GET", "/")
        self.client_addr: SocketAddress | None = None
        self.server_addr: SocketAddress | None = None
        self.digest = Digest()
        self.shutdown_watch = shutdown_watch


async def test_subrequests_are_bounded() -> None:
    """Beyond the limit none is started; a failing one makes room again."""
    done: list[ServerSession] = []

    async def process(session: ServerSession, shutdown: ShutdownWatch, subrequest: object) -> bool:
        done.append(session)
        raise RuntimeError("on purpose")

    spawner = SubrequestSpawner(process, max_running=1)
    parent = _Parent(ShutdownSwitch().watch)

    assert spawner.spawn_background_subrequest(parent)
    assert not spawner.spawn_background_subrequest(parent)
    await eventually(lambda: spawner.running == 0, "the end of the subrequest")
    assert spawner.spawn_background_subrequest(parent)
    await spawner.close()
    assert len(done) == 1


class _Shout(HttpModule):
    """Makes the body upper case."""

    active = True

    async def response_header_filter(self, response: ResponseHeader, end: bool) -> None:
        if self.active:
            response.insert_header("x-shouted", "yes")

    def response_body_filter(self, body: bytes | None, end: bool) -> bytes | None:
        return body.upper() if body and self.active else body


class _ShoutBuilder(HttpModuleBuilder):
    module_type = _Shout

    def init(self) -> _Shout:
        return _Shout()


class Shouting(RigProxy):
    """Has an upstream module, and looks at what it did from the upstream's filter."""

    seen: str | None = None

    def init_upstream_modules(self, modules: HttpModules) -> None:
        modules.add_module(_ShoutBuilder())

    async def adjust_upstream_modules(
        self,
        session: Session,
        upstream_response: ResponseHeader,
        end_of_stream: bool,
        ctx: RigContext,
    ) -> None:
        session.upstream_modules_ctx[_Shout].active = upstream_response.get("x-quiet") is None

    async def upstream_response_filter(
        self, session: Session, upstream_response: ResponseHeader, ctx: RigContext
    ) -> None:
        self.seen = upstream_response.get("x-shouted")


async def test_upstream_modules_come_before_the_upstream_filters(origin: Origin) -> None:
    """They change heads and bodies as they come in; the callback tunes them per response."""
    app = Shouting(origin)
    async with RunningProxy(app) as proxy, await proxy.connect() as client:
        origin.handler = reply(body=b"loud")
        loud = await client.request("GET", "/")
        seen = app.seen
        origin.handler = reply(body=b"quiet", fields=[("X-Quiet", "1")])
        quiet = await client.request("GET", "/")

    assert (loud.body, seen) == (b"LOUD", "yes")
    assert (quiet.body, app.seen) == (b"quiet", None)
