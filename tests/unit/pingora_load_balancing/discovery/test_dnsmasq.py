"""The same against a real dnsmasq."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pingora_error import Error
from pingora_load_balancing import Backend
from pingora_load_balancing.discovery import SourceOptions
from pingora_load_balancing.discovery.dns import DnsDiscovery, DnsOptions, DnsTarget, SrvDiscovery
from tests.support.clock import FakeClock
from tests.support.discovery_dnsmasq import DnsMasq
from tests.support.discovery_watch import addresses

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_leaks")


def asking(server: DnsMasq) -> DnsOptions:
    return DnsOptions(nameservers=(server.address,), search=False, timeout=1.0, lifetime=2.0)


async def test_addresses_and_their_ttl(tmp_path: Path) -> None:
    """A and AAAA records with the TTL that dnsmasq gives them."""
    clock = FakeClock()
    async with DnsMasq(tmp_path, ["host-record=a.test,192.0.2.1,2001:db8::1,40"]) as server:
        source = DnsDiscovery(
            "a.test:80", dns_options=asking(server), options=SourceOptions(clock=clock)
        )
        assert addresses(await source.discover()) == ["192.0.2.1:80", "[2001:db8::1]:80"]
        assert source._questions.next_expiry() == clock() + 40.0


async def test_services(tmp_path: Path) -> None:
    """SRV records, with the addresses that dnsmasq sends along."""
    lines = [
        "srv-host=_http._tcp.test,one.test,8080,10,60",
        "srv-host=_http._tcp.test,two.test,8081,10,40",
        "srv-host=_http._tcp.test,spare.test,8082,20,1",
        "host-record=one.test,192.0.2.1",
        "host-record=two.test,192.0.2.2",
        "host-record=spare.test,192.0.2.3",
    ]
    async with DnsMasq(tmp_path, lines) as server:
        found = await SrvDiscovery("_http._tcp.test", dns_options=asking(server)).discover()

    assert list(found.backends) == [
        Backend("192.0.2.1:8080", 60, DnsTarget("one.test", 10)),
        Backend("192.0.2.2:8081", 40, DnsTarget("two.test", 10)),
    ]


async def test_a_long_answer(tmp_path: Path) -> None:
    """An answer that is too long for UDP comes over TCP."""
    lines = [f"host-record=a.test,192.0.2.{number}" for number in range(1, 201)]
    async with DnsMasq(tmp_path, lines) as server:
        source = DnsDiscovery("a.test:80", dns_options=asking(server))

        assert len((await source.discover()).backends) == 200


async def test_no_such_name(tmp_path: Path) -> None:
    """A name that dnsmasq knows not to exist leaves the last good set alone."""
    clock = FakeClock()
    lines = ["local=/test/", "host-record=a.test,192.0.2.1,5"]
    async with DnsMasq(tmp_path, lines) as server:
        source = DnsDiscovery(
            "a.test:80",
            dns_options=asking(server),
            options=SourceOptions(clock=clock, min_backends=1),
        )
        await source.discover()
    async with DnsMasq(tmp_path, ["local=/test/"], port=server.port):
        clock.advance(6.0)
        with pytest.raises(Error, match="answer refused"):
            await source.discover()

    assert source.answer is not None
    assert addresses(source.answer) == ["192.0.2.1:80"]
