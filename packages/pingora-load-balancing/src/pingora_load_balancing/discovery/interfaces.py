"""What a source of backends is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from pingora_core.upstreams.peer import PeerAddress
    from pingora_load_balancing.backend import Backend

__all__ = ["Discovered", "ServiceDiscovery"]


@dataclass(frozen=True, slots=True)
class Discovered:
    """The answer of a discovery.

    Attributes:
        backends: All backends that there are now. What is not in here is gone.
        enabled: Whether to use a backend, by address. Those not in here stay as they are.
    """

    backends: Collection[Backend]
    enabled: Mapping[PeerAddress, bool] = field(default_factory=dict)


class ServiceDiscovery(Protocol):
    """A source of backends: a list, a file, a name service.

    Source: pingora-load-balancing/src/discovery.rs.
    """

    async def discover(self) -> Discovered:
        """Find out which backends there are.

        It is called at start and then at the update frequency of the load balancer, never twice
        at a time. Any exception means that it is not known now: the load balancer logs it and
        goes on with the last answer. The call may be cancelled.

        Returns:
            The backends. An empty answer is an answer.
        """
        ...
