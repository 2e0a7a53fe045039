"""The proxy under test: HTTP/1 and HTTP/2 in, one HTTP/1 origin out.

Run with a JSON object: ``plain`` and ``tls``, the ports to listen on; ``origin``, the origin's;
``certificate`` and ``key``, paths of PEM files; ``engine``, the HTTP/2 library.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, TypedDict

from pingora_core import HttpPeer, Server
from pingora_core.apps.http_app import HttpServerOptions
from pingora_core.conf import ServerConf
from pingora_core.listeners.tls import TlsSettings
from pingora_core.protocols.http.v2.options import Http2Options
from pingora_proxy import ProxyHttp, http_proxy_service

if TYPE_CHECKING:
    from pingora_core.protocols.http.v2.options import EngineName
    from pingora_proxy import Session


class _Options(TypedDict):
    plain: int
    tls: int
    origin: int
    certificate: str
    key: str
    engine: EngineName


class Forward(ProxyHttp[None]):
    """Sends every request to one origin, as it is."""

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


def main() -> None:
    """Serve until told to stop."""
    options: _Options = json.loads(sys.argv[1])
    server = Server(conf=ServerConf())
    service = http_proxy_service(
        server.configuration,
        Forward(f"127.0.0.1:{options['origin']}"),
        server_options=HttpServerOptions(h2c=True, http2=Http2Options(engine=options["engine"])),
    )
    service.add_tcp(f"127.0.0.1:{options['plain']}")
    settings = TlsSettings.intermediate(options["certificate"], options["key"])
    settings.enable_h2()
    service.add_tls_with_settings(f"127.0.0.1:{options['tls']}", None, settings)
    server.add_service(service)
    server.run_forever()


if __name__ == "__main__":
    main()
