r"""A proxy whose routes are changed over REST, in place of JupyterHub's configurable-http-proxy.

Whoever knows the token says where paths lead; the longest prefix counts, WebSockets included::

    CONFIGPROXY_AUTH_TOKEN=secret python examples/hub_proxy.py --default-target http://127.0.0.1:8081
    curl 127.0.0.1:8001/api/routes/user/alice -H 'Authorization: token secret' \
        -d '{"target": "http://127.0.0.1:9001", "user": "alice"}'
    curl 127.0.0.1:8000/user/alice/lab
    curl '127.0.0.1:8001/api/routes?inactive_since=2030-01-01' -H 'Authorization: token secret'

JupyterHub starts it with ``c.ConfigurableHTTPProxy.command = ["python", "examples/hub_proxy.py"]``,
and fills the table, which is in this process alone, whenever it is empty.
"""

from __future__ import annotations

import hmac
import logging
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qs

from msgspec import MsgspecError, json

from pingora_core import HttpPeer, HttpServer, Opt, Response, ServeHttp, Server, ServerSession
from pingora_core.modules import ForwardedBuilder, ForwardedPolicy, HttpModules
from pingora_core.services.listening import Service
from pingora_error import Error
from pingora_proxy import ProxyHttp, Session, http_proxy_service
from pingora_proxy.path_prefixes import PathPrefixes


class Route:
    """What was posted, where that leads, and when somebody was last answered there."""

    def __init__(self, data: dict[str, object]) -> None:
        self.peer = HttpPeer.from_url(str(data.get("target")))
        self.peer.options.read_timeout = 3600.0  # cells may run for long
        self.data = data
        self.touch()

    def touch(self) -> None:
        self.active = self.data["last_activity"] = datetime.now(UTC)


@dataclass
class Api(ServeHttp):
    """The REST interface."""

    routes: PathPrefixes[Route]
    token: bytes

    async def response(self, session: ServerSession) -> Response:
        if not hmac.compare_digest(session.request.get_raw(b"authorization") or b"", self.token):
            return Response(403)
        root, _, prefix = session.request.path.partition("/api/routes")
        if root or prefix[:1] not in {"", "/"}:
            return Response(404)
        try:
            return await self.answer(session, prefix)
        except (MsgspecError, ValueError) as error:
            return Response(400, str(error).encode())

    async def answer(self, session: ServerSession, prefix: str) -> Response:
        routes, asked = self.routes, parse_qs(session.request.query or "")
        match session.request.method:
            case "GET" if prefix in {"", "/"}:
                since = asked.get("inactive_since") or asked.get("inactiveSince") or ["9999-12-30"]
                until = datetime.fromisoformat(since[0]).astimezone(UTC)
                found = {at: route.data for at, route in routes.items() if route.active < until}
                return Response.json(200, found)
            case "POST":
                body = await session.read_whole_body(65536)
                routes[prefix] = Route(json.decode(body, type=dict[str, object]))
                return Response(201)
            case "GET" | "DELETE" if prefix not in routes:
                return Response(404)
            case "GET":
                return Response.json(200, routes[prefix].data)
            case "DELETE":
                del routes[prefix]
                return Response(204)
            case _:
                return Response(405)


@dataclass(eq=False)
class Hub(ProxyHttp[list[Route]]):
    """Sends requests where their route leads; their context has it."""

    routes: PathPrefixes[Route]
    by_host: bool
    trusted: list[str]

    def init_downstream_modules(self, modules: HttpModules) -> None:
        modules.add_module(ForwardedBuilder(ForwardedPolicy(self.trusted)))

    def new_ctx(self) -> list[Route]:
        return []

    async def request_filter(self, session: Session, ctx: list[Route]) -> bool:
        request = session.req_header
        if request.path == "/_chp_healthz":
            return await session.respond(Response.json(200, {"status": "OK"}))
        host = (request.authority or request.get("host") or "").partition(":")[0]
        route = self.routes.longest(f"/{host}{request.path}" if self.by_host else request.path)
        if route is None:
            return await session.respond_problem(404, "there is no route")
        ctx.append(route)
        return False

    async def upstream_peer(self, session: Session, ctx: list[Route]) -> HttpPeer:
        return ctx[0].peer

    async def logging(self, session: Session, error: Error | None, ctx: list[Route]) -> None:
        if ctx and session.response_written and session.response_written.status < 300:
            ctx[0].touch()  # also at the end of a WebSocket; not by what has failed


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("A proxy with a route table.")
    parser.add_argument("--ip", default="127.0.0.1")
    parser.add_argument("--port", default="8000")
    parser.add_argument("--api-ip", default="127.0.0.1")
    parser.add_argument("--api-port", default="8001")
    parser.add_argument("--default-target", metavar="URL", help="where everything else goes")
    parser.add_argument("--error-target", metavar="URL", help="accepted, without effect")
    parser.add_argument("--host-routing", action="store_true", help="prefixes begin with a host")
    parser.add_argument("--trust", action="append", default=[], help="whose X-Forwarded-* to keep")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    server = Server(Opt.from_namespace(args))
    token = os.environ.get("CONFIGPROXY_AUTH_TOKEN") or os.urandom(16).hex()  # nobody's
    routes = PathPrefixes[Route]()
    if args.default_target:
        routes["/"] = Route({"target": args.default_target})
    proxy = http_proxy_service(server.configuration, Hub(routes, args.host_routing, args.trust))
    proxy.add_tcp(f"{args.ip or '[::]'}:{args.port}")
    api = Service("API", HttpServer(Api(routes, f"token {token}".encode())))
    api.add_tcp(f"{args.api_ip}:{args.api_port}")
    for service in (proxy, api):
        server.add_service(service)
    server.run_forever()


if __name__ == "__main__":
    main()
