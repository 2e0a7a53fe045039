from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING

import dns.asyncresolver
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from pingora_core.connectors import CachingResolver, DnsLookup, LookupFailed, SystemLookup
from pingora_core.connectors.lookup import order_addresses
from pingora_core.protocols.address import InetAddress
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_leaks")


class DnsServer(asyncio.DatagramProtocol):
    """A DNS server with a few records; a kind of question it has no entry for goes unanswered.

    Attributes:
        records: By name and type: lines of ``TTL class type data``, or a response code.
        soa: Line for the authority section of empty answers; empty for none.
        questions: What it was asked.
    """

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], list[str] | dns.rcode.Rcode] = {}
        self.soa = ""
        self.questions: list[tuple[str, str]] = []
        self.port = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.DatagramTransport) or hasattr(transport, "sendto")
        self._transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        key = (question.name.to_text(), dns.rdatatype.to_text(question.rdtype))
        self.questions.append(key)
        found = self.records.get(key)
        if found is None:
            return
        response = dns.message.make_response(query)
        if isinstance(found, list):
            for line in found:
                owner, ttl, rdclass, rdtype, value = line.split(maxsplit=4)
                record = dns.rrset.from_text(owner, int(ttl), rdclass, rdtype, value)
                response.answer.append(record)
        else:
            response.set_rcode(found)
        if self.soa and not (isinstance(found, list) and found):
            owner, ttl, rdclass, rdtype, value = self.soa.split(maxsplit=4)
            soa = dns.rrset.from_text(owner, int(ttl), rdclass, rdtype, value)
            response.authority.append(soa)
        getattr(self._transport, "sendto")(response.to_wire(), addr)  # noqa: B009


@asynccontextmanager
async def dns_server() -> AsyncIterator[DnsServer]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(DnsServer, local_addr=("127.0.0.1", 0))
    try:
        yield server
    finally:
        transport.close()
        await asyncio.sleep(0)


def asking(server: DnsServer, hosts: Path | None = None, lifetime: float = 5.0) -> DnsLookup:
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = ["127.0.0.1"]
    resolver.port = server.port
    return DnsLookup(resolver, hosts_file=str(hosts or "/nonexistent"), lifetime=lifetime)


async def test_both_families_are_asked() -> None:
    """The shorter TTL holds for all."""
    async with dns_server() as server:
        server.records["a.test.", "A"] = ["a.test. 300 IN A 127.0.0.1"]
        server.records["a.test.", "AAAA"] = ["a.test. 60 IN AAAA ::1"]
        answer = await asking(server).lookup("a.test")

        assert set(answer.addresses) == {"127.0.0.1", "::1"}
        assert answer.ttl == 60.0


async def test_through_the_cache_to_an_address() -> None:
    """Resolver, lookup and server together."""
    async with dns_server() as server:
        server.records["a.test.", "A"] = ["a.test. 300 IN A 127.0.0.1"]
        server.records["a.test.", "AAAA"] = []
        resolver = CachingResolver(asking(server))
        for _ in range(2):
            assert await resolver.resolve("a.test", 80) == [InetAddress("127.0.0.1", 80)]

        assert len(server.questions) == 2
        await resolver.close()


async def test_an_alias_holds_no_longer_than_any_of_its_links() -> None:
    """The TTL of a CNAME counts too."""
    async with dns_server() as server:
        server.records["a.test.", "A"] = [
            "a.test. 20 IN CNAME b.test.",
            "b.test. 300 IN A 127.0.0.1",
        ]
        server.records["a.test.", "AAAA"] = ["a.test. 20 IN CNAME b.test."]
        answer = await asking(server).lookup("a.test")

        assert (answer.addresses, answer.ttl) == (("127.0.0.1",), 20.0)


async def test_a_name_that_does_not_exist() -> None:
    """The server's SOA says how long to believe it, within limits."""
    async with dns_server() as server:
        for kind in ("A", "AAAA"):
            server.records["a.test.", kind] = dns.rcode.NXDOMAIN
        for ttl, believed in ((12, 12.0), (86400, 30.0)):
            server.soa = f"test. {ttl} IN SOA ns.test. x.test. 1 2 3 4 {ttl}"
            with pytest.raises(LookupFailed, match="no such name") as caught:
                await asking(server).lookup("a.test")
            assert caught.value.ttl == believed


