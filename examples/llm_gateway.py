r"""An OpenAI-compatible gateway: keys and token budgets of your own before several providers.

Use it in place of a provider::

    OPENAI_API_KEY=... INTERNAL_KEY=... python examples/llm_gateway.py -c examples/llm_gateway.yaml
    curl -N 127.0.0.1:6188/v1/chat/completions -H 'Authorization: Bearer secret' \
        -d '{"model": "gpt-5", "stream": true, "messages": [{"role": "user", "content": "Hi"}]}'
"""

from __future__ import annotations

import hmac
import logging
import os
import re
import time
from hashlib import sha256

from msgspec import MsgspecError, Struct, json

from pingora_core import HttpPeer, Opt, Server
from pingora_core.metrics import Registry, WorkerMetrics
from pingora_core.services.prometheus import prometheus_service
from pingora_error import Error, ErrorSource, HTTPStatus
from pingora_http import RequestHeader, ResponseHeader
from pingora_limits.shared import SharedSlidingWindow
from pingora_proxy import FailToProxy, ProxyHttp, Session, default_status, http_proxy_service
from pingora_proxy.metrics import ProxyMetrics

MAX_BODY = 8 << 20
USAGE = re.compile(rb'"total_tokens"\s*:\s*(\d{1,9})')  # not in a text: quotes are escaped there


class Provider(Struct, frozen=True):
    """Who answers in the end."""

    address: str
    key_env: str
    models: frozenset[str]
    tls: bool = True


class Settings(Struct, frozen=True):
    """The section ``llm_gateway``; the names of clients are found by the SHA-256 of their keys."""

    listen: str
    metrics: str
    tokens_per_hour: int
    providers: tuple[Provider, ...]
    clients: dict[str, str]


class Chat(Struct):
    """What a request asks for."""

    model: str


class Ctx(Struct):
    """One request: who asks, who may still be asked, what has come so far."""

    client: str = ""
    providers: list[Provider] = []
    size: int = 0  # bytes of the prompt and of the answer
    tail: bytes = b""


class Gateway(ProxyHttp[Ctx]):
    """Lets clients in, and has the first provider answer that can."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self.settings = settings
        # For all workers. What is used is known at the end, and counts even beyond the limit.
        self.budget = SharedSlidingWindow(settings.tokens_per_hour, 3600.0, counts_refused=True)
        self.first_token = registry.histogram("gen_ai.server.time_to_first_token", "As it says.")
        self.tokens = registry.counter("llm.tokens", "Tokens used.", labels=("client",))

    def new_ctx(self) -> Ctx:
        return Ctx()

    async def request_filter(self, session: Session, ctx: Ctx) -> bool:
        request, downstream = session.req_header, session.downstream_session
        key = request.get("authorization", "").removeprefix("Bearer ")
        digest = sha256(key.encode("latin-1")).hexdigest()
        clients = self.settings.clients.items()
        ctx.client = "".join(name for each, name in clients if hmac.compare_digest(each, digest))
        if not ctx.client:
            raise Error.down(HTTPStatus(401), "a valid key is required")
        if (request.method, request.path) != ("POST", "/v1/chat/completions"):
            raise Error.down(HTTPStatus(404), "only POST /v1/chat/completions is served")
        if not self.budget.peek(ctx.client).is_allowed:
            raise Error.down(HTTPStatus(429), "the tokens are used up")
        downstream.enable_retry_buffering(MAX_BODY)  # it is sent from there, to each provider
        while await session.read_request_body() is not None:
            if downstream.retry_buffer_truncated:
                raise Error.down(HTTPStatus(413), f"more than {MAX_BODY} bytes")
        ctx.size = len(downstream.retry_buffer)
        try:
            model = json.decode(downstream.retry_buffer, type=Chat).model
        except MsgspecError as error:
            raise Error.down(HTTPStatus(400), str(error)) from error
        ctx.providers = [each for each in self.settings.providers if model in each.models]
        if not ctx.providers:
            raise Error.down(HTTPStatus(404), f"nobody has the model {model}")
        return False

    async def upstream_peer(self, session: Session, ctx: Ctx) -> HttpPeer:
        address, tls = ctx.providers[0].address, ctx.providers[0].tls
        return HttpPeer(address, tls=tls, sni=address.rpartition(":")[0])

    async def upstream_request_filter(
        self, session: Session, upstream_request: RequestHeader, ctx: Ctx
    ) -> None:
        provider = ctx.providers[0]
        upstream_request.insert_header("Host", provider.address)
        upstream_request.insert_header("Authorization", f"Bearer {os.environ[provider.key_env]}")
        upstream_request.remove_header("Accept-Encoding")  # or the usage could not be read

    async def upstream_response_filter(
        self, session: Session, upstream_response: ResponseHeader, ctx: Ctx
    ) -> None:
        if upstream_response.status in {429, *range(500, 600)} and ctx.providers[1:]:
            raise Error.up(HTTPStatus(upstream_response.status), "the next provider is asked")

    async def fail_to_connect(
        self, session: Session, peer: HttpPeer, ctx: Ctx, error: Error
    ) -> Error:
        return await self.error_while_proxy(peer, session, error, ctx, client_reused=False)

    async def error_while_proxy(
        self, peer: HttpPeer, session: Session, error: Error, ctx: Ctx, client_reused: bool
    ) -> Error:
        error.decide_reuse(client_reused)  # a kept connection was dead: the same provider again
        is_early = error.esource is ErrorSource.UPSTREAM and not session.response_written
        if is_early and not error.should_retry:
            ctx.providers.pop(0)
            error.set_retry(bool(ctx.providers))
        return error

    async def response_body_filter(
        self, session: Session, body: bytes | None, end_of_stream: bool, ctx: Ctx
    ) -> bytes | None:
        if body and not ctx.tail and session.record:
            self.first_token.labels().observe(time.monotonic() - session.record.started)
        ctx.size += len(body or b"")
        ctx.tail = (ctx.tail + (body or b""))[-2048:]  # the usage comes last
        return body

    async def logging(self, session: Session, error: Error | None, ctx: Ctx) -> None:
        if ctx.tail and session.response_written and session.response_written.status == 200:
            # If the stream has no usage, as that of a client that left, 4 bytes are a token.
            counts = USAGE.findall(ctx.tail)
            tokens = max(1, int(counts[-1]) if counts else ctx.size // 4)
            self.budget.acquire(ctx.client, tokens)
            self.tokens.labels(ctx.client).inc(tokens)

    async def fail_to_proxy(self, session: Session, error: Error, ctx: Ctx) -> FailToProxy:
        status = default_status(error)
        if status:
            body = json.encode({"error": {"message": error.context, "code": status}})
            header = ResponseHeader(status, headers=[("Content-Type", "application/json")])
            header.set_content_length(len(body))
            if status == 429:
                wait = int(self.budget.peek(ctx.client).retry_after) + 1
                header.insert_header("Retry-After", str(wait))
            await session.downstream_session.write_error_response(header, body)
        return FailToProxy(error_code=status)


def main() -> None:
    """Serve until told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    server = Server(Opt.parse_args())
    settings = server.configuration.section("llm_gateway", Settings)
    metrics = WorkerMetrics()
    gateway, observers = Gateway(settings, metrics.registry), [ProxyMetrics(metrics.registry)]
    service = http_proxy_service(server.configuration, gateway, observers=observers)
    service.add_tcp(settings.listen)
    server.add_service(service)
    server.add_service(prometheus_service(metrics, settings.metrics))
    server.run_forever()


if __name__ == "__main__":
    main()
