"""Backends that are known beforehand."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from pingora_load_balancing.backend import Backend, distinct_backends
from pingora_load_balancing.discovery.interfaces import Discovered

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Static"]


@final
class Static:
    """A fixed list of backends.

    Args:
        backends: Backends, or their addresses as text, which then have the weight 1.

    Raises:
        TypeError: If one address is given instead of a list of them.
        ValueError: If an address is none, or is given twice with different weights.

    Examples:
        >>> [str(backend) for backend in Static(["10.0.0.1:80", Backend("[::1]:80", 3)]).backends]
        ['10.0.0.1:80', '[::1]:80']

    Source: pingora-load-balancing/src/discovery.rs. Host names are not resolved here.
    """

    __slots__ = ("_discovered",)

    def __init__(self, backends: Iterable[str | Backend]) -> None:
        if isinstance(backends, str):
            msg = f"expected a list of backends, got one text: write [{backends!r}]"
            raise TypeError(msg)
        self._discovered = Discovered(
            distinct_backends(
                Backend(backend) if isinstance(backend, str) else backend for backend in backends
            )
        )

    @property
    def backends(self) -> tuple[Backend, ...]:
        """The backends, in the order given."""
        return tuple(self._discovered.backends)

    async def discover(self) -> Discovered:
        """Tell the backends; never fails.

        Returns:
            The same answer every time.
        """
        return self._discovered
