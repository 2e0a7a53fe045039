"""Routes TLS connections by the name the client asks for, without decrypting them.

The upstreams keep their certificates and keys to themselves. Run it and try::

    python examples/sni_router.py --route one.test=127.0.0.1:4431 --route '*.two.test=127.0.0.1:4432'
    openssl s_client -connect 127.0.0.1:6443 -servername one.test

A name that no route matches goes to ``--default``, or is refused with the alert
``unrecognized_name``.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pingora_core import BasicPeer, Opt, Server
from pingora_core.apps import StreamProxy
from pingora_core.protocols.tls.client_hello import UNRECOGNIZED_NAME, fatal_alert
from pingora_core.protocols.tls.ja4 import ja4
from pingora_core.services import stream_proxy_service

if TYPE_CHECKING:
    from pingora_core.apps import StreamSession
    from pingora_core.protocols.tls.client_hello import ClientHello
    from pingora_error import Error

logger = logging.getLogger(__name__)


class SniRouter(StreamProxy[None]):
    """Forwards each connection to the upstream of its server name."""

    def __init__(self, routes: dict[str, str], default: str | None) -> None:
        self.routes = {name.lower(): BasicPeer(address) for name, address in routes.items()}
        self.default = None if default is None else BasicPeer(default)

    def find(self, name: str | None) -> BasicPeer | None:
        # A wildcard stands for one label, as in certificates.
        if name is None:
            return self.default
        wildcard = "*." + name.partition(".")[2]
        return self.routes.get(name) or self.routes.get(wildcard) or self.default

    def new_ctx(self) -> None:
        return None

    async def client_hello_filter(
        self, session: StreamSession, hello: ClientHello, ctx: None
    ) -> bool:
        if self.find(hello.server_name) is None:
            session.downstream.write(fatal_alert(UNRECOGNIZED_NAME))
            return False
        return True

    async def upstream_peer(self, session: StreamSession, ctx: None) -> BasicPeer:
        hello = session.client_hello
        peer = None if hello is None else self.find(hello.server_name)
        assert peer is not None
        return peer

    async def logging(self, session: StreamSession, error: Error | None, ctx: None) -> None:
        hello = session.client_hello
        logger.info(
            "name %s, client %s, to %s, bytes from client %d, to client %d, %s",
            "-" if hello is None else hello.server_name,
            "-" if hello is None else ja4(hello),
            "refused" if session.peer is None else session.peer.address,
            session.upstream_bytes_sent,
            session.bytes_sent,
            error or session.ending,
        )


def route(text: str) -> tuple[str, str]:
    """Take ``NAME=ADDRESS`` apart.

    Args:
        text: From the command line.

    Returns:
        The name and the address.

    Raises:
        ValueError: If it is no route; the parser makes one line of that.
    """
    name, _, address = text.partition("=")
    if not name:
        raise ValueError(text)
    BasicPeer(address)
    return name, address


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("Routes TLS connections by server name.")
    parser.add_argument("--listen", default="127.0.0.1:6443", metavar="ADDRESS")
    parser.add_argument("--route", action="append", type=route, default=[], metavar="NAME=ADDRESS")
    parser.add_argument("--default", metavar="ADDRESS", help="for names without a route")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args))
    app = SniRouter(dict(args.route), args.default)
    router = stream_proxy_service(server.configuration, app, name="sni router")
    router.add_tcp(args.listen)
    server.add_service(router)
    server.run_forever()


if __name__ == "__main__":
    main()
