"""What failover asks of a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pingora_core.protocols.http.server import ServerSession
    from pingora_core.upstreams.peer import HttpPeer
    from pingora_error import Error
    from pingora_http import RequestHeader, ResponseHeader

__all__ = ["ProxiedRequest"]


class ProxiedRequest(Protocol):
    """What is asked of a request; the proxy's ``Session`` is one."""

    @property
    def req_header(self) -> RequestHeader:
        """The client's request head."""

    @property
    def response_written(self) -> ResponseHeader | None:
        """The final response head that was sent to the client, None before that."""

    @property
    def downstream_session(self) -> ServerSession:
        """The client's side."""

    def interrupt(self, error: Error, *, peer: HttpPeer | None = None) -> None:
        """End the exchange with the upstream now, wherever it waits.

        Args:
            error: What the request fails with.
            peer: Of two attempts side by side ends only the one that goes there; None ends both.
        """
