"""What a source of backends is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NoReturn, Protocol, runtime_checkable

from pingora_error import Custom, Error, ErrorSource

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Mapping

    from pingora_core.upstreams.peer import PeerAddress
    from pingora_load_balancing.backend import Backend

__all__ = [
    "DISCOVERY_ERROR",
    "ClosableDiscovery",
    "Discovered",
    "ServiceDiscovery",
    "WatchableDiscovery",
    "count_usable",
    "refuse",
]

DISCOVERY_ERROR: Final = Custom("DiscoveryError")


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


@runtime_checkable
class WatchableDiscovery(ServiceDiscovery, Protocol):
    """A source that can also tell of changes when they happen."""

    def watch(self) -> AsyncGenerator[Discovered, None]:
        """Tell what there is now, and then each time that it has changed.

        Whoever watches closes the generator when done with it. When it raises, or ends, nothing
        is known for now: the one who watches keeps the last answer, waits a while and calls this
        again; see `follow`. Not called twice at a time.

        Returns:
            The answers, each of them complete.
        """
        ...


@runtime_checkable
class ClosableDiscovery(ServiceDiscovery, Protocol):
    """A source that keeps something open from one question to the next."""

    async def close(self) -> None:
        """Close it. Asking again afterwards opens it again."""
        ...


def count_usable(found: Discovered) -> int:
    """Count the backends of an answer that may get requests.

    Args:
        found: The answer.

    Returns:
        How many have a weight and are not disabled.
    """
    enabled = found.enabled
    return sum(
        backend.weight > 0 and (not enabled or enabled.get(backend.addr, True))
        for backend in found.backends
    )


def refuse(why: str, cause: BaseException | None = None) -> NoReturn:
    """Say that an answer is not usable.

    Args:
        why: What is wrong with it.
        cause: The failure behind it.

    Raises:
        Error: ``DISCOVERY_ERROR`` from upstream.
    """
    raise Error(DISCOVERY_ERROR, why, source=ErrorSource.UPSTREAM, cause=cause)
