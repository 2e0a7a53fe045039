"""Where backends come from: the snippets of docs/how-to/discovery.md."""

# ruff: noqa: S106  # the path of a token is no token

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

# --8<-- [start:file-imports]
from pingora_core.services import background_service
from pingora_load_balancing import LoadBalancer
from pingora_load_balancing.discovery import FileDiscovery

# --8<-- [end:file-imports]

# isort: split
# --8<-- [start:dns-imports]
from pingora_load_balancing.discovery.dns import DnsDiscovery, DnsOptions, DnsTarget, SrvDiscovery

# --8<-- [end:dns-imports]

# isort: split
from pingora_core import HttpPeer, Server
from pingora_load_balancing import Backend
from pingora_load_balancing.discovery import (
    ConsulDiscovery,
    ConsulQuery,
    Discovered,
    Fallback,
    HttpAccess,
    HttpDiscovery,
    KubernetesDiscovery,
    SourceOptions,
    Union,
)
from pingora_load_balancing.selection import PriorityGroups


class Row(NamedTuple):
    """A server in a database of your own."""

    address: str
    weight: int


async def query() -> Sequence[Row]:
    """Ask the database."""
    return [Row("10.0.0.1:8080", 1), Row("10.0.0.2:8080", 3)]


def follow_a_file(server: Server) -> LoadBalancer:
    """Take the backends from a file."""
    # --8<-- [start:file]
    upstreams = LoadBalancer(discovery=FileDiscovery("backends.yaml"))
    server.add_service(background_service("backends", upstreams))
    # --8<-- [end:file]
    return upstreams


def ask_over_http() -> tuple[HttpDiscovery, ConsulDiscovery, KubernetesDiscovery]:
    """Ask an inventory, Consul, and the Kubernetes cluster that this runs in."""
    # --8<-- [start:http]
    inventory = HttpDiscovery(
        "https://inventory.internal/backends",
        interval=10.0,
        access=HttpAccess(token_file="/run/secrets/token", ca_file="/etc/ssl/internal.pem"),
    )
    # --8<-- [end:http]
    # --8<-- [start:consul]
    consul = ConsulDiscovery(
        "web",
        "https://consul.internal:8501",
        query=ConsulQuery(datacenter="eu1", tags=("v2",), filter='Service.Meta.env == "prod"'),
        access=HttpAccess(token_file="/run/secrets/consul"),
    )
    # --8<-- [end:consul]
    # --8<-- [start:kubernetes]
    pods = KubernetesDiscovery.in_cluster("web", port="http")
    # --8<-- [end:kubernetes]
    return inventory, consul, pods


def ask_name_servers() -> tuple[DnsDiscovery, SrvDiscovery]:
    """Ask for addresses, and for a service."""
    # --8<-- [start:dns]
    addresses = DnsDiscovery(["app.internal:8080", "app.other.internal.:8080"])
    targets = SrvDiscovery(
        "_http._tcp.app.internal",
        dns_options=DnsOptions(nameservers=("10.0.0.2", "10.0.0.3:5353"), max_ttl=60.0),
    )
    # --8<-- [end:dns]
    return addresses, targets


def peer_of(backend: Backend) -> HttpPeer:
    """Verify the name that was asked for."""
    # --8<-- [start:sni]
    target = backend.metadata_as(DnsTarget)
    return HttpPeer(backend, tls=True, sni=target.name if target else "")
    # --8<-- [end:sni]


# --8<-- [start:priority]
def priority(backend: Backend) -> int:
    """Tell the group of a backend, the lowest first."""
    target = backend.metadata_as(DnsTarget)
    return target.priority if target else 0


# --8<-- [end:priority]


def use_the_best() -> LoadBalancer:
    """Send to the targets of the best priority, and to others when these are gone."""
    # --8<-- [start:groups]
    upstreams = LoadBalancer(
        discovery=SrvDiscovery("_http._tcp.app.internal", priorities="all"),
        selection=partial(PriorityGroups, priority=priority),
    )
    # --8<-- [end:groups]
    assert not upstreams.backends  # until it has asked
    return upstreams


def doubt() -> tuple[SourceOptions, FileDiscovery]:
    """Refuse answers that lose too much."""
    # --8<-- [start:believe]
    options = SourceOptions(min_backends=2, max_loss=0.5, loss_patience=60.0)
    careful = FileDiscovery("backends.yaml", options=options)
    # --8<-- [end:believe]
    return options, careful


def combine() -> tuple[Union, Fallback]:
    """Have the backends of several sources, or of the first that has any."""
    # --8<-- [start:combine]
    everything = Union([FileDiscovery("static.yaml"), KubernetesDiscovery.in_cluster("web")])
    first = Fallback([ConsulDiscovery("web"), FileDiscovery("backup.yaml")], hold=30.0)
    # --8<-- [end:combine]
    return everything, first


# --8<-- [start:own]
class Inventory:
    """Asks a database."""

    async def discover(self) -> Discovered:
        return Discovered([Backend(row.address, row.weight) for row in await query()])


# --8<-- [end:own]
