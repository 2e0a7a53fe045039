"""Questions to DNS whose answers are kept for as long as they say.

Theory of operation. Each question has an entry of its own. An answer holds for its TTL, within
bounds, and the absence of what was asked for is an answer, too (RFC 2308). When nobody answers, the
old one is used further, and the question is not repeated for a while. So one server that is
slow about AAAA does not make all backends with IPv6 addresses come and go.
"""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.nameserver
import dns.rdatatype
import dns.rdtypes.IN.SRV
import dns.resolver
import dns.rrset

from pingora_core.protocols.address import InetAddress, parse_address
from pingora_error import Error, ErrorType
from pingora_load_balancing.discovery._files import FollowedFile

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = ["Answered", "DnsOptions", "Questions", "SrvRecord"]

_MAX_RESOLV_CONF: Final = 64 << 10
# RFC 9715: larger datagrams are fragmented, and fragments get lost; what is larger comes over TCP.
_EDNS_PAYLOAD: Final = 1232
_A: Final = dns.rdatatype.A
_AAAA: Final = dns.rdatatype.AAAA
_SRV: Final = dns.rdatatype.SRV


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsOptions:
    """Whom to ask, for how long, and how long answers hold.

    Attributes:
        nameservers: IP addresses, with a port if it is not 53; empty for those of resolv.conf. The
            next one is asked when one fails or does not answer.
        resolv_conf: The file with name servers and search domains; followed when it changes, and
            not read if name servers are given.
        search: Whether names without a final dot are looked for in the search domains as well.
        rotate: Whether the name servers are asked in random order.
        ipv4: Whether A records are asked for.
        ipv6: Whether AAAA records are asked for.
        min_ttl: Answers hold at least this long, seconds.
        max_ttl: Answers hold at most this long, seconds.
        max_negative_ttl: The absence of a name holds at most this long, seconds.
        failure_ttl: A question that nobody has answered is not asked again for so long, seconds.
        timeout: How long one server may take for one attempt, seconds.
        lifetime: How long one question may take, all servers and attempts together, seconds.
        deadline: How long all questions of one discovery may take, seconds.

    Raises:
        ValueError: If a name server is none, or a time is out of its range, or neither family is
            asked for.
    """

    nameservers: tuple[str, ...] = ()
    resolv_conf: str = "/etc/resolv.conf"
    search: bool = True
    rotate: bool = False
    ipv4: bool = True
    ipv6: bool = True
    min_ttl: float = 5.0
    max_ttl: float = 300.0
    max_negative_ttl: float = 30.0
    failure_ttl: float = 1.0
    timeout: float = 2.0
    lifetime: float = 5.0
    deadline: float = 15.0

    def __post_init__(self) -> None:
        for server in self.nameservers:
            _nameserver(server)
        if not (self.ipv4 or self.ipv6):
            msg = "neither ipv4 nor ipv6 is asked for"
            raise ValueError(msg)
        if not 0 < self.min_ttl <= min(self.max_ttl, self.max_negative_ttl):
            msg = "min_ttl must be more than 0, and at most max_ttl and max_negative_ttl"
            raise ValueError(msg)
        for name, seconds in (
            ("failure_ttl", self.failure_ttl),
            ("timeout", self.timeout),
            ("lifetime", self.lifetime),
            ("deadline", self.deadline),
        ):
            if not seconds > 0:
                msg = f"{name} must be more than 0 seconds, not {seconds}"
                raise ValueError(msg)

    @property
    def address_types(self) -> tuple[dns.rdatatype.RdataType, ...]:
        """The types of the records with the addresses."""
        return (*((_A,) if self.ipv4 else ()), *((_AAAA,) if self.ipv6 else ()))


@dataclass(frozen=True, slots=True)
class SrvRecord:
    """One SRV record (RFC 2782).

    Attributes:
        priority: The lowest is to be used first.
        weight: Share among those of the same priority.
        port: The port.
        target: Name of the host, absolute, lower case.
    """

    priority: int
    weight: int
    port: int
    target: str


@dataclass(frozen=True, slots=True)
class Answered:
    """What is known about one question.

    Attributes:
        records: Addresses as text, or SRV records; None if that has never been learned.
        expires: When to ask again.
        failure: Why it could not be learned the last time, in words; empty if it could.
    """

    records: tuple[str | SrvRecord, ...] | None
    expires: float
    failure: str

    @property
    def addresses(self) -> tuple[str, ...]:
        """The records of a question for addresses."""
        return tuple(record for record in self.records or () if isinstance(record, str))

    @property
    def services(self) -> tuple[SrvRecord, ...]:
        """The records of a question for SRV."""
        return tuple(record for record in self.records or () if isinstance(record, SrvRecord))


