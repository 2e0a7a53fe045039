"""Consul's health endpoint and its blocking queries. The agent is a stand-in, see its module."""

from __future__ import annotations

import json
import logging

import pytest

from pingora_error import Error
from pingora_load_balancing import Backend
from pingora_load_balancing.discovery import (
    ConsulDiscovery,
    ConsulInstance,
    ConsulQuery,
    HttpAccess,
    SourceOptions,
)
from tests.support.discovery_consul import ConsulStandIn, instance
from tests.support.discovery_watch import FakeTime, addresses, watching
from tests.support.origin_steps import reply
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("no_leaks")


def fast() -> SourceOptions:
    """Options with which nobody waits between two questions."""
    time = FakeTime()
    return SourceOptions(clock=time, sleep=time.sleep)


async def test_instances() -> None:
    """Each instance is a backend, at its own address or else at that of its node."""
    async with ConsulStandIn() as agent, ConsulDiscovery("web", agent.url) as source:
        agent.set(
            instance("a", 80, address="10.0.0.1", weights=(5, 1), tags=("v1",), meta={"zone": "x"}),
            instance("b", 81),
            instance("c", 82, address="fd00::1"),
            instance("d", 83, address="web.internal", weights=None),
        )
        found = await source.discover()

    assert addresses(found) == ["10.0.0.1:80", "10.9.9.9:81", "[fd00::1]:82", "web.internal:83"]
    first = next(iter(found.backends))
    assert first == Backend(
        "10.0.0.1:80", 5, ConsulInstance("a", "node-1", "dc1", ("v1",), {"zone": "x"}, False)
    )


@pytest.mark.parametrize(
    ("status", "passing_only", "weights"),
    [
        ("passing", False, [7]),
        ("warning", False, [3]),
        ("warning", True, []),
        ("critical", False, []),
        ("maintenance", False, []),
    ],
)
async def test_statuses(status: str, passing_only: bool, weights: list[int]) -> None:
    """A warning changes the weight, or leaves out; what is critical or unknown is left out."""
    query = ConsulQuery(passing_only=passing_only)
    async with ConsulStandIn() as agent, ConsulDiscovery("web", agent.url, query=query) as source:
        agent.set(instance("a", 80, status=status, weights=(7, 3)))
        found = await source.discover()

    assert [backend.weight for backend in found.backends] == weights


async def test_query() -> None:
    """What is asked for is said in the words of the API."""
    query = ConsulQuery(
        datacenter="dc 2",
        tags=("v1", "a&b"),
        passing_only=True,
        filter='Service.Meta.env == "prod"',
        namespace="team",
        partition="p",
    )
    async with ConsulStandIn() as agent, ConsulDiscovery("web", agent.url, query=query) as source:
        agent.set(instance("a", 80, tags=("v1", "a&b")), instance("b", 81, tags=("v1",)))
        found = await source.discover()
        target = agent.origin.requests[0].target

    assert addresses(found) == ["10.9.9.9:80"]
    assert target == (
        "/v1/health/service/web?dc=dc+2&filter=Service.Meta.env+%3D%3D+%22prod%22&ns=team"
        "&partition=p&tag=v1&tag=a%26b&passing=1&stale=1"
    )


async def test_an_unusable_instance_is_left_out() -> None:
    """One instance without a port does not spoil the others, and is told."""
    heard: list[Error] = []
    options = SourceOptions(on_error=heard.append)
    async with (
        ConsulStandIn() as agent,
        ConsulDiscovery("web", agent.url, options=options) as source,
    ):
        agent.set(instance("a", 0), instance("b", 81), instance("c", 82, address="what?"))
        found = await source.discover()

    assert addresses(found) == ["10.9.9.9:81"]
    assert "2 unusable: instance 'a': backend 10.9.9.9:0: port 0" in str(source.last_error)
    assert heard == [source.last_error]


async def test_watch() -> None:
    """Changes are told when they happen; the query waits for them at the agent."""
    async with (
        ConsulStandIn() as agent,
        ConsulDiscovery("web", agent.url, options=fast()) as source,
    ):
        agent.set(instance("a", 80))
        async with watching(source) as watch:
            await watch.shows(["10.9.9.9:80"])
            await eventually(lambda: agent.waits == 1, "a query that waits")
            agent.set(instance("a", 80), instance("b", 81))
            await watch.shows(["10.9.9.9:80", "10.9.9.9:81"])
            await eventually(lambda: agent.waits == 2, "another")
            agent.set()
            await watch.shows([])
            await eventually(lambda: agent.waits == 3, "another")

        targets = [request.target for request in agent.origin.requests]
    assert [target.partition("index=")[2] for target in targets] == [
        "",
        "11&wait=300000ms",
        "12&wait=300000ms",
        "13&wait=300000ms",
    ]
    assert watch.failures == 0


