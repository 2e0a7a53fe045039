"""The proxy that is measured: every phase of the framework, one fixed peer, one field set.

Run with the port to listen on and the port of the origin. A third argument names a file for the
profile of the run.
"""

from __future__ import annotations

import cProfile
import sys
from typing import TYPE_CHECKING

from pingora_core import HttpPeer, Server
from pingora_core.conf import ServerConf
from pingora_proxy import ProxyHttp, http_proxy_service

if TYPE_CHECKING:
    from pingora_http import RequestHeader
    from pingora_proxy import Session


class Forward(ProxyHttp[None]):
    """Sends every request to one origin."""

    def __init__(self, origin: str) -> None:
        """Remember the origin.

        Args:
            origin: Its address.
        """
        self._peer = HttpPeer(origin)

    def new_ctx(self) -> None:
        """Keep nothing for a request."""

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:  # noqa: ARG002
        """Choose the origin.

        Args:
            session: The request.
            ctx: Nothing.

        Returns:
            The one peer.
        """
        return self._peer

    async def upstream_request_filter(
        self,
        session: Session,  # noqa: ARG002
        upstream_request: RequestHeader,
        ctx: None,  # noqa: ARG002
    ) -> None:
        """Set the field that all proxies of the benchmark set.

        Args:
            session: The request.
            upstream_request: The head for the origin.
            ctx: Nothing.
        """
        upstream_request.insert_header("X-Forwarded-For", "127.0.0.1")


def main() -> None:
    """Serve until told to stop."""
    port, origin, *profile = sys.argv[1:]
    server = Server(conf=ServerConf())
    service = http_proxy_service(server.configuration, Forward(f"127.0.0.1:{origin}"))
    service.add_tcp(f"127.0.0.1:{port}")
    server.add_service(service)
    profiler = cProfile.Profile()
    try:
        if profile:
            profiler.enable()
        server.run_forever()
    finally:
        if profile:
            profiler.dump_stats(profile[0])


if __name__ == "__main__":
    main()
