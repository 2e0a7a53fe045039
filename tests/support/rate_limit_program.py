"""A server that limits its requests over all of its workers.

Run as ``python -m tests.support.rate_limit_program --listen HOST:PORT --burst N -c FILE``. Every
answer, also a refusal, is the process that gives it. Nothing comes back within an hour.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

from pingora_core import HttpServer, Opt, Response, ServeHttp, Server, Service
from pingora_core.modules import RateLimiterBuilder, RateLimitPolicy
from pingora_core.modules.rate_limit_keys import everyone
from pingora_limits.shared import SharedTokenBucket

if TYPE_CHECKING:
    from pingora_core import ServerSession
    from pingora_core.modules import RateLimitRefusal


class Web(ServeHttp):
    """Answers with the process that serves."""

    async def response(self, session: ServerSession) -> Response:
        return Response(200, str(os.getpid()).encode())


def page(_: RateLimitRefusal) -> tuple[str, bytes]:
    return "text/plain", str(os.getpid()).encode()


def main() -> None:
    """Run it."""
    parser = Opt.parser()
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--burst", type=int, default=10)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(process)d %(message)s", stream=sys.stderr)
    limiter = SharedTokenBucket(1 / 3600, arguments.burst)
    app = HttpServer(Web())
    app.add_module(RateLimiterBuilder([RateLimitPolicy("all", limiter, everyone)], page=page))
    web = Service("web", app)
    web.add_tcp(arguments.listen)
    server = Server(Opt.from_namespace(arguments))
    server.add_service(web)
    server.run_forever()


if __name__ == "__main__":
    main()
