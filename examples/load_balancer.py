"""The quick start: a load balancer over TLS origins, in the form of Pingora's announcement.

Run it as it stands against two public resolvers, or against your own origins::

    python examples/load_balancer.py
    python examples/load_balancer.py --sni one.test --ca ca.pem 127.0.0.1:4431 127.0.0.1:4432
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pingora_core import HttpPeer, Opt, Server, ServerConf
from pingora_error import Error, HTTPStatus
from pingora_load_balancing import LoadBalancer
from pingora_proxy import ProxyHttp, Session, http_proxy_service

if TYPE_CHECKING:
    from pingora_http import RequestHeader


class LB(ProxyHttp[None]):
    """Sends each request to the next upstream, over TLS."""

    def __init__(self, upstreams: LoadBalancer, sni: str) -> None:
        self.upstreams = upstreams
        self.sni = sni

    def new_ctx(self) -> None:
        return None

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        upstream = self.upstreams.select(b"", 256)  # round robin needs no hash key
        if upstream is None:
            raise Error(HTTPStatus(503), "no healthy upstream")
        return HttpPeer(upstream, tls=True, sni=self.sni)


class HostRewritingLB(LB):
    """The same, with the Host that the upstreams insist on."""

    async def upstream_request_filter(
        self, session: Session, upstream_request: RequestHeader, ctx: None
    ) -> None:
        upstream_request.insert_header("Host", self.sni)


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("A TLS load balancer.")
    parser.add_argument("upstreams", nargs="*", default=["1.1.1.1:443", "1.0.0.1:443"])
    parser.add_argument("--listen", default="127.0.0.1:6188", help="address to listen on")
    parser.add_argument("--sni", default="one.one.one.one", help="name the upstreams answer to")
    parser.add_argument("--ca", help="PEM file of the authority that signed the upstreams")
    parser.add_argument("--no-filter", action="store_true", help="leave the client's Host alone")
    args = parser.parse_args()

    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args), ServerConf(ca_file=args.ca))
    upstreams = LoadBalancer(args.upstreams)
    app = LB(upstreams, args.sni) if args.no_filter else HostRewritingLB(upstreams, args.sni)
    lb = http_proxy_service(server.configuration, app)
    lb.add_tcp(args.listen)
    server.add_service(lb)
    server.run_forever()


if __name__ == "__main__":
    main()