async def test_an_answer_without_news_is_not_told() -> None:
    """A query that comes back because its time is over changes nothing."""
    query = ConsulQuery(wait=0.01)
    async with (
        ConsulStandIn() as agent,
        ConsulDiscovery("web", agent.url, query=query, options=fast()) as source,
    ):
        agent.set(instance("a", 80))
        async with watching(source) as watch:
            await eventually(lambda: agent.waits >= 3, "three queries")

    assert len(watch.answers) == 1


async def test_an_index_that_goes_backwards() -> None:
    """Then the servers were restored, and the next query does not wait."""
    async with (
        ConsulStandIn() as agent,
        ConsulDiscovery("web", agent.url, options=fast()) as source,
    ):
        agent.set(instance("a", 80))
        async with watching(source) as watch:
            await eventually(lambda: agent.waits == 1, "a query that waits")
            agent.set(instance("b", 81), index=3)
            await watch.shows(["10.9.9.9:81"])
            await eventually(lambda: agent.waits == 2, "another")

        indexes = [request.target.partition("index=")[2] for request in agent.origin.requests]
    assert indexes == ["", "11&wait=300000ms", "", "3&wait=300000ms"]


async def test_an_index_of_zero_does_not_make_it_race() -> None:
    """A server that answers with 0 is asked with 1, for which it can wait."""
    async with (
        ConsulStandIn() as agent,
        ConsulDiscovery("web", agent.url, options=fast()) as source,
    ):
        agent.set(instance("a", 80), index=0)
        async with watching(source) as watch:
            await eventually(lambda: agent.waits == 1, "a query that waits")

        assert agent.origin.requests[-1].target.endswith("index=1&wait=300000ms")
        assert watch.latest == ["10.9.9.9:80"]


async def test_changes_without_end_are_taken_at_a_bounded_rate() -> None:
    """However often a service changes, it is asked for four times a second at most."""
    time = FakeTime()
    options = SourceOptions(clock=time, sleep=time.sleep)
    async with (
        ConsulStandIn() as agent,
        ConsulDiscovery("web", agent.url, options=options) as source,
    ):
        agent.set(instance("a", 80))
        handle = agent.origin.handler

        async def restless(exchange: object) -> None:
            agent.set(instance("a", 80 + len(agent.origin.requests)))
            await handle(exchange)  # type: ignore[arg-type]

        agent.origin.handler = restless
        began = time()
        async with watching(source):
            await eventually(lambda: len(agent.origin.requests) >= 9, "nine queries")

        assert time() - began >= 2.0


async def test_the_token_is_shown_to_the_agent_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A token opens the door, and appears in no log, message or representation."""
    caplog.set_level(logging.DEBUG)
    access = HttpAccess(token="a-secret")
    async with ConsulStandIn(token="a-secret") as agent:
        agent.set(instance("a", 80))
        async with ConsulDiscovery("web", agent.url, access=access) as source:
            assert addresses(await source.discover()) == ["10.9.9.9:80"]
            agent.token = "another"
            with pytest.raises(Error, match="403, the token does not allow it") as refused:
                await source.discover()

    assert "secret" not in caplog.text + str(refused.value) + repr(source) + repr(access)


async def test_an_answer_that_is_filtered_is_refused() -> None:
    """A token that sees only a part of the instances must not look like fewer instances."""
    async with (
        ConsulStandIn(filtered=True) as agent,
        ConsulDiscovery("web", agent.url) as source,
    ):
        with pytest.raises(Error, match="does not allow to see all instances"):
            await source.discover()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[7]",
        b'[{"Node": {}}]',
        b'[{"Node": {}, "Service": {"Port": "80"}}]',
        b'[{"Node": {}, "Service": {"Port": 80, "Weights": {"Passing": -1}}}]',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
async def test_garbage(body: bytes) -> None:
    """What Consul would not say is a failure."""
    async with ConsulStandIn() as agent, ConsulDiscovery("web", agent.url) as source:
        agent.origin.handler = reply(body=body, fields=[("X-Consul-Index", "5")])
        with pytest.raises(Error, match="not what Consul answers"):
            await source.discover()


@pytest.mark.parametrize("index", [None, "", "-1", "x", "9" * 30])
async def test_a_missing_index(index: str | None) -> None:
    """Without an index there is nothing to wait for."""
    fields = [] if index is None else [("X-Consul-Index", index)]
    async with ConsulStandIn() as agent, ConsulDiscovery("web", agent.url) as source:
        agent.origin.handler = reply(body=json.dumps([]).encode(), fields=fields)
        with pytest.raises(Error, match="no usable X-Consul-Index"):
            await source.discover()


def test_misuse() -> None:
    """What cannot be meant is refused at once."""
    with pytest.raises(ValueError, match="needs a name"):
        ConsulDiscovery("")
    with pytest.raises(ValueError, match="wait must be in"):
        ConsulQuery(wait=601)
    with pytest.raises(ValueError, match="begins with http"):
        ConsulDiscovery("web", "consul:8500")
