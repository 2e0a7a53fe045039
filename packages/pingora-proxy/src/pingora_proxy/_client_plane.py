"""What may change a response on the client's side, in its order: what runs for cache hits too.

The ``response_*`` callbacks, then the downstream modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic

from pingora_proxy._upstream_plane import through_modules
from pingora_proxy.hooks import CTX
from pingora_proxy.outcome import Delayed

if TYPE_CHECKING:
    from pingora_core.modules.chain import HttpModuleCtx
    from pingora_http import HeaderMap, ResponseHeader
    from pingora_proxy._overrides import Overrides
    from pingora_proxy.hooks import ProxyHttp
    from pingora_proxy.session import Session

__all__ = ["ClientPlane"]


class ClientPlane(Generic[CTX]):
    """The client's side of one response.

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
        self._modules: HttpModuleCtx | None = session.active_modules
        self.sees_body = overrides.response_body_filter or self._modules is not None

    async def header(self, header: ResponseHeader, *, end: bool) -> None:
        """Filter a head.

        Args:
            header: Informational or final; changed.
            end: Whether the message ends with it.
        """
        session = self._session
        if self._overrides.response_filter:
            session.phase = "response_filter"
            await self._app.response_filter(session, header, self._ctx)
        modules = session.active_modules  # a filter may have asked for one only now
        if modules is not None and header.status >= 200:
            self._modules = modules
            self.sees_body = True
            await modules.response_header_filter(header, end)

    async def body(
        self,
        data: bytes | None,
        *,
        end: bool,
        tail: bytes | None = None,
        trailers_follow: bool = False,
    ) -> tuple[bytes | None, float]:
        """Filter a piece of the body.

        Args:
            data: The piece; None when only the end is told.
            end: Whether it is the last.
            tail: Bytes of the application that follow it, in front of the modules.
            trailers_follow: Whether the modules end the body with the trailers.

        Returns:
            What to send, and how many seconds to pause then.
        """
        delay = 0.0
        if self._overrides.response_body_filter:
            session = self._session
            session.phase = "response_body_filter"
            out = await self._app.response_body_filter(session, data, end, self._ctx)
            if isinstance(out, Delayed):
                delay = out.seconds
                out = out.body
            data = out
        if tail:
            data = (data or b"") + tail
        if self._modules is not None:
            data = through_modules(self._modules, data, end=end and not trailers_follow)
        return data, delay

    async def trailers_callback(self, trailers: HeaderMap) -> bytes | None:
        """Have the callback filter the trailers.

        Args:
            trailers: The fields; changed.

        Returns:
            What is sent as a last piece of the body instead of them, if anything.
        """
        if not self._overrides.response_trailer_filter:
            return None
        session = self._session
        session.phase = "response_trailer_filter"
        return await self._app.response_trailer_filter(session, trailers, self._ctx)

    def trailers_modules(self, trailers: HeaderMap) -> bytes | None:
        """Have the modules filter the trailers.

        Args:
            trailers: The fields; changed, and emptied by a module that puts them elsewhere.

        Returns:
            A last piece of the body.
        """
        return None if self._modules is None else self._modules.response_trailer_filter(trailers)
