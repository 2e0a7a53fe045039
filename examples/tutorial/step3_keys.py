"""Step 3: only those with a key are let in."""

from __future__ import annotations

import hmac
import logging
from dataclasses import dataclass
from hashlib import sha256

from pingora_core import HttpPeer, Opt, Server
from pingora_error import Error, HTTPStatus
from pingora_http import RequestHeader
from pingora_proxy import ProxyHttp, Session, http_proxy_service


@dataclass(slots=True)
class Ctx:
    """What belongs to one request."""

    service: str = ""
    client: str = ""


class Gateway(ProxyHttp[Ctx]):
    """Lets clients with a key in, to the service that they want."""

    def __init__(self, services: dict[str, str], clients: dict[str, str]) -> None:
        self.peers = {name: HttpPeer(address) for name, address in services.items()}
        self.clients = clients  # their names, and the SHA-256 of their keys

    def new_ctx(self) -> Ctx:
        return Ctx()

    # --8<-- [start:keys]
    def client_of(self, request: RequestHeader) -> str | None:
        """Find who has the key that was sent."""
        key = request.get("x-api-key", "").encode("latin-1")
        digest = sha256(key).hexdigest()
        known = self.clients.items()
        found = [name for name, each in known if hmac.compare_digest(each, digest)]
        return found[0] if found else None

    async def request_filter(self, session: Session, ctx: Ctx) -> bool:
        client = self.client_of(session.req_header)
        if client is None:
            await session.respond_error(401, b"a valid X-Api-Key is required\n")
            return True  # answered: nothing is asked of anybody
        ctx.client = client
        name = session.req_header.path.removeprefix("/").partition("/")[0]
        if name not in self.peers:
            raise Error.down(HTTPStatus(404), f"there is no service {name!r}")
        ctx.service = session.route = name
        return False

    # --8<-- [end:keys]

    async def upstream_peer(self, session: Session, ctx: Ctx) -> HttpPeer:
        return self.peers[ctx.service]

    async def upstream_request_filter(
        self, session: Session, upstream_request: RequestHeader, ctx: Ctx
    ) -> None:
        rest = upstream_request.raw_target.removeprefix(f"/{ctx.service}".encode())
        upstream_request.set_target(rest if rest.startswith(b"/") else b"/" + rest)
        # --8<-- [start:client]
        upstream_request.remove_header("X-Api-Key")  # the services need not know it
        upstream_request.insert_header("X-Client", ctx.client)
        # --8<-- [end:client]


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("A gateway.")
    parser.add_argument("--catalog", required=True, metavar="ADDRESS")
    parser.add_argument("--orders", required=True, metavar="ADDRESS")
    parser.add_argument("--client", action="append", default=[], metavar="NAME=SHA256")
    parser.add_argument("--listen", default="127.0.0.1:6188", metavar="ADDRESS")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args))
    clients = dict(client.split("=", 1) for client in args.client)
    gateway = Gateway({"catalog": args.catalog, "orders": args.orders}, clients)
    service = http_proxy_service(server.configuration, gateway)
    service.add_tcp(args.listen)
    server.add_service(service)
    server.run_forever()


if __name__ == "__main__":
    main()
