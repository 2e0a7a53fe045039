"""The module that lets gRPC-web clients, such as browsers, call gRPC servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pingora_core.modules.module import HttpModule, HttpModuleBuilder
from pingora_core.protocols.http.bridge.grpc_web import GrpcWebCtx

if TYPE_CHECKING:
    from pingora_core.protocols.http.bridge.grpc_web import GrpcWebState
    from pingora_http import HeaderMap, RequestHeader, ResponseHeader

__all__ = ["GrpcWebBridge", "GrpcWebBridgeBuilder"]


class GrpcWebBridge(HttpModule):
    """Turns the gRPC-web exchange of a client into gRPC with the upstream, and back.

    Other requests pass untouched. The upstream must speak HTTP/2; choose so with the peer's
    ``options.alpn``.

    Source: pingora-core/src/modules/http/grpc_web.rs.
    """

    __slots__ = ("_ctx",)

    def __init__(self) -> None:
        self._ctx = GrpcWebCtx()

    @property
    def state(self) -> GrpcWebState:
        """How far the bridge is; ``INIT`` for requests that are not gRPC-web."""
        return self._ctx.state

    def init(self) -> None:
        """Switch the bridge on for this request; the place to do so is ``early_request_filter``."""
        self._ctx.init()

    async def request_header_filter(self, request: RequestHeader) -> None:
        """Make a gRPC request of it; see ``HttpModule``."""
        self._ctx.request_header_filter(request)

    def request_body_start(self) -> None:
        """Forget what an earlier attempt left; see ``HttpModule``."""
        self._ctx.request_body_start()

    async def request_body_filter(self, body: bytes | None, end: bool) -> bytes | None:  # noqa: FBT001 - Pingora's signature
        """Decode base64; see ``HttpModule``.

        Args:
            body: The piece; None when it only tells the end.
            end: Whether the body ends with it.

        Returns:
            What is sent instead; None for nothing.
        """
        return self._ctx.request_body_filter(body, end=end)

    async def response_header_filter(self, response: ResponseHeader, end: bool) -> None:  # noqa: FBT001 - Pingora's signature
        """Make a gRPC-web response of it; see ``HttpModule``."""
        _ = end
        self._ctx.response_header_filter(response)

    def response_body_filter(self, body: bytes | None, end: bool) -> bytes | None:  # noqa: FBT001 - Pingora's signature
        """Encode base64; see ``HttpModule``.

        Args:
            body: The piece; None when it only tells the end.
            end: Whether the message ends with it.

        Returns:
            What is sent instead; None for nothing.
        """
        _ = end
        return self._ctx.response_body_filter(body)

    def response_trailer_filter(self, trailers: HeaderMap | None) -> bytes | None:
        """Put the trailers into the body; see ``HttpModule``.

        Args:
            trailers: The fields; none are left of a bridged response.

        Returns:
            The last frame of the body; None if the response is not bridged.
        """
        if trailers is None:
            return self._ctx.response_done_filter()
        return self._ctx.response_trailer_filter(trailers)

    def response_done_filter(self) -> bytes | None:
        """Give the frame that the upstream forgot; see ``HttpModule``.

        Returns:
            The last frame of the body; None if there is nothing to add.
        """
        return self._ctx.response_done_filter()


class GrpcWebBridgeBuilder(HttpModuleBuilder):
    """Adds the gRPC-web bridge to a service.

    Args:
        enabled: Whether all requests are looked at. Otherwise, as in Pingora, a filter switches
            the bridge on: ``session.downstream_modules_ctx[GrpcWebBridge].init()``.
        order: When the module runs; higher is earlier.
    """

    module_type = GrpcWebBridge

    def __init__(self, *, enabled: bool = False, order: int = 0) -> None:
        self._enabled = enabled
        self.lazy: bool = not enabled
        self.order = order

    def init(self) -> GrpcWebBridge:
        """Make the module of one request; see ``HttpModuleBuilder``.

        Returns:
            The module.
        """
        module = GrpcWebBridge()
        if self._enabled:
            module.init()
        return module
