"""The recipes of the page about retries do what it says."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pingora_core import Server, ServerConf, TlsSettings
from pingora_error import Error
from pingora_load_balancing import CIRCUIT_OPEN, Backend, Failover, LoadBalancer
from pingora_proxy.testing import RunningProxy, ScriptedOrigin, hang, reply
from tests.support.certificates import CertificateAuthority
from tests.support.recipe_modules import load_recipe

if TYPE_CHECKING:
    from pathlib import Path


BACKENDS = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]

recipe = load_recipe("retries")


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(tmp_path)


@pytest.fixture
def tls(authority: CertificateAuthority) -> TlsSettings:
    issued = authority.issue("origin.example")
    return TlsSettings.intermediate(issued.chain_path, issued.key_path)


@pytest.fixture
def conf(authority: CertificateAuthority) -> ServerConf:
    return ServerConf(ca_file=str(authority.cert_path))


async def test_another_backend_is_asked_and_none_twice(tls: TlsSettings, conf: ServerConf) -> None:
    """A status of the policy costs a second attempt; a POST is not sent again."""
    async with ScriptedOrigin(tls=tls) as one, ScriptedOrigin(tls=tls) as two:
        one.on("*", reply(503))
        two.on("*", reply(502))
        policy = replace(recipe.policy, per_try_timeout=None)  # a busy machine may take longer
        failover = Failover(LoadBalancer([one.address, two.address]), policy)
        async with RunningProxy(recipe.Gateway(failover), conf=conf) as proxy:
            assert (await proxy.get("/a")).status in {502, 503}  # the last answer
            assert {len(one.requests), len(two.requests)} == {1, 2}  # three, and none left out
            before = len(one.requests) + len(two.requests)
            assert (await proxy.request("POST", "/a", body=b"x")).status in {502, 503}
            assert len(one.requests) + len(two.requests) == before + 1


def test_a_budget_grants_a_share_and_a_few_in_any_case() -> None:
    """A fifth of the requests of ten seconds, and a hundred."""
    budget = type(recipe.budget)(
        recipe.budget.ratio,
        min_per_second=recipe.budget.min_per_second,
        window=recipe.budget.window,
        clock=lambda: 0.0,
    )
    for _ in range(50):
        budget.deposit()
    assert [budget.withdraw() for _ in range(111)] == [True] * 110 + [False]


def test_failures_in_a_row_eject_a_backend() -> None:
    """Five of them do; what is out gets nothing."""
    balancer = LoadBalancer(BACKENDS)
    detector = recipe.eject(Server(), balancer)
    bad = Backend(BACKENDS[0])
    for _ in range(4):
        balancer.report(bad, failed=True)
    assert detector.ejected == ()
    balancer.report(bad, failed=True)
    assert detector.ejected == (bad,)
    assert bad not in {balancer.select(b"", 256) for _ in range(6)}
    detector.close()


async def test_a_breaker_refuses_at_once() -> None:
    """A hundred requests are a backend's limit, twenty without a connection."""
    gateway = recipe.bound(LoadBalancer(BACKENDS[:1]))
    breaker, backend = gateway.failover.breaker, Backend(BACKENDS[0])
    connected: list[Backend] = []

    async def connect(to: Backend) -> None:
        connected.append(to)

    await recipe.send(breaker, backend, connect)
    assert connected == [backend]
    assert (breaker.limits.max_requests, breaker.limits.max_pending) == (100, 20)
    permits = [breaker.acquire(backend) for _ in range(20)]
    with pytest.raises(Error) as refused:
        await recipe.send(breaker, backend, connect)
    assert refused.value.root_etype == CIRCUIT_OPEN
    async with RunningProxy(gateway) as proxy:
        assert (await proxy.get()).status == 503
    for permit in permits:
        permit.release()


async def test_a_slow_request_is_sent_to_a_second_backend(
    tls: TlsSettings, conf: ServerConf
) -> None:
    """The first answer counts, and the hedge is counted."""
    async with ScriptedOrigin(tls=tls) as slow, ScriptedOrigin(tls=tls) as quick:
        slow.on("*", hang)
        quick.on("*", reply(200, b"quick"))
        gateway = recipe.hedging(LoadBalancer([slow.address, quick.address]))
        failover = gateway.failover
        assert failover.hedge_after.quantile == 0.95
        failover.policy = replace(failover.policy, per_try_timeout=None)
        for _ in range(60):
            failover.hedge_after.add(0.01)
        async with RunningProxy(gateway, conf=conf) as proxy:
            for path in ("/a", "/b"):
                assert (await proxy.get(path)).text == "quick"
        assert failover.hedges >= 1
        assert len(quick.requests) == 2


async def test_a_program_hedges_what_it_asks() -> None:
    """The first try is cancelled, and has ended, when the answer of the second is there."""
    ended: list[Backend] = []
    asked: list[Backend] = []

    async def ask(backend: Backend) -> bytes:
        asked.append(backend)
        if len(asked) > 1:
            return b"second"
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(backend)
        return b""

    for _ in range(60):
        recipe.delay.add(0.01)
    recipe.delay()
    before = recipe.budget.retries
    assert await recipe.hedged(LoadBalancer(BACKENDS), ask) == "second"
    assert len(set(asked)) == 2
    assert ended == asked[:1]
    assert recipe.budget.retries == before + 1
    balancer = LoadBalancer(BACKENDS)
    for backend in balancer.backends:
        balancer.pool.set_healthy(backend.addr, False)
    with pytest.raises(Error, match="no backend is ready"):
        await recipe.hedged(balancer, ask)
