"""A proxy that writes down which callbacks run, and fails in the one that a test names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.proxy import RigProxy

if TYPE_CHECKING:
    from pingora_core.protocols.digest import Digest
    from pingora_core.upstreams import HttpPeer
    from pingora_error import Error
    from pingora_http import HeaderMap, RequestHeader, ResponseHeader
    from pingora_proxy import BodyFilterResult, FailToProxy, Session
    from tests.support.proxy import RigContext, Upstream

__all__ = ["RecordingProxy"]


class RecordingProxy(RigProxy):
    """Overrides every callback.

    Args:
        upstream: Where all requests go.
        failing: Name of the callback that raises; empty for none.
        failure: What it raises.

    Attributes:
        phases: Names of the callbacks in the order in which they ran.
    """

    def __init__(
        self, upstream: Upstream, *, failing: str = "", failure: Exception | None = None
    ) -> None:
        super().__init__(upstream)
        self.phases: list[str] = []
        self.failing = failing
        self.failure = failure or RuntimeError("a fault of the program")

    def _note(self, phase: str) -> None:
        self.phases.append(phase)
        if phase == self.failing:
            raise self.failure

    def on_connection_reuse(self, session: Session, ctx: RigContext, previous: object) -> None:
        self._note(f"on_connection_reuse {previous}")

    async def early_request_filter(self, session: Session, ctx: RigContext) -> None:
        self._note("early_request_filter")

    async def request_filter(self, session: Session, ctx: RigContext) -> bool:
        self._note("request_filter")
        return False

    async def proxy_upstream_filter(self, session: Session, ctx: RigContext) -> bool:
        self._note("proxy_upstream_filter")
        return True

    async def upstream_peer(self, session: Session, ctx: RigContext) -> HttpPeer:
        self._note("upstream_peer")
        return await super().upstream_peer(session, ctx)

    async def fail_to_connect(
        self, session: Session, peer: HttpPeer, ctx: RigContext, error: Error
    ) -> Error:
        self._note("fail_to_connect")
        return error

    async def connected_to_upstream(
        self, session: Session, reused: bool, peer: HttpPeer, digest: Digest, ctx: RigContext
    ) -> None:
        self._note("connected_to_upstream")
        await super().connected_to_upstream(session, reused, peer, digest, ctx)

    async def upstream_request_filter(
        self, session: Session, upstream_request: RequestHeader, ctx: RigContext
    ) -> None:
        self._note("upstream_request_filter")

    async def request_body_filter(
        self, session: Session, body: bytes | None, end_of_stream: bool, ctx: RigContext
    ) -> bytes | None:
        self._note("request_body_filter")
        return body

    async def upstream_response_filter(
        self, session: Session, upstream_response: ResponseHeader, ctx: RigContext
    ) -> None:
        self._note("upstream_response_filter")

    async def upstream_response_body_filter(
        self, session: Session, body: bytes | None, end_of_stream: bool, ctx: RigContext
    ) -> BodyFilterResult:
        self._note("upstream_response_body_filter")
        return body

    async def upstream_response_trailer_filter(
        self, session: Session, upstream_trailers: HeaderMap, ctx: RigContext
    ) -> None:
        self._note("upstream_response_trailer_filter")

    async def response_filter(
        self, session: Session, upstream_response: ResponseHeader, ctx: RigContext
    ) -> None:
        self._note("response_filter")
        await super().response_filter(session, upstream_response, ctx)

    async def response_body_filter(
        self, session: Session, body: bytes | None, end_of_stream: bool, ctx: RigContext
    ) -> BodyFilterResult:
        self._note("response_body_filter")
        return body

    async def response_trailer_filter(
        self, session: Session, upstream_trailers: HeaderMap, ctx: RigContext
    ) -> bytes | None:
        self._note("response_trailer_filter")
        return None

    async def error_while_proxy(
        self,
        peer: HttpPeer,
        session: Session,
        error: Error,
        ctx: RigContext,
        client_reused: bool,
    ) -> Error:
        self._note("error_while_proxy")
        return await super().error_while_proxy(peer, session, error, ctx, client_reused)

    async def fail_to_proxy(self, session: Session, error: Error, ctx: RigContext) -> FailToProxy:
        self._note("fail_to_proxy")
        return await super().fail_to_proxy(session, error, ctx)

    async def logging(self, session: Session, error: Error | None, ctx: RigContext) -> None:
        await super().logging(session, error, ctx)
        self._note("logging")

    def persist_connection_context(self, session: Session, ctx: RigContext) -> object | None:
        self._note("persist_connection_context")
        return len(self.endings)
