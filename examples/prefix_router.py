"""Prefix-aware routing for inference servers: the same beginning of a prompt, the same server.

A server that has answered a prompt holds the work done for it in its cache; another prompt that
begins alike is cheaper there. So requests go to the server that saw the longest common beginning of
their body, as long as it has not far more to do than the others. Run it and try::

    python examples/prefix_router.py 127.0.0.1:8001 127.0.0.1:8002
    curl -i http://127.0.0.1:6192/v1/completions -d '{"model": "m", "prompt": "Once upon a time"}'

The selection is `PrefixAware`; the rest hands it the prompt and tells it what is on its way.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from random import random
from zlib import crc32

from pingora_core import HttpPeer, Opt, Server
from pingora_core.upstreams import PeerAddress
from pingora_error import Error, HTTPStatus
from pingora_load_balancing import Backend, BackendSet, Lease, LoadBalancer
from pingora_proxy import ProxyHttp, Session, http_proxy_service

BLOCK = 64  # bytes; prompts are compared in whole blocks
PROMPT = 16 * 1024  # so much of a body is looked at
REPLAY = 1024 * 1024  # kept of a body, to send it to the server chosen, or to the next
MOST_PREFIXES = 100_000

logger = logging.getLogger(__name__)


class PrefixAware:
    """Prefers the server that had the longest beginning of the key, unless that is busy."""

    def __init__(self, backends: BackendSet, homes: dict[int, PeerAddress]) -> None:
        pairs = zip(backends, backends.states, strict=True)
        self.members = [(backend, state) for backend, state in pairs if backend.weight]
        self.homes = homes  # outlives the set: the last server of each prefix, by checksum

    def iter(self, key: bytes) -> Iterator[Backend]:
        blocks = (key[start : start + BLOCK] for start in range(0, len(key), BLOCK))
        prefixes = list(accumulate(blocks, lambda sum_, block: crc32(block, sum_), initial=0))[1:]
        home = next((self.homes[p] for p in reversed(prefixes) if p in self.homes), None)
        busy = 4 + 2 * min((state.in_flight for _, state in self.members), default=0)

        def cost(member: int) -> tuple[bool, int, float]:
            backend, state = self.members[member]
            is_home = backend.addr == home and state.in_flight < busy
            return (not is_home, state.in_flight, random())  # noqa: S311  # no secret

        for member in sorted(range(len(self.members)), key=cost):
            backend, _ = self.members[member]
            for prefix in prefixes:
                self.homes.pop(prefix, None)  # the last ones used stay the longest
                self.homes[prefix] = backend.addr
            # Before the yield: nobody asks for more when this one will do.
            while len(self.homes) > MOST_PREFIXES:
                del self.homes[next(iter(self.homes))]
            yield backend  # if it is refused, the next one becomes the home


@dataclass(slots=True)
class Ctx:
    """What belongs to one request.

    Attributes:
        prompt: The beginning of the body.
        lease: Counts the request at the server that it is at.
        tried: The servers that could not be reached.
    """

    prompt: bytes = b""
    lease: Lease | None = None
    tried: set[Backend] = field(default_factory=set)


class PrefixRouter(ProxyHttp[Ctx]):
    """Sends each prompt to the server that knows its beginning."""

    def __init__(self, servers: LoadBalancer) -> None:
        self.servers = servers

    def new_ctx(self) -> Ctx:
        return Ctx()

    async def request_filter(self, session: Session, ctx: Ctx) -> bool:
        session.downstream_session.enable_retry_buffering(REPLAY)
        while len(ctx.prompt) < PROMPT:
            piece = await session.read_request_body()
            if piece is None:
                break
            ctx.prompt += piece
        return False

    async def upstream_peer(self, session: Session, ctx: Ctx) -> HttpPeer:
        server = self.servers.select_with(
            ctx.prompt[:PROMPT], 256, lambda server, ready: ready and server not in ctx.tried
        )
        if server is None:
            raise Error(HTTPStatus(503), "no inference server is left")
        if ctx.lease is not None:
            ctx.lease.release()
        ctx.lease = self.servers.lease(server)
        return HttpPeer(server)

    async def fail_to_connect(
        self, session: Session, peer: HttpPeer, ctx: Ctx, error: Error
    ) -> Error:
        assert ctx.lease is not None
        ctx.tried.add(ctx.lease.backend)
        error.set_retry(True)
        return error

    async def logging(self, session: Session, error: Error | None, ctx: Ctx) -> None:
        if ctx.lease is not None:
            ctx.lease.release()
            logger.info("%d bytes of prompt, to %s", len(ctx.prompt), ctx.lease.backend)


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("Routes prompts to the servers that know their beginning.")
    parser.add_argument(
        "servers",
        nargs="*",
        default=["127.0.0.1:8001", "127.0.0.1:8002"],
        metavar="ADDRESS",
        help="inference servers",
    )
    parser.add_argument("--listen", default="127.0.0.1:6192", metavar="ADDRESS")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args))
    homes: dict[int, PeerAddress] = {}
    servers = LoadBalancer(args.servers, selection=partial(PrefixAware, homes=homes))
    router = http_proxy_service(server.configuration, PrefixRouter(servers), name="prefix router")
    router.add_tcp(args.listen)
    server.add_service(router)
    server.run_forever()


if __name__ == "__main__":
    main()
