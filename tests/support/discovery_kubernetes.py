"""A stand-in for the API server of Kubernetes: EndpointSlices of one namespace, list and watch.

Lists come in pages, with tokens that grow too old; watches go on from a version, send bookmarks when
the test says so, and report 410 for versions that are forgotten, either as a status or as an event.
Written after the API's documentation ("Kubernetes API Concepts"), not after its code.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qs, urlsplit

from tests.support.origin import Origin

if TYPE_CHECKING:
    import ssl

    from tests.support.origin import Exchange

__all__ = ["KubernetesStandIn", "endpoint", "endpoint_slice"]

_PATH = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
_LABEL = "kubernetes.io/service-name"


def endpoint(
    address: str,
    *,
    ready: bool | None = True,
    serving: bool | None = None,
    terminating: bool | None = None,
    pod: str = "pod",
    zone: str = "zone-a",
) -> dict[str, object]:
    """Make an endpoint.

    Args:
        address: Its address.
        ready: The condition; None to leave it out.
        serving: Likewise.
        terminating: Likewise.
        pod: Name of the pod.
        zone: Its zone.

    Returns:
        The endpoint.
    """
    conditions = {"ready": ready, "serving": serving, "terminating": terminating}
    return {
        "addresses": [address],
        "conditions": {name: value for name, value in conditions.items() if value is not None},
        "nodeName": "node-1",
        "zone": zone,
        "hints": {"forZones": [{"name": zone}]},
        "targetRef": {"kind": "Pod", "namespace": "default", "name": pod, "uid": "u"},
    }


def endpoint_slice(
    name: str,
    *endpoints: dict[str, object],
    ports: list[dict[str, object]] | None = None,
    service: str = "web",
    family: str = "IPv4",
) -> dict[str, object]:
    """Make an EndpointSlice.

    Args:
        name: Its name.
        endpoints: Its endpoints.
        ports: Its ports; None for ``http``, 8080.
        service: The service that it belongs to.
        family: Its address type.

    Returns:
        The slice, without a version.
    """
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "default", "labels": {_LABEL: service}},
        "addressType": family,
        "endpoints": list(endpoints) or None,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}] if ports is None else ports,
    }


@dataclass
class KubernetesStandIn:
    """An API server.

    Attributes:
        token: What has to be shown; None for nothing.
        tls: Server context, for TLS.
        gone_as_event: Whether a watch of a forgotten version is told by an event, else by status.
        page: Most items on a page, whatever the limit asked for.
        version: The version of everything; grows with each change.
        origin: The HTTP server.
        lists: How many pages were asked for so far.
        watches: From which versions watches began.
    """

    token: str | None = None
    tls: ssl.SSLContext | None = None
    gone_as_event: bool = True
    page: int = 500
    version: int = 100
    origin: Origin = field(init=False)
    lists: int = 0
    watches: list[int] = field(default_factory=list)
    _slices: dict[str, dict[str, object]] = field(default_factory=dict)
    # Number in order, version, line.
    _events: list[tuple[int, int, bytes]] = field(default_factory=list)
    _told: int = 0
    _forgotten: int = 0
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _generation: int = 0

    def __post_init__(self) -> None:
        self.origin = Origin(self._handle, tls=self.tls)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{'http' if self.tls is None else 'https'}://{self.origin.address}"

    async def __aenter__(self) -> Self:
        await self.origin.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.origin.__aexit__(*exc)

    # ---------------------------------------------------------------- what tests do

    def put(self, value: dict[str, object], *, quietly: bool = False) -> None:
        """Create a slice, or change it.

        Args:
            value: The slice.
            quietly: Whether watches are not told, as if they had come too late.
        """
        metadata = value["metadata"]
        assert isinstance(metadata, dict)
        name = metadata["name"]
        kind = "MODIFIED" if name in self._slices else "ADDED"
        self.version += 1
        metadata["resourceVersion"] = str(self.version)
        self._slices[name] = value
        if not quietly:
            self._tell(kind, value)

    def delete(self, name: str) -> None:
        """Delete a slice.

        Args:
            name: Its name.
        """
        value = self._slices.pop(name)
        self.version += 1
        metadata = value["metadata"]
        assert isinstance(metadata, dict)
        metadata["resourceVersion"] = str(self.version)
        self._tell("DELETED", value)

    def bookmark(self) -> None:
        """Tell all watches the version, after something else in the cluster has changed."""
        self.version += 5
        metadata = {"resourceVersion": str(self.version)}
        self._tell("BOOKMARK", {"kind": "EndpointSlice", "metadata": metadata})

    def send(self, line: bytes) -> None:
        """Send a line to all watches, whatever it is.

        Args:
            line: The line.
        """
        self._add(line)

    def forget(self) -> None:
        """Forget all versions before this one, as compaction does."""
        self._forgotten = self.version
        self._events.clear()

    def end_watches(self) -> None:
        """End all watches in order, as they do when their time is over."""
        self._generation += 1
        self._wake()

    def _tell(self, kind: str, value: dict[str, object]) -> None:
        line = json.dumps({"type": kind, "object": value}).encode() + b"\n"
        self._add(line)

    def _add(self, line: bytes) -> None:
        self._told += 1
        self._events.append((self._told, self.version, line))
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    # ---------------------------------------------------------------- what clients see

    async def _handle(self, exchange: Exchange) -> None:
        parts = urlsplit(exchange.request.target)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        shown = exchange.request.get("authorization")
        if self.token is not None and shown != f"Bearer {self.token}":
            await _status(exchange, 401, "Unauthorized")
        elif parts.path != _PATH:
            await _status(exchange, 404, "NotFound")
        elif "watch" in query:
            await self._watch(exchange, query)
        else:
            await self._list(exchange, query)

    async def _list(self, exchange: Exchange, query: dict[str, str]) -> None:
        self.lists += 1
        items = [
            value
            for _, value in sorted(self._slices.items())
            if _has_label(value, query.get("labelSelector", ""))
        ]
        start, version = 0, self.version
        if "continue" in query:
            start, version = map(int, query["continue"].split("."))
            if version < self._forgotten:
                await _status(exchange, 410, "Expired")
                return
        end = start + min(int(query.get("limit", len(items) or 1)), self.page)
        metadata: dict[str, object] = {"resourceVersion": str(version)}
        if "limit" in query and end < len(items):
            metadata |= {"continue": f"{end}.{version}", "remainingItemCount": len(items) - end}
        elif "limit" not in query:
            end = len(items)
        answer = {
            "kind": "EndpointSliceList",
            "apiVersion": "discovery.k8s.io/v1",
            "metadata": metadata,
            "items": items[start:end],
        }
        await exchange.reply(
            body=json.dumps(answer).encode(), fields=[("Content-Type", "application/json")]
        )

    async def _watch(self, exchange: Exchange, query: dict[str, str]) -> None:
        assert query["allowWatchBookmarks"] == "true"
        version = int(query["resourceVersion"])
        self.watches.append(version)
        if version < self._forgotten and not self.gone_as_event:
            await _status(exchange, 410, "Expired")
            return
        await exchange.start_chunked(fields=[("Content-Type", "application/json")])
        if version < self._forgotten:
            gone = {"kind": "Status", "status": "Failure", "reason": "Expired", "code": 410}
            await exchange.send_chunk(
                json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n"
            )
            await exchange.send_chunk(b"")
            return
        generation, seen = self._generation, self._told
        lines = [line for _, number, line in self._events if number > version]
        while True:
            for line in lines:
                if exchange.connection.writer.transport.is_closing():
                    raise ConnectionResetError
                await exchange.send_chunk(line)
            if generation != self._generation:
                break
            if seen == self._told:
                await self._news.wait()
            lines = [line for told, _, line in self._events if told > seen]
            seen = self._told
        await exchange.send_chunk(b"")


def _has_label(value: dict[str, object], selector: str) -> bool:
    name, _, wanted = selector.partition("=")
    metadata = value["metadata"]
    assert isinstance(metadata, dict)
    return bool(metadata["labels"].get(name) == wanted)


async def _status(exchange: Exchange, code: int, reason: str) -> None:
    body = {"kind": "Status", "status": "Failure", "reason": reason, "code": code}
    await exchange.reply(
        f"{code} {reason}", json.dumps(body).encode(), [("Content-Type", "application/json")]
    )
