"""Hedging: a request that takes too long is sent to a second server as well, and the first answer counts.

Run it against two servers that have the same to say::

    python examples/hedging.py 127.0.0.1:8001 127.0.0.1:8002 --delay 0.05
    curl 127.0.0.1:6188/

Stop the first one with ``kill -STOP``: clients notice 50 ms of it. With many servers, use
``FailoverPhases``, as examples/failover.py does.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pingora_core import HttpPeer, Opt, Server
from pingora_proxy import Hedge, HedgePlan, ProxyHttp, Session, http_proxy_service

if TYPE_CHECKING:
    from pingora_http import ResponseHeader


class Hedging(ProxyHttp[None]):
    """Asks one server, and another one if that takes its time."""

    def __init__(self, first: str, second: str, delay: float) -> None:
        self.first = first
        self.second = second
        self.delay = delay

    def new_ctx(self) -> None:
        return None

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        return HttpPeer(self.first)

    def hedge_request(self, session: Session, peer: HttpPeer, ctx: None) -> HedgePlan | None:
        # Asked for requests that may be executed twice; None would make an exception.
        return Hedge(self.delay, choose=self.choose_second, accepts=self.accepts)

    async def choose_second(self) -> HttpPeer | None:
        # Called when it is time: ask a budget here, and return None if it is used up.
        return HttpPeer(self.second)

    def accepts(self, peer: HttpPeer, response: ResponseHeader) -> bool:
        # A failure of one does not count as long as there is hope for the other.
        return response.status < 500


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("A proxy that does not wait for a slow server.")
    parser.add_argument("first", nargs="?", default="127.0.0.1:8001", metavar="ADDRESS")
    parser.add_argument("second", nargs="?", default="127.0.0.1:8002", metavar="ADDRESS")
    parser.add_argument("--listen", default="127.0.0.1:6188", metavar="ADDRESS")
    parser.add_argument("--delay", type=float, default=0.05, metavar="SECONDS")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args))
    proxy = http_proxy_service(server.configuration, Hedging(args.first, args.second, args.delay))
    proxy.add_tcp(args.listen)
    server.add_service(proxy)
    server.run_forever()


if __name__ == "__main__":
    main()
