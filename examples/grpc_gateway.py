r"""A gRPC gateway: route by service, limit per method, enforce deadlines, let browsers in.

Run it in front of gRPC servers (``h2c://`` is the default) and try::

    python examples/grpc_gateway.py --route helloworld.Greeter=127.0.0.1:50051 \
        --route billing.Invoices=https://invoices.internal:443 \
        --concurrency billing.Invoices/Create=2 --rate helloworld.Greeter/SayHello=100

Native gRPC clients and gRPC-web clients (binary or base64 text, HTTP/1.1 or HTTP/2) use the same
port. ``--listen-tls`` adds one with TLS; ``--allow-origin`` lets pages of other sites call.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass

from pingora_core import HttpPeer, Opt, Server
from pingora_core.apps import HttpServerOptions
from pingora_core.listeners.tls import TlsSettings
from pingora_core.modules import GrpcWebBridgeBuilder, HttpModules
from pingora_core.protocols.http.bridge import (
    INVALID_GRPC_WEB,
    GrpcStatus,
    encode_grpc_message,
    format_grpc_timeout,
    grpc_status_of_http,
    is_grpc_request,
    parse_grpc_timeout,
    trailers_only,
)
from pingora_core.protocols.tls import ALPN
from pingora_error import Custom, Error, ErrorSource, ErrorType, HTTPStatus
from pingora_http import HeaderMap, RequestHeader, ResponseHeader
from pingora_proxy import FailToProxy, ProxyHttp, Session, default_status, http_proxy_service

logger = logging.getLogger("grpc_gateway")

DEADLINE_EXCEEDED = Custom("DeadlineExceeded")


class RefusedError(Exception):
    """The gateway's own answer to a call.

    Attributes:
        status: The outcome.
        message: Text for the caller.
    """

    def __init__(self, status: GrpcStatus, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class MethodLimit:
    """How much of one method is let through.

    Args:
        concurrency: Calls at the same time; None for any number.
        rate: Calls per second, as many of them at once; None for any number.
    """

    def __init__(self, concurrency: int | None = None, rate: float | None = None) -> None:
        self.concurrency = concurrency
        self.rate = rate
        self._tokens = max(rate or 0.0, 1.0)
        self._filled = 0.0

    def take(self, now: float) -> bool:
        """Count a call against the rate.

        Args:
            now: Seconds of a monotonic clock.

        Returns:
            Whether it may pass.
        """
        if self.rate is None:
            return True
        self._tokens += (now - self._filled) * self.rate
        self._tokens = min(self._tokens, max(self.rate, 1.0))
        self._filled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


@dataclass(slots=True)
class Ctx:
    """What belongs to one call.

    Attributes:
        service: The service, ``package.Service``.
        method: The method, ``package.Service/Method``; empty if it is no call of ours.
        deadline: When it must have ended, seconds of the event loop's clock.
        timer: What ends it then.
    """

    service: str = ""
    method: str = ""
    deadline: float = 0.0
    timer: asyncio.TimerHandle | None = None


class GrpcGateway(ProxyHttp[Ctx]):
    """Sends each call to the servers of its service."""

    def __init__(
        self,
        routes: dict[str, str],
        limits: dict[str, MethodLimit],
        *,
        max_deadline: float,
        allow_origin: str | None = None,
    ) -> None:
        self.routes = routes
        self.limits = limits
        self.max_deadline = max_deadline
        self.allow_origin = allow_origin
        self.in_flight: Counter[str] = Counter()

    def init_downstream_modules(self, modules: HttpModules) -> None:
        modules.add_module(GrpcWebBridgeBuilder(enabled=True))

    def new_ctx(self) -> Ctx:
        return Ctx()

    # ------------------------------------------------------------ the call comes in

    async def request_filter(self, session: Session, ctx: Ctx) -> bool:
        request = session.req_header
        if request.method == "OPTIONS" and self.allow_origin is not None:
            await self.answer_preflight(session)
            return True
        if request.method != "POST" or not is_grpc_request(request):
            await session.respond_error(415)  # as gRPC demands: other clients must not see a 200
            return True
        try:
            self.admit(request, ctx)
        except RefusedError as refusal:
            header = trailers_only(refusal.status, refusal.message)
            await session.write_response_header(header, end=True)
            return True
        # The deadline bounds all waits from here on, those of quiet streams included.
        session.downstream_session.read_timeout = None
        seconds = ctx.deadline - asyncio.get_running_loop().time()
        ctx.timer = asyncio.get_running_loop().call_later(seconds, self.expire, session)
        return False

    def admit(self, request: RequestHeader, ctx: Ctx) -> None:
        """Find the route, note the deadline, count against the limits.

        Raises:
            RefusedError: If the gateway answers the call itself.
        """
        now = asyncio.get_running_loop().time()
        method = request.path.removeprefix("/")
        service = method.rpartition("/")[0]
        if service not in self.routes:
            raise RefusedError(GrpcStatus.UNIMPLEMENTED, f"unknown service {service}")
        ctx.service = service
        ctx.deadline = now + self.max_deadline
        timeout = request.get("grpc-timeout")
        if timeout is not None:
            try:
                ctx.deadline = now + min(parse_grpc_timeout(timeout), self.max_deadline)
            except Error:
                raise RefusedError(GrpcStatus.INTERNAL, "malformed grpc-timeout") from None
        limit = self.limits.get(method)
        if limit is not None:
            if limit.concurrency is not None and self.in_flight[method] >= limit.concurrency:
                raise RefusedError(GrpcStatus.RESOURCE_EXHAUSTED, f"too many calls of {method}")
            if not limit.take(now):
                raise RefusedError(GrpcStatus.RESOURCE_EXHAUSTED, f"{method} is called too often")
        ctx.method = method
        self.in_flight[method] += 1

    def expire(self, session: Session) -> None:
        """End a call whose time is over, wherever it waits."""
        session.interrupt(Error.up(DEADLINE_EXCEEDED, "the deadline has passed"))

    def remaining(self, ctx: Ctx) -> float:
        """Tell how much time a call has left.

        Returns:
            Seconds, more than 0.

        Raises:
            Error: If it is over.
        """
        remaining = ctx.deadline - asyncio.get_running_loop().time()
        if remaining <= 0:
            raise Error(DEADLINE_EXCEEDED, "the deadline has passed")
        return remaining

    # --------------------------------------------------------------- to the servers

    async def upstream_peer(self, session: Session, ctx: Ctx) -> HttpPeer:
        scheme, _, address = self.routes[ctx.service].rpartition("://")
        tls = scheme == "https"
        peer = HttpPeer(address, tls=tls, sni=address.rpartition(":")[0] if tls else "")
        peer.options.alpn = ALPN.H2
        remaining = self.remaining(ctx)
        peer.options.total_connection_timeout = min(5.0, remaining)
        peer.options.read_timeout = remaining
        return peer

    async def upstream_request_filter(
        self, session: Session, upstream_request: RequestHeader, ctx: Ctx
    ) -> None:
        upstream_request.insert_header("grpc-timeout", format_grpc_timeout(self.remaining(ctx)))

    # ---------------------------------------------------------------- to the client

    async def response_filter(
        self, session: Session, upstream_response: ResponseHeader, ctx: Ctx
    ) -> None:
        self.add_cors(upstream_response)

    async def fail_to_proxy(self, session: Session, error: Error, ctx: Ctx) -> FailToProxy:
        status = default_status(error)
        if not status:
            return FailToProxy(error_code=0)  # the caller is gone
        if not ctx.method:
            await session.respond_error(status)
            return FailToProxy(error_code=status)
        outcome, message = self.outcome_of(error, ctx)
        if session.response_written is None:
            await session.write_response_header(trailers_only(outcome, message), end=True)
            return FailToProxy(error_code=200)
        trailers = HeaderMap([("grpc-status", str(int(outcome)))])
        trailers.insert_header("grpc-message", encode_grpc_message(message))
        await session.write_response_trailers(trailers)
        return FailToProxy(error_code=200, response_completed=True)

    def outcome_of(self, error: Error, ctx: Ctx) -> tuple[GrpcStatus, str]:
        """Decide what a caller hears of an error: what helps, and nothing of the inside.

        Returns:
            The outcome and a text.
        """
        is_late = asyncio.get_running_loop().time() >= ctx.deadline
        match error.etype:
            case HTTPStatus(code):
                return grpc_status_of_http(code), "refused by the gateway"
            case kind if kind == INVALID_GRPC_WEB:
                return GrpcStatus.INVALID_ARGUMENT, "malformed gRPC-web request"
            case kind if kind == DEADLINE_EXCEEDED or (is_late and kind in TIMEOUTS):
                return GrpcStatus.DEADLINE_EXCEEDED, "the deadline has passed"
        if error.esource is ErrorSource.UPSTREAM:
            return GrpcStatus.UNAVAILABLE, "the server cannot be reached"
        return GrpcStatus.INTERNAL, "the gateway failed"

    async def logging(self, session: Session, error: Error | None, ctx: Ctx) -> None:
        if ctx.timer is not None:
            ctx.timer.cancel()
        if ctx.method:
            self.in_flight[ctx.method] -= 1
            if not self.in_flight[ctx.method]:
                del self.in_flight[ctx.method]

    # --------------------------------------------------------------- browsers

    async def answer_preflight(self, session: Session) -> None:
        """Tell a browser that pages of the allowed origin may call."""
        header = ResponseHeader(204)
        header.insert_header("Access-Control-Allow-Methods", "POST")
        asked = session.req_header.get("access-control-request-headers")
        if asked is not None:
            header.insert_header("Access-Control-Allow-Headers", asked)
        header.insert_header("Access-Control-Max-Age", "3600")
        self.add_cors(header)
        await session.write_response_header(header, end=True)

    def add_cors(self, header: ResponseHeader) -> None:
        """Let pages of the allowed origin read a response."""
        if self.allow_origin is not None:
            header.insert_header("Access-Control-Allow-Origin", self.allow_origin)
            header.insert_header(
                "Access-Control-Expose-Headers",
                "grpc-status, grpc-message, grpc-status-details-bin",
            )


TIMEOUTS = {ErrorType.CONNECT_TIMEDOUT, ErrorType.READ_TIMEDOUT, ErrorType.WRITE_TIMEDOUT}


def parse_pairs(pairs: list[str]) -> dict[str, str]:
    """Read ``NAME=VALUE`` arguments.

    Returns:
        Names and values.
    """
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}


def parse_limits(concurrency: list[str], rate: list[str]) -> dict[str, MethodLimit]:
    """Read the limits of the command line.

    Returns:
        Each limited method and its limit.
    """
    calls = parse_pairs(concurrency)
    rates = parse_pairs(rate)
    return {
        method: MethodLimit(
            int(calls[method]) if method in calls else None,
            float(rates[method]) if method in rates else None,
        )
        for method in calls | rates
    }


def main() -> None:
    """Serve until told to stop."""
    parser = Opt.parser("A gRPC gateway.")
    parser.add_argument("--listen", default="127.0.0.1:6192", metavar="ADDRESS")
    parser.add_argument("--listen-tls", metavar="ADDRESS", help="also with TLS, on this address")
    parser.add_argument("--cert", metavar="FILE", help="certificate chain for --listen-tls")
    parser.add_argument("--key", metavar="FILE", help="its key")
    parser.add_argument(
        "--route",
        action="append",
        default=[],
        metavar="SERVICE=ADDRESS",
        help="package.Service=[h2c://|https://]host:port; may be repeated, like the limits",
    )
    parser.add_argument("--concurrency", action="append", default=[], metavar="METHOD=CALLS")
    parser.add_argument("--rate", action="append", default=[], metavar="METHOD=PER-SECOND")
    parser.add_argument("--max-deadline", type=float, default=600.0, metavar="SECONDS")
    parser.add_argument("--allow-origin", metavar="ORIGIN", help="for browsers: * or https://…")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    server = Server(Opt.from_namespace(args))
    app = GrpcGateway(
        parse_pairs(args.route),
        parse_limits(args.concurrency, args.rate),
        max_deadline=args.max_deadline,
        allow_origin=args.allow_origin,
    )
    options = HttpServerOptions(h2c=True)
    service = http_proxy_service(
        server.configuration, app, name="grpc gateway", server_options=options
    )
    service.add_tcp(args.listen)
    if args.listen_tls:
        settings = TlsSettings.intermediate(args.cert, args.key)
        settings.enable_h2()
        service.add_tls_with_settings(args.listen_tls, None, settings)
    server.add_service(service)
    server.run_forever()


if __name__ == "__main__":
    main()
