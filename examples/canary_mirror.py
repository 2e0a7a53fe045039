r"""A canary for a share of the clients, and shadow traffic for a version that nobody relies on yet.

Run it in front of three versions of a service::

    python examples/canary_mirror.py 127.0.0.1:8001 --canary 127.0.0.1:8002 --share 5 \
        --shadow 127.0.0.1:8003 --mirror 10
    curl -i 127.0.0.1:6188/                          # Set-Cookie: bucket=37
    curl -i 127.0.0.1:6188/ -H 'Cookie: bucket=4'    # always the canary
    curl 127.0.0.1:6189/metrics                      # who answered what

A client keeps the number from 0 to 99 that it was given, so that it stays where it is, and that a
greater share only adds clients. Share 0 brings everybody back.

The shadow gets a copy of the head, as a subrequest: so only requests without a body whose method
promises to change nothing are mirrored. Nobody waits for it; its status is compared, its answer
dropped. Cookies and credentials are real: the shadow has to be as trustworthy as the service.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from random import SystemRandom

from pingora_core import HttpPeer, Opt, Server
from pingora_core.metrics import Registry, WorkerMetrics
from pingora_core.services.prometheus import prometheus_service
from pingora_error import Error
from pingora_http import RequestHeader, ResponseHeader
from pingora_proxy import ProxyHttp, Session, SubrequestCtx, http_proxy_service

COOKIE = "bucket"
random = SystemRandom()
logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Ctx:
    """One request: the number of its client, and who has answered what if it is mirrored."""

    bucket: int = 0
    is_new: bool = False
    answers: dict[str, int] | None = None


class Canary(ProxyHttp[Ctx]):
    """Sends each client to its version, and some requests to the shadow as well."""

    def __init__(self, peers: dict[str, HttpPeer], share: int, mirror: float, to: Registry) -> None:
        self.peers = peers
        self.share = share
        self.mirror = mirror
        self.answers = to.counter("canary.answers", "Who said what.", labels=("version", "status"))
        self.shadowed = to.counter("canary.shadowed", "Answers compared.", labels=("verdict",))

    def new_ctx(self) -> Ctx:
        return Ctx()

    async def allow_spawning_subrequest(self, session: Session, ctx: Ctx) -> bool:
        downstream = session.downstream_session
        return (
            not session.is_subrequest
            and session.req_header.method in {"GET", "HEAD"}
            and downstream.is_body_empty
            and not downstream.is_upgrade_request
            and random.random() * 100 < self.mirror
        )

    async def request_filter(self, session: Session, ctx: Ctx) -> bool:
        if session.subrequest_ctx is not None:
            assert isinstance(session.subrequest_ctx.user_ctx, dict)
            ctx.answers = session.subrequest_ctx.user_ctx
            return False
        given = session.req_header.cookie(COOKIE) or ""
        ctx.is_new = not (given.isascii() and given.isdigit() and len(given) <= 2)
        ctx.bucket = random.randrange(100) if ctx.is_new else int(given)
        if session.subrequest_spawner is not None:
            ctx.answers = {}
            # Refused, and not waited for, when a thousand run already.
            session.subrequest_spawner.spawn_background_subrequest(
                session, SubrequestCtx(user_ctx=ctx.answers)
            )
        return False

    async def upstream_peer(self, session: Session, ctx: Ctx) -> HttpPeer:
        session.route = "canary" if ctx.bucket < self.share else "stable"
        if session.is_subrequest:
            session.route = "shadow"
        return self.peers[session.route]

    async def upstream_request_filter(
        self, session: Session, upstream_request: RequestHeader, ctx: Ctx
    ) -> None:
        if session.is_subrequest:
            upstream_request.insert_header("X-Shadow", "1")

    async def response_filter(
        self, session: Session, upstream_response: ResponseHeader, ctx: Ctx
    ) -> None:
        if ctx.is_new and upstream_response.status >= 200:
            value = f"{COOKIE}={ctx.bucket}; Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax"
            upstream_response.append_header("Set-Cookie", value)

    def suppress_error_log(self, session: Session, ctx: Ctx, error: Error) -> bool:
        return session.is_subrequest  # counted, see below

    async def logging(self, session: Session, error: Error | None, ctx: Ctx) -> None:
        status = session.response_written.status if session.response_written else 0
        self.answers.labels(session.route or "none", str(status)).inc()
        if ctx.answers is not None:
            ctx.answers["shadow" if session.is_subrequest else "service"] = status
            if len(ctx.answers) == 2:  # whoever comes last
                is_same = ctx.answers["shadow"] == ctx.answers["service"]
                self.shadowed.labels("same" if is_same else "different").inc()
                if not is_same:
                    path = session.req_header.path
                    logger.warning("the shadow disagrees on %s: %s", path, ctx.answers)


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("A canary and a shadow.")
    parser.add_argument("stable", nargs="?", default="127.0.0.1:8001", metavar="ADDRESS")
    parser.add_argument("--canary", default="127.0.0.1:8002", metavar="ADDRESS")
    parser.add_argument("--share", type=int, default=0, help="per cent of the clients")
    parser.add_argument("--shadow", default="127.0.0.1:8003", metavar="ADDRESS")
    parser.add_argument("--mirror", type=float, default=0.0, help="per cent of the requests")
    parser.add_argument("--listen", default="127.0.0.1:6188", metavar="ADDRESS")
    parser.add_argument("--metrics", default="127.0.0.1:6189", metavar="ADDRESS")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args))
    metrics = WorkerMetrics()
    peers = {name: HttpPeer(getattr(args, name)) for name in ("stable", "canary", "shadow")}
    peers["shadow"].options.read_timeout = 5.0  # it is not worth more
    canary = Canary(peers, args.share, args.mirror, metrics.registry)
    proxy = http_proxy_service(server.configuration, canary)
    proxy.add_tcp(args.listen)
    server.add_service(proxy)
    server.add_service(prometheus_service(metrics, args.metrics))
    server.run_forever()


if __name__ == "__main__":
    main()
