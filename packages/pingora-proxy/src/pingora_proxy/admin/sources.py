"""What the admin interface needs of the things that it shows.

The proxy knows no load balancer: what has backends satisfies `BackendSource`, for the pools of
``pingora_load_balancing`` by way of ``PoolBackends``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypedDict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pingora_core.conf import ServerConf
    from pingora_core.metrics import Families
    from pingora_core.server import ExecutionPhase

__all__ = [
    "BackendAction",
    "BackendRow",
    "BackendSource",
    "CacheSource",
    "ConnectorView",
    "MetricsSource",
    "ProxyView",
    "ServerView",
]

BackendAction = Literal["enable", "disable", "drain"]
"""What can be done with a backend: ``disable`` and ``drain`` give it no new request, and what is in
flight goes on; of one that drains it is told when nothing is left."""


class ServerView(Protocol):
    """What is asked of the server; ``pingora_core.Server`` is one."""

    @property
    def configuration(self) -> ServerConf:
        """What it runs with."""

    @property
    def is_ready(self) -> bool:
        """Whether new work should be sent here."""

    @property
    def phase(self) -> ExecutionPhase:
        """Where it is in its life."""


class MetricsSource(Protocol):
    """What has numbers; ``WorkerMetrics`` and ``Registry`` of ``pingora_core.metrics`` are such."""

    def collect(self) -> Families:
        """Tell all of them.

        Returns:
            The metrics by name, not to be changed.
        """


class BackendRow(TypedDict):
    """What is shown of a backend.

    Attributes:
        address: Where it is.
        state: ``ready``, ``unhealthy``, ``ejected``, ``circuit open``, ``disabled``, ``draining``,
            ``drained``, or what else says why it is not used.
        is_ready: Whether it is chosen for requests.
        is_enabled: Whether the operator lets it be.
        weight: Its share, relative to the others.
        in_flight: Requests that are there now, of this process.
        latency: Moving average in seconds; None if it is not known.
    """

    address: str
    state: str
    is_ready: bool
    is_enabled: bool
    weight: int
    in_flight: int
    latency: float | None


class BackendSource(Protocol):
    """Backends that can be looked at and taken out."""

    def rows(self) -> Sequence[BackendRow]:
        """Tell what there is.

        Returns:
            All backends.
        """

    def apply(self, address: str, action: BackendAction) -> bool:
        """Do something with a backend, in this process.

        Args:
            address: Its address, as in the rows.
            action: What.

        Returns:
            False if there is no such backend.
        """


class CacheSource(Protocol):
    """A cache that can be looked at and purged."""

    @property
    def is_shared(self) -> bool:
        """Whether all workers have its store in common."""

    def stats(self) -> Mapping[str, Mapping[str, float]]:
        """Tell what was counted.

        Returns:
            Numbers by name, in groups: ``requests`` and ``storage``.
        """

    async def purge_url(self, url: str, *, soft: bool) -> bool:
        """Remove what is kept of a URL, with all variants.

        Args:
            url: Absolute, of ``http`` or ``https``.
            soft: Whether it is kept, and has expired.

        Returns:
            Whether there was something.

        Raises:
            ValueError: If it is no such URL.
            Error: If the store is in trouble.
        """

    async def purge_tag(self, tag: str, *, soft: bool) -> int | None:
        """Remove all that has a tag.

        Args:
            tag: The tag.
            soft: Whether it is kept, and has expired.

        Returns:
            How many objects; None if that is not known.

        Raises:
            Error: If the store is in trouble.
        """


# ----------------------------------------------------------------------------- connections


class _Idle(Protocol):
    @property
    def idle_count(self) -> int: ...


class _Http2(Protocol):
    @property
    def pool(self) -> _Http2Pool: ...


class _Http2Pool(_Idle, Protocol):
    def __len__(self) -> int: ...


class ConnectorView(Protocol):
    """Where upstream connections come from; the proxy's ``Connector`` is one."""

    @property
    def transport(self) -> _Idle:
        """The pool of HTTP/1 connections."""

    @property
    def http2(self) -> _Http2:
        """The HTTP/2 connections."""


class ProxyView(Protocol):
    """A proxy; ``HttpProxy`` is one. A reload may give it another connector."""

    @property
    def connector(self) -> ConnectorView:
        """Where its upstream connections come from."""