async def test_a_name_without_addresses() -> None:
    """It exists, but there is nothing to connect to."""
    async with dns_server() as server:
        server.soa = "test. 9 IN SOA ns.test. x.test. 1 2 3 4 9"
        for kind in ("A", "AAAA"):
            server.records["a.test.", kind] = []

        with pytest.raises(LookupFailed, match="no address") as caught:
            await asking(server).lookup("a.test")
        assert caught.value.ttl == 9.0


async def test_a_server_that_fails() -> None:
    """It is asked again soon, because it may recover."""
    async with dns_server() as server:
        for kind in ("A", "AAAA"):
            server.records["a.test.", kind] = dns.rcode.SERVFAIL
        with pytest.raises(LookupFailed, match="SERVFAIL") as caught:
            await asking(server).lookup("a.test")

        assert caught.value.ttl == 1.0


async def test_a_server_that_does_not_answer() -> None:
    """A lookup takes no longer than its lifetime."""
    async with dns_server() as server:
        started = time.monotonic()
        with pytest.raises(LookupFailed):
            await asking(server, lifetime=0.05).lookup("a.test")

        assert time.monotonic() - started < 10.0


async def test_half_an_answer_is_no_absence() -> None:
    """If one family does not exist and nobody told of the other, the name may well exist."""
    async with dns_server() as server:
        server.records["a.test.", "A"] = []
        with pytest.raises(LookupFailed) as caught:
            await asking(server, lifetime=0.05).lookup("a.test")

        assert "no address" not in caught.value.reason
        assert caught.value.ttl == 1.0


async def test_one_family_is_enough() -> None:
    """A server that drops one question does not delay the answer to the other for long."""
    async with dns_server() as server:
        server.records["a.test.", "A"] = ["a.test. 300 IN A 127.0.0.1"]
        started = time.monotonic()
        answer = await asking(server, lifetime=60.0).lookup("a.test")

        assert answer.addresses == ("127.0.0.1",)
        assert time.monotonic() - started < 30.0


async def test_a_cancelled_lookup_leaves_nothing_behind() -> None:
    """Its questions end with it."""
    async with dns_server() as server:
        task = asyncio.ensure_future(asking(server).lookup("a.test"))
        await eventually(lambda: server.questions, "a question")
        task.cancel()
        await asyncio.wait([task])

        assert task.cancelled()


async def test_the_hosts_file_comes_first(tmp_path: Path) -> None:
    """Names, aliases and several lines; comments and nonsense are skipped; DNS is not asked."""
    hosts = tmp_path / "hosts"
    hosts.write_bytes(
        b"# comment\n127.0.0.1 a.test A-alias.test. # more\n\n127.0.0.2\ta.test\n"
        b"::1 a.test\nnonsense b.test\n\xff\xfe\n"
    )
    async with dns_server() as server:
        lookup = asking(server, hosts)

        answer = await lookup.lookup("a.test")
        alias = await lookup.lookup("a-alias.test")
        assert set(answer.addresses) == {"127.0.0.1", "127.0.0.2", "::1"}
        assert answer.ttl == 5.0
        assert alias.addresses == ("127.0.0.1",)
        assert server.questions == []


async def test_a_changed_hosts_file_is_read_again(tmp_path: Path) -> None:
    """Also when it goes away."""
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 a.test\n")
    async with dns_server() as server:
        lookup = asking(server, hosts, lifetime=0.05)
        first = await lookup.lookup("a.test")
        hosts.write_text("127.0.0.2 a.test\n")
        os.utime(hosts, ns=(1, 1))
        second = await lookup.lookup("a.test")
        hosts.unlink()

        assert (first.addresses, second.addresses) == (("127.0.0.1",), ("127.0.0.2",))
        with pytest.raises(LookupFailed):
            await lookup.lookup("a.test")


