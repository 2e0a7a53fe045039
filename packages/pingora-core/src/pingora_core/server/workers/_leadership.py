"""Which worker runs the services that run only once."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from pingora_core.server.workers.channel import Lead

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pingora_core.server.workers._processes import WorkerProcess

__all__ = ["Leadership"]


@final
class Leadership:
    """The leader among the workers; there is one, or none while nobody can.

    The next one leads when the last one has resigned, that is, its services of this kind have
    ended, so that these run in one place at a time.
    """

    def __init__(self) -> None:
        self._leader: WorkerProcess | None = None

    @property
    def is_vacant(self) -> bool:
        """Whether nobody leads."""
        return self._leader is None

    def is_held_by(self, worker: WorkerProcess) -> bool:
        """Tell whether a worker leads.

        Args:
            worker: Any.

        Returns:
            True if it does.
        """
        return worker is self._leader

    def born_with(self, worker: WorkerProcess) -> None:
        """Have a worker lead that was forked as the leader.

        Args:
            worker: Which one.
        """
        worker.is_leader = True
        self._leader = worker

    def resign(self, worker: WorkerProcess) -> None:
        """Take leadership from a worker that has ended, or whose services have.

        Args:
            worker: Which one; one that does not lead changes nothing.
        """
        if worker is self._leader:
            self._leader = None
            worker.is_leader = False

    def fill(self, candidates: Iterable[WorkerProcess]) -> None:
        """Have somebody lead, if nobody does.

        Args:
            candidates: Workers that serve; the first that can be told is taken.
        """
        if self._leader is not None:
            return
        for worker in candidates:
            if worker.send(Lead()):
                self.born_with(worker)
                return
