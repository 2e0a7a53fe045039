"""Where answers about host names come from: the hosts file and DNS, or the C library.

The default asks DNS itself, because only then is the TTL known and does a slow server not occupy a
thread per question. Where names come from elsewhere (NSS modules, mDNS), `SystemLookup` asks the C
library in a thread instead.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

import dns.asyncresolver
import dns.exception
import dns.message
import dns.rdatatype
import dns.resolver

from pingora_core.connectors.dns import Answer, LookupFailed
from pingora_core.protocols.tls.verify import as_ip_address

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["DnsLookup", "SystemLookup", "order_addresses"]

# glibc: 5 s and 2 attempts for each server; this is for all of it.
_LIFETIME: Final = 5.0
_HOSTS_TTL: Final = 5.0
_SYSTEM_TTL: Final = 30.0
# RFC 2308 section 7 allows up to five minutes for servers that do not answer; a proxy that waits
# for its upstream to come back wants to know sooner.
_FAILURE_TTL: Final = 1.0
_NEGATIVE_TTL: Final = 5.0
_MAX_NEGATIVE_TTL: Final = 30.0
_MAX_HOSTS_SIZE: Final = 1 << 20
_RESOLUTION_DELAY: Final = 0.05  # RFC 8305 section 3
_LOCALHOST: Final = ("127.0.0.1", "::1")


class DnsLookup:
    """Answers from the hosts file or else from the DNS servers of ``resolv.conf``.

    Args:
        resolver: How to ask DNS; None to follow ``resolv.conf``, also when it changes.
        hosts_file: The hosts file; an unreadable one counts as empty.
        resolv_conf: The file that names the DNS servers.
        lifetime: Longest time for one question, all attempts together, seconds.
    """

    def __init__(
        self,
        resolver: dns.asyncresolver.Resolver | None = None,
        *,
        hosts_file: str = "/etc/hosts",
        resolv_conf: str = "/etc/resolv.conf",
        lifetime: float = _LIFETIME,
    ) -> None:
        self._given = resolver
        self._hosts_path = Path(hosts_file)
        self._hosts_stamp: tuple[int, int] | None = None
        self._hosts: dict[str, tuple[str, ...]] = {}
        self._resolv_path = Path(resolv_conf)
        self._resolv_stamp: tuple[int, int] | None = None
        self._configured: dns.asyncresolver.Resolver | None = None
        self._lifetime = lifetime

    async def lookup(self, host: str) -> Answer:
        """Ask for the addresses of a name; see `Lookup.lookup`.

        Args:
            host: The name, lower case, without a final dot.

        Returns:
            The addresses.

        Raises:
            LookupFailed: If there are none or they cannot be learned.
        """
        addresses = self._read_hosts().get(host)
        if addresses is None and (host == "localhost" or host.endswith(".localhost")):
            # RFC 6761 section 6.3: never ask DNS for these.
            addresses = _LOCALHOST
        if addresses is not None:
            return Answer(order_addresses(addresses), _HOSTS_TTL)
        try:
            resolver = self._given or self._follow_resolv_conf()
        except dns.exception.DNSException as error:
            raise LookupFailed(f"no DNS server: {error}", _FAILURE_TTL) from error
        answers = await self._ask_both(resolver, host)
        found = [answer for answer in answers if isinstance(answer, Answer)]
        if found:
            every = tuple(itertools.chain.from_iterable(answer.addresses for answer in found))
            return Answer(order_addresses(every), min(answer.ttl for answer in found))
        # The absence of one family says nothing while the question for the other went unanswered.
        failures = [answer for answer in answers if isinstance(answer, LookupFailed)]
        failure = min(failures, key=lambda failed: failed.ttl)
        raise failure

    async def _ask_both(
        self, resolver: dns.asyncresolver.Resolver, host: str
    ) -> list[Answer | LookupFailed]:
        tasks = [
            asyncio.create_task(self._ask(resolver, host, kind), name=f"dns {host} {kind.name}")
            for kind in (dns.rdatatype.A, dns.rdatatype.AAAA)
        ]
        try:
            done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            # Servers that drop the question for one family are common: once there is an address,
            # the other answer is not worth a long wait.
            found = any(isinstance(task.result(), Answer) for task in done)
            if pending:
                await asyncio.wait(pending, timeout=_RESOLUTION_DELAY if found else None)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        return [task.result() for task in tasks if not task.cancelled()]

    async def _ask(
        self, resolver: dns.asyncresolver.Resolver, host: str, kind: dns.rdatatype.RdataType
    ) -> Answer | LookupFailed:
        try:
            answer = await resolver.resolve(
                host, kind, search=True, lifetime=self._lifetime, raise_on_no_answer=False
            )
        except dns.resolver.NXDOMAIN as error:
            responses: dict[object, dns.message.QueryMessage] = error.kwargs["responses"]
            return LookupFailed("no such name", _negative_ttl(*responses.values()))
        except (dns.exception.DNSException, OSError, ValueError) as error:
            return LookupFailed(str(error) or type(error).__name__, _FAILURE_TTL)
        if answer.rrset is None:
            return LookupFailed("the name has no address", _negative_ttl(answer.response))
        addresses = tuple(record.to_text() for record in answer)
        return Answer(addresses, float(answer.chaining_result.minimum_ttl))

    def _read_hosts(self) -> dict[str, tuple[str, ...]]:
        stamp = _stamp(self._hosts_path)
        if stamp != self._hosts_stamp:
            self._hosts_stamp = stamp
            self._hosts = _parse_hosts(self._hosts_path)
        return self._hosts

    def _follow_resolv_conf(self) -> dns.asyncresolver.Resolver:
        stamp = _stamp(self._resolv_path)
        if self._configured is None or stamp != self._resolv_stamp:
            resolver = dns.asyncresolver.Resolver(configure=False)
            resolver.read_resolv_conf(str(self._resolv_path))
            self._configured, self._resolv_stamp = resolver, stamp
        return self._configured


class SystemLookup:
    """Answers from the C library (``getaddrinfo``), asked in the event loop's threads.

    Args:
        ttl: How long answers hold, because the C library does not say; seconds.
    """

    def __init__(self, ttl: float = _SYSTEM_TTL) -> None:
        self._ttl = ttl

    async def lookup(self, host: str) -> Answer:
        """Ask for the addresses of a name; see `Lookup.lookup`.

        Args:
            host: The name, lower case, without a final dot.

        Returns:
            The addresses, in the order of the C library.

        Raises:
            LookupFailed: If there are none or they cannot be learned.
        """
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise LookupFailed(error.strerror or str(error), _NEGATIVE_TTL) from error
        # A link-local address with its zone could not be told apart from the same one elsewhere.
        addresses = dict.fromkeys(
            address for *_, sockaddr in found if "%" not in (address := str(sockaddr[0]))
        )
        if not addresses:
            reason = "the name has no address"
            raise LookupFailed(reason, _NEGATIVE_TTL)
        return Answer(tuple(addresses), self._ttl)


def order_addresses(addresses: Sequence[str]) -> tuple[str, ...]:
    """Put addresses in the order to try them: families in turn, IPv6 first (RFC 8305 section 4).

    A machine without a route to the IPv6 addresses tries them last (RFC 6724, rule 1).

    Args:
        addresses: As text; what is none is left out.

    Returns:
        The same, without repetitions.
    """
    unique = dict.fromkeys(addresses)
    ipv6 = [address for address in unique if ":" in address]
    ipv4 = [address for address in unique if ":" not in address]
    if ipv4 and ipv6 and not _has_route(ipv6[0]):
        return (*ipv4, *ipv6)
    pairs = itertools.zip_longest(ipv6, ipv4)
    return tuple(address for pair in pairs for address in pair if address is not None)


def _has_route(address: str) -> bool:
    # Connecting a datagram socket sends nothing; it only asks the routing table.
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
    except OSError:
        return False
    return True


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def _parse_hosts(path: Path) -> dict[str, tuple[str, ...]]:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_HOSTS_SIZE).decode("utf-8", "replace")
    except OSError:
        return {}
    hosts: dict[str, tuple[str, ...]] = {}
    for line in content.splitlines():
        text, *names = line.partition("#")[0].split() or [""]
        address = as_ip_address(text)
        if address is None:
            continue
        for name in names:
            key = name.lower().removesuffix(".")
            hosts[key] = (*hosts.get(key, ()), str(address))
    return hosts


def _negative_ttl(*responses: dns.message.QueryMessage) -> float:
    """Read how long an absence holds: the SOA's word, within limits (RFC 2308 section 5).

    Args:
        responses: Of the DNS servers, one for each domain that was searched.

    Returns:
        Seconds.
    """
    ttls = (float(response.resolve_chaining().minimum_ttl) for response in responses)
    return min(_MAX_NEGATIVE_TTL, *ttls)
