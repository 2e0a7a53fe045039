"""What the pool knows about one connection."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["ConnectionMeta"]

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class ConnectionMeta(Generic[K]):
    """The group of a connection and its identity in the pool.

    Attributes:
        key: The group: connections of one group are interchangeable. Usually the reuse key of
            the peer.
        id: A number that no other connection has while this one is pooled, whatever its group;
            for example the file descriptor.

    Source: pingora-pool/src/connection.rs.
    """

    key: K
    id: int
