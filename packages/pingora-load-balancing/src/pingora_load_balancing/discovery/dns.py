"""Backends from DNS: the addresses of names, or the targets of a service (SRV).

Needs the extra ``dns``. Import it from here; the package does not, so that dnspython is loaded only
by whoever uses it.
"""

from __future__ import annotations

import asyncio
import random
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import dns.name
import dns.rdatatype

from pingora_core.protocols.address import HostAddress, InetAddress, parse_address
from pingora_error import Error, ErrorType
from pingora_load_balancing.backend import Backend
from pingora_load_balancing.discovery._dns_questions import DnsOptions, Questions
from pingora_load_balancing.discovery.interfaces import DISCOVERY_ERROR, Discovered
from pingora_load_balancing.discovery.source import Source, SourceOptions

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Sequence

    from pingora_core.upstreams.peer import PeerAddress
    from pingora_load_balancing.discovery._dns_questions import Answered, SrvRecord

__all__ = ["DnsDiscovery", "DnsOptions", "DnsTarget", "SrvDiscovery"]

_T = TypeVar("_T")

_SRV: Final = dns.rdatatype.SRV
# Questions under way at the same time.
_PARALLEL: Final = 16
_ROOT: Final = "."
# A name without addresses is more often a mistake of somebody's than a service without servers.
_DEFAULTS: Final = SourceOptions(min_backends=1)


@dataclass(frozen=True, slots=True)
class DnsTarget:
    """Where a backend was found; its metadata.

    Attributes:
        name: The host name that the address is of, without a final dot: what TLS has to verify.
        priority: Of the SRV record, the lowest first; 0 without one.
    """

    name: str
    priority: int = 0


class _DnsSource(Source):
    """What both kinds of sources have in common."""

    def __init__(self, dns_options: DnsOptions | None, options: SourceOptions | None) -> None:
        self._dns = DnsOptions() if dns_options is None else dns_options
        super().__init__(
            interval=self._dns.min_ttl, options=_DEFAULTS if options is None else options
        )
        self._questions = Questions(self._dns, self.options.clock)
        self._failures: list[str] = []

    async def _ask(self) -> Discovered:
        self._failures = []
        try:
            async with asyncio.timeout(self._dns.deadline):
                found = await self._find()
        except TimeoutError as error:
            msg = f"{self!r}: not answered within {self._dns.deadline:g} s"
            raise Error.up(ErrorType.READ_TIMEDOUT, msg, cause=error) from error
        if self._failures:
            self._tolerate(
                Error.up(
                    DISCOVERY_ERROR,
                    f"{len(self._failures)} questions failed: {self._failures[0]}",
                )
            )
        return found

    @abstractmethod
    async def _find(self) -> Discovered:
        """Ask what there is to be asked; notes in ``_failures`` what does not spoil all of it."""

    def _pause(self) -> float:
        # Later rather than sooner: before its end an answer is not asked for again.
        left = self._questions.next_expiry() - self.options.clock()
        late = random.uniform(0.0, self.options.jitter)  # noqa: S311  # no secret
        return max(left, 0.0) * (1.0 + late) + 0.001

    async def _addresses(self, name: str) -> tuple[str, ...] | None:
        """Find the addresses of a name.

        Returns:
            IPv4 before IPv6; None if nothing has ever been learned.
        """
        kinds = self._dns.address_types
        answers = await _gather([self._questions.ask(name, kind) for kind in kinds])
        self._note(answers)
        if all(answer.records is None for answer in answers):
            return None
        return tuple(address for answer in answers for address in answer.addresses)

    def _note(self, answers: Iterable[Answered]) -> None:
        self._failures += [answer.failure for answer in answers if answer.failure]

    def _unknown(self) -> Error:
        reason = self._failures[0] if self._failures else "no answer"
        self._failures = []
        return Error.up(DISCOVERY_ERROR, f"{self!r}: {reason}")


