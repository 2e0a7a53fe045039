"""Forwards TCP connections to the first of several upstreams that can be reached.

What is spoken on them does not matter: a database, mail, SSH. Run it and try::

    python examples/l4_proxy.py 127.0.0.1:5432 127.0.0.1:5433 --listen 127.0.0.1:6432
    psql -h 127.0.0.1 -p 6432

``--deny`` refuses clients of a network, ``--sni`` speaks TLS to the upstreams, and ``--announce``
tells them with a header of the PROXY protocol who the client is.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING

from pingora_core import BasicPeer, Opt, PeerOptions, Server
from pingora_core.apps import StreamProxy, StreamProxyOptions
from pingora_core.protocols.networks import TrustedNetworks
from pingora_core.protocols.proxy_protocol import ProxyHeader
from pingora_core.services import stream_proxy_service

if TYPE_CHECKING:
    from argparse import Namespace

    from pingora_core.apps import StreamSession
    from pingora_core.protocols.digest import Digest
    from pingora_core.upstreams import Peer
    from pingora_error import Error

logger = logging.getLogger(__name__)


@dataclass
class Context:
    """What is remembered of one connection."""

    protocol: str = "in clear"


class L4Proxy(StreamProxy[Context]):
    """Takes the upstreams in turn, and the next one if one cannot be reached."""

    def __init__(self, args: Namespace) -> None:
        self.upstreams = cycle(args.upstream)
        self.denied = TrustedNetworks(args.deny)
        self.sni: str = args.sni
        self.announce: bool = args.announce

    def new_ctx(self) -> Context:
        return Context()

    async def connection_filter(self, session: StreamSession, ctx: Context) -> bool:
        return not self.denied.contains(session.client_addr)

    async def upstream_peer(self, session: StreamSession, ctx: Context) -> BasicPeer:
        options = PeerOptions(connection_timeout=3.0)
        if self.announce:
            options.send_proxy_protocol = ProxyHeader.from_digest(session.digest)
        return BasicPeer(next(self.upstreams), sni=self.sni, options=options)

    async def fail_to_connect(
        self, session: StreamSession, peer: Peer, ctx: Context, error: Error
    ) -> Error:
        error.set_retry(True)
        return error

    async def connected_to_upstream(
        self, session: StreamSession, peer: Peer, digest: Digest, ctx: Context
    ) -> None:
        if digest.ssl_digest is not None:
            ctx.protocol = f"over {digest.ssl_digest.version}"

    async def logging(self, session: StreamSession, error: Error | None, ctx: Context) -> None:
        logger.info(
            "%s to %s %s: %s after %.3f s, %d bytes up, %d down, attempts: %d",
            session.client_addr,
            "nowhere" if session.upstream is None or session.peer is None else session.peer.address,
            ctx.protocol,
            session.ending,
            session.duration,
            session.upstream_bytes_sent,
            session.bytes_sent,
            session.attempts,
        )


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("Forwards TCP connections.")
    parser.add_argument("upstream", nargs="*", default=["127.0.0.1:5432"], metavar="ADDRESS")
    parser.add_argument("--listen", default="127.0.0.1:6432", metavar="ADDRESS")
    parser.add_argument("--deny", action="append", default=[], metavar="NETWORK")
    parser.add_argument("--sni", default="", metavar="NAME")
    parser.add_argument("--announce", action="store_true")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args))
    options = StreamProxyOptions(idle_timeout=600.0, max_lifetime=24 * 3600.0)
    proxy = stream_proxy_service(server.configuration, L4Proxy(args), options=options)
    proxy.add_tcp(args.listen)
    server.add_service(proxy)
    server.run_forever()


if __name__ == "__main__":
    main()
