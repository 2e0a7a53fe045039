"""A small API gateway: route by path and header, check a key, rewrite, answer errors in JSON.

Run it in front of two local servers and try::

    python examples/gateway.py --users 127.0.0.1:8001 --orders 127.0.0.1:8002
    curl -i -H 'X-Api-Key: secret' http://127.0.0.1:6191/users/42
    curl -i -H 'X-Api-Key: secret' -H 'X-Service: orders' http://127.0.0.1:6191/anything
    curl -i http://127.0.0.1:6191/users/42
"""

from __future__ import annotations

import hmac
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pingora_core import HttpPeer, Opt, Response, Server
from pingora_error import Error, HTTPStatus
from pingora_proxy import FailToProxy, ProxyHttp, Session, default_status, http_proxy_service

if TYPE_CHECKING:
    from pingora_http import RequestHeader


@dataclass(slots=True)
class Ctx:
    """What belongs to one request.

    Attributes:
        service: Name of the service it goes to; empty while undecided.
    """

    service: str = ""


class Gateway(ProxyHttp[Ctx]):
    """Routes to services by header, then by the first segment of the path."""

    def __init__(self, services: dict[str, str], api_key: str) -> None:
        self.services = services
        self.api_key = api_key.encode()

    def new_ctx(self) -> Ctx:
        return Ctx()

    async def request_filter(self, session: Session, ctx: Ctx) -> bool:
        request = session.req_header
        if request.path == "/health":
            return await session.respond(Response.json(200, {"status": "ok"}))
        # In constant time: how long it takes tells nothing of the key.
        if not hmac.compare_digest(request.get_raw(b"x-api-key") or b"", self.api_key):
            error = {"error": "a valid X-Api-Key is required"}
            return await session.respond(Response.json(401, error))
        first_segment = request.path.split("/")[1]
        ctx.service = request.get("x-service") or first_segment
        return False

    async def upstream_peer(self, session: Session, ctx: Ctx) -> HttpPeer:
        upstream = self.services.get(ctx.service)
        if upstream is None:
            raise Error(HTTPStatus(404), f"no service {ctx.service!r}")
        return HttpPeer(upstream)

    async def upstream_request_filter(
        self, session: Session, upstream_request: RequestHeader, ctx: Ctx
    ) -> None:
        prefix = f"/{ctx.service}"
        if upstream_request.path.startswith(prefix + "/"):
            target = upstream_request.raw_target.removeprefix(prefix.encode())
            upstream_request.set_target(target)
        upstream_request.remove_header("X-Api-Key")  # the services need not know it
        upstream_request.insert_header("Host", f"{ctx.service}.internal")

    async def fail_to_proxy(self, session: Session, error: Error, ctx: Ctx) -> FailToProxy:
        status = default_status(error)
        if status:
            # Nothing is sent when a response has begun: that is cut off instead.
            error_page = {"error": "the request could not be served"}
            await session.respond(Response.json(status, error_page))
        return FailToProxy(error_code=status)


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("A small API gateway.")
    parser.add_argument("--listen", default="127.0.0.1:6191", metavar="ADDRESS")
    parser.add_argument("--users", default="127.0.0.1:8001", help="address of the users service")
    parser.add_argument("--orders", default="127.0.0.1:8002", help="address of the orders service")
    parser.add_argument("--api-key", default="secret")
    args = parser.parse_args()

    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args))
    app = Gateway({"users": args.users, "orders": args.orders}, args.api_key)
    service = http_proxy_service(server.configuration, app, name="gateway")
    service.add_tcp(args.listen)
    server.add_service(service)
    server.run_forever()


if __name__ == "__main__":
    main()
