"""A load balancer whose backends come from elsewhere, and are followed while it runs.

Run it with a file, and change the file (rename another one over it)::

    echo '[127.0.0.1:8001, 127.0.0.1:8002]' > backends.yaml
    python examples/discovered.py file:backends.yaml

or with whatever knows your backends; of several sources, the first that has an answer counts::

    python examples/discovered.py dns:app.internal:8080
    python examples/discovered.py srv:_http._tcp.app.internal
    python examples/discovered.py https://inventory.internal/backends file:backends.yaml
    python examples/discovered.py consul:web kubernetes:web
"""

from __future__ import annotations

import logging

from pingora_core import HttpPeer, Opt, Server
from pingora_core.services import background_service
from pingora_error import Error, HTTPStatus
from pingora_load_balancing import LoadBalancer
from pingora_load_balancing.discovery import (
    ConsulDiscovery,
    Fallback,
    FileDiscovery,
    HttpDiscovery,
    KubernetesDiscovery,
    ServiceDiscovery,
    SourceOptions,
)
from pingora_load_balancing.discovery.dns import DnsDiscovery, SrvDiscovery
from pingora_proxy import ProxyHttp, Session, http_proxy_service

# Never without a backend; half of them may go at once, more only if it stays so for a minute.
CAREFUL = SourceOptions(min_backends=1, max_loss=0.5, loss_patience=60.0)


class LB(ProxyHttp[None]):
    """Sends each request to the next backend that there is."""

    def __init__(self, upstreams: LoadBalancer) -> None:
        self.upstreams = upstreams

    def new_ctx(self) -> None:
        return None

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        upstream = self.upstreams.select(b"", 256)
        if upstream is None:
            raise Error(HTTPStatus(503), "no healthy upstream")
        return HttpPeer(upstream)


def source(text: str) -> ServiceDiscovery:
    """Make a source of its description.

    Returns:
        The source.
    """
    kind, _, rest = text.partition(":")
    match kind:
        case "file":
            return FileDiscovery(rest, options=CAREFUL)
        case "dns":
            return DnsDiscovery(rest, options=CAREFUL)
        case "srv":
            return SrvDiscovery(rest, options=CAREFUL)
        case "consul":
            return ConsulDiscovery(rest, options=CAREFUL)
        case "kubernetes":
            return KubernetesDiscovery.in_cluster(rest, options=CAREFUL)
        case _:
            return HttpDiscovery(text, options=CAREFUL)


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("A load balancer that discovers its backends.")
    parser.add_argument("sources", nargs="*", default=["file:backends.yaml"], metavar="SOURCE")
    parser.add_argument("--listen", default="127.0.0.1:6188", help="address to listen on")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args))
    sources = [source(text) for text in args.sources]
    upstreams = LoadBalancer(discovery=sources[0] if len(sources) == 1 else Fallback(sources))
    server.add_service(background_service("backends", upstreams))
    lb = http_proxy_service(server.configuration, LB(upstreams))
    lb.add_tcp(args.listen)
    server.add_service(lb)
    server.run_forever()


if __name__ == "__main__":
    main()
