r"""A gateway for servers of the Model Context Protocol (streamable HTTP): sessions stay where they are.

The servers are in a file, which may change at any time; of clients' keys it knows the SHA-256::

    echo '[127.0.0.1:8001, 127.0.0.1:8002]' > servers.yaml
    python examples/mcp_gateway.py servers.yaml --client alice=$(printf %s secret | sha256sum | cut -c1-64)
    curl -i 127.0.0.1:6188/mcp -H 'Authorization: Bearer secret' -H 'Content-Type: application/json' \
        -H 'Accept: application/json, text/event-stream' -d '{"method": "initialize", ...}'

A session's id names server and client, signed with ``MCP_GATEWAY_SECRET``: there is no table to lose.
Servers with ``weight: 0`` keep their sessions; of one that left the file clients begin anew (404).
"""

from __future__ import annotations

import hmac
import logging
import os
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256

from pingora_core import HttpPeer, Opt, Server, TcpKeepalive
from pingora_core.services import background_service
from pingora_error import Error, HTTPStatus
from pingora_http import RequestHeader, ResponseHeader
from pingora_load_balancing import Backend, LoadBalancer, Sticky, sticky_token
from pingora_load_balancing.discovery import FileDiscovery
from pingora_proxy import ProxyHttp, Session, http_proxy_service
from pingora_proxy.bearer import BearerKeys

ID = "Mcp-Session-Id"


@dataclass(slots=True)
class Ctx:
    """One request: who asks, what the server calls the session, and where it goes."""

    client: str = ""
    session: str = ""
    server: Backend | None = None
    tried: set[Backend] = field(default_factory=set)  # could not be reached


@dataclass(eq=False)
class Gateway(ProxyHttp[Ctx]):
    """Knows clients by their keys, and servers by the ids of their sessions."""

    servers: LoadBalancer
    keys: BearerKeys
    origins: set[str]
    secret: bytes

    def new_ctx(self) -> Ctx:
        return Ctx()

    async def request_filter(self, session: Session, ctx: Ctx) -> bool:
        request = session.req_header
        origin = request.get("origin")
        if origin is not None and origin not in self.origins:
            return await session.respond_problem(403, f"pages of {origin} are not let in")
        if origin is not None and request.method == "OPTIONS":
            return False  # what pages may send is for the server to say
        ctx.client = self.keys.name_of(request) or ""
        if not ctx.client:
            return await session.respond_problem(401, "a key is needed", [self.keys.challenge])
        if (given := request.get(ID)) is not None:
            ctx.server, ctx.session = self.open(given, ctx.client)
            if ctx.server is None:
                return await session.respond_problem(404, "there is no such session (any more)")
        return False

    async def upstream_peer(self, session: Session, ctx: Ctx) -> HttpPeer:
        if not ctx.session:
            ctx.server = self.servers.select_with(
                b"", 256, lambda server, ready: ready and server not in ctx.tried
            )
        if ctx.server is None:
            raise Error(HTTPStatus(503), "no server is left")
        peer = HttpPeer(ctx.server)
        peer.options.read_timeout = None  # streams may be silent for hours: servers are probed
        peer.options.tcp_keepalive = TcpKeepalive(idle=60, interval=15, count=4)
        return peer

    async def fail_to_connect(
        self, session: Session, peer: HttpPeer, ctx: Ctx, error: Error
    ) -> Error:
        if not ctx.session and ctx.server is not None:
            ctx.tried.add(ctx.server)
            error.set_retry(True)
        return error

    async def upstream_request_filter(
        self, session: Session, upstream_request: RequestHeader, ctx: Ctx
    ) -> None:
        upstream_request.remove_header("Authorization")  # it is for the gateway
        upstream_request.insert_header("X-Client", ctx.client)
        if ctx.session:
            upstream_request.insert_header(ID, ctx.session)

    async def response_filter(
        self, session: Session, upstream_response: ResponseHeader, ctx: Ctx
    ) -> None:
        given = upstream_response.get(ID)
        if given is not None and ctx.server is not None:
            token = sticky_token(ctx.server, self.secret).decode()
            signed = f"{token}.{self.sign(ctx.client, token, given)}.{given}"
            upstream_response.insert_header(ID, signed)

    def open(self, given: str, client: str) -> tuple[Backend | None, str]:
        """Find the server of a session, and what that calls it."""
        token, _, rest = given.partition(".")
        signature, _, session = rest.partition(".")
        wanted = self.sign(client, token, session)
        if not hmac.compare_digest(signature.encode("latin-1"), wanted.encode()):
            return None, session
        key = token.encode()
        return self.servers.select_with(
            key, 1, lambda server, _: sticky_token(server, self.secret) == key
        ), session

    def sign(self, *parts: str) -> str:
        return hmac.new(self.secret, "\0".join(parts).encode(), sha256).hexdigest()[:32]


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("A gateway for MCP servers.")
    parser.add_argument("servers", nargs="?", default="servers.yaml", metavar="FILE")
    parser.add_argument("--client", action="append", default=[], metavar="NAME=SHA256")
    parser.add_argument("--origin", action="append", default=[], help="whose pages are let in")
    parser.add_argument("--listen", default="127.0.0.1:6188", metavar="ADDRESS")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    server = Server(Opt.from_namespace(args))
    secret = sha256(os.environb.get(b"MCP_GATEWAY_SECRET") or os.urandom(32)).digest()
    sticky = partial(Sticky, secret=secret, keep_drained=True)
    servers = LoadBalancer(discovery=FileDiscovery(args.servers, interval=0.25), selection=sticky)
    keys = BearerKeys(dict(client.split("=", 1)[::-1] for client in args.client))
    gateway = Gateway(servers, keys, set(args.origin), secret)
    service = http_proxy_service(server.configuration, gateway)
    service.add_tcp(args.listen)
    server.add_service(background_service("servers", servers))
    server.add_service(service)
    server.run_forever()


if __name__ == "__main__":
    main()
