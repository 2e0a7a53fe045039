"""``examples/recipes/balancing.py``: its parts choose as the page about them says."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from pingora_error import Error, HTTPStatus
from pingora_load_balancing import Backend, LoadBalancer, Static, TcpHealthCheck
from pingora_proxy.testing import RunningProxy, ScriptedOrigin, make_session, reply
from tests.support.recipe_modules import load_recipe

if TYPE_CHECKING:
    from pingora_core import ServerSession

recipe = load_recipe("balancing")


async def test_turns_go_by_weight_and_nobody_ready_is_503() -> None:
    """The stronger server gets two requests of three; with both taken out there is an error."""
    app = recipe.ByTurns()
    session = make_session()
    peers = [await app.upstream_peer(session, None) for _ in range(3)]
    assert Counter(str(peer.address) for peer in peers) == {"10.0.0.1:80": 1, "10.0.0.2:80": 2}
    for backend in recipe.upstreams.backends:
        recipe.upstreams.set_enable(backend, False)
    try:
        with pytest.raises(Error, match="no healthy upstream") as caught:
            await app.upstream_peer(session, None)
    finally:
        for backend in recipe.upstreams.backends:
            recipe.upstreams.set_enable(backend, True)
    assert caught.value.etype == HTTPStatus(503)


async def test_the_nearest_zone_is_preferred_while_it_can_take_all() -> None:
    """Requests stay in the zone that is named; when it is out they go to the others."""
    near = [Backend(f"10.1.0.{number}:80", metadata="eu-1a") for number in (1, 2)]
    far = Backend("10.2.0.1:80", metadata="eu-1b")
    upstreams = recipe.nearby(Static([*near, far]))
    assert await upstreams.update()
    assert {upstreams.select(b"", 256) for _ in range(50)} == set(near)
    for backend in near:
        upstreams.set_enable(backend, False)
    assert upstreams.select(b"", 256) == far


async def test_a_request_is_counted_at_its_backend_until_it_is_logged() -> None:
    """There is one lease while the backend works on it, and none afterwards."""
    seen = []
    async with ScriptedOrigin() as origin:
        upstreams = LoadBalancer([origin.address])
        (state,) = upstreams.pool.states.values()
        answer = reply(200, b"done")

        async def look(session: ServerSession) -> None:
            seen.append(state.in_flight)
            await answer(session)

        origin.on("*", look)
        async with RunningProxy(recipe.Counted(upstreams)) as proxy:
            assert (await proxy.get()).text == "done"
            upstreams.set_enable(upstreams.backends[0], False)
            assert (await proxy.get()).status == 503
        assert (seen, state.in_flight) == ([1], 0)


async def test_another_attempt_gives_the_lease_of_the_first_one_back() -> None:
    """``upstream_peer`` is called for each attempt; only the last one counts."""
    app = recipe.Counted(LoadBalancer(["10.0.0.1:80"]))
    session, ctx = make_session(), app.new_ctx()
    (state,) = app.upstreams.pool.states.values()
    for _ in range(3):
        await app.upstream_peer(session, ctx)
        assert state.in_flight == 1
    await app.logging(session, None, ctx)
    assert state.in_flight == 0


async def test_two_ways_to_choose_share_discovery_and_health() -> None:
    """The selector follows the pool: what is taken out there is out for it too."""
    backends = [Backend(f"10.0.0.{number}:80") for number in range(1, 5)]
    by_turns, by_key = recipe.two_ways(Static(backends), TcpHealthCheck())
    assert by_key.select(b"key", 256) is None
    assert await by_turns.update()
    await by_key.catch_up()
    assert {by_turns.select(b"", 256) for _ in backends} == set(backends)
    home = by_key.select(b"key", 256)
    assert {by_key.select(b"key", 256) for _ in range(8)} == {home}
    by_turns.set_enable(home, False)
    assert by_key.select(b"key", 256) not in {home, None}


async def test_a_cookie_leads_back_to_its_backend() -> None:
    """A new client gets a cookie; with it all its requests go where the first one went."""
    async with ScriptedOrigin() as one, ScriptedOrigin() as two:
        one.on("*", reply(200, b"one"))
        two.on("*", reply(200, b"two"))
        app = recipe.Cookies([one.address, two.address], b"a secret")
        async with RunningProxy(app) as proxy:
            first = await proxy.get()
            cookie = (first.header.get("set-cookie") or "").partition(";")[0]
            assert cookie.startswith("route=")
            again = [await proxy.get("/", [("Cookie", cookie)]) for _ in range(6)]
            assert {answer.text for answer in again} == {first.text}
            assert {answer.header.get("set-cookie") for answer in again} == {None}
            for backend in app.upstreams.backends:
                app.upstreams.set_enable(backend, False)
            page = await proxy.get()
            assert (page.status, page.header.get("set-cookie")) == (503, None)


async def test_a_session_identifier_is_hashed() -> None:
    """Requests with the same identifier meet at one backend, others are spread."""
    async with ScriptedOrigin() as one, ScriptedOrigin() as two:
        one.on("*", reply(200, b"one"))
        two.on("*", reply(200, b"two"))
        app = recipe.Sessions([one.address, two.address])
        async with RunningProxy(app) as proxy:
            homes = set()
            for number in range(32):
                named = [("Mcp-Session-Id", f"session-{number}")]
                texts = {(await proxy.get("/", named)).text for _ in range(2)}
                assert len(texts) == 1
                homes |= texts
            assert homes == {"one", "two"}
            for backend in app.upstreams.backends:
                app.upstreams.set_enable(backend, False)
            assert (await proxy.get()).status == 503
