"""Step 8: what happens can be seen."""

from __future__ import annotations

import hmac
import logging
from dataclasses import dataclass
from hashlib import sha256

from pingora_cache.lock import CacheLock
from pingora_cache.memory import MemoryStorage
from pingora_cache.policy import CachePolicy
from pingora_core import HttpPeer, Opt, Server, background_service
from pingora_core.metrics import WorkerMetrics
from pingora_core.modules import HttpModules, RateLimiterBuilder, RateLimitPolicy
from pingora_core.modules.rate_limit_keys import by_client
from pingora_core.runtime.log_sinks import FileSink, LogQueue
from pingora_core.services.prometheus import prometheus_service
from pingora_error import Error, HTTPStatus
from pingora_http import RequestHeader
from pingora_limits.shared import SharedTokenBucket
from pingora_load_balancing import (
    Attempts,
    Failover,
    FailoverPhases,
    LeastRequest,
    LoadBalancer,
    RetryPolicy,
    TcpHealthCheck,
)
from pingora_proxy import ProxyHttp, Session, http_proxy_service
from pingora_proxy.access_log import AccessLog
from pingora_proxy.metrics import ProxyMetrics


@dataclass(slots=True)
class Ctx:
    """What belongs to one request."""

    attempts: Attempts
    service: str = ""
    client: str = ""


class Gateway(FailoverPhases[Session, Ctx], ProxyHttp[Ctx]):
    """Lets clients with a key in, to the service that they want."""

    def __init__(self, services: dict[str, Failover], clients: dict[str, str]) -> None:
        self.services = services
        self.clients = clients  # their names, and the SHA-256 of their keys
        self.storage = MemoryStorage(256 << 20)
        self.policy = CachePolicy(stale_if_error=600)
        self.lock = CacheLock(5.0)  # one request fetches, the others wait; 5 seconds at most

    def init_downstream_modules(self, modules: HttpModules) -> None:
        super().init_downstream_modules(modules)
        bucket = SharedTokenBucket(rate=10, burst=20)  # by all workers together
        modules.add_module(RateLimiterBuilder([RateLimitPolicy("client", bucket, by_client())]))

    async def startup(self) -> None:
        await self.storage.open()

    async def cleanup(self) -> None:
        await self.storage.close()

    async def request_cache_filter(self, session: Session, ctx: Ctx) -> None:
        if ctx.service == "catalog":
            session.cache.enable(self.storage, lock=self.lock, policy=self.policy)

    def new_ctx(self) -> Ctx:
        return Ctx(Attempts(self.services["catalog"]))  # as long as it is not known which

    def client_of(self, request: RequestHeader) -> str | None:
        """Find who has the key that was sent."""
        key = request.get("x-api-key", "").encode("latin-1")
        digest = sha256(key).hexdigest()
        known = self.clients.items()
        found = [name for name, each in known if hmac.compare_digest(each, digest)]
        return found[0] if found else None

    async def request_filter(self, session: Session, ctx: Ctx) -> bool:
        client = self.client_of(session.req_header)
        if client is None:
            await session.respond_error(401, b"a valid X-Api-Key is required\n")
            return True  # answered: nothing is asked of anybody
        ctx.client = client
        name = session.req_header.path.removeprefix("/").partition("/")[0]
        if name not in self.services:
            raise Error.down(HTTPStatus(404), f"there is no service {name!r}")
        ctx.service = session.route = name
        ctx.attempts = Attempts(self.services[name])
        return False

    async def upstream_peer(self, session: Session, ctx: Ctx) -> HttpPeer:
        return ctx.attempts.prepare(HttpPeer(await ctx.attempts.next_backend()))

    async def upstream_request_filter(
        self, session: Session, upstream_request: RequestHeader, ctx: Ctx
    ) -> None:
        rest = upstream_request.raw_target.removeprefix(f"/{ctx.service}".encode())
        upstream_request.set_target(rest if rest.startswith(b"/") else b"/" + rest)
        upstream_request.remove_header("X-Api-Key")  # the services need not know it
        upstream_request.insert_header("X-Client", ctx.client)


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("A gateway.")
    parser.add_argument("--catalog", nargs="+", required=True, metavar="ADDRESS")
    parser.add_argument("--orders", nargs="+", required=True, metavar="ADDRESS")
    parser.add_argument("--client", action="append", default=[], metavar="NAME=SHA256")
    parser.add_argument("--listen", default="127.0.0.1:6188", metavar="ADDRESS")
    parser.add_argument("--metrics", default="127.0.0.1:6197", metavar="ADDRESS")
    parser.add_argument("--access-log", default="access.log", metavar="FILE")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args))
    clients = dict(client.split("=", 1) for client in args.client)
    policy = RetryPolicy(max_attempts=3, per_try_timeout=2.0)
    services: dict[str, Failover] = {}
    for name, addresses in (("catalog", args.catalog), ("orders", args.orders)):
        check = TcpHealthCheck()
        balancer = LoadBalancer(addresses, selection=LeastRequest, health_check=check)
        server.add_service(background_service(name, balancer))  # checks every five seconds
        services[name] = Failover(balancer, policy)
    # --8<-- [start:observers]
    metrics = WorkerMetrics()
    log = AccessLog(LogQueue(FileSink(args.access_log)))
    gateway = Gateway(services, clients)
    observers = [ProxyMetrics(metrics.registry), log]
    service = http_proxy_service(server.configuration, gateway, observers=observers)
    service.add_tcp(args.listen)
    server.add_service(service)
    server.add_service(prometheus_service(metrics, args.metrics))
    # --8<-- [end:observers]
    server.run_forever()


if __name__ == "__main__":
    main()
