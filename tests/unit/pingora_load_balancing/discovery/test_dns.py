"""DNS over real UDP and TCP on loopback; the server is a small one of our own."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from pingora_error import Error
from pingora_load_balancing import Backend
from pingora_load_balancing.discovery import SourceOptions
from pingora_load_balancing.discovery.dns import DnsDiscovery, DnsOptions, DnsTarget, SrvDiscovery
from tests.support.clock import FakeClock
from tests.support.discovery_dns import DnsResponder
from tests.support.discovery_watch import FakeTime, addresses, watching

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_leaks")


def asking(*servers: DnsResponder, **more: float | bool) -> DnsOptions:
    defaults: dict[str, float | bool] = {"timeout": 5.0, "lifetime": 20.0, "search": False}
    return DnsOptions(
        nameservers=tuple(server.address for server in servers),
        **(defaults | more),  # type: ignore[arg-type]
    )


async def test_addresses() -> None:
    """Both families are asked for; each address is a backend that knows its name."""
    async with DnsResponder() as server:
        server.set("api.test", "A", ["192.0.2.2", "192.0.2.1"])
        server.set("api.test", "AAAA", ["2001:db8::1"])
        found = await DnsDiscovery("API.test:8080", weight=3, dns_options=asking(server)).discover()

    assert addresses(found) == ["192.0.2.1:8080", "192.0.2.2:8080", "[2001:db8::1]:8080"]
    assert next(iter(found.backends)) == Backend("192.0.2.1:8080", 3, DnsTarget("api.test"))


async def test_one_family() -> None:
    """A family that is not wanted is not asked for."""
    async with DnsResponder() as server:
        server.set("api.test", "A", ["192.0.2.1"])
        server.set("api.test", "AAAA", ["2001:db8::1"])
        source = DnsDiscovery("api.test:80", dns_options=asking(server, ipv4=False))

        assert addresses(await source.discover()) == ["[2001:db8::1]:80"]
        assert server.count("A") == 0


async def test_several_names() -> None:
    """The names are asked for together; an IP address stands for itself; twice is once."""
    async with DnsResponder() as server:
        server.set("a.test", "A", ["192.0.2.1"])
        server.set("b.test", "A", ["192.0.2.1", "192.0.2.2"])
        names = ["192.0.2.9:80", "a.test:80", "b.test:80"]
        found = await DnsDiscovery(names, dns_options=asking(server)).discover()

    assert addresses(found) == ["192.0.2.9:80", "192.0.2.1:80", "192.0.2.2:80"]


@pytest.mark.parametrize(
    ("ttl", "holds"),
    [(30, 30.0), (0, 5.0), (86_400, 300.0)],
)
async def test_ttl(ttl: int, holds: float) -> None:
    """An answer holds for its TTL, within bounds, and is asked for again when that is over."""
    clock = FakeClock()
    async with DnsResponder() as server:
        server.set("a.test", "A", ["192.0.2.1"], ttl)
        server.set("a.test", "AAAA", ["2001:db8::1"], 86_400)
        source = DnsDiscovery(
            "a.test:80", dns_options=asking(server), options=SourceOptions(clock=clock)
        )
        await source.discover()
        server.set("a.test", "A", ["192.0.2.2"], ttl)
        clock.advance(holds - 0.1)
        before = addresses(await source.discover())
        asked_before = server.count("A")
        clock.advance(0.2)
        after = addresses(await source.discover())

    assert before == ["192.0.2.1:80", "[2001:db8::1]:80"]
    assert after == ["192.0.2.2:80", "[2001:db8::1]:80"]
    assert (asked_before, server.count("A")) == (1, 2)


async def test_watch_asks_when_the_ttl_is_over() -> None:
    """Watched, it asks at the end of the TTL, a little later rather than sooner."""
    time = FakeTime()
    async with DnsResponder() as server:
        server.set("a.test", "A", ["192.0.2.1"], 20)
        source = DnsDiscovery(
            "a.test:80",
            dns_options=asking(server, ipv6=False),
            options=SourceOptions(clock=time, sleep=time.sleep),
        )
        began = time()
        async with watching(source) as watch:
            await watch.shows(["192.0.2.1:80"])
            server.set("a.test", "A", ["192.0.2.2"], 20)
            await watch.shows(["192.0.2.2:80"])
        asked, passed = server.count("A"), time() - began

    assert watch.failures == 0
    assert (asked - 1) * 20 <= passed <= asked * 22.1


@pytest.mark.parametrize("exists", [True, False])
async def test_negative_answers_are_kept(exists: bool) -> None:
    """That there is nothing is an answer, which holds for as long as the zone says, and is told."""
    clock = FakeClock()
    async with DnsResponder(negative_ttl=20) as server:
        if exists:
            server.set("a.test", "TXT", ["x"])
        source = DnsDiscovery(
            "a.test:80",
            dns_options=asking(server),
            options=SourceOptions(clock=clock, min_backends=1),
        )
        for _ in range(2):
            with pytest.raises(Error, match="0 usable backends, at least 1 are needed"):
                await source.discover()
            clock.advance(19.0)
        assert len(server.asked) == 2
        server.set("a.test", "A", ["192.0.2.1"])
        clock.advance(2.0)
        assert addresses(await source.discover()) == ["192.0.2.1:80"]


async def test_nothing_is_believed_if_told() -> None:
    """By default the absence of all addresses is refused; it can be believed."""
    async with DnsResponder() as server:
        source = DnsDiscovery("a.test:80", dns_options=asking(server))
        with pytest.raises(Error, match="answer refused"):
            await source.discover()
        believing = DnsDiscovery(
            "a.test:80", dns_options=asking(server), options=SourceOptions(min_backends=0)
        )
        assert addresses(await believing.discover()) == []


async def test_a_failing_family_keeps_its_addresses() -> None:
    """While AAAA is not answered the last addresses stay, and the failure is seen."""
    clock = FakeClock()
    heard: list[Error] = []
    async with DnsResponder() as server:
        server.set("a.test", "A", ["192.0.2.1"])
        server.set("a.test", "AAAA", ["2001:db8::1"])
        source = DnsDiscovery(
            "a.test:80",
            dns_options=asking(server),
            options=SourceOptions(clock=clock, on_error=heard.append),
        )
        await source.discover()
        server.modes["AAAA"] = "servfail"
        server.set("a.test", "A", ["192.0.2.2"])
        clock.advance(61.0)
        found = await source.discover()
        assert addresses(found) == ["192.0.2.2:80", "[2001:db8::1]:80"]
        assert "1 questions failed: a.test AAAA" in str(source.last_error)
        assert heard == [source.last_error]

        server.modes.clear()
        clock.advance(61.0)
        await source.discover()
        assert source.last_error is None


@pytest.mark.parametrize("mode", ["drop", "servfail", "refused", "garbage"])
async def test_nobody_answers(mode: str) -> None:
    """When no server answers the discovery fails in bounded time, and is not repeated at once."""
    clock = FakeClock()
    async with DnsResponder(mode=mode) as server:  # type: ignore[arg-type]
        source = DnsDiscovery(
            "a.test:80",
            dns_options=asking(server, ipv6=False, timeout=0.2, lifetime=0.6),
            options=SourceOptions(clock=clock),
        )
        async with asyncio.timeout(30):
            with pytest.raises(Error, match=r"a.test A"):
                await source.discover()
        asked = len(server.asked)
        with pytest.raises(Error, match=r"a.test A"):
            await source.discover()
        assert len(server.asked) == asked

        server.mode = "answer"
        server.set("a.test", "A", ["192.0.2.1"])
        clock.advance(1.1)
        assert addresses(await source.discover()) == ["192.0.2.1:80"]


async def test_the_next_name_server_is_asked() -> None:
    """A server that fails, or says nothing, is passed over."""
    async with (
        DnsResponder(mode="drop") as silent,
        DnsResponder(mode="servfail") as failing,
        DnsResponder() as server,
    ):
        server.set("a.test", "A", ["192.0.2.1"])
        options = asking(silent, failing, server, timeout=0.2, lifetime=30.0)
        source = DnsDiscovery("a.test:80", dns_options=options)

        assert addresses(await source.discover()) == ["192.0.2.1:80"]
        assert silent.asked
        assert failing.asked


async def test_a_long_answer_comes_over_tcp() -> None:
    """An answer that does not fit a datagram is cut short, and asked for again over TCP."""
    hosts = [f"192.0.2.{number}" for number in range(250)]
    async with DnsResponder() as server:
        server.set("a.test", "A", hosts)
        source = DnsDiscovery("a.test:80", dns_options=asking(server, ipv6=False))
        found = await source.discover()

    assert len(found.backends) == 250
    assert [question.transport for question in server.asked] == ["udp", "tcp"]


async def test_resolv_conf(tmp_path: Path) -> None:
    """Servers and search domains come from resolv.conf, which is read again when it changes."""
    clock = FakeClock()
    conf = tmp_path / "resolv.conf"
    async with DnsResponder() as server:
        # The format has no ports, and nobody can listen on 53 here: given ones are used instead.
        server.set("api.prod.test", "A", ["192.0.2.1"])
        server.set("api.spare.test", "A", ["192.0.2.2"])
        options = DnsOptions(resolv_conf=str(conf), ipv6=False, timeout=0.2, lifetime=0.6)
        source = DnsDiscovery("api:80", dns_options=options, options=SourceOptions(clock=clock))
        with pytest.raises(Error, match="cannot be read"):
            await source.discover()
        conf.write_text("search test\n")
        clock.advance(1.1)
        with pytest.raises(Error, match=r"(?i)nameservers"):
            await source.discover()
        results = []
        for domain in ("prod.test", "spare.test"):
            conf.write_text(f"nameserver 127.0.0.1\nsearch {domain}\n")
            resolver = await source._questions._conf.read()
            resolver.port = server.port
            clock.advance(61.0)
            results += addresses(await source.discover())

    assert results == ["192.0.2.1:80", "192.0.2.2:80"]


async def test_a_final_dot_means_no_search(tmp_path: Path) -> None:
    """An absolute name is asked for as it is."""
    conf = tmp_path / "resolv.conf"
    conf.write_text("nameserver 127.0.0.1\nsearch prod.test\n")
    async with DnsResponder() as server:
        server.set("api", "A", ["192.0.2.1"])
        options = DnsOptions(resolv_conf=str(conf), ipv6=False)
        source = DnsDiscovery("api.:80", dns_options=options)
        (await source._questions._conf.read()).port = server.port

        assert addresses(await source.discover()) == ["192.0.2.1:80"]
        assert [question.name for question in server.asked] == ["api."]


# ------------------------------------------------------------------------- SRV


def with_service(server: DnsResponder) -> None:
    server.set(
        "_http._tcp.test",
        "SRV",
        ["20 0 8081 spare.test.", "10 60 8080 One.test.", "10 0 8080 two.test."],
    )
    server.set("one.test", "A", ["192.0.2.1"])
    server.set("one.test", "AAAA", ["2001:db8::1"])
    server.set("two.test", "A", ["192.0.2.2"])
    server.set("spare.test", "A", ["192.0.2.3"])


@pytest.mark.parametrize("glue", [True, False])
async def test_service(glue: bool) -> None:
    """Targets of the best priority with port and weight; addresses that came along are used."""
    async with DnsResponder(glue=glue) as server:
        with_service(server)
        found = await SrvDiscovery("_http._tcp.test", dns_options=asking(server)).discover()

    assert list(found.backends) == [
        Backend("192.0.2.1:8080", 60, DnsTarget("one.test", 10)),
        Backend("[2001:db8::1]:8080", 60, DnsTarget("one.test", 10)),
        Backend("192.0.2.2:8080", 1, DnsTarget("two.test", 10)),
    ]
    assert server.count("A") == (0 if glue else 2)


async def test_all_priorities() -> None:
    """With all priorities the backends carry theirs."""
    async with DnsResponder() as server:
        with_service(server)
        source = SrvDiscovery(
            "_http._tcp.test", priorities="all", dns_options=asking(server, ipv6=False)
        )
        found = await source.discover()

    priorities = [
        target.priority for each in found.backends if (target := each.metadata_as(DnsTarget))
    ]
    assert priorities == [10, 10, 20]


async def test_targets_by_name() -> None:
    """Unresolved targets are backends with host names."""
    async with DnsResponder() as server:
        with_service(server)
        source = SrvDiscovery("_http._tcp.test", resolve=False, dns_options=asking(server))

        assert addresses(await source.discover()) == ["one.test:8080", "two.test:8080"]
        assert server.count("A") == 0


async def test_a_service_that_is_not_offered() -> None:
    """The root as target says that there is no such service."""
    async with DnsResponder() as server:
        server.set("_http._tcp.test", "SRV", ["0 0 0 ."])
        source = SrvDiscovery("_http._tcp.test", dns_options=asking(server))
        with pytest.raises(Error, match="0 usable backends"):
            await source.discover()


async def test_unusable_records_are_left_out() -> None:
    """Port 0, targets without addresses: the others count, and it is told."""
    async with DnsResponder() as server:
        server.set(
            "_http._tcp.test",
            "SRV",
            ["0 1 0 one.test.", "0 1 80 one.test.", "0 1 80 gone.test.", "0 1 80 broken.test."],
        )
        server.set("one.test", "A", ["192.0.2.1"])
        source = SrvDiscovery("_http._tcp.test", dns_options=asking(server, ipv6=False))

        assert addresses(await source.discover()) == ["192.0.2.1:80"]
        assert "port 0 cannot be connected to" in str(source.last_error)


async def test_ttls_of_a_service() -> None:
    """Record and target have a TTL of their own; what is not used any more is forgotten."""
    clock = FakeClock()
    async with DnsResponder() as server:
        server.set("_http._tcp.test", "SRV", ["0 1 80 one.test."], 100)
        server.set("one.test", "A", ["192.0.2.1"], 10)
        server.set("two.test", "A", ["192.0.2.2"], 10)
        source = SrvDiscovery(
            "_http._tcp.test",
            dns_options=asking(server, ipv6=False),
            options=SourceOptions(clock=clock),
        )
        await source.discover()
        clock.advance(11.0)
        await source.discover()
        assert (server.count("SRV"), server.count("A")) == (1, 2)
        server.set("_http._tcp.test", "SRV", ["0 1 80 two.test."], 100)
        clock.advance(90.0)
        assert addresses(await source.discover()) == ["192.0.2.2:80"]

        assert len(source._questions._answers) == 2


async def test_many_targets_within_the_deadline() -> None:
    """All questions together have a deadline; what was answered by then is kept."""
    async with DnsResponder(modes={"A": "drop"}) as server:
        records = [f"0 1 80 t{number}.test." for number in range(40)]
        server.set("_http._tcp.test", "SRV", records)
        options = asking(server, ipv6=False, timeout=30.0, lifetime=30.0, deadline=1.5)
        source = SrvDiscovery("_http._tcp.test", dns_options=options)
        with pytest.raises(Error, match=r"not answered within 1\.5 s"):
            await source.discover()
        assert server.count("A") == 16


# ------------------------------------------------------------------------- misuse


@pytest.mark.parametrize("server", ["dns.test", "192.0.2.1:0", "192.0.2.1:x", "", "[::1"])
def test_bad_name_servers(server: str) -> None:
    """A name server is an IP address, with a port or without."""
    with pytest.raises(ValueError, match=r"address|name server"):
        DnsOptions(nameservers=(server,))


@pytest.mark.parametrize("server", ["192.0.2.1", "192.0.2.1:5353", "::1", "[::1]", "[::1]:5353"])
def test_good_name_servers(server: str) -> None:
    """Both families, with a port or without."""
    assert DnsOptions(nameservers=(server,)).nameservers == (server,)


def test_misuse() -> None:
    """What cannot be meant is refused at once."""
    with pytest.raises(ValueError, match="there is no name"):
        DnsDiscovery([])
    with pytest.raises(ValueError, match="has no port"):
        DnsDiscovery("api.test")
    with pytest.raises(ValueError, match="is no name"):
        SrvDiscovery("a..b")
    with pytest.raises(ValueError, match="neither ipv4 nor ipv6"):
        DnsOptions(ipv4=False, ipv6=False)
    with pytest.raises(ValueError, match="min_ttl"):
        DnsOptions(min_ttl=0)
    with pytest.raises(ValueError, match="lifetime must be more than 0"):
        DnsOptions(lifetime=0)


@given(st.text(max_size=40))
def test_any_text_as_a_name(text: str) -> None:
    """Any text makes a source, or is refused as a bad value."""
    for make in (DnsDiscovery, SrvDiscovery):
        with suppress(ValueError):
            make(text)
