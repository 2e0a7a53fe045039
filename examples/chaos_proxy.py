r"""A proxy that does harm, for testing what clients make of it.

Put it between a client and its server, and say what happens to which share of the requests::

    python examples/chaos_proxy.py 127.0.0.1:8000 --seed 1 \
        --fault latency=0.5:0.2 --fault status=503:0.1 --fault reset:0.05
    curl -i 127.0.0.1:6188/

or for one request, in a field that the server does not see::

    curl -i 127.0.0.1:6188/ -H 'X-Chaos: latency=0.2, truncate=100'

==============  ===================================================================
latency=S       waits so many seconds before the request is sent
status=N        answers with this status instead of asking the server
reset           closes the connection instead of answering
truncate=N      closes it after so many bytes of the body
bandwidth=N     passes so many bytes of the body a second
==============  ===================================================================

The same seed and the same order of requests bring the same faults.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from random import Random

from pingora_core import HttpPeer, Opt, Server
from pingora_error import Error, ErrorType, HTTPStatus
from pingora_http import RequestHeader
from pingora_proxy import ProxyHttp, Session, http_proxy_service

FIELD = "X-Chaos"
MOST = {"latency": 60.0, "status": 599.0, "reset": 0.0, "truncate": 1e12, "bandwidth": 1e12}
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fault:
    """What may happen, how much of it, and how often (0 to 1)."""

    kind: str
    amount: float = 0.0
    share: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read ``kind=amount:share``; ValueError if it is none."""
        what, _, share = text.strip().partition(":")
        kind, _, amount = what.partition("=")
        fault = cls(kind, float(amount or 0), float(share or 1))
        lowest = 400 if kind == "status" else 1 if kind == "bandwidth" else 0
        if not (lowest <= fault.amount <= MOST.get(kind, -1) and 0 <= fault.share <= 1):
            raise ValueError(f"{text!r} is no fault")
        return fault


@dataclass(slots=True)
class Ctx:
    """What is done to one request: by kind, how much. And how much of its body has passed."""

    faults: dict[str, float]
    passed: int = 0


class Chaos(ProxyHttp[Ctx]):
    """Passes requests to a server, some of them not unharmed."""

    def __init__(self, upstream: str, faults: list[Fault], seed: int) -> None:
        self.peer = HttpPeer(upstream)
        self.faults = faults
        self.random = Random(seed)  # noqa: S311  # to be repeated, not to be secret

    def new_ctx(self) -> Ctx:
        # A number for each fault, wanted or not: what one is asked for moves no other.
        drawn = [(fault, self.random.random()) for fault in self.faults]
        return Ctx({fault.kind: fault.amount for fault, number in drawn if number < fault.share})

    async def request_filter(self, session: Session, ctx: Ctx) -> bool:
        wanted = session.req_header.get(FIELD)
        if wanted is not None:
            try:
                faults = [Fault.parse(text) for text in wanted.split(",")]
            except ValueError as error:
                await session.respond_error(400, f"{FIELD}: {error}\n".encode())
                return True
            ctx.faults = {fault.kind: fault.amount for fault in faults}
        if ctx.faults:
            logger.info("%s: %s", session.req_header.path, ctx.faults)
        await asyncio.sleep(ctx.faults.get("latency", 0.0))
        if "reset" in ctx.faults:
            raise Error.down(ErrorType.CONNECTION_CLOSED, "a fault was asked for")
        if "status" in ctx.faults:
            raise Error.down(HTTPStatus(int(ctx.faults["status"])), "a fault was asked for")
        return False

    async def upstream_peer(self, session: Session, ctx: Ctx) -> HttpPeer:
        return self.peer

    async def upstream_request_filter(
        self, session: Session, upstream_request: RequestHeader, ctx: Ctx
    ) -> None:
        upstream_request.remove_header(FIELD)

    async def response_body_filter(
        self, session: Session, body: bytes | None, end_of_stream: bool, ctx: Ctx
    ) -> bytes | None:
        downstream = session.downstream_session
        size = len(body or b"")
        left = int(ctx.faults.get("truncate", ctx.passed + size)) - ctx.passed
        ctx.passed += size
        rest = (body or b"")[:left]
        if bandwidth := ctx.faults.get("bandwidth"):
            step = max(1, int(bandwidth / 10))
            while rest:
                await asyncio.sleep(len(rest[:step]) / bandwidth)
                await downstream.write_response_body(rest[:step])
                rest = rest[step:]
        if left < size:
            await downstream.write_response_body(rest)  # and there is no end
            raise Error.down(ErrorType.CONNECTION_CLOSED, "a fault was asked for")
        return rest

    def suppress_error_log(self, session: Session, ctx: Ctx, error: Error) -> bool:
        return bool(ctx.faults)


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("A proxy that does harm.")
    parser.add_argument("upstream", nargs="?", default="127.0.0.1:8000", metavar="ADDRESS")
    parser.add_argument("--fault", action="append", default=[], type=Fault.parse)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--listen", default="127.0.0.1:6188", metavar="ADDRESS")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    server = Server(Opt.from_namespace(args))
    chaos = Chaos(args.upstream, args.fault, args.seed)
    proxy = http_proxy_service(server.configuration, chaos)
    proxy.add_tcp(args.listen)
    server.add_service(proxy)
    server.run_forever()


if __name__ == "__main__":
    main()
