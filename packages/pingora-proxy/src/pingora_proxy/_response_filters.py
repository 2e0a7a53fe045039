"""Everything that may change a response between the upstream and the client, in its order.

Two planes: first what belongs to the upstream's side (upstream modules, upstream compression,
the ``upstream_*`` callbacks), where a cache will sit behind; then what belongs to the client's
(the ``response_*`` callbacks, the downstream modules).
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

__all__ = ["ResponseFilters"]


class ResponseFilters(Generic[CTX]):
    """The filters of one attempt.

    Args:
        app: The user's object.
        overrides: Which callbacks it overrides.
        session: The request.
        ctx: The user's context.

    Attributes:
        sees_body: Whether anybody wants the pieces of the body.
    """

    def __init__(
        self, app: ProxyHttp[CTX], overrides: Overrides, session: Session, ctx: CTX
    ) -> None:
        self._app = app
        self._overrides = overrides
        self._session = session
        self._ctx = ctx
        self._upstream_modules: HttpModuleCtx | None = session.active_upstream_modules
        self._compression: ResponseCompressionCtx | None = None
        self._modules: HttpModuleCtx | None = session.active_modules
        self.sees_body = (
            overrides.filters_body
            or self._modules is not None
            or self._upstream_modules is not None
        )

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
        upstream_modules = session.active_upstream_modules
        if upstream_modules is not None and final:
            self._upstream_modules = upstream_modules
            self.sees_body = True
            await upstream_modules.response_header_filter(header, end)
        compression = session.active_upstream_compression
        if compression is not None and final:
            self._compression = compression
            self.sees_body = True
            compression.response_header_filter(header, end)
        if overrides.upstream_response_filter:
            session.phase = "upstream_response_filter"
            await self._app.upstream_response_filter(session, header, self._ctx)
        if overrides.response_filter:
            session.phase = "response_filter"
            await self._app.response_filter(session, header, self._ctx)
        modules = session.active_modules  # a filter may have asked for one only now
        if modules is not None and final:
            self._modules = modules
            self.sees_body = True
            await modules.response_header_filter(header, end)
        session.phase = "relay response"

    async def body(
        self,
        data: bytes | None,
        *,
        end: bool,
        tail: bytes | None = None,
        upstream_ended: bool = False,
        trailers_follow: bool = False,
    ) -> tuple[bytes | None, float]:
        """Filter a piece of the body.

        Args:
            data: The piece; None when only the end is told.
            end: Whether it is the last.
            tail: Bytes of the application that follow it, in front of the modules.
            upstream_ended: Whether the upstream's modules have ended the body with the trailers.
            trailers_follow: Whether the client's modules end the body with the trailers.

        Returns:
            What to send, and how many seconds to pause then.
        """
        overrides = self._overrides
        session = self._session
        delay = 0.0
        if self._upstream_modules is not None and not upstream_ended:
            data = _through(self._upstream_modules, data, end=end)
        if self._compression is not None:
            data = self._compression.response_body_filter(data, end)
        if overrides.upstream_response_body_filter:
            session.phase = "upstream_response_body_filter"
            out = await self._app.upstream_response_body_filter(session, data, end, self._ctx)
            if isinstance(out, Delayed):
                delay += out.seconds
                out = out.body
            data = out
        if overrides.response_body_filter:
            session.phase = "response_body_filter"
            out = await self._app.response_body_filter(session, data, end, self._ctx)
            if isinstance(out, Delayed):
                delay += out.seconds
                out = out.body
            data = out
        if tail:
            data = (data or b"") + tail
        if self._modules is not None:
            data = _through(self._modules, data, end=end and not trailers_follow)
        session.phase = "relay response"
        return data, delay

    async def trailers(self, trailers: HeaderMap | None) -> tuple[bytes | None, HeaderMap | None]:
        """Filter the trailers, and tell the body's filters that it has ended.

        Args:
            trailers: The fields; changed.

        Returns:
            A last piece of the body, and the trailers to send.
        """
        session = self._session
        overrides = self._overrides
        last: bytes | None = None
        tail: bytes | None = None
        upstream_ended = trailers is not None
        if trailers is not None:
            if self._upstream_modules is not None:
                last = self._upstream_modules.response_trailer_filter(trailers)
            if overrides.upstream_response_trailer_filter:
                session.phase = "upstream_response_trailer_filter"
                await self._app.upstream_response_trailer_filter(session, trailers, self._ctx)
            if overrides.response_trailer_filter:
                session.phase = "response_trailer_filter"
                tail = await self._app.response_trailer_filter(session, trailers, self._ctx)
                if tail is not None:
                    trailers = None
        if self.sees_body:
            # The filters learn the end of the body here; what they held back comes out now.
            tail, _ = await self.body(
                last,
                end=True,
                tail=tail,
                upstream_ended=upstream_ended,
                trailers_follow=trailers is not None,
            )
        if self._modules is not None and trailers is not None:
            more = self._modules.response_trailer_filter(trailers)
            if more:
                tail = (tail or b"") + more
            if not trailers:
                trailers = None  # a module has put them elsewhere
        return tail, trailers


def _through(modules: HttpModuleCtx, data: bytes | None, *, end: bool) -> bytes | None:
    data = modules.response_body_filter(data, end)
    if end:
        done = modules.response_done_filter()
        if done:
            data = (data or b"") + done
    return data
