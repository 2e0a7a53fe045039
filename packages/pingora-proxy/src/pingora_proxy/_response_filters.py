"""Everything that may change a response between the upstream and the client, in its order.

Two planes: first what belongs to the upstream's side, which a cache stores; then what belongs to
the client's, which runs for cache hits too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic

from pingora_proxy._client_plane import ClientPlane
from pingora_proxy._upstream_plane import UpstreamPlane
from pingora_proxy.hooks import CTX

if TYPE_CHECKING:
    from pingora_http import HeaderMap, ResponseHeader
    from pingora_proxy._overrides import Overrides
    from pingora_proxy.hooks import ProxyHttp
    from pingora_proxy.session import Session

__all__ = ["ResponseFilters"]


class ResponseFilters(Generic[CTX]):
    """The filters of one attempt whose response goes straight to the client.

    Args:
        app: The user's object.
        overrides: Which callbacks it overrides.
        session: The request.
        ctx: The user's context.

    Attributes:
        upstream: The plane of the upstream's side.
        client: The plane of the client's side.
    """

    def __init__(
        self, app: ProxyHttp[CTX], overrides: Overrides, session: Session, ctx: CTX
    ) -> None:
        self._session = session
        self.upstream = UpstreamPlane(app, overrides, session, ctx)
        self.client = ClientPlane(app, overrides, session, ctx)

    @property
    def sees_body(self) -> bool:
        """Whether anybody wants the pieces of the body."""
        return self.upstream.sees_body or self.client.sees_body

    async def header(
        self, header: ResponseHeader, *, end: bool, upstream_done: bool = False
    ) -> None:
        """Filter a head.

        Args:
            header: Informational or final; changed.
            end: Whether the message ends with it.
            upstream_done: Whether the filters of the upstream's side have seen it already.
        """
        if not upstream_done:
            await self.upstream.header(header, end=end)
        await self.client.header(header, end=end)
        self._session.phase = "relay response"

    async def body(self, data: bytes | None, *, end: bool) -> tuple[bytes | None, float]:
        """Filter a piece of the body.

        Args:
            data: The piece; None when only the end is told.
            end: Whether it is the last.

        Returns:
            What to send, and how many seconds to pause then.
        """
        delay = more = 0.0
        if self.upstream.sees_body:
            data, delay = await self.upstream.body(data, end=end)
        if self.client.sees_body:
            data, more = await self.client.body(data, end=end)
        self._session.phase = "relay response"
        return data, delay + more

    async def trailers(self, trailers: HeaderMap | None) -> tuple[bytes | None, HeaderMap | None]:
        """Filter the trailers, and tell the body's filters that it has ended.

        Args:
            trailers: The fields; changed.

        Returns:
            A last piece of the body, and the trailers to send.
        """
        last: bytes | None = None
        tail: bytes | None = None
        upstream_ended = trailers is not None
        if trailers is not None:
            last = await self.upstream.trailers(trailers)
            tail = await self.client.trailers_callback(trailers)
            if tail is not None:
                trailers = None
        if self.sees_body:
            # The filters learn the end of the body here; what they held back comes out now.
            last, _ = await self.upstream.body(last, end=True, modules_ended=upstream_ended)
            tail, _ = await self.client.body(
                last, end=True, tail=tail, trailers_follow=trailers is not None
            )
        if trailers is not None:
            more = self.client.trailers_modules(trailers)
            if more:
                tail = (tail or b"") + more
            if not trailers:
                trailers = None  # a module has put them elsewhere
        self._session.phase = "relay response"
        return tail, trailers
