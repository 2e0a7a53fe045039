r"""An OpenAI-compatible gateway: keys and token budgets of your own before several providers.

The file beside it says who may ask, and who is asked::

    OPENAI_API_KEY=... python examples/llm_gateway.py
    curl -N 127.0.0.1:6188/v1/chat/completions -H 'Authorization: Bearer secret' \
        -d '{"model": "gpt-5", "stream": true, "messages": [{"role": "user", "content": "Hi"}]}'
    curl -s 127.0.0.1:6190/metrics | grep ^llm     # llm_tokens_total{client="alice"} 42

The next provider is asked until one begins to answer. Tokens that it does not tell are estimated.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

from msgspec import MsgspecError, Struct, json

from pingora_core import HttpPeer, Opt, Server
from pingora_core.metrics import Registry, WorkerMetrics
from pingora_core.services.prometheus import prometheus_service
from pingora_error import Error
from pingora_http import RequestHeader
from pingora_limits.shared import SharedSlidingWindow
from pingora_load_balancing import Backend, InOrder, LoadBalancer
from pingora_load_balancing.retry import Attempts, Failover, FailoverPhases, RetryPolicy
from pingora_proxy import ProxyHttp, Session, http_proxy_service
from pingora_proxy.bearer import BearerKeys
from pingora_proxy.token_count import TokenCount

POST = frozenset({"POST"})
UNABLE = frozenset({401, 403, 408, 429, *range(500, 600)})  # 401: it does not know the gateway


class Provider(Struct, frozen=True):
    """Who answers in the end."""

    address: str
    key_env: str = ""
    tls: bool = True


class Settings(Struct, frozen=True):
    """The section ``llm_gateway``; clients' names are found by the SHA-256 of their keys."""

    listen: str
    metrics: str
    timeout: float  # seconds until an answer begins
    tokens_per_hour: int
    clients: dict[str, str]
    models: dict[str, tuple[Provider, ...]]


@dataclass(slots=True)
class Ctx:
    """One request: who asks, whom, and what is answered."""

    attempts: Attempts
    client: str = ""
    key: str = ""
    count: TokenCount = field(default_factory=TokenCount)


class Gateway(FailoverPhases[Session, Ctx], ProxyHttp[Ctx]):
    """Lets clients in, and has the first provider answer that can."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self.keys = BearerKeys(settings.clients)
        self.failovers: dict[str, Failover] = {}
        policy = RetryPolicy(statuses=UNABLE, methods=POST, per_try_timeout=settings.timeout)
        for model, providers in settings.models.items():
            backends = [Backend(each.address, metadata=each) for each in providers]
            self.failovers[model] = Failover(LoadBalancer(backends, selection=InOrder), policy)
        # For all workers. What is used is known at the end, and counts even beyond the limit.
        self.budget = SharedSlidingWindow(settings.tokens_per_hour, 3600.0, counts_refused=True)
        self.tokens = registry.counter("llm.tokens", "Tokens used.", labels=("client",))
        self.first_token = registry.histogram("gen_ai.server.time_to_first_token", "As it says.")

    def new_ctx(self) -> Ctx:
        return Ctx(Attempts(next(iter(self.failovers.values()))))

    async def request_filter(self, session: Session, ctx: Ctx) -> bool:
        ctx.client = self.keys.name_of(session.req_header) or ""
        if not ctx.client:
            return await session.respond_problem(401, "a key is needed", [self.keys.challenge])
        if not (budget := self.budget.peek(ctx.client)).is_allowed:
            wait = ("Retry-After", str(int(budget.retry_after) + 1))
            return await session.respond_problem(429, "the tokens are used up", [wait])
        if session.req_header.path != "/v1/chat/completions":
            return await session.respond_problem(404, "only /v1/chat/completions is served")
        body = await session.buffer_request_body(8 << 20)
        try:
            model = json.decode(body, type=dict[str, object])["model"]
            ctx.attempts = Attempts(self.failovers[str(model)])
        except (MsgspecError, KeyError) as error:
            return await session.respond_problem(404, f"no model that is known here: {error}")
        return False

    async def upstream_peer(self, session: Session, ctx: Ctx) -> HttpPeer:
        provider = (await ctx.attempts.next_backend()).metadata_as(Provider)
        assert provider is not None
        ctx.key = os.environ.get(provider.key_env, "")
        return ctx.attempts.prepare(HttpPeer(provider.address, tls=provider.tls))

    async def upstream_request_filter(
        self, session: Session, upstream_request: RequestHeader, ctx: Ctx
    ) -> None:
        for name in ("Authorization", "Cookie", "Host", "OpenAI-Organization", "OpenAI-Project"):
            upstream_request.remove_header(name)
        if ctx.key:
            upstream_request.insert_header("Authorization", f"Bearer {ctx.key}")
        upstream_request.insert_header("Accept-Encoding", "identity")  # so that tokens are seen

    async def response_body_filter(
        self, session: Session, body: bytes | None, end_of_stream: bool, ctx: Ctx
    ) -> bytes | None:
        ctx.count.feed(body, end=end_of_stream)
        return body

    async def logging(self, session: Session, error: Error | None, ctx: Ctx) -> None:
        await super().logging(session, error, ctx)
        status = session.response_written.status if session.response_written else 0
        if session.has_upstream and status in {0, 200}:  # 0: the client did not wait
            tokens = max(1, ctx.count.total(asked=session.downstream_session.body_bytes_read))
            self.budget.acquire(ctx.client, tokens)
            self.tokens.labels(ctx.client).inc(tokens)
            if ctx.count.time_to_first_token is not None:
                self.first_token.labels().observe(ctx.count.time_to_first_token)


def main() -> None:
    """Serve until told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    server = Server(Opt.parse_args(conf=Path(__file__).with_suffix(".yaml")))
    settings = server.configuration.section("llm_gateway", Settings)
    metrics = WorkerMetrics()
    service = http_proxy_service(server.configuration, Gateway(settings, metrics.registry))
    service.add_tcp(settings.listen)
    server.add_service(service)
    server.add_service(prometheus_service(metrics, settings.metrics))
    server.run_forever()


if __name__ == "__main__":
    main()
