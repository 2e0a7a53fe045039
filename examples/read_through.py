"""A gateway that asks an authorization service about each token, and remembers what it has said.

A hundred requests with one token make one question; while an answer that has expired is asked for
again, the old one still counts, so that nobody waits for a service that is slow or away::

    python examples/read_through.py 127.0.0.1:8000 --auth 127.0.0.1:9000
    curl -i -H 'Authorization: Bearer abc' 127.0.0.1:6188/    # X-Auth: miss, then hit, later stale

The service is asked ``GET /check`` with the client's ``Authorization``. It answers 200 and
``X-User``, or 401 or 403; for how long that holds ``Cache-Control: max-age`` says.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pingora_cache import RTCache
from pingora_cache.control import CacheControl
from pingora_core import HttpPeer, Opt, Server
from pingora_core.connectors.http import Connector
from pingora_core.protocols.http.task import FailedTask, HeaderTask
from pingora_error import Error, HTTPStatus
from pingora_http import RequestHeader
from pingora_proxy import ProxyHttp, Session, http_proxy_service

if TYPE_CHECKING:
    from pingora_http import ResponseHeader


class AuthService:
    """Knows whose a token is."""

    def __init__(self, peer: HttpPeer) -> None:
        self.peer = peer
        self.connector = Connector()

    async def check(self, token: str, _: None) -> tuple[str | None, float | None]:
        """Ask about a token: what ``RTCache`` calls for those that it does not know.

        Args:
            token: What a client has in ``Authorization``.

        Returns:
            Its user, None if it has none; and for how long that holds, seconds.

        Raises:
            Error: The service does not say.
        """
        head = await self.ask(RequestHeader("GET", "/check", headers=[("Authorization", token)]))
        if head.status not in {200, 401, 403}:
            raise Error.up(HTTPStatus(503), f"the service for tokens has answered {head.status}")
        control = CacheControl.from_header(head)
        user = head.get("x-user") if head.status == 200 else None
        return user, None if control is None else control.max_age

    async def ask(self, request: RequestHeader) -> ResponseHeader:
        request.insert_header("Host", str(self.peer.address))
        session = await self.connector.new_http_session(self.peer)
        try:
            session.send_request_header(request)
            session.finish_request_body()
            while True:
                match await session.read_task():
                    case HeaderTask(header=header) if header.status >= 200:
                        return header
                    case FailedTask(error=error):
                        raise error
                    case _:
                        pass
        finally:
            session.shutdown()


@dataclass(slots=True)
class Visit:
    """What is known of one request.

    Attributes:
        auth: Where its user is known from.
    """

    auth: str = "none"


class Gateway(ProxyHttp[Visit]):
    """Lets those in who have a valid token, and tells the upstream who they are."""

    def __init__(self, upstream: HttpPeer, auth: AuthService) -> None:
        self.upstream = upstream
        self.auth = auth
        self.users = RTCache[str, str | None, None](10_000, auth.check, refresh_timeout=5.0)

    async def cleanup(self) -> None:
        await self.users.aclose()
        await self.auth.connector.close()

    def new_ctx(self) -> Visit:
        return Visit()

    async def request_filter(self, session: Session, ctx: Visit) -> bool:
        request = session.req_header
        token = request.get("authorization")
        if token is None:
            raise Error(HTTPStatus(401), "no token")
        try:
            # Where the service does not say: a minute, and ten more while it is asked again.
            user, status = await self.users.get_stale_while_update(token, ttl=60, stale_ttl=600)
        except Error as error:
            raise Error(HTTPStatus(503), "nobody knows the token", cause=error) from error
        if user is None:
            raise Error(HTTPStatus(403), "not a valid token")
        request.remove_header("authorization")
        request.insert_header("X-User", user)
        ctx.auth = str(status)
        return False

    async def upstream_peer(self, session: Session, ctx: Visit) -> HttpPeer:
        return self.upstream

    async def response_filter(
        self, session: Session, upstream_response: ResponseHeader, ctx: Visit
    ) -> None:
        upstream_response.insert_header("X-Auth", ctx.auth)


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("A gateway with an authorization service.")
    parser.add_argument("upstream", nargs="?", default="127.0.0.1:8000", metavar="ADDRESS")
    parser.add_argument("--auth", default="127.0.0.1:9000", metavar="ADDRESS")
    parser.add_argument("--listen", default="127.0.0.1:6188", metavar="ADDRESS")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args))
    auth = AuthService(HttpPeer(args.auth))
    proxy = http_proxy_service(server.configuration, Gateway(HttpPeer(args.upstream), auth))
    proxy.add_tcp(args.listen)
    server.add_service(proxy)
    server.run_forever()


if __name__ == "__main__":
    main()
