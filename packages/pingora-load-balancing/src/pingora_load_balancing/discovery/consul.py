"""Backends from Consul's catalogue, followed with blocking queries.

Theory of operation. Consul answers a query together with an index; asked again with that index it
waits until something has changed, or until the time that we allow is over. The rules for clients are
kept: an index that goes backwards is forgotten, one of 0 is not used, the answers of a service that
changes all the time are taken at a bounded rate, and the wait has a deadline of ours as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import quote, urlencode

import msgspec

from pingora_error import Error
from pingora_load_balancing.backend import Backend
from pingora_load_balancing.discovery._http_client import HttpClient, off_the_loop
from pingora_load_balancing.discovery._http_response import refuse_status
from pingora_load_balancing.discovery.access import HttpAccess
from pingora_load_balancing.discovery.interfaces import DISCOVERY_ERROR, Discovered, refuse
from pingora_load_balancing.discovery.source import Source

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from pingora_core.upstreams.peer import PeerAddress
    from pingora_load_balancing.discovery._http_client import HttpAnswer
    from pingora_load_balancing.discovery.source import SourceOptions

__all__ = ["ConsulDiscovery", "ConsulInstance", "ConsulQuery"]

# Consul adds up to a sixteenth of the wait, so that not all clients come back at once.
_WAIT_SLACK: Final = 1.0 / 16.0
# Answers with an index come at most this often, seconds.
_MIN_INTERVAL: Final = 0.25
_MAX_WAIT: Final = 600.0
_MAX_INDEX: Final = 2**64 - 1

_Weight = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


@dataclass(frozen=True, slots=True)
class ConsulInstance:
    """What Consul knows of a backend; its metadata.

    Attributes:
        id: The instance of the service.
        node: The node that it runs on.
        datacenter: The datacentre of the node.
        tags: The tags of the instance.
        meta: The metadata of the instance.
        is_warning: Whether a check of it warns.
    """

    id: str
    node: str
    datacenter: str
    tags: tuple[str, ...]
    meta: Mapping[str, str]
    is_warning: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsulQuery:
    """Which instances are asked for.

    Attributes:
        datacenter: None for the agent's own.
        tags: Tags that an instance must have, all of them.
        passing_only: Whether instances of which a check warns are left out; otherwise they take
            part with their weight for that case. Those with a critical check always are.
        filter: An expression in Consul's filter language; empty for none.
        namespace: Namespace (Consul Enterprise); empty for the default.
        partition: Admin partition (Consul Enterprise); empty for the default.
        stale: Whether any server may answer, not only the leader: this goes on working while
            there is none.
        wait: Seconds for which a blocking query waits, at most ten minutes.

    Raises:
        ValueError: If the wait is out of range.
    """

    datacenter: str | None = None
    tags: tuple[str, ...] = ()
    passing_only: bool = False
    filter: str = ""
    namespace: str = ""
    partition: str = ""
    stale: bool = True
    wait: float = 300.0

    def __post_init__(self) -> None:
        if not 0 < self.wait <= _MAX_WAIT:
            msg = f"wait must be in 0..{_MAX_WAIT:g} seconds, not {self.wait}"
            raise ValueError(msg)

    def parameters(self) -> list[tuple[str, str]]:
        """Say the same in the words of the HTTP API, what is for blocking left out.

        Returns:
            Names and values.
        """
        named = (
            ("dc", self.datacenter or ""),
            ("filter", self.filter),
            ("ns", self.namespace),
            ("partition", self.partition),
            *(("tag", tag) for tag in self.tags),
        )
        parameters = [(name, value) for name, value in named if value]
        if self.passing_only:
            parameters.append(("passing", "1"))
        if self.stale:
            parameters.append(("stale", "1"))
        return parameters


class _Node(msgspec.Struct, frozen=True, gc=False, rename="pascal"):
    address: str = ""
    node: str = ""
    datacenter: str = ""


class _Weights(msgspec.Struct, frozen=True, gc=False, rename="pascal"):
    passing: _Weight = 1
    warning: _Weight = 1


class _Service(msgspec.Struct, frozen=True, gc=False, rename="pascal"):
    port: int
    id: str = msgspec.field(name="ID", default="")
    address: str | None = ""
    tags: list[str] | None = None
    meta: dict[str, str] | None = None
    weights: _Weights | None = None


class _Check(msgspec.Struct, frozen=True, gc=False, rename="pascal"):
    status: str


class _Entry(msgspec.Struct, frozen=True, gc=False, rename="pascal"):
    node: _Node
    service: _Service
    checks: list[_Check] | None = None


class ConsulDiscovery(Source):
    """The instances of a service that Consul knows to be alive.

    Asked, it answers at once; watched, it tells of changes as Consul does. The metadata of each
    backend is a `ConsulInstance`, its weight the one registered. An instance that cannot be
    connected to, registered without a port for instance, is left out, and that is logged.

    Args:
        service: Name of the service.
        url: Of the agent: ``http://...``, ``https://...`` or ``unix:/path``.
        query: Which instances are asked for.
        access: The token, whom to trust, deadlines.
        options: Which answers are believed, and who hears of failures.

    Raises:
        ValueError: If the service has no name, or the URL is none.
    """

    def __init__(
        self,
        service: str,
        url: str = "http://127.0.0.1:8500",
        *,
        query: ConsulQuery | None = None,
        access: HttpAccess | None = None,
        options: SourceOptions | None = None,
    ) -> None:
        super().__init__(interval=_MIN_INTERVAL, options=options)
        if not service:
            msg = "the service needs a name"
            raise ValueError(msg)
        self._service = service
        self._query = ConsulQuery() if query is None else query
        self._client = HttpClient(
            url, HttpAccess() if access is None else access, token_field=("X-Consul-Token", "")
        )
        self._path = f"/v1/health/service/{quote(service, safe='')}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._service} at {self._client.url}>"

    async def close(self) -> None:
        """Close the connection that idles. Asking again makes another one."""
        await self._client.close()

    async def _ask(self) -> Discovered:
        found, _ = await self._get(0)
        return found

    async def _answers(self) -> AsyncGenerator[Discovered, None]:
        index = 0
        clock = self.options.clock
        while True:
            began = clock()
            found, new_index = await self._get(index)
            # One that goes backwards belongs to another state of the servers. With 0 nothing would
            # wait, with 1 a server that knows no index may.
            index = 0 if new_index < index else max(new_index, 1)
            yield found
            spent = clock() - began
            if spent < _MIN_INTERVAL:
                await self.options.sleep(_MIN_INTERVAL - spent)

    async def _get(self, index: int) -> tuple[Discovered, int]:
        query = self._query
        parameters = query.parameters()
        wait = 0.0
        if index > 0:
            parameters += [("index", str(index)), ("wait", f"{math.ceil(query.wait * 1000)}ms")]
            wait = query.wait * (1.0 + _WAIT_SLACK)
        answer = await self._client.get(
            f"{self._path}?{urlencode(parameters)}", max_bytes=self.options.max_bytes, wait=wait
        )
        if answer.status != 200:
            refuse_status(answer.status, repr(self))
        if answer.header.get("X-Consul-Results-Filtered-By-ACLs") == "true":
            refuse(f"{self!r}: the token does not allow to see all instances")
        return await self._make_sense(answer), _read_index(answer)

    async def _make_sense(self, answer: HttpAnswer) -> Discovered:
        try:
            found, flaws = await off_the_loop(self._parse, answer.body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            refuse(f"{self!r}: not what Consul answers", error)
        if flaws:
            self._tolerate(Error.up(DISCOVERY_ERROR, f"{len(flaws)} unusable: {flaws[0]}"))
        return found

    def _parse(self, body: bytes) -> tuple[Discovered, list[str]]:
        backends: dict[PeerAddress, Backend] = {}
        flaws: list[str] = []
        for entry in msgspec.json.decode(body, type=list[_Entry]):
            try:
                backend = _to_backend(entry, passing_only=self._query.passing_only)
            except ValueError as error:
                flaws.append(f"instance {entry.service.id[:80]!r}: {error}")
                continue
            if backend is not None:
                backends.setdefault(backend.addr, backend)
        return Discovered(tuple(backends.values())), flaws


def _read_index(answer: HttpAnswer) -> int:
    text = answer.header.get("X-Consul-Index", "")
    if not text.isascii() or not text.isdecimal() or len(text) > 20:
        # Without one nothing can be waited for.
        refuse("the answer has no usable X-Consul-Index")
    return min(int(text), _MAX_INDEX)


def _to_backend(entry: _Entry, *, passing_only: bool) -> Backend | None:
    """Make a backend of an instance.

    Returns:
        The backend; None for an instance that is not to be used.

    Raises:
        ValueError: If its address or port cannot be connected to.
    """
    statuses = {check.status for check in entry.checks or ()}
    is_warning = "warning" in statuses
    # Maintenance mode is a critical check, and what is not known is not trusted.
    if statuses - {"passing", "warning"} or (is_warning and passing_only):
        return None
    service, node = entry.service, entry.node
    host = service.address or node.address
    weights = service.weights or _Weights()
    return Backend(
        f"[{host}]:{service.port}" if ":" in host else f"{host}:{service.port}",
        weights.warning if is_warning else weights.passing,
        ConsulInstance(
            service.id,
            node.node,
            node.datacenter,
            tuple(service.tags or ()),
            service.meta or {},
            is_warning,
        ),
    )
