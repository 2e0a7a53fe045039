"""The smallest cache there is: what its origin lets it keep, in memory.

::

    python examples/cached.py 127.0.0.1:8000
    curl -i 127.0.0.1:6188/    # from the second time on with Age, and without the origin
"""

from __future__ import annotations

import logging

from pingora_cache import CacheLock, MemoryStorage
from pingora_core import HttpPeer, Opt, Server
from pingora_proxy import ProxyHttp, Session, http_proxy_service


# --8<-- [start:cached]
class Cached(ProxyHttp[None]):
    """Keeps responses for as long as they say."""

    def __init__(self, origin: str) -> None:
        self.origin = HttpPeer(origin)
        self.storage = MemoryStorage(256 * 1024 * 1024)
        self.lock = CacheLock(30.0)

    def new_ctx(self) -> None:
        return None

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        return self.origin

    async def request_cache_filter(self, session: Session, ctx: None) -> None:
        session.cache.enable(self.storage, lock=self.lock)


# --8<-- [end:cached]
def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("A cache in front of an origin.")
    parser.add_argument("origin", nargs="?", default="127.0.0.1:8000", metavar="ADDRESS")
    parser.add_argument("--listen", default="127.0.0.1:6188", metavar="ADDRESS")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args))
    proxy = http_proxy_service(server.configuration, Cached(args.origin))
    proxy.add_tcp(args.listen)
    server.add_service(proxy)
    server.run_forever()


if __name__ == "__main__":
    main()
