"""A proxy that limits its clients, the same over all of its worker processes.

Every client address may send ``--rate`` requests per second, with bursts. What is under ``/search``
is limited once more. An API key has a quota for an hour; that rule is only a shadow, which counts
and logs what it would refuse. Clients see their limits on every response::

    python examples/rate_limiter.py 127.0.0.1:8080 --rate 5 --burst 10
    for i in $(seq 12); do curl -si http://127.0.0.1:6188/ | grep -iE '^(HTTP|RateLimit|Retry)'; done

The answer to the eleventh request is ``429 Too Many Requests`` with ``Retry-After: 1``. With
``workers: 4`` in a configuration file (``-c``) it is the same request.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pingora_core import HttpPeer, Opt, Server
from pingora_core.modules import RateLimiter, RateLimiterBuilder, RateLimitPolicy
from pingora_core.modules.rate_limit_keys import (
    by_all,
    by_client,
    by_header,
    by_path,
    clients_in,
)
from pingora_limits.shared import SharedSlidingWindow, SharedTokenBucket
from pingora_proxy import ProxyHttp, Session, http_proxy_service

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pingora_core.modules import HttpModules
    from pingora_error import Error

HOUR = 3600.0

_logger = logging.getLogger("rate_limiter")


class LimitedProxy(ProxyHttp[None]):
    """Sends what is not too much to one upstream."""

    def __init__(self, upstream: str, policies: Iterable[RateLimitPolicy]) -> None:
        self.upstream = upstream
        self.limits = RateLimiterBuilder(policies)

    def init_downstream_modules(self, modules: HttpModules) -> None:
        super().init_downstream_modules(modules)
        modules.add_module(self.limits)

    def new_ctx(self) -> None:
        return None

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        return HttpPeer(self.upstream)

    async def logging(self, session: Session, error: Error | None, ctx: None) -> None:
        limiter = session.downstream_modules_ctx[RateLimiter]
        if limiter.refused_by or limiter.shadowed_by:
            _logger.info(
                "%s, refused by: %s, would be refused by: %s",
                self.request_summary(session, ctx),
                ", ".join(limiter.refused_by) or "-",
                ", ".join(limiter.shadowed_by) or "-",
            )


def make_policies(
    *, rate: float, burst: int, quota: int, exempt: Iterable[str]
) -> list[RateLimitPolicy]:
    """Make the rules.

    The limiters are made before the server forks its workers, so that all of them share the counts.

    Args:
        rate: Requests per second of one client address.
        burst: Requests that it may send at once.
        quota: Requests per hour of one API key.
        exempt: Networks that are not limited by address.

    Returns:
        The rules.
    """
    is_exempt = clients_in(exempt)
    return [
        RateLimitPolicy(
            "client",
            SharedTokenBucket(rate, burst),
            by_client(),
            exempt=is_exempt,
        ),
        RateLimitPolicy(
            "search",
            SharedTokenBucket(rate / 5, max(1, burst // 5)),
            by_all(by_client(), by_path("/search")),
            exempt=is_exempt,
        ),
        RateLimitPolicy(
            "key",
            SharedSlidingWindow(quota, HOUR),
            by_header("X-Api-Key"),
            shadow=True,
        ),
    ]


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("A proxy that limits its clients.")
    parser.add_argument(
        "upstream", nargs="?", default="127.0.0.1:8000", help="address of the upstream"
    )
    parser.add_argument("--listen", default="127.0.0.1:6188", help="address to listen on")
    parser.add_argument("--rate", type=float, default=5.0, help="requests per second of a client")
    parser.add_argument("--burst", type=int, default=10, help="requests that it may send at once")
    parser.add_argument("--quota", type=int, default=1000, help="requests per hour of an API key")
    parser.add_argument("--exempt", nargs="*", default=[], help="networks that are not limited")
    args = parser.parse_args()

    logging.basicConfig(level=logging.INFO, format="%(message)s")

    policies = make_policies(rate=args.rate, burst=args.burst, quota=args.quota, exempt=args.exempt)
    server = Server(Opt.from_namespace(args))
    proxy = http_proxy_service(server.configuration, LimitedProxy(args.upstream, policies))
    proxy.add_tcp(args.listen)
    server.add_service(proxy)
    server.run_forever()


if __name__ == "__main__":
    main()