class Questions:
    """Asks, and keeps the answers.

    Args:
        options: Whom to ask and how long answers hold.
        clock: Monotonic time, seconds.
    """

    __slots__ = ("_answers", "_clock", "_conf", "_options", "_resolver")

    def __init__(self, options: DnsOptions, clock: Callable[[], float] = time.monotonic) -> None:
        self._options = options
        self._clock = clock
        self._answers: dict[tuple[str, dns.rdatatype.RdataType], Answered] = {}
        self._resolver: dns.asyncresolver.Resolver | None = None
        if options.nameservers:
            self._resolver = dns.asyncresolver.Resolver(configure=False)
            self._resolver.nameservers = [_nameserver(text) for text in options.nameservers]
            self._prepare(self._resolver)
        self._conf = FollowedFile(options.resolv_conf, _MAX_RESOLV_CONF, self._read_conf)

    async def ask(self, name: str, kind: dns.rdatatype.RdataType) -> Answered:
        """Find out what there is of one type under a name; never raises what DNS does.

        Args:
            name: The name; with a final dot if it is absolute.
            kind: The type.

        Returns:
            What is known now.
        """
        known = self._answers.get((name, kind))
        if known is not None and self._clock() < known.expires:
            return known
        try:
            answered = await self._resolve(name, kind)
        except (dns.exception.DNSException, OSError, ValueError, Error) as error:
            records = None if known is None else known.records
            expires = self._clock() + self._options.failure_ttl
            answered = Answered(records, expires, f"{name} {kind.name}: {_describe(error)}")
        self._answers[name, kind] = answered
        return answered

    def next_expiry(self) -> float:
        """Tell when the first of the answers runs out.

        Returns:
            The time; now if there are none.
        """
        return min((each.expires for each in self._answers.values()), default=self._clock())

    def forget_all_but(self, names: Collection[str]) -> None:
        """Keep only what was answered about some names.

        Args:
            names: The names.
        """
        for key in [key for key in self._answers if key[0] not in names]:
            del self._answers[key]

    async def _resolve(self, name: str, kind: dns.rdatatype.RdataType) -> Answered:
        resolver = self._resolver or await self._conf.read()
        options = self._options
        try:
            answer = await resolver.resolve(
                name,
                kind,
                search=options.search,
                lifetime=options.lifetime,
                raise_on_no_answer=False,
            )
        except dns.resolver.NXDOMAIN as error:
            responses: dict[object, dns.message.QueryMessage] = error.kwargs["responses"]
            ttl = min(float(each.resolve_chaining().minimum_ttl) for each in responses.values())
            return Answered((), self._expiry(ttl, options.max_negative_ttl), "")
        ttl = float(answer.chaining_result.minimum_ttl)
        if answer.rrset is None:
            return Answered((), self._expiry(ttl, options.max_negative_ttl), "")
        if kind == _SRV:
            self._keep_glue(answer.response)
        return self._answered(answer.rrset, ttl)

    def _answered(self, rrset: dns.rrset.RRset, ttl: float) -> Answered:
        records: list[str | SrvRecord] = []
        for record in rrset:
            if isinstance(record, dns.rdtypes.IN.SRV.SRV):
                target = record.target.to_text().lower()
                records.append(SrvRecord(record.priority, record.weight, record.port, target))
            else:
                records.append(record.to_text())
        # Name servers rotate their answers; that is no change of the set.
        records.sort(key=str)
        return Answered(tuple(records), self._expiry(ttl, self._options.max_ttl), "")

    def _keep_glue(self, response: dns.message.Message) -> None:
        """Keep the addresses of the targets that were sent along."""
        if response.flags & dns.flags.TC:
            return
        for rrset in response.additional:
            if rrset.rdtype in self._options.address_types:
                name = rrset.name.to_text().lower()
                self._answers[name, rrset.rdtype] = self._answered(rrset, float(rrset.ttl))

    def _expiry(self, ttl: float, most: float) -> float:
        return self._clock() + min(max(ttl, self._options.min_ttl), most)

    def _read_conf(self, data: bytes) -> dns.asyncresolver.Resolver:
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.read_resolv_conf(io.StringIO(data.decode("utf-8", "replace")))
        self._prepare(resolver)
        return resolver

    def _prepare(self, resolver: dns.asyncresolver.Resolver) -> None:
        resolver.timeout = self._options.timeout
        resolver.rotate = resolver.rotate or self._options.rotate
        resolver.use_edns(0, 0, _EDNS_PAYLOAD)


def _nameserver(text: str) -> dns.nameserver.Nameserver:
    bare = f"[{text}]" if text.count(":") > 1 and not text.startswith("[") else text
    address = parse_address(bare if ":" in bare.rpartition("]")[2] else f"{bare}:53")
    if not isinstance(address, InetAddress) or address.port == 0:
        msg = f"name server {text!r} is no IP address, alone or with a port"
        raise ValueError(msg)
    return dns.nameserver.Do53Nameserver(address.host, address.port)


def _describe(error: Exception) -> str:
    if isinstance(error, Error) and error.etype is ErrorType.FILE_READ_ERROR:
        return error.context
    return str(error) or type(error).__name__
