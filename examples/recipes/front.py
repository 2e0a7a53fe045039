"""The front of a site: the client's address behind a balancer, compression, limits of size and time.

Run it, and ask it::

    python examples/recipes/front.py 127.0.0.1:8001 --trust 127.0.0.1
    curl -i --compressed -H 'X-Forwarded-For: 203.0.113.9' 127.0.0.1:6188/
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pingora_core import HttpPeer, Opt, Server
from pingora_core.apps import HttpServerOptions
from pingora_core.modules import (
    ForwardedBuilder,
    ForwardedPolicy,
    ResponseCompression,
    ResponseCompressionBuilder,
)
from pingora_core.modules.rate_limit_keys import by_client
from pingora_core.protocols.http.v1.server import Http1Options
from pingora_proxy import ProxyHttp, Session, http_proxy_service

if TYPE_CHECKING:
    from pingora_core.modules import HttpModules

# --8<-- [start:options]
OPTIONS = HttpServerOptions(
    keepalive_request_limit=1000,
    http1=Http1Options(
        header_timeout=10.0,  # seconds for a whole request head
        keepalive_timeout=75.0,
        max_body_size=10 << 20,  # more is answered with 413
    ),
)
# --8<-- [end:options]


class Front(ProxyHttp[None]):
    """Knows who asks, and answers in less bytes."""

    def __init__(self, upstream: str, trusted: list[str]) -> None:
        # --8<-- [start:peer]
        self.peer = HttpPeer(upstream)
        self.peer.options.connection_timeout = 2.0  # for each step: DNS and TCP, TLS
        self.peer.options.read_timeout = 30.0  # for each further piece of a response
        # --8<-- [end:peer]
        self.trusted = trusted
        self.client_of = by_client(trusted=trusted)

    # --8<-- [start:modules]
    def init_downstream_modules(self, modules: HttpModules) -> None:
        modules.add_module(ForwardedBuilder(ForwardedPolicy(self.trusted)))
        modules.add_module(ResponseCompressionBuilder(level=5))

    # --8<-- [end:modules]

    def new_ctx(self) -> None:
        return None

    # --8<-- [start:client]
    async def request_filter(self, session: Session, ctx: None) -> bool:
        client = self.client_of(session.downstream_session)
        if client == "203.0.113.66":
            return await session.respond_problem(403, "not for this address")
        return False

    # --8<-- [end:client]

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        return self.peer


class Choosy(Front):
    """Compresses what is worth it only."""

    def init_downstream_modules(self, modules: HttpModules) -> None:
        modules.add_module(ResponseCompressionBuilder(level=0))

    async def request_filter(self, session: Session, ctx: None) -> bool:
        if session.req_header.path.startswith("/reports/"):
            # --8<-- [start:level]
            session.downstream_modules_ctx[ResponseCompression].adjust_level(5)
            # --8<-- [end:level]
        return await super().request_filter(session, ctx)


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("The front of a site.")
    parser.add_argument("upstream", metavar="ADDRESS")
    parser.add_argument("--listen", default="127.0.0.1:6188", metavar="ADDRESS")
    parser.add_argument("--trust", nargs="*", default=[], metavar="NETWORK")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    server = Server(Opt.from_namespace(args))
    front = Front(args.upstream, args.trust)
    service = http_proxy_service(server.configuration, front, server_options=OPTIONS)
    service.add_tcp(args.listen)
    server.add_service(service)
    server.run_forever()


if __name__ == "__main__":
    main()
