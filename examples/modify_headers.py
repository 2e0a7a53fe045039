"""Change headers on their way: add to the request, remove from and add to the response.

Run it in front of a local server and try::

    python -m http.server 8000 &
    python examples/modify_headers.py 127.0.0.1:8000
    curl -i http://127.0.0.1:6190/
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from pingora_core import HttpPeer, Opt, Server
from pingora_core.protocols.address import InetAddress
from pingora_proxy import ProxyHttp, Session, http_proxy_service

if TYPE_CHECKING:
    from pingora_error import Error
    from pingora_http import RequestHeader, ResponseHeader

logger = logging.getLogger("modify_headers")


@dataclass(slots=True)
class Ctx:
    """What belongs to one request.

    Attributes:
        started: When it began, seconds of a monotonic clock.
    """

    started: float


class HeaderProxy(ProxyHttp[Ctx]):
    """Forwards everything to one upstream, with changed headers."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream

    def new_ctx(self) -> Ctx:
        return Ctx(started=perf_counter())

    async def upstream_peer(self, session: Session, ctx: Ctx) -> HttpPeer:
        return HttpPeer(self.upstream)

    async def upstream_request_filter(
        self, session: Session, upstream_request: RequestHeader, ctx: Ctx
    ) -> None:
        # What the client says of itself is overwritten. `ForwardedBuilder` does more.
        if isinstance(session.client_addr, InetAddress):
            upstream_request.insert_header("X-Forwarded-For", session.client_addr.host)
        upstream_request.remove_header("User-Agent")

    async def response_filter(
        self, session: Session, upstream_response: ResponseHeader, ctx: Ctx
    ) -> None:
        upstream_response.insert_header("Server", "MyGateway")
        upstream_response.remove_header("Alt-Svc")

    async def logging(self, session: Session, error: Error | None, ctx: Ctx) -> None:
        written = session.response_written
        status = 0 if written is None else written.status
        milliseconds = (perf_counter() - ctx.started) * 1000
        summary = self.request_summary(session, ctx)
        logger.info("%s -> %d in %.1f ms", summary, status, milliseconds)


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("Changes headers on their way.")
    parser.add_argument(
        "upstream", nargs="?", default="127.0.0.1:8000", help="where all requests go"
    )
    parser.add_argument("--listen", default="127.0.0.1:6190", metavar="ADDRESS")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args))
    service = http_proxy_service(server.configuration, HeaderProxy(args.upstream))
    service.add_tcp(args.listen)
    server.add_service(service)
    server.run_forever()


if __name__ == "__main__":
    main()
