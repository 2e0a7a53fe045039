"""Bodies: changed as they pass, read as a whole, limited.

Run it, and ask it::

    python examples/recipes/bodies.py 127.0.0.1:8001
    curl -d '{"user": "alice", "debug": true}' 127.0.0.1:6188/api
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pingora_core import HttpPeer, Opt, Server
from pingora_error import Error, HTTPStatus
from pingora_proxy import ProxyHttp, Session, http_proxy_service

if TYPE_CHECKING:
    from pingora_http import RequestHeader, ResponseHeader

OLD, NEW = b"http://internal.example", b"https://www.example"
LIMIT = 64 * 1024


# --8<-- [start:ctx]
@dataclass(slots=True)
class Ctx:
    """What is known of one request's bodies."""

    body: bytes | None = None  # what is sent in the place of the client's
    is_text: bool = False
    held: bytearray = field(default_factory=bytearray)  # may be the beginning of OLD


# --8<-- [end:ctx]


class Bodies(ProxyHttp[Ctx]):
    """Changes bodies in both directions."""

    def __init__(self, upstream: str) -> None:
        self.peer = HttpPeer(upstream)

    def new_ctx(self) -> Ctx:
        return Ctx()

    # --8<-- [start:request]
    async def request_filter(self, session: Session, ctx: Ctx) -> bool:
        if session.req_header.get("content-type") != "application/json":
            return False
        raw = await session.buffer_request_body(LIMIT)  # 413 if it is longer
        try:
            said = json.loads(raw)
        except ValueError:
            return await session.respond_problem(400, "this is no JSON")
        if not isinstance(said, dict):
            raise Error.down(HTTPStatus(400), "an object is wanted")
        said.pop("debug", None)
        ctx.body = json.dumps(said).encode()
        return False

    async def upstream_request_filter(
        self, session: Session, upstream_request: RequestHeader, ctx: Ctx
    ) -> None:
        upstream_request.insert_header("Accept-Encoding", "identity")  # to be read below
        upstream_request.remove_header("Range")
        if ctx.body is not None:
            upstream_request.remove_header("Transfer-Encoding")
            upstream_request.insert_header("Content-Length", str(len(ctx.body)))

    async def request_body_filter(
        self, session: Session, body: bytes | None, end_of_stream: bool, ctx: Ctx
    ) -> bytes | None:
        if ctx.body is None:
            return body
        return ctx.body if end_of_stream else None  # all of it, in the place of the last piece

    # --8<-- [end:request]
    # --8<-- [start:response]
    async def response_filter(
        self, session: Session, upstream_response: ResponseHeader, ctx: Ctx
    ) -> None:
        ctx.is_text = (upstream_response.get("content-type") or "").startswith("text/")
        if ctx.is_text:
            upstream_response.remove_header("Content-Length")  # nobody knows it yet
            upstream_response.remove_header("ETag")

    async def response_body_filter(
        self, session: Session, body: bytes | None, end_of_stream: bool, ctx: Ctx
    ) -> bytes | None:
        if not ctx.is_text:
            return body
        ctx.held += body or b""
        text = bytes(ctx.held.replace(OLD, NEW))
        # A piece may end in the middle of the word: as much as could begin it stays here.
        keep = 0 if end_of_stream else min(len(OLD) - 1, len(text))
        ctx.held[:] = text[len(text) - keep :]
        return text[: len(text) - keep] or None

    # --8<-- [end:response]

    async def upstream_peer(self, session: Session, ctx: Ctx) -> HttpPeer:
        return self.peer


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("Changes bodies.")
    parser.add_argument("upstream", metavar="ADDRESS")
    parser.add_argument("--listen", default="127.0.0.1:6188", metavar="ADDRESS")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    server = Server(Opt.from_namespace(args))
    service = http_proxy_service(server.configuration, Bodies(args.upstream))
    service.add_tcp(args.listen)
    server.add_service(service)
    server.run_forever()


if __name__ == "__main__":
    main()
