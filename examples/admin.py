r"""A gateway with its dashboard: numbers, upstreams, cache and workers, live, behind a token.

Run it against some backends, open the page and give it the token::

    export ADMIN_TOKEN=$(python -c 'import secrets; print(secrets.token_urlsafe(24))'); echo $ADMIN_TOKEN
    python examples/admin.py 127.0.0.1:8001 127.0.0.1:8002
    xdg-open http://127.0.0.1:6190/

The same from a program::

    curl -H "Authorization: Bearer $ADMIN_TOKEN" 127.0.0.1:6190/overview
    curl -H "Authorization: Bearer $ADMIN_TOKEN" -H 'Content-Type: application/json' \
        -d '{"address": "127.0.0.1:8001"}' 127.0.0.1:6190/backends/drain
"""

from __future__ import annotations

import logging

from pingora_cache import CacheStats, MemoryStorage, Storage
from pingora_core import HttpPeer, Opt, Server, background_service
from pingora_core.metrics import WorkerMetrics
from pingora_load_balancing import (
    Attempts,
    Failover,
    FailoverPhases,
    LeastRequest,
    LoadBalancer,
    TcpHealthCheck,
)
from pingora_proxy import ProxyHttp, Session, http_proxy_service
from pingora_proxy.admin import AdminService, AdminToken, PoolBackends, StorageCache
from pingora_proxy.metrics import ProxyMetrics


class Gateway(FailoverPhases[Session, Attempts], ProxyHttp[Attempts]):
    """Balances and caches, so that there is something to be seen."""

    def __init__(self, failover: Failover, storage: Storage, stats: CacheStats) -> None:
        self.failover = failover
        self.storage = storage
        self.stats = stats

    def new_ctx(self) -> Attempts:
        return Attempts(self.failover)

    async def request_cache_filter(self, session: Session, ctx: Attempts) -> None:
        session.cache.enable(self.storage, stats=self.stats)

    async def upstream_peer(self, session: Session, ctx: Attempts) -> HttpPeer:
        return ctx.prepare(HttpPeer(await ctx.next_backend()))


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("A proxy with a dashboard.")
    parser.add_argument("backends", nargs="+", metavar="ADDRESS")
    parser.add_argument("--listen", default="127.0.0.1:6188", metavar="ADDRESS")
    parser.add_argument("--admin", default="127.0.0.1:6190", metavar="ADDRESS")
    parser.add_argument("--token-file", metavar="PATH", help="default: $ADMIN_TOKEN")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args))
    balancer = LoadBalancer(
        args.backends,
        selection=LeastRequest,
        health_check=TcpHealthCheck(),
        health_check_frequency=1.0,
    )
    storage, stats = MemoryStorage(64 * 1024 * 1024), CacheStats()
    workers = WorkerMetrics()  # adds up the workers; made before they are forked
    metrics = ProxyMetrics(workers.registry)

    proxy = http_proxy_service(
        server.configuration,
        Gateway(Failover(balancer), storage, stats),
        observers=[metrics],
    )
    proxy.add_tcp(args.listen)
    metrics.watch(proxy)

    token = (
        AdminToken(file=args.token_file)
        if args.token_file
        else AdminToken(environment="ADMIN_TOKEN")
    )
    admin = AdminService(
        server,
        token=token,
        listen=args.admin,
        metrics=workers,
        backends={"backends": PoolBackends(balancer.pool)},
        caches={"memory": StorageCache(storage, stats)},
        proxies={"gateway": proxy.app_logic},
    )
    server.add_services([proxy, admin, background_service("health", balancer)])
    server.run_forever()


if __name__ == "__main__":
    main()
