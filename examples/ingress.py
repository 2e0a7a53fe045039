"""An ingress: hosts and paths to services, TLS with HTTP/2, WebSocket and gRPC in one place.

Write ``ingress.yaml`` and run it::

    ingress:
      redirect_to_https: true
      certificates:
        - {cert: shop.pem, key: shop.key}     # chosen by the names in them; reloaded on change
      routes:
        - {host: shop.example.com, upstream: "http://127.0.0.1:8001"}
        - {host: shop.example.com, path: /chat, upstream: "http://127.0.0.1:8002"}   # WebSocket
        - {host: "*.example.com", path: /orders.Orders/, upstream: "h2c://127.0.0.1:50051"}
        - {path: /static, strip_prefix: true, upstream: "https://assets.internal:443"}

    python examples/ingress.py -c ingress.yaml --listen 0.0.0.0:8080 --listen-tls 0.0.0.0:8443

The longest path of the closest host wins: a name, then ``*.`` and the rest of a name, then
any. Services see ``X-Forwarded-*`` and ``Forwarded``.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta

from pingora_core import HttpPeer, Opt, Server
from pingora_core.apps import HttpServerOptions
from pingora_core.listeners.tls import TlsSettings
from pingora_core.modules import ForwardedBuilder, ForwardedPolicy, HttpModules
from pingora_core.protocols.http.bridge import GrpcStatus, is_grpc_request, trailers_only
from pingora_core.protocols.tls import ALPN
from pingora_error import Error, HTTPStatus
from pingora_http import RequestHeader, ResponseHeader
from pingora_proxy import FailToProxy, ProxyHttp, Session, default_status, http_proxy_service

Upstream = Annotated[
    str,
    Meta(
        pattern=r"^(http|https|h2c)://.+:\d+$", description="http://, https:// or h2c:// HOST:PORT"
    ),
]
Path = Annotated[str, Meta(pattern="^/", description="a path that begins with /")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One line of the routing table.

    Attributes:
        upstream: Where its requests go.
        host: Their host; empty for any, ``*.example.com`` for all names below it.
        path: What their path begins with, in whole segments.
        strip_prefix: Whether the service does not see that beginning.
    """

    upstream: Upstream
    host: str = ""
    path: Path = "/"
    strip_prefix: bool = False

    @property
    def scheme(self) -> str:
        """How the service is spoken to: ``http``, ``https`` or ``h2c``."""
        return self.upstream.partition("://")[0]

    @property
    def address(self) -> str:
        """Where the service is, with its port."""
        return self.upstream.partition("://")[2]

    def covers(self, path: str) -> bool:
        """Compare a path with the route's.

        Returns:
            Whether it is the same or below it.
        """
        prefix = self.path.rstrip("/")
        return path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in {"", "/"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate of the TLS listener.

    Attributes:
        cert: PEM file with the certificate and its chain.
        key: PEM file with its key.
    """

    cert: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IngressConf:
    """The ``ingress`` section of the configuration file.

    Attributes:
        routes: The routing table.
        certificates: Of the TLS listener; the first is the default.
        redirect_to_https: Whether requests in clear are sent to the TLS listener.
        https_port: Its port as clients see it.
        trusted: Addresses and networks of the proxies in front of this one.
    """

    routes: list[Route]
    certificates: list[Certificate] = field(default_factory=list)
    redirect_to_https: bool = False
    https_port: int = 443
    trusted: list[str] = field(default_factory=list)


class Ingress(ProxyHttp[None]):
    """Sends each request to the service of its host and path."""

    def __init__(self, conf: IngressConf) -> None:
        self.conf = conf
        self.routes: dict[str, list[Route]] = {}
        # The longest path first, so that the first one that covers a request is the one.
        for route in sorted(conf.routes, key=lambda each: -len(each.path)):
            self.routes.setdefault(route.host.lower(), []).append(route)

    def init_downstream_modules(self, modules: HttpModules) -> None:
        modules.add_module(ForwardedBuilder(ForwardedPolicy(self.conf.trusted)))

    def new_ctx(self) -> None:
        return None

    async def request_filter(self, session: Session, ctx: None) -> bool:
        if not self.conf.redirect_to_https or session.digest.ssl_digest is not None:
            return False
        host = host_of(session.req_header)
        if not host:
            raise Error.down(HTTPStatus(400), "no Host to redirect to")
        port = "" if self.conf.https_port == 443 else f":{self.conf.https_port}"
        # 308 keeps the method, unlike 301.
        response = ResponseHeader(308, headers=[("Content-Length", "0")])
        target = session.req_header.raw_target.decode("latin-1")
        path = target if target.startswith("/") else "/"
        response.insert_header("Location", f"https://{host}{port}{path}")
        await session.write_response_header(response, end=True)
        return True

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        route = self.route_of(session.req_header)
        name = route.address.rpartition(":")[0]
        tls = route.scheme == "https"
        peer = HttpPeer(route.address, tls=tls, sni=name if tls else "")
        if route.scheme == "h2c":
            peer.options.alpn = ALPN.H2
        elif tls:
            peer.options.alpn = ALPN.H2H1
        return peer

    async def upstream_request_filter(
        self, session: Session, upstream_request: RequestHeader, ctx: None
    ) -> None:
        route = self.route_of(session.req_header)
        if route.strip_prefix:
            target = upstream_request.raw_target.removeprefix(route.path.rstrip("/").encode())
            upstream_request.set_target(target if target[:1] == b"/" else b"/" + target)

    async def fail_to_proxy(self, session: Session, error: Error, ctx: None) -> FailToProxy:
        status = default_status(error)
        if status and is_grpc_request(session.req_header) and session.response_written is None:
            outcome = GrpcStatus.UNIMPLEMENTED if status == 404 else GrpcStatus.UNAVAILABLE
            await session.write_response_header(trailers_only(outcome, "no such service"), end=True)
        elif status:
            await session.respond_error(status)
        return FailToProxy(error_code=status)

    def route_of(self, request: RequestHeader) -> Route:
        """Find the route of a request.

        Returns:
            The first that covers it.

        Raises:
            Error: 404 if there is none.
        """
        host = host_of(request).lower()
        path = request.path
        for pattern in (host, "*." + host.partition(".")[2], ""):
            for route in self.routes.get(pattern, ()):
                if route.covers(path):
                    return route
        raise Error(HTTPStatus(404), "no route")


def host_of(request: RequestHeader) -> str:
    """Read which host a request is for.

    Returns:
        The host without its port; empty if there is none.
    """
    host = request.get("host") or ""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("An ingress.")
    parser.add_argument("--listen", default="127.0.0.1:6193", metavar="ADDRESS")
    parser.add_argument("--listen-tls", metavar="ADDRESS", help="address for TLS")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args))
    conf = server.configuration.section("ingress", IngressConf)
    service = http_proxy_service(
        server.configuration,
        Ingress(conf),
        name="ingress",
        server_options=HttpServerOptions(h2c=True),
    )
    service.add_tcp(args.listen)
    if args.listen_tls:
        settings = TlsSettings()
        for number, each in enumerate(conf.certificates):
            settings.certificates.add_files(each.cert, each.key, default=number == 0)
        settings.enable_h2()
        service.add_tls_with_settings(args.listen_tls, None, settings)
    server.add_service(service)
    server.run_forever()


if __name__ == "__main__":
    main()
