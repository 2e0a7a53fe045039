"""What a way to choose among backends is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

from pingora_load_balancing.backend import Backend

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BackendSelection", "SelectionBuilder"]


class BackendSelection(Protocol):
    """Chooses among the backends that it was built with.

    A load balancer builds a new one whenever the set changes. Backends of weight 0 must not be
    chosen. Whether a backend is ready to be used is not its business: the load balancer passes
    over those that are not, and takes the next.

    Source: pingora-load-balancing/src/selection/mod.rs.
    """

    def iter(self, key: bytes) -> Iterator[Backend]:
        """Order the backends by preference for one request. HOT: keep it lazy.

        Args:
            key: What to choose by; ignored where the choice does not depend on the request.

        Returns:
            Backends, the best first. It may repeat some, and may never end.
        """
        ...


SelectionBuilder: TypeAlias = Callable[[Sequence[Backend]], BackendSelection]
