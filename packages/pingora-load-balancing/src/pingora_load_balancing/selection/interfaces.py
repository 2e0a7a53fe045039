"""What a way to choose among backends is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from pingora_load_balancing.backend_set import BackendSet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pingora_load_balancing.backend import Backend

__all__ = ["BackendSelection", "CostlySelection", "SelectionBuilder", "prepared"]


class BackendSelection(Protocol):
    """Chooses among the backends that it was built with.

    A load balancer builds a new one whenever the set changes. Backends of weight 0 must not be
    chosen. Whether a backend is ready to be used need not be its business: the load balancer
    passes over those that are not, and takes the next. One that looks at the load of backends
    finds it in the states of the set that it is built with; these are always up to date.

    Source: pingora-load-balancing/src/selection/mod.rs.
    """

    def iter(self, key: bytes) -> Iterator[Backend]:
        """Order the backends by preference for one request. HOT: keep it lazy.

        Args:
            key: What to choose by; ignored where the choice does not depend on the request.

        Returns:
            Backends, the best first: the very objects that the selection was built with. It may
            repeat some, and may never end.
        """
        ...


@runtime_checkable
class CostlySelection(BackendSelection, Protocol):
    """A selection that takes long to build, and can be built in small steps beforehand."""

    def prepare(self) -> Iterator[None]:
        """Do what is left to do; without it that is done when the selection is first used.

        Returns:
            Does at most about a millisecond's work between two items.
        """
        ...


SelectionBuilder: TypeAlias = Callable[[BackendSet], BackendSelection]
"""Makes a selection for one generation of the set: a class, or a `functools.partial` of one."""


def prepared(selection: BackendSelection) -> Iterator[None]:
    """Prepare a selection if it can be.

    Args:
        selection: Any selection.

    Yields:
        Nothing, about once a millisecond.
    """
    if isinstance(selection, CostlySelection):
        yield from selection.prepare()
