"""The snippets of the page about rate limits refuse what is too much."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pingora_core import Server
from pingora_core.runtime.shutdown import ShutdownSwitch
from pingora_limits.redis import RedisSlidingWindow
from pingora_proxy.testing import FakeClock, RunningProxy, ScriptedOrigin, reply
from tests.support.fake_redis import FakeRedis
from tests.support.recipe_modules import load_recipe
from tests.support.waiting import eventually

if TYPE_CHECKING:
    import pytest

recipe = load_recipe("rate_limits")


async def test_a_client_is_limited_and_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Responses tell the limit; what is refused says when to come again, and why."""
    async with ScriptedOrigin() as origin:
        origin.on("*", reply(200, b"ok"))
        async with RunningProxy(recipe.Proxy(origin.address)) as proxy:
            answer = await proxy.get("/")
            assert answer.status == 200
            assert answer.header.get("ratelimit-policy") == '"client";q=20;w=2'
            for _ in range(1000):
                answer = await proxy.get("/")
                if answer.status == 429:
                    break
    assert answer.status == 429
    assert answer.header.get("retry-after") == "1"
    assert answer.header.get("content-type") == "application/problem+json"
    printed = capsys.readouterr().out.splitlines()
    assert "client" in printed[-1]
    assert "client" not in printed[0]


async def test_a_task_keeps_in_touch_with_redis() -> None:
    """The service runs the limiter until the server stops, and what it counts reaches Redis."""
    clock = FakeClock()
    redis = FakeRedis(clock)
    limiter = RedisSlidingWindow(redis, 2, 10.0, name="a", flush_interval=0.01, clock=clock)
    limits = recipe.add_limits(Server(), limiter)()
    switch = ShutdownSwitch()
    task = asyncio.create_task(limits.start(switch.watch))
    try:
        await eventually(lambda: redis.calls)
        assert [limiter.acquire("key").is_allowed for _ in range(3)] == [True, True, False]
    finally:
        switch.start()
        await task
