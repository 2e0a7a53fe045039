"""Choosing among backends: by turns, by what is on its way, by zone, by session.

These are the parts of docs/how-to/balancing.md.
"""

from __future__ import annotations

from dataclasses import dataclass

# --8<-- [start:import-partial]
from functools import partial

# --8<-- [end:import-partial]
from pingora_core import HttpPeer
from pingora_error import Error, HTTPStatus
from pingora_http import ResponseHeader
from pingora_load_balancing import (
    Backend,
    Backends,
    HealthCheck,
    KetamaHashing,
    Lease,
    LeastRequest,
    LoadBalancer,
    Selector,
    ServiceDiscovery,
    SlowStart,
    Sticky,
    StickyCookie,
    ZonePreference,
)
from pingora_proxy import ProxyHttp, Session

# --8<-- [start:pool]
upstreams = LoadBalancer(["10.0.0.1:80", Backend("10.0.0.2:80", weight=2)])
# --8<-- [end:pool]


class ByTurns(ProxyHttp[None]):
    """Gives one of them each request, and the stronger one twice as many."""

    def new_ctx(self) -> None:
        return None

    # --8<-- [start:select]
    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        backend = upstreams.select(b"", 256)
        if backend is None:
            raise Error(HTTPStatus(503), "no healthy upstream")
        return HttpPeer(backend)

    # --8<-- [end:select]


# --8<-- [start:inner]
def nearby(discovery: ServiceDiscovery) -> LoadBalancer:
    """Prefer a zone, then the servers with the fewest requests, new ones little by little."""
    return LoadBalancer(
        discovery=discovery,
        selection=partial(
            ZonePreference,
            zones=["eu-1a"],
            zone_of=lambda backend: backend.metadata_as(str),
            inner=partial(SlowStart, inner=LeastRequest, window=30.0),
        ),
    )


# --8<-- [end:inner]


@dataclass(slots=True)
class Ctx:
    """What belongs to one request.

    Attributes:
        lease: Counts the request at the backend that it is at.
        backend: Where it was sent.
    """

    lease: Lease | None = None
    backend: Backend | None = None


class Counted(ProxyHttp[Ctx]):
    """Tells the selection what is on its way."""

    def __init__(self, upstreams: LoadBalancer) -> None:
        self.upstreams = upstreams

    def new_ctx(self) -> Ctx:
        return Ctx()

    # --8<-- [start:lease]
    async def upstream_peer(self, session: Session, ctx: Ctx) -> HttpPeer:
        backend = self.upstreams.select(b"", 256)
        if backend is None:
            raise Error(HTTPStatus(503), "no healthy upstream")
        if ctx.lease is not None:
            ctx.lease.release()
        ctx.lease = self.upstreams.lease(backend)
        return HttpPeer(backend)

    async def logging(self, session: Session, error: Error | None, ctx: Ctx) -> None:
        if ctx.lease is not None:
            ctx.lease.release()

    # --8<-- [end:lease]


def two_ways(discovery: ServiceDiscovery, check: HealthCheck) -> tuple[LoadBalancer, Selector]:
    """Choose from one pool by turns, and by key."""
    # --8<-- [start:two-ways]
    pool = Backends()
    by_turns = LoadBalancer(discovery=discovery, pool=pool, health_check=check)
    by_key = Selector(pool, KetamaHashing)
    # --8<-- [end:two-ways]
    return by_turns, by_key


class Cookies(ProxyHttp[Ctx]):
    """Sends a client to where its cookie says that it was."""

    def __init__(self, addresses: list[str], secret: bytes) -> None:
        # --8<-- [start:cookie]
        self.cookie = StickyCookie("route", secret=secret)
        self.upstreams = LoadBalancer(addresses, selection=partial(Sticky, secret=secret))
        # --8<-- [end:cookie]

    def new_ctx(self) -> Ctx:
        return Ctx()

    # --8<-- [start:sticky]
    async def upstream_peer(self, session: Session, ctx: Ctx) -> HttpPeer:
        ctx.backend = self.upstreams.select(self.cookie.key(session.req_header), 256)
        if ctx.backend is None:
            raise Error(HTTPStatus(503), "no healthy upstream")
        return HttpPeer(ctx.backend)

    async def response_filter(
        self, session: Session, upstream_response: ResponseHeader, ctx: Ctx
    ) -> None:
        if ctx.backend is not None:  # None: the page of a 503
            self.cookie.give(session.req_header, upstream_response, ctx.backend)

    # --8<-- [end:sticky]


class Sessions(ProxyHttp[None]):
    """Sends what has the same session identifier to the same backend."""

    def __init__(self, addresses: list[str]) -> None:
        self.upstreams = LoadBalancer(addresses, selection=KetamaHashing)

    def new_ctx(self) -> None:
        return None

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        # --8<-- [start:session]
        session_id = session.req_header.get("mcp-session-id", "")
        backend = self.upstreams.select(session_id.encode(), 256)  # selection=KetamaHashing
        # --8<-- [end:session]
        if backend is None:
            raise Error(HTTPStatus(503), "no healthy upstream")
        return HttpPeer(backend)
