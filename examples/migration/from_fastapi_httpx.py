"""What a proxy of FastAPI and httpx does, as callbacks: route, check, rewrite, stream, fail over."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pingora_core import HttpPeer, Opt, Server
from pingora_error import Error, HTTPStatus
from pingora_proxy import ProxyHttp, Session, http_proxy_service

if TYPE_CHECKING:
    from pingora_http import RequestHeader, ResponseHeader


class Gateway(ProxyHttp[None]):
    """``/users`` and ``/orders`` to a service each, for those who have a key."""

    def __init__(self, services: dict[str, str]) -> None:
        self.services = services

    def new_ctx(self) -> None:
        return None

    async def request_filter(self, session: Session, ctx: None) -> bool:
        # A dependency or a middleware: `if request.headers.get(...) ...: raise HTTPException(401)`.
        if session.req_header.get("x-api-key") == "secret":
            return False
        await session.respond_error(401)
        return True

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        # `@app.api_route("/{service}/{path:path}")` and `client.build_request(method, url, ...)`.
        name = session.req_header.path.split("/")[1]
        if name not in self.services:
            raise Error(HTTPStatus(404), f"no service {name}")
        return HttpPeer(self.services[name])

    async def upstream_request_filter(
        self, session: Session, upstream_request: RequestHeader, ctx: None
    ) -> None:
        # The dictionary of headers that was copied, without Host, Connection and the rest.
        upstream_request.remove_header("X-Api-Key")
        upstream_request.insert_header("X-Gateway", "pingora")

    async def fail_to_connect(
        self, session: Session, peer: HttpPeer, ctx: None, error: Error
    ) -> Error:
        # `except httpx.ConnectError:` and another try; nothing was sent, so it is safe.
        error.set_retry(True)
        return error

    async def response_filter(
        self, session: Session, upstream_response: ResponseHeader, ctx: None
    ) -> None:
        # `StreamingResponse(upstream.aiter_raw(), headers=...)`: the body streams by itself.
        upstream_response.remove_header("Server")


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("What FastAPI and httpx did.")
    parser.add_argument("--listen", default="127.0.0.1:6188", metavar="ADDRESS")
    parser.add_argument("services", nargs="+", metavar="NAME=ADDRESS")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    server = Server(Opt.from_namespace(args))
    services = dict(item.split("=", 1) for item in args.services)
    proxy = http_proxy_service(server.configuration, Gateway(services))
    proxy.add_tcp(args.listen)
    server.add_service(proxy)
    server.run_forever()


if __name__ == "__main__":
    main()
