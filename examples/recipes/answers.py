"""Answers that need no upstream: redirects, fixed pages, CORS.

Run it, and ask it::

    python examples/recipes/answers.py 127.0.0.1:8001
    curl -i 127.0.0.1:6188/old/page
    curl -i -H 'Host: www.example.com' 127.0.0.1:6188/
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pingora_core import HttpPeer, Opt, Response, Server
from pingora_proxy import ProxyHttp, Session, http_proxy_service

if TYPE_CHECKING:
    from pingora_http import ResponseHeader

ROBOTS = b"User-agent: *\nDisallow: /\n"
ORIGINS = frozenset({"https://app.example.com"})


class Site(ProxyHttp[None]):
    """Answers what it can by itself, and passes on the rest."""

    def __init__(self, upstream: str) -> None:
        self.peer = HttpPeer(upstream)

    def new_ctx(self) -> None:
        return None

    # --8<-- [start:answers]
    async def request_filter(self, session: Session, ctx: None) -> bool:
        request = session.req_header
        target = request.raw_path.decode("latin-1")  # path and query
        if (request.get("host") or "").startswith("www."):
            # A name of your own, never the one that was sent: a client may send any.
            return await redirect(session, 301, f"https://example.com{target}")
        if target.startswith("/old/"):
            return await redirect(session, 308, "/new/" + target.removeprefix("/old/"))
        if request.path == "/robots.txt":
            await session.respond(Response(200, ROBOTS, [("Content-Type", "text/plain")]))
            return True
        if request.path == "/version":
            await session.respond(Response.json(200, {"version": 7}))
            return True
        if request.path.startswith("/internal/"):
            return await session.respond_problem(403, "not from here")
        return await self.is_preflight(session)

    # --8<-- [end:answers]
    # --8<-- [start:cors]
    async def is_preflight(self, session: Session) -> bool:
        request = session.req_header
        if request.method != "OPTIONS" or not request.get("access-control-request-method"):
            return False
        allowed = [
            ("Access-Control-Allow-Methods", "GET, POST, DELETE"),
            ("Access-Control-Allow-Headers", "Authorization, Content-Type"),
            ("Access-Control-Max-Age", "600"),
        ]
        await session.respond(Response(204, b"", allowed))  # passes response_filter
        return True

    async def response_filter(
        self, session: Session, upstream_response: ResponseHeader, ctx: None
    ) -> None:
        origin = session.req_header.get("origin")
        upstream_response.append_header("Vary", "Origin")
        if origin in ORIGINS:
            upstream_response.insert_header("Access-Control-Allow-Origin", origin)

    # --8<-- [end:cors]

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        return self.peer


# --8<-- [start:redirect]
async def redirect(session: Session, status: int, location: str) -> bool:
    """Send the client elsewhere."""
    await session.respond(Response(status, b"", [("Location", location)]))
    return True


# --8<-- [end:redirect]


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("Answers without an upstream.")
    parser.add_argument("upstream", metavar="ADDRESS")
    parser.add_argument("--listen", default="127.0.0.1:6188", metavar="ADDRESS")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    server = Server(Opt.from_namespace(args))
    service = http_proxy_service(server.configuration, Site(args.upstream))
    service.add_tcp(args.listen)
    server.add_service(service)
    server.run_forever()


if __name__ == "__main__":
    main()
