r"""A proxy whose routes are changed over REST, as JupyterHub's configurable-http-proxy has it.

Whoever knows the token says where paths lead; the longest prefix counts, WebSockets included::

    HUB_PROXY_TOKEN=secret python examples/hub_proxy.py --default http://127.0.0.1:8081 routes.json
    curl 127.0.0.1:8001/api/routes/user/alice -H 'Authorization: token secret' \
        -d '{"target": "http://127.0.0.1:9001", "user": "alice"}'
    curl 127.0.0.1:8000/user/alice/lab
    curl 127.0.0.1:8001/api/routes -H 'Authorization: token secret'    # with last_activity
    curl -X DELETE 127.0.0.1:8001/api/routes/user/alice -H 'Authorization: token secret'

The table is in this process and, after each change, in the file: run it with one worker.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from msgspec import MsgspecError, json

from pingora_core import HttpPeer, HttpServer, Opt, Response, ServeHttp, Server, ServerSession
from pingora_core.services.listening import Service
from pingora_error import Error, HTTPStatus
from pingora_http import RequestHeader
from pingora_proxy import ProxyHttp, Session, http_proxy_service

Route = dict[str, object]  # what was posted, "target" above all, and "last_activity"
MAX_BODY = 65536


class Routes:
    """The table, and its file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = path.read_bytes() if path.exists() else b"{}"
        self.table: dict[str, Route] = json.decode(text, type=dict[str, Route])
        self.peers = {prefix: peer_of(route) for prefix, route in self.table.items()}
        self.saving = asyncio.Lock()

    def find(self, path: str) -> str | None:
        """Find the longest prefix of a path, whole segments only."""
        depth = max((prefix.count("/") for prefix in self.table), default=0)
        parts = unquote(path).split("/", depth + 1)[: depth + 1]
        prefixes = ("/".join(parts[:end]) or "/" for end in range(len(parts), 0, -1))
        return next((prefix for prefix in prefixes if prefix in self.table), None)

    def touch(self, prefix: str) -> None:
        if prefix in self.table:
            self.table[prefix]["last_activity"] = datetime.now(UTC).isoformat()

    def add(self, prefix: str, route: Route) -> None:
        self.peers[prefix] = peer_of(route)
        self.table[prefix] = route
        self.touch(prefix)

    async def save(self) -> None:
        async with self.saving:  # one after the other, each with all there is
            await asyncio.to_thread(self.write, json.format(json.encode(self.table)))

    def write(self, text: bytes) -> None:
        # Beside it, onto the disk, and in its place: there is never half a file.
        fresh = self.path.with_suffix(".new")
        with fresh.open("wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.path)


def peer_of(route: Route) -> HttpPeer:
    """Make the peer of a route; ValueError if its target is none."""
    url = urlsplit(str(route.get("target")))
    if url.scheme not in {"http", "https"} or not url.hostname or url.path.strip("/"):
        raise ValueError("target must be a URL such as http://127.0.0.1:9001")
    is_tls = url.scheme == "https"
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return HttpPeer(f"{host}:{url.port or (443 if is_tls else 80)}", tls=is_tls, sni=url.hostname)


class Api(ServeHttp):
    """The REST interface."""

    def __init__(self, routes: Routes, token: str) -> None:
        self.routes = routes
        self.token = f"token {token}".encode()

    async def response(self, session: ServerSession) -> Response:
        request, table = session.request, self.routes.table
        if not hmac.compare_digest(request.get_raw(b"authorization") or b"", self.token):
            return Response(403)
        root, _, rest = request.path.removeprefix("/").partition("api/routes")
        prefix = "/" + unquote(rest).strip("/")
        if root or rest[:1] not in {"", "/"}:
            return Response(404)
        found: object = table if prefix == "/" else table.get(prefix)
        match request.method:
            case "GET" if found is not None:
                body = json.encode(found)
                return Response(200, body, [("Content-Type", "application/json")])
            case "POST":
                try:
                    self.routes.add(prefix, json.decode(await read(session), type=Route))
                except (MsgspecError, ValueError) as error:
                    return Response(400, str(error).encode())
            case "DELETE" if prefix in table:
                del table[prefix], self.routes.peers[prefix]
            case _:
                return Response(404)
        await self.routes.save()
        return Response(201 if request.method == "POST" else 204)


async def read(session: ServerSession) -> bytes:
    """Read a body; ValueError if it is too long."""
    body = b""
    while (piece := await session.read_request_body()) is not None:
        body += piece
        if len(body) > MAX_BODY:
            raise ValueError(f"more than {MAX_BODY} bytes")
    return body


class Hub(ProxyHttp[list[str]]):
    """Sends requests where their route leads; the context has its prefix."""

    def __init__(self, routes: Routes) -> None:
        self.routes = routes

    def new_ctx(self) -> list[str]:
        return []

    async def upstream_peer(self, session: Session, ctx: list[str]) -> HttpPeer:
        prefix = self.routes.find(session.req_header.path)
        if prefix is None:
            raise Error.down(HTTPStatus(404), "no route")
        ctx[:] = [prefix]
        self.routes.touch(prefix)
        return self.routes.peers[prefix]

    async def upstream_request_filter(
        self, session: Session, upstream_request: RequestHeader, ctx: list[str]
    ) -> None:
        client = str(session.client_addr).rpartition(":")[0]
        upstream_request.insert_header("X-Forwarded-For", client)
        upstream_request.insert_header("X-Forwarded-Proto", session.scheme)
        upstream_request.insert_header("X-Forwarded-Host", upstream_request.get("host", ""))

    async def logging(self, session: Session, error: Error | None, ctx: list[str]) -> None:
        for prefix in ctx:  # the end of a download or a WebSocket is an activity too
            self.routes.touch(prefix)


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("A proxy with a route table.")
    parser.add_argument("file", type=Path, metavar="FILE", help="where the routes are kept")
    parser.add_argument("--default", metavar="URL", help="where everything else goes")
    parser.add_argument("--listen", default="127.0.0.1:8000", metavar="ADDRESS")
    parser.add_argument("--api", default="127.0.0.1:8001", metavar="ADDRESS")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args))
    routes = Routes(args.file)
    if args.default:
        routes.add("/", {"target": args.default})
    proxy = http_proxy_service(server.configuration, Hub(routes))
    proxy.add_tcp(args.listen)
    server.add_service(proxy)
    api = Service("API", HttpServer(Api(routes, os.environ["HUB_PROXY_TOKEN"])))
    api.add_tcp(args.api)
    server.add_service(api)
    server.run_forever()


if __name__ == "__main__":
    main()
