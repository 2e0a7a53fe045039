"""A proxy that runs in the test's own event loop, and keeps a record of how each request ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Self, TypeAlias

from pingora_core.conf import ServerConf
from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_core.services.service import ServiceContext, ServiceReadyNotifier
from pingora_core.upstreams import HttpPeer
from pingora_proxy import ProxyHttp, http_proxy_service
from pingora_proxy.hooks import CTX
from tests.support.client import RawClient
from tests.support.origin import Origin
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pingora_cache.cache import HttpCache
    from pingora_core.apps.http_app import HttpServerOptions
    from pingora_core.protocols.digest import Digest
    from pingora_error import Error
    from pingora_http import ResponseHeader
    from pingora_proxy import Session
    from pingora_proxy.observe import ProxyObserver

__all__ = ["BareProxy", "Ending", "RigContext", "RigProxy", "RunningProxy", "Upstream"]

Upstream: TypeAlias = Origin | str | Callable[["Session"], HttpPeer]


def peer_for(upstream: Upstream, session: Session) -> HttpPeer:
    """Make the peer that stands for an upstream.

    Args:
        upstream: An origin of the rig, an address, or what makes a peer.
        session: The request.

    Returns:
        The peer.
    """
    if isinstance(upstream, Origin):
        return HttpPeer(upstream.address)
    if isinstance(upstream, str):
        return HttpPeer(upstream)
    return upstream(session)


class BareProxy(ProxyHttp[None]):
    """Nothing but the two callbacks that must be there: the fast paths.

    Args:
        upstream: Where all requests go.
    """

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream

    def new_ctx(self) -> None:
        return None

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        return peer_for(self.upstream, session)


@dataclass(slots=True)
class RigContext:
    """What the rig's proxy keeps of one request.

    Attributes:
        attempts: How often an upstream was chosen.
        reused: Whether the last upstream connection came from the pool.
        upstream: The digest of the last upstream connection.
        phases: Names of the callbacks that ran, for proxies that record them.
    """

    attempts: int = 0
    reused: bool | None = None
    upstream: Digest | None = None
    phases: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Ending:
    """How one request ended, as ``logging`` was told.

    Attributes:
        summary: The request in one line.
        method: Its method; ``-`` when the head could not be read.
        status: Status of the response; None when there was none.
        error: Why it failed, or None.
        context: The context.
    """

    summary: str
    method: str
    status: int | None
    error: Error | None
    context: RigContext


class RigProxy(ProxyHttp[RigContext]):
    """The rig's proxy: says on each response how it came about, and records each ending.

    Args:
        upstream: Where all requests go.

    Attributes:
        endings: One for each request, in order of their ends.
    """

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.endings: list[Ending] = []

    def new_ctx(self) -> RigContext:
        return RigContext()

    async def upstream_peer(self, session: Session, ctx: RigContext) -> HttpPeer:
        ctx.attempts += 1
        return peer_for(self.upstream, session)

    async def connected_to_upstream(
        self, session: Session, reused: bool, peer: HttpPeer, digest: Digest, ctx: RigContext
    ) -> None:
        ctx.reused = reused
        ctx.upstream = digest

    async def response_filter(
        self, session: Session, upstream_response: ResponseHeader, ctx: RigContext
    ) -> None:
        if upstream_response.status < 200 or ctx.upstream is None:
            return
        upstream_response.insert_header("x-conn-reuse", "1" if ctx.reused else "0")
        upstream_response.insert_header("x-client-addr", str(session.client_addr))
        upstream_response.insert_header("x-server-addr", str(session.server_addr))
        addresses = ctx.upstream.socket_digest
        if addresses is not None:
            upstream_response.insert_header("x-upstream-client-addr", str(addresses.local_addr))
            upstream_response.insert_header("x-upstream-server-addr", str(addresses.peer_addr))

    async def logging(self, session: Session, error: Error | None, ctx: RigContext) -> None:
        response = session.response_written
        self.endings.append(
            Ending(
                summary=self.request_summary(session, ctx),
                method=session.req_header.method,
                status=None if response is None else response.status,
                error=error,
                context=ctx,
            )
        )

    async def ended(self, count: int = 1) -> Ending:
        """Wait until so many requests have ended.

        Args:
            count: How many.

        Returns:
            The last of them.
        """
        await eventually(lambda: len(self.endings) >= count, f"the end of {count} requests")
        return self.endings[count - 1]


class RunningProxy(Generic[CTX]):
    """A proxy service on a free port, as an async context manager.

    Leaving it is a shutdown, which must come to its end by itself: a request that never ends is
    a failure of the test.

    Args:
        app: The callbacks.
        conf: The server's configuration.
        server_options: How clients are spoken to.
        listen: Addresses to listen on; the first is the one that clients use.
        uds: Path of a Unix socket to listen on instead.
        retry_buffer_size: Bytes of a request body that are kept for a replay.
        new_cache: Makes the cache of a request; None for one with the usual clocks.
        observers: Are told what happens to requests.

    Attributes:
        app: The callbacks.
        address: Where it listens, first of all.
        addresses: All of them.
    """

    def __init__(
        self,
        app: ProxyHttp[CTX],
        *,
        conf: ServerConf | None = None,
        server_options: HttpServerOptions | None = None,
        listen: tuple[str, ...] = ("127.0.0.1:0",),
        uds: Path | None = None,
        retry_buffer_size: int = 65536,
        new_cache: Callable[[], HttpCache] | None = None,
        observers: Sequence[ProxyObserver] = (),
    ) -> None:
        self.app = app
        self._conf = conf or ServerConf()
        self.service = http_proxy_service(
            self._conf,
            app,
            server_options=server_options,
            retry_buffer_size=retry_buffer_size,
            new_cache=new_cache,
            observers=observers,
        )
        if uds is not None:
            self.service.add_uds(str(uds))
        else:
            for address in listen:
                self.service.add_tcp(address)
        self.addresses: list[str] = []
        self._switch = ShutdownSwitch()
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Where it listens, first of all."""
        return self.addresses[0]

    async def __aenter__(self) -> Self:
        ready = ServiceReadyNotifier()
        context = ServiceContext(shutdown=self._switch.watch, ready=ready, conf=self._conf)
        self._task = asyncio.create_task(self.service.start_service(context), name="proxy")
        waiter = asyncio.create_task(ready.wait())
        await asyncio.wait((self._task, waiter), return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        if self._task.done():
            self._task.result()
        self.addresses = [str(address) for address in self.service.addresses]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.begin_shutdown()
        task = self._task
        assert task is not None
        done, _pending = await asyncio.wait((task,), timeout=5)
        if not done:
            task.cancel()
            await asyncio.wait((task,))
        elif (error := task.exception()) is not None:
            raise error
        if kind is None:
            assert done, "the proxy did not come to an end after shutdown"

    def begin_shutdown(self) -> None:
        """Tell the proxy to stop; leaving the context waits for its end."""
        self._switch.start()

    def end_streams(self) -> None:
        """Tell the proxy to end what has no end of its own; it stops if it was not stopping."""
        self._switch.end_streams()

    async def ended(self) -> None:
        """Wait until the proxy has come to its end, once it was told to stop."""
        assert self._task is not None
        async with asyncio.timeout(30):
            await asyncio.shield(self._task)

    async def connect(self, *, receive_buffer: int | None = None) -> RawClient:
        """Connect a client.

        Args:
            receive_buffer: Kernel receive buffer in bytes, for a client that stalls.

        Returns:
            The client; use it as an async context manager.
        """
        return await RawClient.connect(self.address, receive_buffer=receive_buffer)
