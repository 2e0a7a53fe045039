"""A reverse proxy as one writes it with aiohttp: a server, a client session, bodies streamed.

Run with the port to listen on and the port of the origin.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import uvloop
from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_HOP_BY_HOP = ("Connection", "Keep-Alive", "TE", "Trailer", "Transfer-Encoding", "Upgrade")
_SMALL = 65536


def make_app(origin: str) -> web.Application:
    """Make the proxy.

    Args:
        origin: Base URL of the origin.

    Returns:
        The application.
    """
    client = web.AppKey("client", ClientSession)

    async def sessions(app: web.Application) -> AsyncIterator[None]:
        connector = TCPConnector(limit=0, keepalive_timeout=300)
        async with ClientSession(
            connector=connector,
            cookie_jar=DummyCookieJar(),
            timeout=ClientTimeout(total=60),
            auto_decompress=False,
        ) as session:
            app[client] = session
            yield

    async def forward(request: web.Request) -> web.StreamResponse:
        headers = request.headers.copy()
        for name in _HOP_BY_HOP:
            headers.popall(name, None)
        headers["X-Forwarded-For"] = "127.0.0.1"
        async with request.app[client].request(
            request.method,
            origin + request.raw_path,
            headers=headers,
            data=request.content if request.body_exists else None,
            allow_redirects=False,
        ) as upstream:
            kept = upstream.headers.copy()
            for name in _HOP_BY_HOP:
                kept.popall(name, None)
            if upstream.content_length is not None and upstream.content_length <= _SMALL:
                body = await upstream.read()
                return web.Response(status=upstream.status, headers=kept, body=body)
            response = web.StreamResponse(status=upstream.status, headers=kept)
            await response.prepare(request)
            async for piece in upstream.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response

    app = web.Application(client_max_size=0)
    app.cleanup_ctx.append(sessions)
    app.router.add_route("*", "/{path:.*}", forward)
    return app


def main() -> None:
    """Serve until told to stop."""
    port, origin = int(sys.argv[1]), int(sys.argv[2])
    web.run_app(
        make_app(f"http://127.0.0.1:{origin}"),
        host="127.0.0.1",
        port=port,
        access_log=None,
        backlog=4096,
        keepalive_timeout=300,
        print=None,
        loop=uvloop.new_event_loop(),
    )


if __name__ == "__main__":
    main()
