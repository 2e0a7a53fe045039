"""The snippets of the page about health checks find out which backends are well."""

from __future__ import annotations

import pytest

from pingora_core import Server
from pingora_error import Error
from pingora_load_balancing import Backend
from pingora_load_balancing.health import HttpHealthCheck
from pingora_proxy.testing import ScriptedOrigin, reply
from tests.support.recipe_modules import load_recipe

recipe = load_recipe("health")


async def test_a_status_tells_who_is_well() -> None:
    """A backend that answers 200 is well, and one that answers 503 is not."""
    async with ScriptedOrigin() as well, ScriptedOrigin() as ill:
        well.on("/healthz", reply(200))
        ill.on("/healthz", reply(503))
        upstreams = recipe.balance(Server(), [well.address, ill.address])
        health = upstreams.health
        assert health.frequency == 2.0
        assert isinstance(health.check, HttpHealthCheck)
        await health.check.check(Backend(well.address))
        with pytest.raises(Error, match="503"):
            await health.check.check(Backend(ill.address))
        await health.check.close()
    (request,) = well.requests
    assert request.header.get("host") == "shop.internal"
    assert len(upstreams.backends) == 2


async def test_a_validator_sees_the_body() -> None:
    """A long queue fails the check, whatever the status is; a short one does not."""
    async with ScriptedOrigin() as origin:
        origin.on("/load", reply(503, b'{"queue": 100}'), reply(200, b'{"queue": 101}'))
        await recipe.check.check(Backend(origin.address))
        with pytest.raises(Error, match="the queue is long"):
            await recipe.check.check(Backend(origin.address))
        await recipe.check.close()


async def test_checks_are_shared() -> None:
    """What is known of a backend counts for both load balancers over the pool."""
    addresses = ["10.0.0.1:80", "10.0.0.2:80"]
    by_turns, by_key, checker = recipe.share(Server(), addresses)
    assert checker.consecutive_failure == 3
    assert {str(by_turns.select(b"", 256)) for _ in range(2)} == set(addresses)
    favourite = by_key.select(b"key", 256)
    assert by_key.select(b"key", 256) == favourite

    by_turns.pool.set_healthy(favourite.addr, False)
    assert by_key.select(b"key", 256) != favourite
    assert favourite not in {by_turns.select(b"", 256) for _ in range(4)}
