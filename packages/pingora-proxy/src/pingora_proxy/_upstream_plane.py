"""What may change a response on the upstream's side, in its order: what a cache stores.

Upstream modules, upstream compression, then the ``upstream_*`` callbacks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic

from pingora_proxy.hooks import CTX
from pingora_proxy.outcome import Delayed

if TYPE_CHECKING:
    from pingora_core.modules.chain import HttpModuleCtx
    from pingora_core.protocols.http.compression import ResponseCompressionCtx
    from pingora_http import HeaderMap, ResponseHeader
    from pingora_proxy._overrides import Overrides
    from pingora_proxy.hooks import ProxyHttp
    from pingora_proxy.session import Session

__all__ = ["UpstreamPlane", "through_modules"]


class UpstreamPlane(Generic[CTX]):
    """The upstream's side of one attempt.

    Args:
        app: The user's object.
        overrides: Which callbacks it overrides.
        session: The request.
        ctx: The user's context.

    Attributes:
        sees_body: Whether anybody here wants the pieces of the body.
    """

    def __init__(
        self, app: ProxyHttp[CTX], overrides: Overrides, session: Session, ctx: CTX
    ) -> None:
        self._app = app
        self._overrides = overrides
        self._session = session
        self._ctx = ctx
        self._modules: HttpModuleCtx | None = session.active_upstream_modules
        self._compression: ResponseCompressionCtx | None = None
        self.sees_body = overrides.upstream_response_body_filter or self._modules is not None

    async def header(self, header: ResponseHeader, *, end: bool) -> None:
        """Filter a head.

        Args:
            header: Informational or final; changed.
            end: Whether the message ends with it.
        """
        session = self._session
        overrides = self._overrides
        final = header.status >= 200
        if overrides.adjust_upstream_modules:
            session.phase = "adjust_upstream_modules"
            await self._app.adjust_upstream_modules(session, header, end, self._ctx)
        modules = session.active_upstream_modules
        if modules is not None and final:
            self._modules = modules
            self.sees_body = True
            await modules.response_header_filter(header, end)
        compression = session.active_upstream_compression
        if compression is not None and final:
            self._compression = compression
            self.sees_body = True
            compression.response_header_filter(header, end)
        if overrides.upstream_response_filter:
            session.phase = "upstream_response_filter"
            await self._app.upstream_response_filter(session, header, self._ctx)

    async def body(
        self, data: bytes | None, *, end: bool, modules_ended: bool = False
    ) -> tuple[bytes | None, float]:
        """Filter a piece of the body.

        Args:
            data: The piece; None when only the end is told.
            end: Whether it is the last.
            modules_ended: Whether the modules have ended the body with the trailers.

        Returns:
            What to pass on, and how many seconds to pause then.
        """
        delay = 0.0
        if self._modules is not None and not modules_ended:
            data = through_modules(self._modules, data, end=end)
        if self._compression is not None:
            data = self._compression.response_body_filter(data, end)
        if self._overrides.upstream_response_body_filter:
            session = self._session
            session.phase = "upstream_response_body_filter"
            out = await self._app.upstream_response_body_filter(session, data, end, self._ctx)
            if isinstance(out, Delayed):
                delay = out.seconds
                out = out.body
            data = out
        return data, delay

    async def trailers(self, trailers: HeaderMap) -> bytes | None:
        """Filter the trailers.

        Args:
            trailers: The fields; changed.

        Returns:
            A last piece of the body, from a module.
        """
        last: bytes | None = None
        if self._modules is not None:
            last = self._modules.response_trailer_filter(trailers)
        if self._overrides.upstream_response_trailer_filter:
            session = self._session
            session.phase = "upstream_response_trailer_filter"
            await self._app.upstream_response_trailer_filter(session, trailers, self._ctx)
        return last


def through_modules(modules: HttpModuleCtx, data: bytes | None, *, end: bool) -> bytes | None:
    """Send a piece of a response body through modules.

    Args:
        modules: The modules.
        data: The piece.
        end: Whether it is the last.

    Returns:
        What comes out.
    """
    data = modules.response_body_filter(data, end)
    if end:
        done = modules.response_done_filter()
        if done:
            data = (data or b"") + done
    return data
