"""The whole gateway: everything that may differ from place to place is in a file.

Run it::

    python examples/tutorial/my_gateway.py -c examples/tutorial/gateway.yaml
"""

from __future__ import annotations

import hmac
import logging
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated

from msgspec import Meta

from pingora_cache.lock import CacheLock
from pingora_cache.memory import MemoryStorage
from pingora_cache.policy import CachePolicy
from pingora_core import HttpPeer, Opt, Server, ServerConf, background_service
from pingora_core.metrics import WorkerMetrics
from pingora_core.modules import HttpModules, RateLimiterBuilder, RateLimitPolicy
from pingora_core.modules.rate_limit_keys import by_client
from pingora_core.runtime.log_sinks import FileSink, LogQueue
from pingora_core.server import exit_on_error
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

# --8<-- [start:settings]
Addresses = Annotated[tuple[str, ...], Meta(min_length=1, description="a list of HOST:PORT")]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The section ``gateway`` of the file.

    Attributes:
        listen: Where clients come in.
        metrics: Where the metrics are.
        access_log: The file for a line of each request.
        services: The servers of each service, by its name.
        cached: Names of services whose answers may be kept.
        clients: Names of clients, and the SHA-256 of their keys.
        requests_per_second: Of each client address.
    """

    listen: Addresses
    metrics: str
    access_log: str
    services: dict[str, Addresses]
    cached: frozenset[str] = frozenset()
    clients: dict[str, str]
    requests_per_second: Annotated[int, Meta(ge=1, description="at least 1")] = 10


# --8<-- [end:settings]


@dataclass(slots=True)
class Ctx:
    """What belongs to one request."""

    attempts: Attempts
    service: str = ""
    client: str = ""


class Gateway(FailoverPhases[Session, Ctx], ProxyHttp[Ctx]):
    """Lets clients with a key in, to the service that they want."""

    def __init__(self, settings: Settings, services: dict[str, Failover]) -> None:
        self.settings = settings
        self.services = services
        self.storage = MemoryStorage(256 << 20)
        self.policy = CachePolicy(stale_if_error=600)
        self.lock = CacheLock(5.0)

    def init_downstream_modules(self, modules: HttpModules) -> None:
        super().init_downstream_modules(modules)
        rate = self.settings.requests_per_second
        bucket = SharedTokenBucket(rate=rate, burst=2 * rate)
        modules.add_module(RateLimiterBuilder([RateLimitPolicy("client", bucket, by_client())]))

    async def startup(self) -> None:
        await self.storage.open()

    async def cleanup(self) -> None:
        await self.storage.close()

    async def request_cache_filter(self, session: Session, ctx: Ctx) -> None:
        if ctx.service in self.settings.cached:
            session.cache.enable(self.storage, lock=self.lock, policy=self.policy)

    def new_ctx(self) -> Ctx:
        return Ctx(Attempts(next(iter(self.services.values()))))  # as long as it is not known which

    def client_of(self, request: RequestHeader) -> str | None:
        """Find who has the key that was sent."""
        key = request.get("x-api-key", "").encode("latin-1")
        digest = sha256(key).hexdigest()
        known = self.settings.clients.items()
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
    opt = Opt.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    server = Server(opt)
    with exit_on_error():
        settings = server.configuration.section("gateway", Settings)

    policy = RetryPolicy(max_attempts=3, per_try_timeout=2.0)
    services: dict[str, Failover] = {}
    for name, addresses in settings.services.items():
        check = TcpHealthCheck()
        balancer = LoadBalancer(addresses, selection=LeastRequest, health_check=check)
        server.add_service(background_service(name, balancer))
        services[name] = Failover(balancer, policy)
    metrics = WorkerMetrics()
    log = AccessLog(LogQueue(FileSink(settings.access_log)))
    gateway = Gateway(settings, services)
    observers = [ProxyMetrics(metrics.registry), log]
    service = http_proxy_service(server.configuration, gateway, observers=observers)
    for address in settings.listen:
        service.add_tcp(address)
    server.add_service(service)
    server.add_service(prometheus_service(metrics, settings.metrics))

    # --8<-- [start:reload]
    async def take_on(conf: ServerConf) -> None:
        # Clients come and go without a restart. What is wrong raises, and nothing has changed.
        gateway.settings = conf.section("gateway", Settings)

    server.on_reload(take_on)
    # --8<-- [end:reload]
    server.run_forever()


if __name__ == "__main__":
    main()
