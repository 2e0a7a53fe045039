"""EndpointSlices of Kubernetes: from JSON to backends. No I/O.

Source: the API reference of discovery.k8s.io/v1; the choice among endpoints is that of kube-proxy
(KEP-1669): those that terminate but still serve are used only as long as there is no ready one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from pingora_load_balancing.backend import Backend
from pingora_load_balancing.discovery.interfaces import Discovered, refuse

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from pingora_core.upstreams.peer import PeerAddress

__all__ = [
    "AddressType",
    "Gone",
    "KubernetesEndpoint",
    "Lines",
    "Merged",
    "SlicePage",
    "SliceTable",
    "parse_page",
]

AddressType = Literal["IPv4", "IPv6", "FQDN"]

_GONE: Final = 410


@dataclass(frozen=True, slots=True)
class KubernetesEndpoint:
    """What Kubernetes knows of a backend; its metadata.

    Attributes:
        pod: Name of the pod, or of what else stands behind the endpoint.
        node: The node that it runs on.
        zone: The zone of the node.
        for_zones: The zones whose clients should use it, by the hints of the control plane.
        is_terminating: Whether it is about to end.
    """

    pod: str
    node: str
    zone: str
    for_zones: tuple[str, ...]
    is_terminating: bool


class Gone(Exception):  # noqa: N818  # what the server calls it
    """What was asked for is too old for the server to know: begin again with a list."""


class _Conditions(msgspec.Struct, frozen=True, gc=False):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class _Named(msgspec.Struct, frozen=True, gc=False):
    name: str | None = None


class _Hints(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    for_zones: list[_Named] | None = None


class _Endpoint(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    addresses: list[str] | None = None
    conditions: _Conditions | None = None
    node_name: str | None = None
    zone: str | None = None
    hints: _Hints | None = None
    target_ref: _Named | None = None


class _Port(msgspec.Struct, frozen=True, gc=False):
    name: str | None = None
    port: int | None = None
    protocol: str | None = None


class _Meta(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    name: str = ""
    resource_version: str = ""
    next_page: str = msgspec.field(name="continue", default="")


class _Slice(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    metadata: _Meta
    address_type: str = ""
    endpoints: list[_Endpoint] | None = None
    ports: list[_Port] | None = None


class _List(msgspec.Struct, frozen=True, gc=False):
    metadata: _Meta
    items: list[_Slice] | None = None


class _Event(msgspec.Struct, frozen=True, gc=False):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct, frozen=True, gc=False):
    code: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SlicePage:
    """One page of a list.

    Attributes:
        slices: What is on it.
        version: The version of the whole list.
        next_page: What to ask for the next page with; empty if this is the last.
    """

    slices: Sequence[_Slice]
    version: str
    next_page: str


@dataclass(frozen=True, slots=True)
class Merged:
    """What all slices say together.

    Attributes:
        found: The backends.
        flaw: What could not be understood; empty if all could.
    """

    found: Discovered
    flaw: str


@dataclass(frozen=True, slots=True)
class _Known:
    """A slice that was understood."""

    ready: tuple[Backend, ...]
    draining: tuple[Backend, ...]
    flaw: str


class SliceTable:
    """All slices of a service, as they are at one version.

    Args:
        port: Name or number of the port; None for the only one.
        address_types: Which kinds of addresses count.
        max_backends: How many endpoints are kept at most.

    Attributes:
        version: The version, to watch from.
        merged: For the owner to keep what `merge` has returned; None when that is out of date.
    """

    __slots__ = (
        "_address_types",
        "_count",
        "_max_backends",
        "_port",
        "_slices",
        "merged",
        "version",
    )

    def __init__(
        self, port: str | int | None, address_types: Collection[AddressType], max_backends: int
    ) -> None:
        self._port = port
        self._address_types: Collection[str] = address_types
        self._max_backends = max_backends
        self._slices: dict[str, _Known] = {}
        self._count = 0
        self.merged: Merged | None = None
        self.version = ""

    def add_page(self, page: SlicePage) -> None:
        """Take the slices of a page in.

        Args:
            page: The page.

        Raises:
            Error: ``DISCOVERY_ERROR`` if there are too many endpoints.
        """
        for each in page.slices:
            self._put(each)
        self.version = page.version

    def apply(self, line: bytes) -> None:
        """Take an event of a watch in.

        Args:
            line: The event.

        Raises:
            Gone: If the server does not know the version any more.
            Error: ``DISCOVERY_ERROR`` if the event makes no sense, is a failure, or there are too
                many endpoints.
        """
        try:
            event = msgspec.json.decode(line, type=_Event)
            if event.type == "ERROR":
                status = msgspec.json.decode(event.object, type=_Status)
                if status.code == _GONE:
                    raise Gone
                msg = f"the watch fails with {status.code} {status.reason[:80]!r}"
                refuse(msg)
            changed = msgspec.json.decode(event.object, type=_Slice)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            refuse("not an event of a watch", error)
        match event.type:
            case "ADDED" | "MODIFIED":
                self._put(changed)
            case "DELETED":
                self._remove(changed.metadata.name)
            case "BOOKMARK":
                pass
            case _:
                refuse(f"an event of type {event.type[:80]!r}")
        if not changed.metadata.resource_version:
            refuse("an event without resourceVersion")
        self.version = changed.metadata.resource_version

    def merge(self) -> Merged:
        """Make one answer of all slices; changes nothing here.

        The same endpoint may be in several slices for a while; a ready one wins.

        Returns:
            The backends, and what could not be understood.
        """
        known = [self._slices[name] for name in sorted(self._slices)]
        ready: dict[PeerAddress, Backend] = {}
        draining: dict[PeerAddress, Backend] = {}
        for each in known:
            for backend in each.ready:
                ready.setdefault(backend.addr, backend)
            for backend in each.draining:
                draining.setdefault(backend.addr, backend)
        weight = 0 if ready else 1
        for addr, backend in draining.items():
            if addr not in ready:
                ready[addr] = Backend(addr, weight, backend.metadata)
        flaw = next((each.flaw for each in known if each.flaw), "")
        return Merged(Discovered(tuple(ready.values())), flaw)

    def _put(self, changed: _Slice) -> None:
        name = changed.metadata.name
        if not name:
            refuse("an EndpointSlice without a name")
        self._remove(name)
        if len(changed.endpoints or ()) + self._count > self._max_backends:
            msg = f"more than {self._max_backends} endpoints"
            refuse(msg)
        if len(self._slices) >= self._max_backends:
            refuse(f"more than {self._max_backends} EndpointSlices")
        known = self._slices[name] = self._understand(changed)
        self._count += len(known.ready) + len(known.draining)

    def _remove(self, name: str) -> None:
        self.merged = None
        known = self._slices.pop(name, None)
        if known is not None:
            self._count -= len(known.ready) + len(known.draining)

    def _understand(self, given: _Slice) -> _Known:
        endpoints = given.endpoints or []
        if given.address_type not in self._address_types or not endpoints:
            return _Known((), (), "")
        port = _choose_port(given.ports or [], self._port)
        if port is None:
            wanted = "exactly one TCP port" if self._port is None else f"port {self._port!r}"
            return _Known((), (), f"slice {given.metadata.name}: {wanted} is not there")
        ready: list[Backend] = []
        draining: list[Backend] = []
        flaw = ""
        for endpoint in endpoints:
            conditions = endpoint.conditions or _Conditions()
            # What is not said counts as ready, serving follows ready, and nobody is dying.
            is_ready = conditions.ready is not False
            is_serving = is_ready if conditions.serving is None else conditions.serving
            is_terminating = bool(conditions.terminating)
            if not is_ready and not (is_serving and is_terminating):
                continue
            try:
                backend = _to_backend(endpoint, port, is_terminating=is_terminating)
            except ValueError as error:
                flaw = flaw or f"slice {given.metadata.name}: {error}"
                continue
            (ready if is_ready else draining).append(backend)
        return _Known(tuple(ready), tuple(draining), flaw)


class Lines:
    """Cuts a stream into lines.

    Args:
        max_bytes: Refuse longer ones.
    """

    __slots__ = ("_buffer", "_max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self._buffer = bytearray()
        self._max_bytes = max_bytes

    def feed(self, piece: bytes) -> list[bytes]:
        """Take a piece of the stream in.

        Args:
            piece: The piece.

        Returns:
            The lines that are complete with it, empty ones left out.

        Raises:
            Error: ``DISCOVERY_ERROR`` if a line is too long.
        """
        buffer = self._buffer
        buffer += piece
        if b"\n" not in piece:
            complete: list[bytes] = []
        else:
            cut = buffer.rindex(b"\n") + 1
            complete = [line for line in bytes(buffer[:cut]).split(b"\n") if line.strip()]
            del buffer[:cut]
        if len(buffer) > self._max_bytes:
            refuse(f"an event of more than {self._max_bytes} bytes")
        return complete


def parse_page(body: bytes) -> SlicePage:
    """Read one page of a list of slices.

    Args:
        body: JSON.

    Returns:
        The page.

    Raises:
        Error: ``DISCOVERY_ERROR`` if it is none.
    """
    try:
        page = msgspec.json.decode(body, type=_List)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        refuse("not a list of EndpointSlices", error)
    if not page.metadata.resource_version:
        refuse("a list without resourceVersion")
    return SlicePage(page.items or [], page.metadata.resource_version, page.metadata.next_page)


def _choose_port(ports: Sequence[_Port], wanted: str | int | None) -> int | None:
    if not ports:
        # "If unspecified, all ports": then the number has to come from us.
        return wanted if isinstance(wanted, int) else None
    numbers = [
        each.port
        for each in ports
        if each.port is not None
        and (each.protocol or "TCP") == "TCP"
        and (wanted is None or wanted in {each.name or "", each.port})
    ]
    return numbers[0] if len(numbers) == 1 else None


def _to_backend(endpoint: _Endpoint, port: int, *, is_terminating: bool) -> Backend:
    # The addresses of an endpoint are interchangeable, and clients use the first.
    host = (endpoint.addresses or [""])[0]
    reference, hints = endpoint.target_ref, endpoint.hints
    return Backend(
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        1,
        KubernetesEndpoint(
            (reference.name if reference is not None else None) or "",
            endpoint.node_name or "",
            endpoint.zone or "",
            tuple(zone.name or "" for zone in ((hints and hints.for_zones) or ())),
            is_terminating,
        ),
    )
