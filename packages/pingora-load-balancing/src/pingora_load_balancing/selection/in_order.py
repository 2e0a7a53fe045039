"""The first backend gets everything, the second what the first cannot take, and so on."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pingora_load_balancing.backend import Backend

__all__ = ["InOrder"]


@final
class InOrder:
    """Gives the backends in the order in which they were given.

    The first that is ready gets all requests: for a server and its stand-ins, or providers by
    preference. With `Failover` the next one is asked when one fails. `PriorityGroups` is for groups
    of several.

    Args:
        backends: The backends; those of weight 0 get nothing.

    Examples:
        >>> from pingora_load_balancing import LoadBalancer
        >>> balancer = LoadBalancer(["10.0.0.1:80", "10.9.0.1:80"], selection=InOrder)
        >>> print(balancer.select(b"", 256))
        10.0.0.1:80
        >>> balancer.set_enable(balancer.backends[0], False)
        >>> print(balancer.select(b"", 256))
        10.9.0.1:80

    Source: HAProxy, ``balance first``, without its limit of connections.
    """

    __slots__ = ("_backends",)

    def __init__(self, backends: Sequence[Backend]) -> None:
        self._backends = tuple(backend for backend in backends if backend.weight)

    def iter(self, key: bytes) -> Iterator[Backend]:  # noqa: ARG002  # the order has no key
        """Begin with the first one.

        Args:
            key: Ignored.

        Returns:
            Each backend once.
        """
        return iter(self._backends)
