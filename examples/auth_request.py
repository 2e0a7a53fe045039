r"""Ask a service who a client is before its request goes on, as nginx's ``auth_request`` does.

Run it in front of two origins, where the second answers 2xx for those whom it knows::

    python examples/auth_request.py 127.0.0.1:8001 --auth 127.0.0.1:8002
    curl -i 127.0.0.1:6188/ -H 'Authorization: Bearer secret'

The question is a subrequest: a request like others, with retries, deadlines and metrics of its own.
What it answers decides: 2xx lets the request pass, with the ``X-User`` of the answer; 401 and 403 go
to the client, with ``WWW-Authenticate``; anything else is 502, since nobody has said yes.
"""

from __future__ import annotations

import asyncio
import logging

from pingora_core import HttpPeer, Opt, Server
from pingora_error import Error, HTTPStatus
from pingora_http import RequestHeader, ResponseHeader
from pingora_proxy import ProxyHttp, Session, http_proxy_service

ASKED = ("authorization", "cookie")
SECONDS = 5


class Guarded(ProxyHttp[None]):
    """Lets those in who are known."""

    def __init__(self, origin: str, auth: str) -> None:
        self.origin = HttpPeer(origin)
        self.auth = HttpPeer(auth)

    def new_ctx(self) -> None:
        return None

    async def allow_spawning_subrequest(self, session: Session, ctx: None) -> bool:
        return not session.is_subrequest

    async def request_filter(self, session: Session, ctx: None) -> bool:
        request, spawner = session.req_header, session.subrequest_spawner
        if spawner is None:
            return False
        request.remove_header("X-User")  # nobody says of himself who he is
        question = RequestHeader("GET", "/auth", headers=[("Host", str(self.auth.address))])
        question.insert_header("X-Original-URI", request.raw_path)
        for name in ASKED:
            for value in request.get_all(name):
                question.append_header(name, value)
        try:
            async with (
                asyncio.timeout(SECONDS),
                spawner.create_subrequest(session, question) as asked,
            ):
                answer = await asked.header()
        except TimeoutError:
            raise Error(HTTPStatus(504), "asked who it is, heard nothing") from None
        if answer.status // 100 == 2:
            request.insert_header("X-User", answer.get("x-user", "unknown"))
            return False
        if answer.status not in {401, 403}:
            raise Error(HTTPStatus(502), f"asked who it is, got {answer.status}")
        refusal = ResponseHeader(answer.status, headers=[("Content-Length", "0")])
        for value in answer.get_all("www-authenticate"):
            refusal.append_header("WWW-Authenticate", value)
        await session.write_response_header(refusal, end=True)
        return True

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        return self.auth if session.is_subrequest else self.origin


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("A proxy that asks first.")
    parser.add_argument("origin", nargs="?", default="127.0.0.1:8001", metavar="ADDRESS")
    parser.add_argument("--auth", default="127.0.0.1:8002", metavar="ADDRESS")
    parser.add_argument("--listen", default="127.0.0.1:6188", metavar="ADDRESS")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args))
    proxy = http_proxy_service(server.configuration, Guarded(args.origin, args.auth))
    proxy.add_tcp(args.listen)
    server.add_service(proxy)
    server.run_forever()


if __name__ == "__main__":
    main()
