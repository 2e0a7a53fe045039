"""Step 2: the first segment of the path says which service is meant."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from pingora_core import HttpPeer, Opt, Server
from pingora_error import Error, HTTPStatus
from pingora_http import RequestHeader
from pingora_proxy import ProxyHttp, Session, http_proxy_service


# --8<-- [start:routes]
@dataclass(slots=True)
class Ctx:
    """What belongs to one request."""

    service: str = ""


class Gateway(ProxyHttp[Ctx]):
    """Sends /catalog/... and /orders/... to different servers, without these prefixes."""

    def __init__(self, services: dict[str, str]) -> None:
        self.peers = {name: HttpPeer(address) for name, address in services.items()}

    def new_ctx(self) -> Ctx:
        return Ctx()

    async def request_filter(self, session: Session, ctx: Ctx) -> bool:
        name = session.req_header.path.removeprefix("/").partition("/")[0]
        if name not in self.peers:
            raise Error.down(HTTPStatus(404), f"there is no service {name!r}")
        ctx.service = session.route = name
        return False

    async def upstream_peer(self, session: Session, ctx: Ctx) -> HttpPeer:
        return self.peers[ctx.service]

    async def upstream_request_filter(
        self, session: Session, upstream_request: RequestHeader, ctx: Ctx
    ) -> None:
        rest = upstream_request.raw_target.removeprefix(f"/{ctx.service}".encode())
        upstream_request.set_target(rest if rest.startswith(b"/") else b"/" + rest)
        # --8<-- [end:routes]


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("A gateway.")
    parser.add_argument("--catalog", required=True, metavar="ADDRESS")
    parser.add_argument("--orders", required=True, metavar="ADDRESS")
    parser.add_argument("--listen", default="127.0.0.1:6188", metavar="ADDRESS")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args))
    gateway = Gateway({"catalog": args.catalog, "orders": args.orders})
    service = http_proxy_service(server.configuration, gateway)
    service.add_tcp(args.listen)
    server.add_service(service)
    server.run_forever()


if __name__ == "__main__":
    main()