@pytest.mark.parametrize("name", ["localhost", "www.localhost"])
async def test_localhost_is_never_asked_for(name: str) -> None:
    """It is the loopback address, whatever a DNS server says (RFC 6761)."""
    async with dns_server() as server:
        answer = await asking(server).lookup(name)

        assert set(answer.addresses) == {"127.0.0.1", "::1"}
        assert server.questions == []


async def test_localhost_with_the_default_lookup() -> None:
    """What ships works on this machine."""
    answer = await DnsLookup().lookup("localhost")

    assert "127.0.0.1" in answer.addresses


async def test_resolv_conf_is_followed(tmp_path: Path) -> None:
    """Search domains apply, and a change is noticed without a restart."""
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver 127.0.0.1\nsearch first.test\noptions timeout:1\n")
    async with dns_server() as server:
        for domain in ("first", "second"):
            server.records[f"a.{domain}.test.", "A"] = [f"a.{domain}.test. 9 IN A 127.0.0.1"]
            server.records[f"a.{domain}.test.", "AAAA"] = []
        lookup = DnsLookup(hosts_file="/nonexistent", resolv_conf=str(resolv))
        lookup._follow_resolv_conf().port = server.port
        await lookup.lookup("a")
        resolv.write_text("nameserver 127.0.0.1\nsearch second.test\n")
        os.utime(resolv, ns=(1, 1))
        lookup._follow_resolv_conf().port = server.port
        await lookup.lookup("a")

        assert {name for name, _ in server.questions} == {"a.first.test.", "a.second.test."}


async def test_a_missing_resolv_conf_is_a_failure(tmp_path: Path) -> None:
    """Not a crash."""
    lookup = DnsLookup(hosts_file="/nonexistent", resolv_conf=str(tmp_path / "none"))

    with pytest.raises(LookupFailed):
        await lookup.lookup("a.test")


async def test_the_system_lookup_asks_the_c_library() -> None:
    """For names that only it knows; the TTL is a guess."""
    answer = await SystemLookup(ttl=7.0).lookup("localhost")

    assert set(answer.addresses) & {"127.0.0.1", "::1"}
    assert answer.ttl == 7.0


class CLibrary:
    """Stands in for the event loop's way to the C library."""

    def __init__(self, found: list[tuple[object, ...]]) -> None:
        self.found = found

    async def getaddrinfo(
        self, host: str, port: int | None, **kind: int
    ) -> list[tuple[object, ...]]:
        if not self.found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.found


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ([], "not known"),
        ([(socket.AF_INET6, 1, 6, "", ("fe80::1%eth0", 0, 0, 2))], "no address"),
    ],
)
async def test_the_system_lookup_fails_politely(
    monkeypatch: pytest.MonkeyPatch, found: list[tuple[object, ...]], reason: str
) -> None:
    """A missing name is a failure; so is one with link-local addresses only."""
    stand_in = SimpleNamespace(get_running_loop=lambda: CLibrary(found))
    monkeypatch.setattr("pingora_core.connectors.lookup.asyncio", stand_in)
    with pytest.raises(LookupFailed, match=reason) as caught:
        await SystemLookup().lookup("nowhere.test")

    assert caught.value.ttl == 5.0


def test_families_take_turns() -> None:
    """IPv6 first if there is a route to it; each address once."""
    assert order_addresses(["127.0.0.1", "127.0.0.2", "::1", "127.0.0.1"]) in {
        ("::1", "127.0.0.1", "127.0.0.2"),
        ("127.0.0.1", "127.0.0.2", "::1"),
    }
    assert order_addresses(["127.0.0.1"]) == ("127.0.0.1",)


def test_an_address_that_cannot_be_reached_at_all() -> None:
    """The routing table is asked about the first one; what it refuses comes last."""
    assert order_addresses(["fe80::zz", "127.0.0.1"]) == ("127.0.0.1", "fe80::zz")


def test_addresses_without_a_route_come_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trying them first would cost a failure per connection."""
    monkeypatch.setattr("pingora_core.connectors.lookup._has_route", lambda _: False)

    assert order_addresses(["2001:db8::1", "192.0.2.1"]) == ("192.0.2.1", "2001:db8::1")
