"""Limits of the rate of requests: the snippets of docs/how-to/rate-limits.md."""

from __future__ import annotations

# --8<-- [start:imports]
from pingora_core.modules import RateLimiterBuilder, RateLimitPolicy
from pingora_core.modules.rate_limit_keys import by_client
from pingora_limits.shared import SharedTokenBucket

# --8<-- [end:imports]

# isort: split
from pingora_core import BackgroundService, HttpPeer, Server, ShutdownWatch, background_service
from pingora_core.modules import HttpModules, RateLimiter
from pingora_error import Error
from pingora_limits.redis import RedisSlidingWindow
from pingora_proxy import ProxyHttp, Session

# --8<-- [start:module]
limits = RateLimiterBuilder([RateLimitPolicy("client", SharedTokenBucket(10, 20), by_client())])


class Proxy(ProxyHttp[None]):
    """Passes on what is not too much."""

    def init_downstream_modules(self, modules: HttpModules) -> None:
        super().init_downstream_modules(modules)
        modules.add_module(limits)

    # --8<-- [end:module]

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream

    def new_ctx(self) -> None:
        return None

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        return HttpPeer(self.upstream)

    # --8<-- [start:logging]
    async def logging(self, session: Session, error: Error | None, ctx: None) -> None:
        limiter = session.downstream_modules_ctx[RateLimiter]
        print(limiter.refused_by, limiter.shadowed_by)  # names of policies

    # --8<-- [end:logging]


def add_limits(server: Server, limiter: RedisSlidingWindow) -> type[BackgroundService]:
    """Keep in touch with Redis."""

    # --8<-- [start:redis]
    class Limits(BackgroundService):
        async def start(self, shutdown: ShutdownWatch) -> None:
            async with limiter:
                await shutdown.wait()

    server.add_service(background_service("limits", Limits()))
    # --8<-- [end:redis]
    return Limits
