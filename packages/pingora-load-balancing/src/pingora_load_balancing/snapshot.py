"""What a load balancer chooses from: one generation of the set, and the selection made for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pingora_load_balancing.selection import prepared

if TYPE_CHECKING:
    from collections.abc import Generator

    from pingora_load_balancing.backend_set import BackendSet
    from pingora_load_balancing.selection import BackendSelection, SelectionBuilder
    from pingora_load_balancing.state import BackendState

__all__ = ["Snapshot", "snapshot_of"]

_SLICE: Final = 4_096


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a choice needs.

    Attributes:
        backends: The set.
        selection: The selection built for it.
        states: The state of each backend, by the identity of the backend.
    """

    backends: BackendSet
    selection: BackendSelection
    states: dict[int, BackendState]


def snapshot_of(backends: BackendSet, build: SelectionBuilder) -> Generator[None, None, Snapshot]:
    """Make a snapshot in small steps.

    Args:
        backends: The set.
        build: Makes the selection.

    Yields:
        Nothing, about once a millisecond.

    Returns:
        The snapshot, ready for use.
    """
    states: dict[int, BackendState] = {}
    for number, (backend, state) in enumerate(
        zip(backends.backends, backends.states, strict=True), start=1
    ):
        states[id(backend)] = state
        if number % _SLICE == 0:
            yield
    selection = build(backends)
    yield
    yield from prepared(selection)
    return Snapshot(backends, selection, states)
