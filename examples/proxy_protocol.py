"""A proxy that learns from a balancer in front who its clients are, and tells the origin.

Headers of the PROXY protocol are believed from the networks given, and one is sent to the
origin with ``--announce``. Two of these in a row::

    python examples/proxy_protocol.py 127.0.0.1:8000 --listen 127.0.0.1:6189 --trusted 127.0.0.0/8
    python examples/proxy_protocol.py 127.0.0.1:6189 --announce
    curl http://127.0.0.1:6188/
"""

from __future__ import annotations

import logging

from pingora_core import HttpPeer, Opt, Server
from pingora_core.listeners import ProxyProtocolSettings
from pingora_core.modules import ForwardedBuilder, HttpModules
from pingora_core.protocols.proxy_protocol import ProxyHeader
from pingora_proxy import ProxyHttp, Session, http_proxy_service


class Announcing(ProxyHttp[None]):
    """Passes requests on, and who they are from."""

    def __init__(self, origin: str, *, announce: bool) -> None:
        self.origin = origin
        self.announce = announce

    def new_ctx(self) -> None:
        return None

    def init_downstream_modules(self, modules: HttpModules) -> None:
        # X-Forwarded-For names the client that was announced, not the balancer.
        modules.add_module(ForwardedBuilder())

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        peer = HttpPeer(self.origin)
        if self.announce:
            peer.options.send_proxy_protocol = ProxyHeader.from_digest(session.digest)
            # Nobody but this client can use the connection again.
            peer.options.idle_timeout = 5.0
        return peer


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("A proxy that speaks the PROXY protocol on both sides.")
    parser.add_argument("origin", nargs="?", default="127.0.0.1:8000", help="address of the origin")
    parser.add_argument("--listen", default="127.0.0.1:6188", help="address to listen on")
    parser.add_argument("--trusted", nargs="*", help="networks of the balancers in front")
    parser.add_argument("--announce", action="store_true", help="tell the origin of each client")
    args = parser.parse_args()

    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args))
    app = Announcing(args.origin, announce=args.announce)
    proxy = http_proxy_service(server.configuration, app)
    trusted = ProxyProtocolSettings(args.trusted) if args.trusted else None
    proxy.add_tcp(args.listen, proxy_protocol=trusted)
    server.add_service(proxy)
    server.run_forever()


if __name__ == "__main__":
    main()
