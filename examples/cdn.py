"""A CDN node: a cache in memory over one on disk, that many clients share without stampedes.

Run it in front of an origin::

    python examples/cdn.py 127.0.0.1:8000 --disk /var/cache/cdn
    curl -i 127.0.0.1:6188/page                  # Cache-Status: cdn; fwd=uri-miss; stored
    curl -i 127.0.0.1:6188/page                  # Cache-Status: cdn; hit; ttl=59
    curl -X PURGE 127.0.0.1:6188/page            # that page, in all its variants
    curl -X PURGE -H 'Cache-Tag: news' 127.0.0.1:6188/         # all that came with this tag
    curl -X PURGE -H 'Purge-Mode: soft' 127.0.0.1:6188/page    # expired: asked for again, or stale

How long a response is kept the origin says, in ``CDN-Cache-Control`` or ``Cache-Control``.
Without ``--disk`` the cache is in memory only.
"""

from __future__ import annotations

import logging
from ipaddress import ip_address

from pingora_cache import (
    CacheLock,
    CachePolicy,
    MemoryStorage,
    PurgeAction,
    Storage,
    TieredStorage,
    append_cache_status,
    parse_tags,
)
from pingora_cache.disk import DiskStorage
from pingora_cache.shared_lock import SharedCacheLock
from pingora_core import HttpPeer, Opt, Server
from pingora_core.protocols.address import InetAddress
from pingora_http import ResponseHeader
from pingora_proxy import ProxyHttp, Session, http_proxy_service

MIB = 1 << 20


class Cdn(ProxyHttp[None]):
    """Answers from its cache what the origin allows."""

    def __init__(
        self, origin: HttpPeer, storage: Storage, lock: CacheLock, policy: CachePolicy
    ) -> None:
        self.origin = origin
        self.storage = storage
        self.policy = policy
        # One request fetches an object, the others wait for it, 30 seconds at most.
        self.lock = lock

    async def startup(self) -> None:
        await self.storage.open()

    async def cleanup(self) -> None:
        await self.storage.close()

    def new_ctx(self) -> None:
        return None

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        return self.origin

    async def request_filter(self, session: Session, ctx: None) -> bool:
        if session.req_header.method != "PURGE":
            return False
        client = session.client_addr
        if not isinstance(client, InetAddress) or not ip_address(client.host).is_loopback:
            await session.respond_error(403)
            return True
        tags = parse_tags(session.req_header)
        for tag in tags:
            await self.storage.purge_tag(tag, action=self.purge_action(session))
        if tags:
            await session.write_response_header(ResponseHeader(204), end=True)
        return bool(tags)

    async def request_cache_filter(self, session: Session, ctx: None) -> None:
        session.cache.enable(self.storage, lock=self.lock, policy=self.policy)

    async def is_purge(self, session: Session, ctx: None) -> bool | PurgeAction:
        return session.req_header.method == "PURGE" and self.purge_action(session)

    def purge_action(self, session: Session) -> PurgeAction:
        is_soft = session.req_header.get("purge-mode") == "soft"
        return PurgeAction.EXPIRE if is_soft else PurgeAction.DELETE

    async def response_filter(
        self, session: Session, upstream_response: ResponseHeader, ctx: None
    ) -> None:
        if upstream_response.status >= 200:
            append_cache_status(upstream_response, session.cache.status("cdn"))


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("A caching node in front of an origin.")
    parser.add_argument("origin", nargs="?", default="127.0.0.1:8000", metavar="ADDRESS")
    parser.add_argument("--listen", default="127.0.0.1:6188", metavar="ADDRESS")
    parser.add_argument("--memory", type=int, default=256, metavar="MIB")
    parser.add_argument("--disk", metavar="DIRECTORY")
    parser.add_argument("--disk-size", type=int, default=4096, metavar="MIB")
    parser.add_argument(
        "--set-cookie",
        choices=("deny", "strip", "store"),
        default="deny",
        help="what becomes of responses that set cookies; 'store' gives all clients the first's",
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args))
    storage: Storage = MemoryStorage(args.memory * MIB)
    lock = CacheLock(30.0)
    if args.disk is not None:
        disk = DiskStorage(args.disk, max_bytes=args.disk_size * MIB)
        storage = TieredStorage(storage, disk)
        # One request of all workers fetches what is missing, not one of each.
        lock = SharedCacheLock(f"{args.disk}.lock", 30.0)
    policy = CachePolicy(stale_if_error=3600, set_cookie=args.set_cookie)
    cdn = Cdn(HttpPeer(args.origin), storage, lock, policy)
    proxy = http_proxy_service(server.configuration, cdn)
    proxy.add_tcp(args.listen)
    server.add_service(proxy)
    server.run_forever()


if __name__ == "__main__":
    main()
