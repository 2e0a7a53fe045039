"""Step 1: everything goes to one server."""

from __future__ import annotations

import logging

from pingora_core import HttpPeer, Opt, Server
from pingora_proxy import ProxyHttp, Session, http_proxy_service


class Gateway(ProxyHttp[None]):
    """Sends each request to the same server."""

    def __init__(self, upstream: str) -> None:
        self.peer = HttpPeer(upstream)

    def new_ctx(self) -> None:
        return None

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        return self.peer


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("A gateway.")
    parser.add_argument("upstream", metavar="ADDRESS")
    parser.add_argument("--listen", default="127.0.0.1:6188", metavar="ADDRESS")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args))
    service = http_proxy_service(server.configuration, Gateway(args.upstream))
    service.add_tcp(args.listen)
    server.add_service(service)
    server.run_forever()


if __name__ == "__main__":
    main()
