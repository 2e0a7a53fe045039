r"""A proxy whose requests can be followed: W3C trace context, OpenTelemetry spans, Sentry reports.

Run it with nothing, and it passes the trace of a client on, or begins one; with a collector, it also
makes spans; with Sentry, it also reports faults of the program::

    python examples/traced.py 127.0.0.1:8000 --otlp http://127.0.0.1:4318/v1/traces \
        --sentry https://KEY@sentry.example/1
    curl 127.0.0.1:6188/ -H 'traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'
"""

from __future__ import annotations

import logging

import sentry_sdk

from pingora_core import HttpPeer, Opt, Server
from pingora_error import Error
from pingora_proxy import ProxyHttp, Session, http_proxy_service
from pingora_proxy.observe import ProxyObserver
from pingora_proxy.tracing import TracePropagation, trace_of
from pingora_proxy.tracing.opentelemetry import OpenTelemetryTracing, otlp_tracer_provider
from pingora_proxy.tracing.sentry import SentryReports

logger = logging.getLogger(__name__)


class Traced(ProxyHttp[None]):
    """Sends everything to one server, and says in its log which trace that was."""

    def __init__(self, upstream: str) -> None:
        self.peer = HttpPeer(upstream)

    def new_ctx(self) -> None:
        return None

    async def upstream_peer(self, session: Session, ctx: None) -> HttpPeer:
        return self.peer

    async def logging(self, session: Session, error: Error | None, ctx: None) -> None:
        trace = trace_of(session)
        if trace is not None:
            logger.info("%s, trace %s", self.request_summary(session, ctx), trace.trace_id)


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("A proxy whose requests can be followed.")
    parser.add_argument("upstream", metavar="ADDRESS")
    parser.add_argument("--listen", default="127.0.0.1:6188", metavar="ADDRESS")
    parser.add_argument("--otlp", metavar="URL", help="where spans go")
    parser.add_argument("--sample", type=float, default=1.0, help="share of new traces to record")
    parser.add_argument("--sentry", metavar="DSN", help="where faults are reported")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args))
    observers: list[ProxyObserver] = []
    if args.otlp:
        provider = otlp_tracer_provider(args.otlp, service_name="edge", sample=args.sample)
        observers.append(OpenTelemetryTracing(provider))
    else:
        observers.append(TracePropagation(sample=args.sample))
    if args.sentry:
        sentry_sdk.init(args.sentry, default_integrations=False)
        observers.append(SentryReports())
    proxy = http_proxy_service(server.configuration, Traced(args.upstream), observers=observers)
    proxy.add_tcp(args.listen)
    server.add_service(proxy)
    server.run_forever()


if __name__ == "__main__":
    main()
