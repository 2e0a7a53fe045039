"""A web service without a proxy: echoes the body of a POST, greets everybody else.

Run it and try::

    python examples/http_server.py
    curl -d hello http://127.0.0.1:6145/
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pingora_core import (
    HttpServer,
    Opt,
    Response,
    ResponseCompressionBuilder,
    ServeHttp,
    Server,
    Service,
)

if TYPE_CHECKING:
    from pingora_core import ServerSession


class EchoApp(ServeHttp):
    """Sends back what it was sent."""

    async def response(self, session: ServerSession) -> Response:
        body = b"Hello World!\n"
        if session.request.method == "POST":
            body = await session.read_whole_body(1 << 20)  # 413 for more
        return Response(200, body, [("Content-Type", "text/plain")])


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("Echoes what is posted.")
    parser.add_argument("--listen", default="127.0.0.1:6145", metavar="ADDRESS")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args))
    app = HttpServer(EchoApp())
    app.add_module(ResponseCompressionBuilder.enable(7))
    service = Service("Echo Service HTTP", app)
    service.add_tcp(args.listen)
    server.add_service(service)
    server.run_forever()


if __name__ == "__main__":
    main()