class DnsDiscovery(_DnsSource):
    """The addresses of host names (A and AAAA records), asked for again when their TTL is over.

    The metadata of each backend is a `DnsTarget`. If one of several names is not answered for, its
    last addresses are used further. An answer without any address is refused unless the options
    say ``min_backends=0``.

    Args:
        names: One or more ``name:port``; with a final dot, ``name.:port``, the search domains are
            left out. An IP address stands for itself.
        weight: The weight of each backend.
        dns_options: Whom to ask, and how long answers hold.
        options: Which answers are believed, and who hears of failures.

    Raises:
        ValueError: If a name is none, or there are none.
    """

    def __init__(
        self,
        names: str | Sequence[str],
        *,
        weight: int = 1,
        dns_options: DnsOptions | None = None,
        options: SourceOptions | None = None,
    ) -> None:
        super().__init__(dns_options, options)
        texts = [names] if isinstance(names, str) else list(names)
        if not texts:
            msg = "there is no name to look up"
            raise ValueError(msg)
        self._text = ", ".join(texts)
        self._names: list[tuple[str, HostAddress]] = []
        self._given: list[Backend] = []
        for text in texts:
            backend = Backend(text, weight)
            if isinstance(backend.addr, HostAddress):
                is_absolute = text.rpartition(":")[0].endswith(".")
                name = backend.addr.host + ("." if is_absolute else "")
                self._names.append((name, backend.addr))
            else:
                self._given.append(backend)
        self._weight = weight

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._text}>"

    async def _find(self) -> Discovered:
        backends = {backend.addr: backend for backend in self._given}
        answers = await _gather([self._addresses(name) for name, _ in self._names])
        if self._names and all(answer is None for answer in answers):
            raise self._unknown()
        for (_, host), addresses in zip(self._names, answers, strict=True):
            target = DnsTarget(host.host)
            for address in addresses or ():
                backend = Backend(InetAddress(address, host.port), self._weight, target)
                backends.setdefault(backend.addr, backend)
        return Discovered(tuple(backends.values()))


class SrvDiscovery(_DnsSource):
    """The targets of a service (SRV records), with the weights that the records give them.

    The metadata of each backend is a `DnsTarget`. A weight of 0 in a record means hardly ever, and
    becomes 1 here, since 0 would mean never. Each address of a target has the weight of the target.
    An answer without any backend is refused unless the options say ``min_backends=0``.

    Args:
        name: Name of the service, such as ``_http._tcp.example.com``.
        priorities: ``lowest`` for only the targets of the best priority; ``all`` for all of them,
            to be used with a selection that knows priorities, such as
            ``PriorityGroups`` by ``DnsTarget.priority``.
        resolve: Whether the targets are looked up here; otherwise the backends are host names,
            which are looked up when a connection is made.
        dns_options: Whom to ask, and how long answers hold.
        options: Which answers are believed, and who hears of failures.

    Raises:
        ValueError: If the name is none.
    """

    def __init__(
        self,
        name: str,
        *,
        priorities: Literal["lowest", "all"] = "lowest",
        resolve: bool = True,
        dns_options: DnsOptions | None = None,
        options: SourceOptions | None = None,
    ) -> None:
        super().__init__(dns_options, options)
        try:
            dns.name.from_text(name)
        except dns.exception.DNSException as error:
            msg = f"{name!r} is no name: {error}"
            raise ValueError(msg) from error
        self._name = name
        self._priorities = priorities
        self._resolve = resolve

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}>"

    async def _find(self) -> Discovered:
        answer = await self._questions.ask(self._name, _SRV)
        self._note([answer])
        if answer.records is None:
            raise self._unknown()
        # A single record with the root as its target says that there is no such service here.
        records = [record for record in answer.services if record.target != _ROOT]
        if self._priorities == "lowest" and records:
            lowest = min(record.priority for record in records)
            records = [record for record in records if record.priority == lowest]
        records.sort(key=lambda record: (record.priority, record.target, record.port))
        targets = dict.fromkeys(record.target for record in records)
        self._questions.forget_all_but({self._name, *targets})
        addresses = await self._look_up(list(targets))
        backends: dict[PeerAddress, Backend] = {}
        for record in records:
            for backend in self._backends(record, addresses[record.target]):
                backends.setdefault(backend.addr, backend)
        return Discovered(tuple(backends.values()))

    async def _look_up(self, targets: list[str]) -> dict[str, tuple[str, ...]]:
        if not self._resolve:
            return dict.fromkeys(targets, ())
        limit = asyncio.Semaphore(_PARALLEL)

        async def look_up(target: str) -> tuple[str, ...]:
            async with limit:
                return await self._addresses(target) or ()

        found = await _gather([look_up(target) for target in targets])
        return dict(zip(targets, found, strict=True))

    def _backends(self, record: SrvRecord, addresses: tuple[str, ...]) -> list[Backend]:
        host = record.target.removesuffix(".")
        target = DnsTarget(host, record.priority)
        weight = max(record.weight, 1)
        try:
            if self._resolve:
                places: list[PeerAddress] = [InetAddress(each, record.port) for each in addresses]
            else:
                places = [parse_address(f"{host}:{record.port}")]
            return [Backend(place, weight, target) for place in places]
        except ValueError as error:
            self._failures.append(f"{self._name}: {error}")
            return []


async def _gather(questions: Sequence[Coroutine[object, object, _T]]) -> list[_T]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(question) for question in questions]
    return [task.result() for task in tasks]
