"""A stand-in for a Consul agent: its health endpoint with blocking queries, as documented.

It keeps an index that grows with each change, waits like Consul when it is asked with the current
one, and checks the token. Written after the HTTP API's documentation, not after Consul's code.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.origin import Origin

if TYPE_CHECKING:
    from tests.support.origin import Exchange

__all__ = ["ConsulStandIn", "instance"]

_PATH = "/v1/health/service/"
_DURATION = re.compile(r"(\d+)(ms|s|m)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}


def instance(
    name: str,
    port: int,
    *,
    address: str = "",
    node_address: str = "10.9.9.9",
    status: str = "passing",
    tags: tuple[str, ...] = (),
    weights: tuple[int, int] | None = (1, 1),
    meta: dict[str, str] | None = None,
) -> dict[str, object]:
    """Make an entry as Consul answers it.

    Args:
        name: ID of the instance.
        port: Its port.
        address: Its address; empty for that of the node.
        node_address: The address of the node.
        status: Of its check.
        tags: Its tags.
        weights: Passing and warning; None for an old agent that has none.
        meta: Its metadata.

    Returns:
        The entry.
    """
    service: dict[str, object] = {
        "ID": name,
        "Service": "web",
        "Tags": list(tags),
        "Address": address,
        "Meta": meta,
        "Port": port,
        "EnableTagOverride": False,
        "CreateIndex": 7,
        "ModifyIndex": 7,
    }
    if weights is not None:
        service["Weights"] = {"Passing": weights[0], "Warning": weights[1]}
    return {
        "Node": {"ID": "b1", "Node": "node-1", "Address": node_address, "Datacenter": "dc1"},
        "Service": service,
        "Checks": [
            {"Node": "node-1", "CheckID": "serfHealth", "Status": "passing", "ServiceID": ""},
            {"Node": "node-1", "CheckID": "s", "Status": status, "Output": "", "ServiceID": name},
        ],
    }


@dataclass
class ConsulStandIn:
    """A Consul agent that knows one service, ``web``.

    Attributes:
        token: What has to be shown; None for nothing.
        filtered: Whether the token sees only a part.
        index: The index; grows with each change.
        sends_index: Whether answers carry it.
        origin: The HTTP server.
        waits: How many queries have waited so far.
    """

    token: str | None = None
    filtered: bool = False
    index: int = 10
    sends_index: bool = True
    origin: Origin = field(init=False)
    waits: int = 0
    _instances: list[dict[str, object]] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.origin = Origin(self._handle)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://{self.origin.address}"

    async def __aenter__(self) -> Self:
        await self.origin.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.origin.__aexit__(*exc)

    def set(self, *instances: dict[str, object], index: int | None = None) -> None:
        """Change what is registered; whoever waits hears of it.

        Args:
            instances: All instances.
            index: The new index, such as a smaller one after the servers were restored from a
                snapshot; None for the next.
        """
        self._instances = list(instances)
        self.index = self.index + 1 if index is None else index
        self._changed.set()
        self._changed = asyncio.Event()

    async def _handle(self, exchange: Exchange) -> None:
        parts = urlsplit(exchange.request.target)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if self.token is not None and exchange.request.get("x-consul-token") != self.token:
            await exchange.reply("403 Forbidden", b"ACL not found")
            return
        if unquote(parts.path) != _PATH + "web":
            await self._reply(exchange, [])
            return
        index = int(query.get("index", "0"))
        if index and index >= self.index:
            self.waits += 1
            await self._wait(_seconds(query.get("wait", "5m")))
        await self._reply(
            exchange, [each for each in self._instances if _matches(each, parts.query)]
        )

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _reply(self, exchange: Exchange, entries: list[dict[str, object]]) -> None:
        fields = [
            ("Content-Type", "application/json"),
            ("X-Consul-Knownleader", "true"),
            ("X-Consul-Lastcontact", "0"),
        ]
        if self.sends_index:
            fields.append(("X-Consul-Index", str(self.index)))
        if self.filtered:
            fields.append(("X-Consul-Results-Filtered-By-ACLs", "true"))
        await exchange.reply(body=json.dumps(entries).encode(), fields=fields)


def _seconds(text: str) -> float:
    match = _DURATION.fullmatch(text)
    assert match is not None, f"{text!r} is no duration"
    return int(match[1]) * _SECONDS[match[2]]


def _matches(entry: dict[str, object], query: str) -> bool:
    service, checks = entry["Service"], entry["Checks"]
    assert isinstance(service, dict)
    assert isinstance(checks, list)
    wanted = parse_qs(query)
    if "passing" in wanted and any(check["Status"] != "passing" for check in checks):
        return False
    return set(wanted.get("tag", [])) <= set(service["Tags"])
