r"""A proxy that answers some routes itself, with FastAPI, and proxies the rest.

Run it in front of a server and try::

    python examples/asgi_mount.py 127.0.0.1:8000
    curl 127.0.0.1:6188/anything                  # from the server behind
    curl 127.0.0.1:6188/api/limits/alice          # from FastAPI, in this process
    curl -X PUT -d '{"requests": 5}' -H 'Content-Type: application/json' \
        127.0.0.1:6188/api/limits/alice
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI, HTTPException, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, Field

from pingora_core import HttpPeer, Opt, Server
from pingora_proxy import ProxyHttp, Session, http_proxy_service
from pingora_proxy.asgi import AsgiApplication

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Limit(BaseModel):  # type: ignore[explicit-any]  # what pydantic makes of it
    """How much somebody may ask for."""

    requests: int = Field(ge=0)


limits: dict[str, Limit] = {}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Start with a limit, and forget all of them in the end."""
    limits["alice"] = Limit(requests=100)
    yield
    limits.clear()


api = FastAPI(title="Limits", lifespan=lifespan)


@api.get("/api/limits/{name}")
async def get_limit(name: str) -> Limit:
    """Tell a limit."""
    if name not in limits:
        raise HTTPException(404, f"nobody is called {name}")
    return limits[name]


@api.put("/api/limits/{name}")
async def put_limit(name: str, limit: Limit) -> Limit:
    """Set a limit."""
    limits[name] = limit
    return limit


@api.websocket("/api/echo")
async def echo(socket: WebSocket) -> None:
    """Say everything twice."""
    await socket.accept()
    try:
        while True:
            await socket.send_text(2 * await socket.receive_text())
    except WebSocketDisconnect:
        pass


class Gateway(ProxyHttp[None]):
    """Answers what begins with ``/api`` and proxies the rest."""

    def __init__(self, upstream: str) -> None:
        self.peer = HttpPeer(upstream)
        self.api = AsgiApplication(api)

    async def startup(self) -> None:
        await self.api.startup()

    async def cleanup(self) -> None:
        await self.api.cleanup()

    def new_ctx(self) -> None:
        return None

    async def request_filter(self, session: Session, ctx: None) -> bool:
        if not session.req_header.path.startswith("/api/"):
            return False
        await self.api.serve(session)
        return True

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        return self.peer


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("A proxy with a FastAPI application in it.")
    parser.add_argument("upstream", metavar="ADDRESS")
    parser.add_argument("--listen", default="127.0.0.1:6188", metavar="ADDRESS")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args))
    proxy = http_proxy_service(server.configuration, Gateway(args.upstream))
    proxy.add_tcp(args.listen)
    server.add_service(proxy)
    server.run_forever()


if __name__ == "__main__":
    main()
