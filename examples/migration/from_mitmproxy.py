"""What a mitmproxy script in reverse mode does, as callbacks."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pingora_core import HttpPeer, Opt, Server
from pingora_proxy import ProxyHttp, Session, http_proxy_service

if TYPE_CHECKING:
    from pingora_http import RequestHeader, ResponseHeader
    from pingora_proxy import BodyFilterResult


@dataclass(slots=True)
class Flow:
    """What belongs to one request: mitmproxy's ``flow``, as far as it is needed."""

    is_json: bool = False
    body: bytearray = field(default_factory=bytearray)


class Script(ProxyHttp[Flow]):
    """Marks requests, and changes JSON bodies."""

    def __init__(self, upstream: str) -> None:
        self.peer = HttpPeer(upstream)

    def new_ctx(self) -> Flow:
        return Flow()

    async def upstream_peer(self, session: Session, ctx: Flow) -> HttpPeer:
        # `--mode reverse:http://...`, or `flow.request.host = ...`
        return self.peer

    async def upstream_request_filter(
        self, session: Session, upstream_request: RequestHeader, ctx: Flow
    ) -> None:
        # In `request(flow)`: `flow.request.headers["x-seen"] = "1"`.
        upstream_request.insert_header("X-Seen", "1")
        upstream_request.remove_header("Accept-Encoding")  # the body is to be read below

    async def response_filter(
        self, session: Session, upstream_response: ResponseHeader, ctx: Flow
    ) -> None:
        # What `responseheaders(flow)` was for.
        if upstream_response.get("content-type", "").startswith("application/json"):
            ctx.is_json = True
            upstream_response.remove_header("Content-Length")  # it will be another one

    async def response_body_filter(
        self, session: Session, body: bytes | None, end_of_stream: bool, ctx: Flow
    ) -> BodyFilterResult:
        # In `response(flow)` the body is complete; here it streams, unless you collect it.
        if not ctx.is_json:
            return body
        ctx.body += body or b""
        if len(ctx.body) > 1 << 20:
            ctx.is_json = False  # too large to be worth it: as it is
            return bytes(ctx.body)
        if not end_of_stream:
            return None
        document = json.loads(ctx.body)
        document["seen"] = True
        return json.dumps(document).encode()


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("What a mitmproxy script did.")
    parser.add_argument("--listen", default="127.0.0.1:6188", metavar="ADDRESS")
    parser.add_argument("upstream", metavar="ADDRESS")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    server = Server(Opt.from_namespace(args))
    proxy = http_proxy_service(server.configuration, Script(args.upstream))
    proxy.add_tcp(args.listen)
    server.add_service(proxy)
    server.run_forever()


if __name__ == "__main__":
    main()
