"""One upstream server, as load balancing sees it."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from pingora_core.protocols.address import UnixAddress, parse_address

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pingora_core.upstreams.peer import PeerAddress

__all__ = ["Backend", "contradiction", "distinct_backends"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, init=False)
class Backend:
    """An upstream server: where it is, how much of the load it takes, and what you know about it.

    Two backends are equal if address, weight and metadata are, so that a change of any of them is
    seen as one.

    Attributes:
        addr: Where to connect. A host name is resolved when a connection is made.
        weight: Its share of the load, relative to the weights of the others. 0 means drained: it
            keeps its place in the set but gets nothing.
        metadata: Anything of the user's own; ``metadata_as`` reads it with its type.

    Args:
        addr: The address, or its text: ``1.2.3.4:80``, ``[::1]:80``, ``name:80``, ``unix:/path``.
        weight: At least 0.
        metadata: Anything, preferably immutable and comparable.

    Raises:
        ValueError: If the text is no address that can be connected to, or the weight is negative.
        TypeError: If the weight is no integer.

    Examples:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Place:
        ...     zone: str
        >>> backend = Backend("10.0.0.1:80", weight=2, metadata=Place("eu-1"))
        >>> place = backend.metadata_as(Place)
        >>> place.zone if place else "unknown"
        'eu-1'
        >>> print(backend)
        10.0.0.1:80

    Source: pingora-load-balancing/src/lib.rs. Unlike there, equality includes the metadata, and
    host names and Unix sockets are addresses too.
    """

    addr: PeerAddress
    weight: int
    metadata: object = field(hash=False)

    def __init__(
        self, addr: str | PeerAddress, weight: int = 1, metadata: object | None = None
    ) -> None:
        address = parse_address(addr) if isinstance(addr, str) else addr
        if not isinstance(address, UnixAddress) and address.port == 0:
            msg = f"backend {address}: port 0 cannot be connected to"
            raise ValueError(msg)
        # Refuses what only looks like an integer, such as 0.5 or "2" from a configuration file.
        weight = operator.index(weight)
        if weight < 0:
            msg = f"backend {address}: weight {weight} is negative; 0 takes it out of rotation"
            raise ValueError(msg)
        object.__setattr__(self, "addr", address)
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "metadata", metadata)

    def metadata_as(self, kind: type[_T]) -> _T | None:
        """Read the metadata with its type.

        Args:
            kind: The class that the metadata should be an instance of.

        Returns:
            The metadata, or None if there is none or it is something else.
        """
        metadata = self.metadata
        return metadata if isinstance(metadata, kind) else None

    def __str__(self) -> str:
        return str(self.addr)


def distinct_backends(backends: Iterable[Backend]) -> tuple[Backend, ...]:
    """Make a set of backends, in the order given.

    Args:
        backends: The backends; equal ones count once.

    Returns:
        The backends, no two of them with the same address.

    Raises:
        ValueError: If two backends have the same address but differ in weight or metadata.
    """
    by_address: dict[PeerAddress, Backend] = {}
    for backend in backends:
        known = by_address.setdefault(backend.addr, backend)
        if known != backend:
            raise ValueError(contradiction(backend))
    return tuple(by_address.values())


def contradiction(backend: Backend) -> str:
    """Say that a backend is given twice, in different ways.

    Args:
        backend: One of the two.

    Returns:
        The message.
    """
    return f"backend {backend} is given twice, with different weight or metadata"
